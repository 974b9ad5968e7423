/** What happened in a run: always as a number that tells two runs apart, and as text where somebody reads it. */
export class Trace {
  #hash = 0x811c9dc5;
  #events = 0;
  readonly #now: () => number;
  readonly #print: ((line: string) => void) | null;

  /** @param print Takes a line for each event. */
  constructor(now: () => number, print: ((line: string) => void) | null) {
    this.#now = now;
    this.#print = print;
  }

  /** Follows from all events, their order and their times. */
  get hash(): number {
    return this.#hash >>> 0;
  }

  get events(): number {
    return this.#events;
  }

  /** @param numbers Say more about it. */
  note(what: string, ...numbers: readonly number[]): void {
    this.#events++;
    for (let at = 0; at < what.length; at++) this.#mix(what.charCodeAt(at));
    // Thousandths of a millisecond.
    this.#mix(Math.round(this.#now() * 1000));
    for (const number of numbers) this.#mix(Math.round(number * 1000));
    this.#print?.(`${this.#now().toFixed(3).padStart(11)} ms  ${what} ${numbers.join(" ")}`);
  }

  /** For the reader alone. */
  remark(text: () => string): void {
    this.#print?.(`${this.#now().toFixed(3).padStart(11)} ms  ${text()}`);
  }

  #mix(value: number): void {
    this.#hash = Math.imul(this.#hash ^ value, 0x01000193);
  }
}
