/**
 * The requests of a link that are unanswered, in the order in which they came, and the time limit of each.
 *
 * What is too late fails; but what a server has must not be executed afterwards, so it fails when the connection is
 * gone that carries it.
 */
import type { Clock } from "../os/clock.ts";
import type { Transaction } from "./nbd_transaction.ts";

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
  /** When it is too late for each, by the clock; the order is that of these times, too. */
  readonly #deadlinesMs = new Map<Transaction, number>();
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
    return this.#deadlinesMs.size;
  }

  /** All of them, in order. */
  all(): Transaction[] {
    return [...this.#deadlinesMs.keys()];
  }

  has(transaction: Transaction): boolean {
    return this.#deadlinesMs.has(transaction);
  }

  add(transaction: Transaction): void {
    if (this.#limitMs === Infinity) {
      this.#deadlinesMs.set(transaction, Infinity);
      return;
    }
    this.#deadlinesMs.set(transaction, this.#clock.now() + this.#limitMs);
    this.#armTimer();
  }

  /** @returns Whether it was there. */
  remove(transaction: Transaction): boolean {
    this.#late.delete(transaction);
    return this.#deadlinesMs.delete(transaction);
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
    for (const [transaction, deadlineMs] of this.#deadlinesMs) {
      if (this.#late.has(transaction)) continue;
      const leftMs = Math.max(0, deadlineMs - this.#clock.now());
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
    for (const [transaction, deadlineMs] of this.#deadlinesMs) {
      if (deadlineMs > nowMs) break;
      if (this.#owner.isOut(transaction)) this.#late.add(transaction);
      else this.#expire(transaction);
    }
    if (this.#late.size > 0) this.#owner.late();
  }

  #expire(transaction: Transaction): void {
    if (this.remove(transaction)) this.#owner.expired(transaction);
  }
}
