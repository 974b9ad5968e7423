/**
 * Connections that have not said who they are and what they want.
 *
 * They cost little: so many at a time, in all and from one address; when there are more the one that has taken
 * longest makes room. An honest handshake is over in milliseconds, so it is not among those. What is wrong with
 * them is told to the log once a minute for each address.
 *
 * Where very many come to nothing in a short time, the next ones wait where the system keeps who has not been
 * accepted: processor time belongs to those who are served.
 */
import type { Log } from "../base/log.ts";
import type { Peer } from "../net/connection.ts";
import { type Clock, delay } from "../os/clock.ts";
import { WireError } from "../wire/wire_error.ts";

export interface StrangerLimits {
  /** In the handshake at the same time. */
  readonly halfOpen: number;
  /** The same from one address. */
  readonly halfOpenPerAddress: number;
  /** Of those that come to nothing so many are taken in a second, and in a burst a tenth of that besides. */
  readonly refusedPerSecond: number;
}

/** Of a second's share so much may come at once, or be owed. */
const BURST = 0.1;
/** Who waits for their turn is let in by groups: a timer for each would cost as much as they do. */
const GROUP = 0.02;

/** How long one address is not heard of again. */
const SILENCE_MS = 60_000;
/** Addresses that are remembered as complained about. */
const COMPLAINTS_MAX = 1024;

/** Called with the reason. */
type End = (reason: Error) => void;

interface Due {
  readonly address: string;
  readonly withinMs: number;
  readonly dueMs: number;
}

interface Complaint {
  readonly sinceMs: number;
  /** Those that were not told. */
  more: number;
}

export class Strangers {
  readonly #limits: StrangerLimits;
  readonly #log: Log;
  readonly #clock: Clock;
  /** What ends each, by address; in each set the oldest first. */
  readonly #ends = new Map<string, Set<End>>();
  /** When those have to be through that may not take for ever, in the order in which they came. */
  readonly #due = new Map<End, Due>();
  #timer: Disposable | null = null;
  readonly #complaints = new Map<string, Complaint>();
  #count = 0;
  /** How many more may come to nothing now; below zero it is owed. As of {@linkcode #spareAtMs}. */
  #spare: number;
  #spareAtMs: number;

  constructor(limits: StrangerLimits, log: Log, clock: Clock) {
    this.#limits = limits;
    this.#log = log;
    this.#clock = clock;
    this.#spare = limits.refusedPerSecond * BURST;
    this.#spareAtMs = clock.now();
  }

  /** How many there are. */
  get count(): number {
    return this.#count;
  }

  /**
   * Lets one in; the oldest is ended if there are too many.
   *
   * @param end Ends this one.
   * @param withinMs It is ended when it takes longer; 0: it may take for ever.
   * @returns To be disposed of when its handshake is over, whatever came of it.
   */
  enter({ address }: Peer, end: End, withinMs: number): Disposable {
    const fromThere = this.#ends.get(address) ?? new Set();
    if (fromThere.size >= this.#limits.halfOpenPerAddress) {
      this.#endOldest(address, `${fromThere.size} handshakes of its address are under way`);
    } else if (this.#count >= this.#limits.halfOpen) {
      this.#endOldest(this.#busiest(), `${this.#count} handshakes are under way, most from its address`);
    }
    fromThere.add(end);
    this.#ends.set(address, fromThere);
    this.#count++;
    if (withinMs > 0) this.#expect(end, { address, withinMs, dueMs: this.#clock.now() + withinMs });
    return { [Symbol.dispose]: () => this.#leave(address, end) };
  }

  /** One timer is enough for all: who comes later is due later, but for those of a moment after a reload. */
  #expect(end: End, due: Due): void {
    this.#due.set(end, due);
    if (this.#timer === null) this.#lookIn(due.withinMs);
  }

  #lookIn(ms: number): void {
    this.#timer = this.#clock.timer(ms, () => this.#endDue(), { background: true });
  }

  #endDue(): void {
    this.#timer = null;
    const nowMs = this.#clock.now();
    for (const [end, { address, withinMs, dueMs }] of this.#due) {
      if (dueMs > nowMs) return this.#lookIn(dueMs - nowMs);
      this.#leave(address, end);
      end(new WireError(`the handshake took longer than ${withinMs / 1000} s`));
    }
  }

  /**
   * Ends the one that has taken longest, so that somebody else can come in.
   *
   * @param reason What is full, for the log.
   * @param address Of whom; default: of the address that has most.
   * @returns Whether there was one.
   */
  makeRoom(reason: string, address = this.#busiest()): boolean {
    if (!this.#ends.has(address)) return false;
    this.#endOldest(address, reason);
    return true;
  }

  /**
   * Whether the next may be accepted: not if too many have come to nothing just now.
   *
   * @returns `null`, or when it may.
   */
  turn(): Promise<void> | null {
    this.#earn();
    if (this.#spare >= 1) return null;
    const { refusedPerSecond } = this.#limits;
    const waitMs = Math.ceil((Math.max(1, refusedPerSecond * GROUP) - this.#spare) / refusedPerSecond * 1000);
    return delay(this.#clock, waitMs);
  }

  /** One has come to nothing. @param times As much work as so many. */
  spend(times = 1): void {
    this.#earn();
    this.#spare = Math.max(-this.#limits.refusedPerSecond * BURST, this.#spare - times);
  }

  #earn(): void {
    const { refusedPerSecond } = this.#limits;
    const now = this.#clock.now();
    const earned = (now - this.#spareAtMs) / 1000 * refusedPerSecond;
    this.#spare = Math.min(refusedPerSecond * BURST, this.#spare + earned);
    this.#spareAtMs = now;
  }

  /** One has come to nothing, which the log is told. @param times As in {@linkcode spend}. */
  turnAway(peer: Peer, reason: string, times = 1): void {
    this.spend(times);
    this.complain(peer, reason);
  }

  /** Tells the log that somebody is not served, unless the same address was told of within the last minute. */
  complain({ address, text }: Peer, reason: string): void {
    const now = this.#clock.now();
    const last = this.#complaints.get(address);
    if (last !== undefined && now - last.sinceMs < SILENCE_MS) {
      last.more++;
      this.#log.debug(`${text} refused: ${reason}`);
      return;
    }
    this.#complaints.delete(address);
    this.#complaints.set(address, { sinceMs: now, more: 0 });
    // The oldest comes first.
    const oldest = this.#complaints.keys().next().value;
    if (this.#complaints.size > COMPLAINTS_MAX && oldest !== undefined) this.#complaints.delete(oldest);
    const more = last === undefined || last.more === 0 ? "" : ` (and ${last.more} times before)`;
    this.#log.warn(`${text} refused: ${reason}${more}`);
  }

  #endOldest(address: string, reason: string): void {
    const [oldest] = this.#ends.get(address)!;
    this.#leave(address, oldest);
    oldest(new WireError(reason));
  }

  #leave(address: string, end: End): void {
    const fromThere = this.#ends.get(address);
    if (fromThere === undefined || !fromThere.delete(end)) return;
    if (fromThere.size === 0) this.#ends.delete(address);
    this.#count--;
    this.#due.delete(end);
    if (this.#due.size > 0) return;
    this.#timer?.[Symbol.dispose]();
    this.#timer = null;
  }

  /** The address with most of them; "" if there are none. */
  #busiest(): string {
    let busiest = "";
    let most = 0;
    for (const [address, { size }] of this.#ends) {
      if (size > most) [busiest, most] = [address, size];
    }
    return busiest;
  }
}
