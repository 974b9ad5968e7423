import type { Clock } from "../../src/os/clock.ts";

/** A clock that stands still until it is told to go on. */
export class ManualClock implements Clock {
  #nowMs = 0;
  #timers: { atMs: number; callback: () => void }[] = [];

  now(): number {
    return this.#nowMs;
  }

  timer(delayMs: number, callback: () => void): Disposable {
    const timer = { atMs: this.#nowMs + delayMs, callback };
    this.#timers.push(timer);
    return { [Symbol.dispose]: () => this.#timers = this.#timers.filter((other) => other !== timer) };
  }

  /** How many timers are set. */
  get timers(): number {
    return this.#timers.length;
  }

  /** Goes on by so much, and fires what is due in the order of its time. */
  advance(byMs: number): void {
    const untilMs = this.#nowMs + byMs;
    while (true) {
      const due = this.#timers.filter(({ atMs }) => atMs <= untilMs).sort((a, b) => a.atMs - b.atMs)[0];
      if (due === undefined) break;
      this.#timers = this.#timers.filter((other) => other !== due);
      this.#nowMs = due.atMs;
      due.callback();
    }
    this.#nowMs = untilMs;
  }
}
