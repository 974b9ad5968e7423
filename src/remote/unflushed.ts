/**
 * What a server has answered and may yet lose, and what is to be said of it.
 *
 * A flush covers what was answered before it was sent. What no flush has covered is written again where that is
 * allowed; where it is not, or fails, there is a doubt, with which the next flush has to fail.
 */
import { allAtRest } from "../base/all_at_rest.ts";
import { Command } from "../wire/nbd/constants.ts";
import { Transaction } from "./connection/nbd_transaction.ts";
import { type Remembered, ReplayMap } from "./replay_map.ts";

export class Unflushed {
  /** Grows with every flush. */
  #epoch = 0;
  /** The epoch of the last change that was answered and no flush has covered, or -1. */
  #lastEpoch = -1;
  /** By flush: it covers what was answered before this epoch. */
  readonly #covered = new WeakMap<Transaction, number>();
  readonly #replay = new ReplayMap();
  #replayed = 0;
  #doubt: string | null = null;
  #lastDoubt: string | null = null;

  /** Whether nothing is left that could be lost. */
  get isEmpty(): boolean {
    return this.#lastEpoch < 0;
  }

  /** Bytes kept to be written again, roughly. */
  get keptBytes(): number {
    return this.#replay.bytes;
  }

  /** Ranges written again. */
  get replayed(): number {
    return this.#replayed;
  }

  /** What the next flush has to fail with. */
  get doubt(): string | null {
    return this.#doubt;
  }

  /** What the last flush failed with that had to tell of a doubt. */
  get lastDoubt(): string | null {
    return this.#lastDoubt;
  }

  /** A flush goes out, maybe again. */
  flushSent(flush: Transaction): void {
    this.#covered.set(flush, ++this.#epoch);
  }

  /** A request has succeeded. @param keep Whether its change is kept to be written again. */
  succeeded(transaction: Transaction, keep: boolean): void {
    const { type, offset, length, buffer } = transaction;
    if (type === Command.FLUSH) {
      const epoch = this.#covered.get(transaction)!;
      this.#replay.forgetBefore(epoch);
      if (this.#lastEpoch < epoch) this.#lastEpoch = -1;
      return;
    }
    if (!transaction.changesDisk) return;
    if (transaction.isDurable) return this.#replay.forget(offset, length);
    this.#lastEpoch = this.#epoch;
    if (!keep) return;
    // What was trimmed may read as anything.
    if (type === Command.TRIM) this.#replay.forget(offset, length);
    else this.#replay.remember(offset, length, type === Command.WRITE ? buffer : null, this.#epoch);
  }

  /**
   * Writes again what is kept, and has it flushed.
   *
   * @param perform Performs a transaction before all others, and throws if it fails.
   * @param canZero Whether the server zeroes ranges.
   * @throws What `perform` has thrown, when none of them is under way any more.
   */
  async writeAgain(perform: (transaction: Transaction) => Promise<void>, canZero: boolean): Promise<void> {
    const entries = [...this.#replay.entries()];
    if (entries.length === 0) return;
    this.#replayed += entries.length;
    // When one fails the others may still be under way, and must not overtake what comes next.
    await allAtRest(entries.map((entry) => perform(changeTo(entry, canZero))));
    await perform(new Transaction(Command.FLUSH, 0, 0, 0, null));
  }

  /** It is known what has become of all of it. */
  forgetAll(): void {
    this.#replay.forgetBefore(Infinity);
    this.#lastEpoch = -1;
  }

  /** Something may be lost for good. */
  raiseDoubt(why: string): void {
    this.#doubt = why;
  }

  /** A flush fails with the doubt: after that, all is said. */
  tellDoubt(): string | null {
    const told = this.#doubt;
    if (told !== null) this.#lastDoubt = told;
    this.#doubt = null;
    return told;
  }
}

function changeTo({ offset, length, data }: Remembered, canZero: boolean): Transaction {
  const bytes = data ?? (canZero ? null : new Uint8Array(length));
  return new Transaction(bytes === null ? Command.WRITE_ZEROES : Command.WRITE, 0, offset, length, bytes);
}
