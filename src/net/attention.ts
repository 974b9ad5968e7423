/**
 * When it pays to look again for a few microseconds rather than to go to sleep.
 *
 * Going to sleep and being woken costs a connection some 20 microseconds of processor time and as much delay. A
 * client that answers within that time is better waited for awake. The same trade is made by hypervisors for
 * halted processors, and the same way: by what happened before. Waits that were short and looks that found
 * something speak for looking, the others against it. Nobody looks while another connection is active, nor on a
 * machine with one processor, where the client could not answer.
 */

/** How long one looks at most, in milliseconds. */
export const LOOK_MS = 0.05;
/** A client that has several requests on their way is served by batches: one gathers for so long, in milliseconds. */
export const GATHER_MS = 0.02;
/** What one gathers at most: eight or nine requests without payload. */
export const GATHER_BYTES = 256;

/** A wait up to this long, in milliseconds, would have been better spent looking. */
const SHORT_WAIT_MS = 0.15;
/** Others must have been silent this long, in milliseconds. */
const ALONE_MS = 2;

/** Who has not waited so often is still in its handshake. Nobody stops looking because strangers come and go. */
const WAITS_OF_HANDSHAKE = 8;

/** One looks from this confidence on; each success adds 1 and each failure takes away more. */
const CONFIDENCE_TO_LOOK = 16;
const CONFIDENCE_MAX = 32;
const FAILURE = 4;

const severalProcessors = navigator.hardwareConcurrency > 1;

let lastActive: Attention | null = null;
let activeSinceMs = 0;

/** What one connection has learned about its client. */
export class Attention {
  #confidence = 0;
  #waits = 0;

  /** A wait for bytes ended after `waitedMs`. */
  waited(waitedMs: number, nowMs: number): void {
    if (lastActive !== this && ++this.#waits > WAITS_OF_HANDSHAKE) {
      lastActive = this;
      activeSinceMs = nowMs;
    }
    this.#learn(waitedMs <= SHORT_WAIT_MS);
  }

  /** Looked for up to {@linkcode LOOK_MS}, and found something or not. */
  looked(found: boolean): void {
    this.#learn(found);
  }

  /** Whether to look rather than to sleep. */
  mayLook(nowMs: number): boolean {
    return severalProcessors && this.#confidence >= CONFIDENCE_TO_LOOK && lastActive === this &&
      nowMs - activeSinceMs > ALONE_MS;
  }

  #learn(success: boolean): void {
    this.#confidence = success
      ? Math.min(CONFIDENCE_MAX, this.#confidence + 1)
      : Math.max(0, this.#confidence - FAILURE);
  }
}
