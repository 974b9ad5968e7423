/**
 * The requests that a server has and has not answered.
 *
 * A server that answers probes says how much it takes in before it reads no further; more is not sent to it, so that it
 * can always be asked.
 */
import type { Clock } from "../../os/clock.ts";
import { Command } from "../../wire/nbd/constants.ts";
import type { ProbeWindow } from "../../wire/nbd/denbd_context.ts";
import { CookieTable } from "./cookie_table.ts";
import type { Transaction } from "./nbd_transaction.ts";

export class SentRequests {
  readonly #clock: Clock;
  readonly #window: ProbeWindow | null;
  readonly #table = new CookieTable();
  /** Of READ and WRITE. */
  #dataBytes = 0;
  /** A request that is the measure of {@linkcode answeredSentMs} when it, or a later one, is answered. */
  #witness: { readonly cookie: bigint; readonly sentMs: number } | null = null;
  #answeredSentMs: number;

  /**
   * @param window `null` for no limit.
   * @param begunMs When the handshake began, by the clock.
   */
  constructor(clock: Clock, window: ProbeWindow | null, begunMs: number) {
    this.#clock = clock;
    this.#window = window;
    this.#answeredSentMs = begunMs;
  }

  get count(): number {
    return this.#table.size;
  }

  /** The one that was sent first; `null` if there is none. */
  get oldest(): Transaction | null {
    return this.#table.oldest;
  }

  /** When a request was sent that has been answered, by the clock. */
  get answeredSentMs(): number {
    return this.#answeredSentMs;
  }

  /** Whether the server can take it and still read a probe behind it. */
  hasRoomFor(transaction: Transaction): boolean {
    const window = this.#window;
    if (window === null || this.#table.size === 0) return true;
    return this.#table.size < window.requests && this.#dataBytes + dataBytes(transaction) <= window.bytes;
  }

  /** It is being sent. @returns The cookie under which it is. */
  add(transaction: Transaction): bigint {
    const cookie = this.#table.add(transaction);
    this.#witness ??= { cookie, sentMs: this.#clock.now() };
    this.#dataBytes += dataBytes(transaction);
    return cookie;
  }

  /** @param cookie Anything a server says. */
  get(cookie: bigint): Transaction | undefined {
    return this.#table.get(cookie);
  }

  /** The server has had its last word on it. */
  settle(cookie: bigint, transaction: Transaction): void {
    this.#table.delete(cookie);
    this.#dataBytes -= dataBytes(transaction);
    if (this.#witness === null || cookie < this.#witness.cookie) return;
    this.#answeredSentMs = this.#witness.sentMs;
    this.#witness = null;
  }

  /** Gives them up. @returns All of them, in the order in which they were sent. */
  takeAll(): Transaction[] {
    const all = this.#table.values();
    this.#table.clear();
    return all;
  }
}

/** Bytes that count in a {@linkcode ProbeWindow}. */
function dataBytes({ type, length }: Transaction): number {
  return type === Command.READ || type === Command.WRITE ? length : 0;
}
