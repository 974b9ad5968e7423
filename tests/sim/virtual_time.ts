import { setImmediate } from "node:timers";
import type { Clock } from "../../src/os/clock.ts";

/** Something that happens at a moment. */
interface Event {
  readonly atMs: number;
  /** Of two at the same moment the one that was set first happens first. */
  readonly number: number;
  callback: (() => void) | null;
}

/**
 * Time in a simulation: it goes on only when everything that needs none has happened.
 *
 * Events are kept in a binary heap; one that was cancelled stays in it until its time has come.
 */
export class VirtualTime implements Clock {
  #nowMs = 0;
  #count = 0;
  readonly #heap: Event[] = [];

  now(): number {
    return this.#nowMs;
  }

  timer(delayMs: number, callback: () => void): Disposable {
    const event: Event = { atMs: this.#nowMs + Math.max(0, delayMs), number: this.#count++, callback };
    this.#push(event);
    return { [Symbol.dispose]: () => event.callback = null };
  }

  /** Lets time pass, one event after the other. @returns Whether `done` came true by `untilMs`. */
  async pass(done: () => boolean, untilMs: number): Promise<boolean> {
    while (true) {
      // All promises are kept before the next turn of the event loop begins.
      await new Promise((resolve) => setImmediate(resolve));
      if (done()) return true;
      if (!this.#step(untilMs)) return false;
    }
  }

  #step(untilMs: number): boolean {
    while (this.#heap.length > 0 && this.#heap[0].atMs <= untilMs) {
      const { atMs, callback } = this.#pop();
      if (callback === null) continue;
      this.#nowMs = atMs;
      callback();
      return true;
    }
    return false;
  }

  #push(event: Event): void {
    const heap = this.#heap;
    let at = heap.length;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!before(event, heap[parent])) break;
      heap[at] = heap[parent];
      at = parent;
    }
    heap[at] = event;
  }

  #pop(): Event {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop()!;
    if (heap.length === 0) return first;
    let at = 0;
    while (true) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && before(heap[child + 1], heap[child])) child++;
      if (!before(heap[child], last)) break;
      heap[at] = heap[child];
      at = child;
    }
    heap[at] = last;
    return first;
  }
}

function before(one: Event, other: Event): boolean {
  return one.atMs < other.atMs || one.atMs === other.atMs && one.number < other.number;
}
