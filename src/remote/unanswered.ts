/**
 * The requests of a link that are unanswered, in the order in which they came, and the time limit of each.
 *
 * What is too late fails; but what a server has must not be executed afterwards, so it fails when the connection is
 * gone that carries it.
 */
import { LinkedList } from "../base/linked_list.ts";
import type { Clock } from "../os/clock.ts";
import type { Transaction } from "./connection/nbd_transaction.ts";

/** Who has requests that may be too late. */
export interface UnansweredOwner {
  /** Whether a server may have it. */
  isOut(transaction: Transaction): boolean;
  /** It is no longer among them, and is to fail. */
  expired(transaction: Transaction): void;
  /** Some that are out are too late: their connections have to go, then {@linkcode Unanswered.expireLate} is called. */
  late(): void;
}

export class Unanswered {
  readonly #owner: UnansweredOwner;
  readonly #clock: Clock;
  readonly #limitMs: number;
  /** The order is that of their deadlines, too. */
  readonly #list = new LinkedList<Transaction>();
  /** Too late, and out. */
  readonly #late = new Set<Transaction>();
  #timer: Disposable | null = null;

  /** @param limitMs How long each may take; infinite for any time. */
  constructor(owner: UnansweredOwner, clock: Clock, limitMs: number) {
    this.#owner = owner;
    this.#clock = clock;
    this.#limitMs = limitMs;
  }

  get size(): number {
    return this.#list.size;
  }

  /** All of them, in order. */
  all(): Transaction[] {
    return [...this.#list];
  }

  has(transaction: Transaction): boolean {
    return transaction.unanswered !== null;
  }

  add(transaction: Transaction): void {
    transaction.unanswered = this.#list.add(transaction);
    if (this.#limitMs === Infinity) return;
    transaction.deadlineMs = this.#clock.now() + this.#limitMs;
    this.#armTimer();
  }

  /** @returns Whether it was there. */
  remove(transaction: Transaction): boolean {
    const place = transaction.unanswered;
    if (place === null) return false;
    this.#list.remove(place);
    transaction.unanswered = null;
    if (this.#late.size > 0) this.#late.delete(transaction);
    return true;
  }

  /** No connection is left that could carry any of them: those that are too late expire. */
  expireLate(): void {
    for (const transaction of this.#late) this.#expire(transaction);
  }

  /** No more of them will be too late. */
  stop(): void {
    this.#timer?.[Symbol.dispose]();
  }

  #armTimer(): void {
    if (this.#timer !== null) return;
    for (const transaction of this.#list) {
      if (this.#late.has(transaction)) continue;
      const leftMs = Math.max(0, transaction.deadlineMs - this.#clock.now());
      this.#timer = this.#clock.timer(leftMs, () => {
        this.#timer = null;
        this.#expireDue();
        this.#armTimer();
      });
      return;
    }
  }

  #expireDue(): void {
    const nowMs = this.#clock.now();
    for (const transaction of this.all()) {
      if (transaction.deadlineMs > nowMs) break;
      if (!this.has(transaction)) continue;
      if (this.#owner.isOut(transaction)) this.#late.add(transaction);
      else this.#expire(transaction);
    }
    if (this.#late.size > 0) this.#owner.late();
  }

  #expire(transaction: Transaction): void {
    if (this.remove(transaction)) this.#owner.expired(transaction);
  }
}
