/** A number and what it counts, for people: `1 export`, `2 exports`. `several` is for nouns that do not just take an s. */
export function counted(count: number, one: string, several = `${one}s`): string {
  return `${count} ${count === 1 ? one : several}`;
}
