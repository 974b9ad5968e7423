/**
 * How much is done for those who come to nothing, and for whom: processor time belongs to those who are served.
 *
 * Whoever comes is heard, until more handshakes come to nothing than may. From then on an address is heard that has had
 * less than its share of them; any other is turned away at the door, which costs half as much, until there are some to
 * spare again. So those who hammer are turned away, and who has done nothing does not wait for them. Half of what may
 * come to nothing is shared out among the addresses of those who did so of late; the other half is for addresses of
 * which nothing is known.
 *
 * Only where the unknown are too many, or those who are turned away, the next ones wait where the system keeps who has
 * not been accepted.
 */
import { networkOf } from "../base/ip_address.ts";
import type { Clock } from "../os/clock.ts";

/** Seconds' worth that may be done at once, and be owed for those who have had less than their share. */
const BURST = 0.1;
/** Who waits is let in by groups of so many seconds' worth: a timer for each would cost as much as they do. */
const GROUP = 0.02;
/** For each that may come to nothing so many may be turned away. */
const TURNED_AWAY = 2;
/** Of what may come to nothing so much is shared out. */
const SHARED = 0.5;
/** An address may use so many milliseconds of its share at once. */
const SHARE_MS = 500;
/** How long an address is known. */
const KNOWN_MS = 60_000;
/** How many addresses are known at the same time. */
const KNOWN_MAX = 4096;

/** What an address has used beyond its share, as of a moment. */
interface Account {
  readonly owed: number;
  readonly atMs: number;
}

export class VainWork {
  readonly #perSecond: number;
  readonly #clock: Clock;
  readonly #heard: Allowance;
  readonly #turnedAway: Allowance;
  /** By network; whose last handshake in vain is longest ago comes first. */
  readonly #accounts = new Map<string, Account>();

  /** @param perSecond How many handshakes may come to nothing; so many are worth the same as one plain one. */
  constructor(perSecond: number, clock: Clock) {
    this.#perSecond = perSecond;
    this.#clock = clock;
    this.#heard = new Allowance(perSecond, BURST, clock);
    this.#turnedAway = new Allowance(perSecond * TURNED_AWAY, GROUP, clock);
  }

  /** How many addresses are known. */
  get known(): number {
    return this.#accounts.size;
  }

  /** Whether somebody from there is heard. Otherwise it has been turned away. */
  hears(address: string): boolean {
    if (this.#heard.left >= 1) return true;
    const account = this.#accounts.get(networkOf(address));
    // Its share has room for one more.
    if (account === undefined || this.#owedNow(account) <= Math.max(0, this.#shareOf(SHARE_MS) - 1)) {
      return true;
    }
    this.#turnedAway.spend(1);
    return false;
  }

  /** Something from there has come to nothing. @param times As much work as so many plain handshakes. */
  spend(address: string, times: number): void {
    this.#heard.spend(times);
    const atMs = this.#clock.now();
    const network = networkOf(address);
    const account = this.#accounts.get(network);
    const owed = (account === undefined ? 0 : this.#owedNow(account)) + times;
    this.#accounts.delete(network);
    this.#accounts.set(network, { owed: Math.min(owed, this.#shareOf(KNOWN_MS)), atMs });
    for (const [longestAgo, { atMs: sinceMs }] of this.#accounts) {
      if (this.#accounts.size <= KNOWN_MAX && atMs - sinceMs < KNOWN_MS) break;
      this.#accounts.delete(longestAgo);
    }
  }

  /** How long the next have to wait before they are accepted, in milliseconds; 0: not at all. */
  get pauseMs(): number {
    return Math.max(this.#heard.msUntil(-this.#perSecond * BURST), this.#turnedAway.msUntil(1));
  }

  /** What each known address may use in so many milliseconds. */
  #shareOf(ms: number): number {
    return this.#perSecond * SHARED * ms / 1000 / Math.max(1, this.#accounts.size);
  }

  #owedNow({ owed, atMs }: Account): number {
    return Math.max(0, owed - this.#shareOf(this.#clock.now() - atMs));
  }
}

/** So much a second; what is not used is kept for a while. */
class Allowance {
  readonly #perSecond: number;
  readonly #burst: number;
  readonly #clock: Clock;
  #left: number;
  #asOfMs: number;

  constructor(perSecond: number, burstSeconds: number, clock: Clock) {
    this.#perSecond = perSecond;
    this.#burst = Math.max(1, perSecond * burstSeconds);
    this.#clock = clock;
    this.#left = this.#burst;
    this.#asOfMs = clock.now();
  }

  /** Below zero it is owed. */
  get left(): number {
    const nowMs = this.#clock.now();
    this.#left = Math.min(this.#burst, this.#left + (nowMs - this.#asOfMs) / 1000 * this.#perSecond);
    this.#asOfMs = nowMs;
    return this.#left;
  }

  /** What is owed is limited: it is paid back within the time of two bursts. */
  spend(amount: number): void {
    this.#left = Math.max(-2 * this.#burst, this.left - amount);
  }

  /** 0 if so much is left; otherwise how long it takes until there is a group's worth more. */
  msUntil(wanted: number): number {
    const { left } = this;
    if (left >= wanted) return 0;
    const group = Math.max(1, this.#perSecond * GROUP);
    return Math.ceil((Math.min(this.#burst, wanted + group) - left) / this.#perSecond * 1000);
  }
}
