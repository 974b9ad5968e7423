/**
 * Which blocks a crash of the disk may set back: those that changed since the flush before. They must not be kept
 * where they would outlive the disk's own memory of them.
 */

/** With more blocks than this all of them count as changed. */
const BLOCKS_MAX = 65_536;

export class UnsyncedBlocks {
  /** With the number of flushes that were begun before they changed. */
  readonly #blocks = new Map<number, number>();
  /** The same for all blocks; -1 while they are told apart. */
  #all = -1;
  #flushes = 0;

  has(block: number): boolean {
    return this.#all >= 0 || this.#blocks.has(block);
  }

  /** The blocks from `first` to before `end` have changed just now. */
  changed(first: number, end: number): void {
    if (end - first + this.#blocks.size > BLOCKS_MAX) {
      this.#all = this.#flushes;
      this.#blocks.clear();
      return;
    }
    for (let block = first; block < end; block++) this.#blocks.set(block, this.#flushes);
  }

  /** A flush begins. Call the result when it has succeeded. */
  flushing(): () => void {
    const flush = ++this.#flushes;
    return () => {
      if (this.#all < flush) this.#all = -1;
      for (const [block, before] of this.#blocks) if (before < flush) this.#blocks.delete(block);
    };
  }
}
