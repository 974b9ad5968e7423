import type { Clock } from "../os/clock.ts";

/** A write that took longer is looked into. */
const SLOW_MS = 2;
/** For how long after a slow write each one is watched. */
const WATCH_MS = 100;
/** After one that slept, writes are kept off the event loop for so many times its length, within bounds. */
const AVOID_FACTOR = 20;
const AVOID_MS_MIN = 100;
const AVOID_MS_MAX = 5000;

/**
 * Whether writing into the page cache is quick at present, or would hold up the event loop.
 *
 * A write is slow when the file system makes it sleep, for storage to catch up; then the next ones shall run elsewhere
 * for a while. It also seems slow when the machine has other things to do and takes the processor away in its midst;
 * then elsewhere is no better. The two are told apart by whether the thread went to sleep by itself, which costs a
 * system call to ask, and so is asked only after a first slow write.
 */
export class WritePace {
  readonly #clock: Clock;
  readonly #countSleeps: () => number;
  #startedMs = 0;
  #sleepsBefore = -1;
  #watchUntilMs = -Infinity;
  #avoidUntilMs = -Infinity;

  /** @param countSleeps How often this thread has gone to sleep by itself. */
  constructor(clock: Clock, countSleeps: () => number) {
    this.#clock = clock;
    this.#countSleeps = countSleeps;
  }

  /** Whether to write at once. If so, {@linkcode ended} follows the write. @param nowMs By the clock. */
  begin(nowMs: number): boolean {
    if (nowMs < this.#avoidUntilMs) return false;
    this.#startedMs = nowMs;
    this.#sleepsBefore = nowMs < this.#watchUntilMs ? this.#countSleeps() : -1;
    return true;
  }

  /** The write that began last has ended. */
  ended(): void {
    const nowMs = this.#clock.now();
    const tookMs = nowMs - this.#startedMs;
    if (tookMs <= SLOW_MS) return;
    this.#watchUntilMs = nowMs + WATCH_MS;
    if (this.#sleepsBefore < 0 || this.#countSleeps() === this.#sleepsBefore) return;
    this.#avoidUntilMs = nowMs + Math.min(Math.max(tookMs * AVOID_FACTOR, AVOID_MS_MIN), AVOID_MS_MAX);
  }
}
