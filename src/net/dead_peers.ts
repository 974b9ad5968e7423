/**
 * Finds peers that are gone while something is on its way to them.
 *
 * Where nothing is on its way, the system's own probes end a connection to a peer that is gone. Where something is, the
 * system goes on for a quarter of an hour; its limit for that (TCP_USER_TIMEOUT) would also end connections to peers
 * that are there and slow to read. So all connections are looked at now and then: a system that is there acknowledges
 * something, if only that it has no room.
 */
import { type Clock, systemClock } from "../os/clock.ts";

/** A peer that has acknowledged nothing for so long, although it should have, is gone. */
export const PEER_UNHEARD_MS_MAX = 15_000;
const LOOK_EVERY_MS = 2500;

export interface WatchedPeer {
  /** For how long it has acknowledged nothing that it should have, in milliseconds; 0 if it owes nothing. */
  unheardMs(): number;
  /** It is gone. Called once. */
  gone(): void;
}

/** Looks at peers as long as there are any. */
export class DeadPeers {
  readonly #clock: Clock;
  readonly #peers = new Set<WatchedPeer>();
  #timer: Disposable | null = null;

  constructor(clock: Clock = systemClock) {
    this.#clock = clock;
  }

  /** Looks at one more, until the result is disposed. */
  watch(peer: WatchedPeer): Disposable {
    this.#peers.add(peer);
    if (this.#timer === null) this.#lookLater();
    return { [Symbol.dispose]: () => this.#forget(peer) };
  }

  #forget(peer: WatchedPeer): void {
    this.#peers.delete(peer);
    if (this.#peers.size > 0) return;
    this.#timer?.[Symbol.dispose]();
    this.#timer = null;
  }

  #lookLater(): void {
    this.#timer = this.#clock.timer(LOOK_EVERY_MS, () => {
      this.#timer = null;
      for (const peer of [...this.#peers]) {
        if (peer.unheardMs() < PEER_UNHEARD_MS_MAX) continue;
        this.#peers.delete(peer);
        peer.gone();
      }
      if (this.#peers.size > 0) this.#lookLater();
    }, { background: true });
  }
}

/** Those of all connections. */
export const deadPeers = new DeadPeers();
