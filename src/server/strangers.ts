/**
 * Connections that have not said who they are and what they want.
 *
 * They cost little: so many at a time, in all and from one address; when there are more the one that has taken
 * longest makes room. An honest handshake is over in milliseconds, so it is not among those. What is wrong with
 * them is told to the log once a minute for each address.
 *
 * Where very many come to nothing in a short time, it is settled at the door who is heard: see `vain_work.ts`.
 */
import { networkOf } from "../base/ip_address.ts";
import type { Log } from "../base/log.ts";
import type { Connection, Peer } from "../net/connection.ts";
import type { Listener } from "../net/listener.ts";
import { type Clock, delay } from "../os/clock.ts";
import { WireError } from "../wire/wire_error.ts";
import { VainWork } from "./vain_work.ts";

/** What strangers have come to so far. */
export interface StrangerCounts {
  /** They were heard, and came to nothing. */
  readonly inVain: number;
  /** They were turned away at the door. */
  readonly turnedAway: number;
}

export interface StrangerLimits {
  /** In the handshake at the same time. */
  readonly halfOpen: number;
  /** The same from one address. */
  readonly halfOpenPerAddress: number;
  /** Handshakes that may come to nothing in a second before not everybody is heard any more. */
  readonly inVainPerSecond: number;
}

/** While some are turned away those who come are dealt with together: each alone would disturb who is served. */
const GATHER_MS = 10;

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

export class Strangers implements StrangerCounts {
  readonly #limits: StrangerLimits;
  readonly #log: Log;
  readonly #clock: Clock;
  /** What ends each, by address; in each set the oldest first. */
  readonly #ends = new Map<string, Set<End>>();
  /** When those have to be through that may not take for ever, in the order in which they came. */
  readonly #due = new Map<End, Due>();
  #timer: Disposable | null = null;
  readonly #complaints = new Map<string, Complaint>();
  readonly #vainWork: VainWork;
  #count = 0;
  #inVain = 0;
  #turnedAway = 0;
  /** When the log was told last that not everybody is heard. */
  #crowdedAtMs = -SILENCE_MS;

  constructor(limits: StrangerLimits, log: Log, clock: Clock) {
    this.#limits = limits;
    this.#log = log;
    this.#clock = clock;
    this.#vainWork = new VainWork(limits.inVainPerSecond, clock);
  }

  /** How many there are. */
  get count(): number {
    return this.#count;
  }

  get inVain(): number {
    return this.#inVain;
  }

  get turnedAway(): number {
    return this.#turnedAway;
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
   * Takes connections until the listener is closed. Of those that are not heard each is closed at once.
   *
   * @param hear Given each other; from then on it is the taker's.
   */
  async attend(listener: Listener, hear: (connection: Connection) => void): Promise<void> {
    for (let connection; (connection = await listener.accept()) !== null;) {
      const { peer } = connection;
      const isHeard = peer.transport !== "tcp" || this.#vainWork.hears(peer.address);
      if (isHeard) hear(connection);
      else this.#turnAtTheDoor(connection);
      // Who comes through a Unix socket waits for nobody.
      if (listener.port === null) continue;
      const { pauseMs } = this.#vainWork;
      if (pauseMs > 0) await delay(this.#clock, pauseMs);
      else if (!isHeard && listener.hasCaller?.() === false) await delay(this.#clock, GATHER_MS);
    }
  }

  #turnAtTheDoor(connection: Connection): void {
    connection.close();
    this.#turnedAway++;
    const nowMs = this.#clock.now();
    if (nowMs - this.#crowdedAtMs < SILENCE_MS) return;
    this.#crowdedAtMs = nowMs;
    this.#log.warn(
      `more than ${this.#limits.inVainPerSecond} connections a second come to nothing; of the addresses that ` +
        `most come from they are closed at once (${connection.peer.text} is the first)`,
    );
  }

  /** One has come to nothing. @param times As much work as so many. */
  spend(peer: Peer, times = 1): void {
    this.#inVain++;
    this.#vainWork.spend(peer.address, times);
  }

  /** One has come to nothing, which the log is told. @param times As in {@linkcode spend}. */
  turnAway(peer: Peer, reason: string, times = 1): void {
    this.spend(peer, times);
    this.complain(peer, reason);
  }

  /** Tells the log that somebody is not served, unless the same address was told of within the last minute. */
  complain({ address, text }: Peer, reason: string): void {
    const now = this.#clock.now();
    const network = networkOf(address);
    const last = this.#complaints.get(network);
    // The oldest comes first, who is complained about anew goes to the end.
    const [oldest] = this.#complaints.size < COMPLAINTS_MAX ? [] : this.#complaints;
    const known = last ?? oldest?.[1];
    if (known !== undefined && now - known.sinceMs < SILENCE_MS) {
      if (last !== undefined) last.more++;
      this.#log.debug(`${text} refused: ${reason}`);
      return;
    }
    this.#complaints.delete(last !== undefined || oldest === undefined ? network : oldest[0]);
    this.#complaints.set(network, { sinceMs: now, more: 0 });
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
