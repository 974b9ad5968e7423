/**
 * What a server has acknowledged and may yet lose: the latest content of every range that was changed and not
 * flushed since, so that it can be written again after the server lost its memory.
 *
 * Ranges never overlap; a later change takes the place of an earlier one. Each remembers the epoch in which it was
 * answered: a flush covers what was answered before it began.
 */

/** A range as it has to be. `data` is `null` for zeroes. */
export interface Remembered {
  readonly offset: number;
  readonly length: number;
  readonly data: Uint8Array | null;
}

interface Entry extends Remembered {
  readonly epoch: number;
}

/** What an entry costs besides its data, roughly, so that many small ones count. */
const ENTRY_BYTES = 128;

export class ReplayMap {
  /** By rising offset. */
  #entries: Entry[] = [];
  #bytes = 0;

  /** Memory in use, roughly. */
  get bytes(): number {
    return this.#bytes;
  }

  get isEmpty(): boolean {
    return this.#entries.length === 0;
  }

  /** The ranges by rising offset. */
  entries(): readonly Remembered[] {
    return this.#entries;
  }

  /** Remembers a change. @param data Copied; `null` for zeroes. */
  remember(offset: number, length: number, data: Uint8Array | null, epoch: number): void {
    if (length === 0) return;
    const at = this.#carve(offset, offset + length);
    this.#insert(at, { offset, length, data: data === null ? null : data.slice(), epoch });
  }

  /** Forgets a range, because its content is durable or does not matter. */
  forget(offset: number, length: number): void {
    if (length > 0) this.#carve(offset, offset + length);
  }

  /** Forgets what was answered in an epoch before this one. */
  forgetBefore(epoch: number): void {
    const kept = this.#entries.filter((entry) => entry.epoch >= epoch);
    this.#entries = kept;
    this.#bytes = kept.reduce((sum, entry) => sum + costOf(entry), 0);
  }

  /** Empties the range; what sticks out on either side stays. Returns where an entry for the range belongs. */
  #carve(from: number, end: number): number {
    let at = this.#firstEndingBehind(from);
    while (at < this.#entries.length && this.#entries[at].offset < end) {
      const entry = this.#entries[at];
      this.#entries.splice(at, 1);
      this.#bytes -= costOf(entry);
      const entryEnd = entry.offset + entry.length;
      if (entry.offset < from) this.#insert(at++, part(entry, entry.offset, from));
      if (entryEnd > end) this.#insert(at, part(entry, end, entryEnd));
    }
    return at;
  }

  #insert(at: number, entry: Entry): void {
    this.#entries.splice(at, 0, entry);
    this.#bytes += costOf(entry);
  }

  /** The index of the first entry that ends behind `offset`. */
  #firstEndingBehind(offset: number): number {
    let [low, high] = [0, this.#entries.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      const entry = this.#entries[middle];
      if (entry.offset + entry.length > offset) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}

function costOf(entry: Entry): number {
  return ENTRY_BYTES + (entry.data?.length ?? 0);
}

function part(entry: Entry, from: number, end: number): Entry {
  // A copy, so that a small rest does not hold on to a large buffer.
  const data = entry.data === null ? null : entry.data.slice(from - entry.offset, end - entry.offset);
  return { offset: from, length: end - from, data, epoch: entry.epoch };
}
