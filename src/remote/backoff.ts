/** How long to wait before the next attempt: not at all, then ever longer, never all clients at the same time. */
export class Backoff {
  readonly #random: () => number;
  #attempts = 0;

  /** @param random From 0 up to 1. */
  constructor(random: () => number) {
    this.#random = random;
  }

  /** Attempts since the last success. */
  get attempts(): number {
    return this.#attempts;
  }

  /** In milliseconds. */
  next(): number {
    const attempt = this.#attempts++;
    if (attempt === 0) return 0;
    const longest = Math.min(LONGEST_MS, FIRST_MS * 2 ** (attempt - 1));
    return longest * (0.5 + this.#random() / 2);
  }

  reset(): void {
    this.#attempts = 0;
  }
}

const FIRST_MS = 200;
const LONGEST_MS = 5000;
