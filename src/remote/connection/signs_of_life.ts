/**
 * Whether the server at the other end of a connection is still there.
 *
 * One that says nothing is asked for a sign of life, if it answers such questions whatever its disk does. One that owes
 * an answer to that is gone; any other is slow, unless the owner has no patience with those either.
 */
import type { Clock } from "../../os/clock.ts";

/** A server that has been silent for so long is asked for a sign of life. */
const PROBE_AFTER_MS = 5000;

/** When a silent server is given up. Times in milliseconds, infinite for never. */
export interface Patience {
  /** How long it may owe an answer to a probe without sending anything. */
  readonly stallMs: number;
  /** How long it may owe an answer to a request without sending or taking anything, whatever its disk does. */
  readonly silenceMs: number;
}

export const ENDLESS_PATIENCE: Patience = { stallMs: Infinity, silenceMs: Infinity };

/** The connection whose server is watched. */
export interface Watched {
  /** Whether the server owes an answer to a request. */
  owes(): boolean;
  /** Asks for a sign of life, before anything else. @returns Whether the server can be asked. */
  ask(): boolean;
  /** The server is gone. */
  gone(reason: Error): void;
}

export class SignsOfLife {
  readonly #clock: Clock;
  readonly #patience: Patience;
  readonly #watched: Watched;
  /** Between two looks; infinite if nothing ever comes of one. */
  readonly #lookMs: number;
  #look: Disposable | null = null;
  /** There was one since the last look. */
  #heard = true;
  /** By the clock; as exact as the looks. */
  #heardMs = 0;
  #asked = false;

  /** @param asks Whether the server answers when it is asked. */
  constructor(clock: Clock, patience: Patience, asks: boolean, watched: Watched) {
    this.#clock = clock;
    this.#patience = patience;
    this.#watched = watched;
    const limitMs = Math.min(asks ? patience.stallMs : Infinity, patience.silenceMs);
    this.#lookMs = limitMs === Infinity ? Infinity : Math.min(PROBE_AFTER_MS, limitMs / 3);
    this.#lookLater();
  }

  /** Whether the server owes a sign of life that was asked for. */
  get isAsked(): boolean {
    return this.#asked;
  }

  /** Something came or went, or nothing was owed until now. */
  heard(): void {
    this.#heard = true;
  }

  /** What was asked for has come. */
  answered(): void {
    this.#asked = false;
  }

  stop(): void {
    this.#look?.[Symbol.dispose]();
    this.#look = null;
  }

  #lookLater(): void {
    if (this.#lookMs === Infinity) return;
    this.#look = this.#clock.timer(this.#lookMs, () => {
      if (this.#isThere()) this.#lookLater();
    }, { background: true });
  }

  /** Looks, and asks a silent server. @returns `false` if it is gone. */
  #isThere(): boolean {
    const nowMs = this.#clock.now();
    if (this.#heard) {
      this.#heard = false;
      this.#heardMs = nowMs;
      return true;
    }
    const silentMs = nowMs - this.#heardMs;
    const { stallMs, silenceMs } = this.#patience;
    if (this.#asked && silentMs >= stallMs || this.#watched.owes() && silentMs >= silenceMs) {
      this.#watched.gone(new Error(`no sign of life for ${Math.round(silentMs / 1000)} s`));
      return false;
    }
    if (!this.#asked) this.#asked = this.#watched.ask();
    return true;
  }
}
