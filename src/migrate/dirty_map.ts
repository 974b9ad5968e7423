/**
 * Which parts of a disk have to be sent: a bit for each block.
 *
 * Blocks have 4 KiB, of very large disks so much more that the map stays within 8 MiB. What is marked is at least what
 * was asked for, what is cleared at most that.
 */

const BLOCK_BYTES_MIN = 4096;
const BLOCKS_MAX = 2 ** 26;
const WORD_BITS = 32;

/** A range of a disk, in bytes. */
export interface ByteRange {
  readonly offset: number;
  readonly length: number;
}

export class DirtyMap {
  readonly sizeBytes: number;
  readonly blockBytes: number;
  readonly #words: Uint32Array;
  readonly #blocks: number;
  #marked = 0;

  /**
   * @param sizeBytes Of the disk.
   * @param options `blockBytesMin`: a power of two, if ranges must be multiples of more than 4 KiB. `blocksMax`: default
   *   2^26.
   */
  constructor(sizeBytes: number, options: { blockBytesMin?: number; blocksMax?: number } = {}) {
    const { blockBytesMin = BLOCK_BYTES_MIN, blocksMax = BLOCKS_MAX } = options;
    let blockBytes = Math.max(BLOCK_BYTES_MIN, blockBytesMin);
    while (sizeBytes / blockBytes > blocksMax) blockBytes *= 2;
    this.sizeBytes = sizeBytes;
    this.blockBytes = blockBytes;
    this.#blocks = Math.ceil(sizeBytes / blockBytes);
    this.#words = new Uint32Array(Math.ceil(this.#blocks / WORD_BITS));
  }

  /** Bytes of the marked blocks. */
  get bytes(): number {
    const whole = this.#marked * this.blockBytes;
    const last = this.#blocks - 1;
    return last >= 0 && this.#has(last) ? whole - (this.#blocks * this.blockBytes - this.sizeBytes) : whole;
  }

  get isEmpty(): boolean {
    return this.#marked === 0;
  }

  /** Marks every block that the range touches. */
  mark(offset: number, length: number): void {
    if (length <= 0) return;
    this.#set(Math.floor(offset / this.blockBytes), Math.ceil((offset + length) / this.blockBytes));
  }

  markAll(): void {
    this.#set(0, this.#blocks);
  }

  /** Clears the blocks that lie in the range with all their bytes. */
  clear(offset: number, length: number): void {
    const end = offset + length;
    const to = end === this.sizeBytes ? this.#blocks : Math.floor(end / this.blockBytes);
    this.#unset(Math.ceil(offset / this.blockBytes), to);
  }

  /** Whether a block of the range is marked. */
  touches(offset: number, length: number): boolean {
    const next = this.#next(Math.floor(offset / this.blockBytes), true);
    return length > 0 && next * this.blockBytes < offset + length && next < this.#blocks;
  }

  /**
   * Takes the first marked blocks at or behind `from` out of the map: they are marked no longer.
   *
   * @param bytesMax At most so much, but at least a block.
   * @returns `null` if there are none.
   */
  take(from: number, bytesMax: number): ByteRange | null {
    const first = this.#next(Math.floor(from / this.blockBytes), true);
    if (first >= this.#blocks) return null;
    const most = first + Math.max(1, Math.floor(bytesMax / this.blockBytes));
    const end = Math.min(this.#next(first + 1, false), most, this.#blocks);
    this.#unset(first, end);
    const offset = first * this.blockBytes;
    return { offset, length: Math.min(end * this.blockBytes, this.sizeBytes) - offset };
  }

  #has(block: number): boolean {
    return (this.#words[block >>> 5] & (1 << (block & 31))) !== 0;
  }

  #set(from: number, to: number): void {
    for (let block = from; block < to;) {
      const word = block >>> 5;
      if ((block & 31) === 0 && to - block >= WORD_BITS) {
        this.#marked += WORD_BITS - bitCount(this.#words[word]);
        this.#words[word] = 0xffff_ffff;
        block += WORD_BITS;
        continue;
      }
      if (!this.#has(block)) {
        this.#words[word] |= 1 << (block & 31);
        this.#marked++;
      }
      block++;
    }
  }

  #unset(from: number, to: number): void {
    for (let block = from; block < to;) {
      const word = block >>> 5;
      if ((block & 31) === 0 && to - block >= WORD_BITS) {
        this.#marked -= bitCount(this.#words[word]);
        this.#words[word] = 0;
        block += WORD_BITS;
        continue;
      }
      if (this.#has(block)) {
        this.#words[word] &= ~(1 << (block & 31));
        this.#marked--;
      }
      block++;
    }
  }

  /** The first block from `block` on that is marked, or is not; the number of blocks if there is none. */
  #next(block: number, marked: boolean): number {
    const skipped = marked ? 0 : 0xffff_ffff;
    while (block < this.#blocks) {
      if ((block & 31) === 0 && this.#words[block >>> 5] === skipped) {
        block += WORD_BITS;
        continue;
      }
      if (this.#has(block) === marked) return block;
      block++;
    }
    return this.#blocks;
  }
}

function bitCount(word: number): number {
  word -= (word >>> 1) & 0x5555_5555;
  word = (word & 0x3333_3333) + ((word >>> 2) & 0x3333_3333);
  return Math.imul((word + (word >>> 4)) & 0x0f0f_0f0f, 0x0101_0101) >>> 24;
}
