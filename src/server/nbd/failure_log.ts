import type { Log } from "../../base/log.ts";

/** For so long after one that was told, failures of the same kind are only counted. */
const COUNT_MS = 10_000;

/** One kind of failure: when it was told last, and how often it has come since. */
interface Kind {
  toldMs: number;
  more: number;
}

/**
 * Tells the log that a disk fails: the first failure of each kind at once, those that follow within ten seconds as a
 * number behind the next, or at the end.
 */
export class FailureLog {
  readonly #log: Log;
  readonly #now: () => number;
  readonly #kinds = new Map<string, Kind>();

  /** @param now Monotonic milliseconds. */
  constructor(log: Log, now: () => number) {
    this.#log = log;
    this.#now = now;
  }

  /**
   * @param kind What failures have in common; of a small number of values.
   * @param message This one.
   */
  failed(kind: string, message: string): void {
    const nowMs = this.#now();
    const before = this.#kinds.get(kind);
    if (before !== undefined && nowMs - before.toldMs < COUNT_MS) {
      before.more++;
      return;
    }
    this.#log.error(
      before === undefined || before.more === 0 ? message : `${message}; ${since(before, nowMs)}`,
    );
    this.#kinds.set(kind, { toldMs: nowMs, more: 0 });
  }

  /** Tells what was counted and not told yet. */
  close(): void {
    const nowMs = this.#now();
    for (const [kind, counted] of this.#kinds) {
      if (counted.more > 0) this.#log.error(`${kind}: ${since(counted, nowMs)}`);
    }
    this.#kinds.clear();
  }
}

function since({ more, toldMs }: Kind, nowMs: number): string {
  return `and ${more} more in ${Math.ceil((nowMs - toldMs) / 1000)} s`;
}
