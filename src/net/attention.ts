/**
 * When it pays to look again for a few microseconds rather than to go to sleep.
 *
 * Going to sleep and being woken costs a connection some 20 microseconds of processor time and as much delay. A
 * client that answers within that time is better waited for awake. The same trade is made by hypervisors for
 * halted processors, and the same way: by what happened before. A connection starts asleep; when its last waits
 * were all short it looks again, and it stops as soon as looking was in vain a few times in a row. Nobody looks
 * while another connection is active, nor on a machine with one processor, where the client could not answer.
 */

/** How long one looks at most, in milliseconds. */
export const LOOK_MS = 0.05;

/** A wait up to this long, in milliseconds, would have been better spent looking. */
const SHORT_WAIT_MS = 0.1;
const SHORT_WAITS_BEFORE_LOOKING = 16;
const VAIN_LOOKS_MAX = 4;
/** Others must have been silent this long, in milliseconds. */
const ALONE_MS = 2;

const severalProcessors = navigator.hardwareConcurrency > 1;

let lastActive: Attention | null = null;
let activeSinceMs = 0;

export class Attention {
  #shortWaits = 0;
  #vainLooks = 0;

  /** A wait for bytes ended after `waitedMs`. */
  waited(waitedMs: number, nowMs: number): void {
    if (lastActive !== this) {
      lastActive = this;
      activeSinceMs = nowMs;
    }
    if (waitedMs > SHORT_WAIT_MS) this.#shortWaits = 0;
    else if (++this.#shortWaits === SHORT_WAITS_BEFORE_LOOKING) this.#vainLooks = 0;
  }

  /** Whether to look rather than to sleep. */
  mayLook(nowMs: number): boolean {
    return severalProcessors && this.#shortWaits >= SHORT_WAITS_BEFORE_LOOKING && lastActive === this &&
      nowMs - activeSinceMs > ALONE_MS;
  }

  /** Looked for up to {@linkcode LOOK_MS}, and found something or not. */
  looked(found: boolean): void {
    if (found) this.#vainLooks = 0;
    else if (++this.#vainLooks >= VAIN_LOOKS_MAX) this.#shortWaits = 0;
  }
}
