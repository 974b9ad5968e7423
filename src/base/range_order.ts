/**
 * Keeps overlapping operations in the order in which they arrived.
 *
 * Operations that finish at once need no order. Those that take a while are entered here; a later one that
 * overlaps, unless both only read, starts when the earlier ones have ended. While nothing is entered,
 * {@linkcode RangeOrder.conflicts} is one comparison.
 *
 * An operation waits only for earlier ones, so nothing waits in a circle.
 */
export class RangeOrder {
  readonly #entries = new Set<Entry>();

  /** Whether an operation on the range would have to wait. Lengths and offsets in bytes. */
  conflicts(writes: boolean, offset: number, length: number): boolean {
    if (this.#entries.size === 0) return false;
    const end = offset + length;
    for (const entry of this.#entries) {
      if ((writes || entry.writes) && entry.offset < end && offset < entry.end) return true;
    }
    return false;
  }

  /** Enters the operation and runs `work` when every earlier one that conflicts has ended, well or not. */
  async run<Result>(
    writes: boolean,
    offset: number,
    length: number,
    work: () => Result | Promise<Result>,
  ): Promise<Result> {
    const end = offset + length;
    const earlier: Promise<void>[] = [];
    if (this.#entries.size > 0) {
      for (const entry of this.#entries) {
        if ((writes || entry.writes) && entry.offset < end && offset < entry.end) earlier.push(entry.ended);
      }
    }
    const { promise: ended, resolve: endNow } = Promise.withResolvers<void>();
    const entry: Entry = { writes, offset, end, ended };
    this.#entries.add(entry);
    try {
      if (earlier.length > 0) await Promise.all(earlier);
      return await work();
    } finally {
      this.#entries.delete(entry);
      endNow();
    }
  }

  /** Resolves when everything that is entered now has ended. */
  async idle(): Promise<void> {
    await Promise.all(Array.from(this.#entries, (entry) => entry.ended));
  }
}

interface Entry {
  readonly writes: boolean;
  readonly offset: number;
  readonly end: number;
  /** Never rejects. */
  readonly ended: Promise<void>;
}
