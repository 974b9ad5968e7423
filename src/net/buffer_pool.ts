/**
 * Buffers for bytes on their way, used again and again, and counted over all connections that share them.
 *
 * Sizes are powers of two. What is given back is kept up to a budget, the most recently used first, because it
 * is still in the processor's cache.
 */

/** A buffer and the view through which numbers are read and written. */
export interface PooledBuffer {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly view: DataView<ArrayBuffer>;
}

const SIZE_MIN_LOG2 = 12;
const SIZE_MAX_POOLED_LOG2 = 22;

export class BufferPool {
  readonly #free: PooledBuffer[][] = [];
  readonly #budgetBytes: number;
  readonly #crowdedBytes: number;
  #keptBytes = 0;
  #usedBytes = 0;

  /**
   * @param budgetBytes How much is kept for later; what is in use is not counted.
   * @param crowdedBytes With more than that in use those who share the pool have to be modest.
   */
  constructor(budgetBytes = 32 * 1024 * 1024, crowdedBytes = 64 * 1024 * 1024) {
    this.#budgetBytes = budgetBytes;
    this.#crowdedBytes = crowdedBytes;
    for (let log2 = 0; log2 <= SIZE_MAX_POOLED_LOG2; log2++) this.#free.push([]);
  }

  /** Bytes that lie ready. */
  get keptBytes(): number {
    return this.#keptBytes;
  }

  /** Bytes of the buffers that were taken and not yet given back. */
  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** Whether so much is in use that nobody should take more than it needs to go on. */
  get isCrowded(): boolean {
    return this.#usedBytes > this.#crowdedBytes;
  }

  /** Takes a buffer of at least `byteCount` bytes, which the caller has bounded. Its content is anything. */
  take(byteCount: number): PooledBuffer {
    const log2 = sizeLog2(byteCount);
    if (log2 <= SIZE_MAX_POOLED_LOG2) {
      const kept = this.#free[log2].pop();
      if (kept !== undefined) {
        this.#keptBytes -= kept.bytes.length;
        this.#usedBytes += kept.bytes.length;
        return kept;
      }
      byteCount = 2 ** log2;
    }
    this.#usedBytes += byteCount;
    return makeBuffer(byteCount);
  }

  /** Counts bytes as in use for which somebody will need buffers soon; a negative number takes them back. */
  expect(byteCount: number): void {
    this.#usedBytes += byteCount;
  }

  /** Gives a buffer back, which nobody may touch any more. */
  give(buffer: PooledBuffer): void {
    const size = buffer.bytes.length;
    this.#usedBytes -= size;
    const log2 = sizeLog2(size);
    if (log2 > SIZE_MAX_POOLED_LOG2 || 2 ** log2 !== size) return;
    if (this.#keptBytes + size > this.#budgetBytes) return;
    this.#keptBytes += size;
    this.#free[log2].push(buffer);
  }
}

function sizeLog2(byteCount: number): number {
  return byteCount <= 2 ** SIZE_MIN_LOG2 ? SIZE_MIN_LOG2 : 32 - Math.clz32(byteCount - 1);
}

function makeBuffer(byteCount: number): PooledBuffer {
  const buffer = new ArrayBuffer(byteCount);
  return { bytes: new Uint8Array(buffer), view: new DataView(buffer) };
}
