/**
 * The requests that a server has, by the cookies under which they were sent.
 *
 * Cookies are rising numbers, and the lower bits of one say where its request stands. A number whose place is taken by a
 * request that is still unanswered is passed over. (A Map, in which requests come and go all the time, would be rebuilt
 * again and again: see `linked_list.ts`.)
 */
import type { Transaction } from "./nbd_transaction.ts";

/** A power of two. */
const PLACES_FIRST = 64;

export class CookieTable {
  #transactions: (Transaction | null)[] = new Array(PLACES_FIRST).fill(null);
  /** Of those that stand, or stood last, in the same places. */
  #cookies: number[] = new Array(PLACES_FIRST).fill(0);
  #next = 1;
  #lowest = 1;
  #size = 0;

  get size(): number {
    return this.#size;
  }

  /** No cookie below it is there: where the search for the oldest begins. */
  get lowest(): bigint {
    return BigInt(this.#lowest);
  }

  /** The request that was added first; `null` if there is none. */
  get oldest(): Transaction | null {
    if (this.#size === 0) return null;
    let oldest = this.#at(this.#lowest);
    while (oldest === null) oldest = this.#at(++this.#lowest);
    return oldest;
  }

  /** @returns Its cookie, which is above all before it. */
  add(transaction: Transaction): bigint {
    if (this.#size === 0) this.#lowest = this.#next;
    // Half of the places are free, so one is found soon.
    if (this.#size * 2 === this.#transactions.length) this.#grow();
    while (this.#transactions[this.#placeOf(this.#next)] !== null) this.#next++;
    this.#put(this.#next, transaction);
    this.#size++;
    return BigInt(this.#next++);
  }

  /** @param cookie Anything a server says. */
  get(cookie: bigint): Transaction | undefined {
    return this.#at(Number(cookie)) ?? undefined;
  }

  delete(cookie: bigint): void {
    const number = Number(cookie);
    if (this.#at(number) === null) return;
    this.#transactions[this.#placeOf(number)] = null;
    this.#size--;
  }

  /** In the order in which they were added. */
  values(): Transaction[] {
    return this.#inOrder().map(([, transaction]) => transaction);
  }

  clear(): void {
    this.#transactions.fill(null);
    this.#size = 0;
  }

  #placeOf(cookie: number): number {
    return cookie & (this.#transactions.length - 1);
  }

  #at(cookie: number): Transaction | null {
    const place = this.#placeOf(cookie);
    return this.#cookies[place] === cookie ? this.#transactions[place] : null;
  }

  #put(cookie: number, transaction: Transaction): void {
    const place = this.#placeOf(cookie);
    this.#cookies[place] = cookie;
    this.#transactions[place] = transaction;
  }

  /** Those that stand in different places do so in a larger table, too. */
  #grow(): void {
    const all = this.#inOrder();
    this.#transactions = new Array(this.#transactions.length * 2).fill(null);
    this.#cookies = new Array(this.#transactions.length).fill(0);
    for (const [cookie, transaction] of all) this.#put(cookie, transaction);
  }

  #inOrder(): [number, Transaction][] {
    const all: [number, Transaction][] = [];
    for (const [place, transaction] of this.#transactions.entries()) {
      if (transaction !== null) all.push([this.#cookies[place], transaction]);
    }
    return all.sort(([one], [other]) => one - other);
  }
}
