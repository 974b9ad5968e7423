/** Tells many listeners the same, each at its own pace, in bounded memory. */

/** What waits for one follower. */
const WAITING_MAX = 1000;

/** Told to one that has fallen behind: so many values were left out. */
export interface Missed {
  readonly event: "missed";
  readonly count: number;
}

export class Broadcast<T> {
  readonly #followers = new Set<Follower<T>>();
  readonly #onInterest: (wanted: boolean) => void;

  /** @param onInterest Told when the first follower comes and when the last one goes. */
  constructor(onInterest: (wanted: boolean) => void = () => {}) {
    this.#onInterest = onInterest;
  }

  push(value: T): void {
    for (const follower of this.#followers) follower.push(value);
  }

  /** Every value from now on, until the signal. */
  follow(signal: AbortSignal): AsyncGenerator<T | Missed, void> {
    const follower = new Follower<T>();
    this.#followers.add(follower);
    if (this.#followers.size === 1) this.#onInterest(true);
    const end = () => {
      follower.end();
      if (this.#followers.delete(follower) && this.#followers.size === 0) this.#onInterest(false);
    };
    if (signal.aborted) end();
    else signal.addEventListener("abort", end, { once: true });
    return follower.values(() => {
      signal.removeEventListener("abort", end);
      end();
    });
  }
}

class Follower<T> {
  readonly #waiting: T[] = [];
  #missed = 0;
  #ended = false;
  #wake: (() => void) | null = null;

  push(value: T): void {
    if (this.#waiting.length < WAITING_MAX) this.#waiting.push(value);
    else this.#missed++;
    this.#wake?.();
  }

  end(): void {
    this.#ended = true;
    this.#wake?.();
  }

  async *values(onEnd: () => void): AsyncGenerator<T | Missed, void> {
    try {
      while (!this.#ended) {
        if (this.#waiting.length > 0) {
          for (const value of this.#waiting.splice(0)) {
            yield value;
            if (this.#ended) return;
          }
        } else if (this.#missed > 0) {
          const count = this.#missed;
          this.#missed = 0;
          yield { event: "missed", count };
        } else {
          await new Promise<void>((resolve) => this.#wake = resolve);
          this.#wake = null;
        }
      }
    } finally {
      onEnd();
    }
  }
}
