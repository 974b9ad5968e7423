/**
 * Time as a parameter: whoever waits takes a {@linkcode Clock}, so that a test or a simulation can put its own in
 * place of the system's.
 */

/** A monotonic clock with timers. All times are in milliseconds. */
export interface Clock {
  /** Milliseconds since some fixed moment; never goes back. */
  now(): number;
  /**
   * Calls `callback` once, `delayMs` from now. Disposing the timer before that cancels it.
   *
   * A timer keeps the program alive unless `background` says otherwise.
   */
  timer(delayMs: number, callback: () => void, options?: { background?: boolean }): Disposable;
}

/** The time of the machine. */
export const systemClock: Clock = {
  now: () => performance.now(),
  timer(delayMs, callback, { background = false } = {}) {
    const id = setTimeout(callback, delayMs);
    if (background) Deno.unrefTimer(id);
    return { [Symbol.dispose]: () => clearTimeout(id) };
  },
};

/** Resolves `delayMs` from now by the given clock. */
export function delay(clock: Clock, delayMs: number): Promise<void> {
  return new Promise((resolve) => void clock.timer(delayMs, resolve));
}
