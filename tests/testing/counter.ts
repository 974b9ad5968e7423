/** Counts what happens, for whoever waits until it has happened so often. */
export class Counter {
  count = 0;
  #waiting: { readonly count: number; readonly resolve: () => void }[] = [];

  add(): void {
    this.count++;
    for (const { count, resolve } of this.#waiting) if (count <= this.count) resolve();
    this.#waiting = this.#waiting.filter(({ count }) => count > this.count);
  }

  /** Resolves when it has happened so often; at once if it has. */
  reached(count: number): Promise<void> {
    if (count <= this.count) return Promise.resolve();
    return new Promise((resolve) => this.#waiting.push({ count, resolve }));
  }

  /** Resolves when it happens once more. */
  next(): Promise<void> {
    return this.reached(this.count + 1);
  }
}
