/**
 * Keeps overlapping requests in the order in which they came: a request waits outside until every earlier one
 * that overlaps it has ended, unless both only read.
 *
 * A server may execute what it has in any order, and a request may have to be sent a second time; so two that
 * overlap are never with it together. Reads beside reads cost nothing.
 */
import { LinkedList } from "../base/linked_list.ts";
import type { Transaction } from "./connection/nbd_transaction.ts";

export class OverlapGate {
  /** Those inside that change the disk. */
  readonly #changing = new LinkedList<Transaction>();
  /** Those inside that do not. */
  readonly #reading = new LinkedList<Transaction>();
  /** Those outside, in the order in which they came. */
  readonly #waiting = new Set<Transaction>();

  /** Whether the transaction may go on. If not, {@linkcode leave} will return it. */
  enter(transaction: Transaction): boolean {
    if (this.#meetsInside(transaction) || this.#meetsWaiting(transaction)) {
      this.#waiting.add(transaction);
      return false;
    }
    this.#let(transaction);
    return true;
  }

  /** A transaction that went in has ended. Returns those that may go on now. */
  leave(transaction: Transaction): readonly Transaction[] {
    const inside = transaction.inside!;
    inside.list.remove(inside);
    transaction.inside = null;
    if (this.#waiting.size === 0) return none;
    const released: Transaction[] = [];
    for (const candidate of this.#waiting) {
      if (!meet(candidate, transaction) || this.#meetsInside(candidate)) continue;
      if (this.#meetsWaiting(candidate)) continue;
      this.#waiting.delete(candidate);
      this.#let(candidate);
      released.push(candidate);
    }
    return released;
  }

  #let(transaction: Transaction): void {
    transaction.inside = (transaction.changesDisk ? this.#changing : this.#reading).add(transaction);
  }

  #meetsInside(transaction: Transaction): boolean {
    if (this.#changing.size > 0) {
      for (const other of this.#changing) if (meet(transaction, other)) return true;
    }
    if (transaction.changesDisk) {
      for (const other of this.#reading) if (meet(transaction, other)) return true;
    }
    return false;
  }

  /** Whether one that waits, and came before, must go first. */
  #meetsWaiting(transaction: Transaction): boolean {
    if (this.#waiting.size === 0) return false;
    for (const other of this.#waiting) {
      if (other === transaction) return false;
      if (meet(transaction, other)) return true;
    }
    return false;
  }
}

const none: readonly Transaction[] = [];

/** Whether two must not be with the server together. A flush has no range. */
function meet(one: Transaction, other: Transaction): boolean {
  return (one.changesDisk || other.changesDisk) &&
    one.offset < other.offset + other.length && other.offset < one.offset + one.length;
}
