/** A number of places; who finds none waits, first come first served. */
export class Slots {
  #count: number;
  #taken = 0;
  readonly #waiting: (() => void)[] = [];

  /** @throws {RangeError} If there would be no place: whoever came would wait for ever. */
  constructor(count: number) {
    this.#count = checked(count);
  }

  /** How many places there are. */
  get count(): number {
    return this.#count;
  }

  /**
   * Sets how many there are from now on. Who has a place keeps it, also where there are fewer now: then nobody comes in
   * until enough have left.
   *
   * @throws {RangeError} If there would be no place.
   */
  set count(count: number) {
    this.#count = checked(count);
    this.#admit();
  }

  /** How many are taken. */
  get taken(): number {
    return this.#taken;
  }

  /** How many are waiting. */
  get waiting(): number {
    return this.#waiting.length;
  }

  /** Takes a place at once. @returns Whether there was one. */
  tryTake(): boolean {
    if (this.#taken >= this.#count) return false;
    this.#taken += 1;
    return true;
  }

  /** Takes a place, waiting for it if need be. */
  take(): Promise<void> {
    if (this.tryTake()) return Promise.resolve();
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** Gives a place back: to the one that waits longest, if any. */
  give(): void {
    this.#taken -= 1;
    this.#admit();
  }

  #admit(): void {
    while (this.#waiting.length > 0 && this.tryTake()) this.#waiting.shift()!();
  }
}

function checked(count: number): number {
  if (Number.isInteger(count) && count >= 1) return count;
  throw new RangeError(`Cannot have ${count} places: there must be at least one`);
}
