/**
 * Which blocks of an image are here. A `.map` file beside an image holds it, as long as any block is missing; no
 * such file means that all are here.
 *
 * No header; one bit for each 4096 bytes, the lowest bit of a byte first; 1 is present. The bits behind the last
 * block mean nothing: they are written 0 and ignored when read.
 */
import { BLOCK_BYTES, HASH_BLOCK_BYTES } from "./constants.ts";

/** What one byte of the map covers: the unit of replication. */
export const MAP_BYTE_BYTES = 8 * BLOCK_BYTES;

/** Bytes of a range that are alike. */
export interface MapRun {
  readonly offset: number;
  readonly length: number;
  readonly present: boolean;
}

export class CacheMap {
  readonly #bits: Uint8Array;
  readonly #blockCount: number;
  #missing: number;

  /**
   * @param sizeBytes Virtual size of the image.
   * @param bytes Content of the `.map` file; where it is too short, blocks are missing. Default: all are.
   */
  constructor(readonly sizeBytes: number, bytes: Uint8Array = new Uint8Array()) {
    this.#blockCount = Math.ceil(sizeBytes / BLOCK_BYTES);
    this.#bits = new Uint8Array(Math.ceil(this.#blockCount / 8));
    this.#bits.set(bytes.subarray(0, this.#bits.length));
    const spare = this.#bits.length * 8 - this.#blockCount;
    if (spare > 0) this.#bits[this.#bits.length - 1] &= 0xff >> spare;
    this.#missing = this.#blockCount;
    for (const byte of this.#bits) this.#missing -= bitCount(byte);
  }

  /** The content of the `.map` file, as it is now. */
  encode(): Uint8Array {
    return this.#bits.slice();
  }

  get complete(): boolean {
    return this.#missing === 0;
  }

  /** Blocks that are missing, of {@linkcode BLOCK_BYTES} each. */
  get missingBlocks(): number {
    return this.#missing;
  }

  get blockCount(): number {
    return this.#blockCount;
  }

  /** Whether every block that the range touches is here. */
  has(offset: number, length: number): boolean {
    const end = Math.ceil((offset + length) / BLOCK_BYTES);
    for (let block = Math.floor(offset / BLOCK_BYTES); block < end; block++) {
      if (block % 8 === 0 && block + 8 <= end && this.#bits[block >> 3] === 0xff) block += 7;
      else if (!this.#get(block)) return false;
    }
    return true;
  }

  /** Marks the blocks that lie wholly in the range; a last one cut by the end of the image counts as whole. */
  add(offset: number, length: number): void {
    const end = offset + length >= this.sizeBytes
      ? this.#blockCount
      : Math.floor((offset + length) / BLOCK_BYTES);
    for (let block = Math.ceil(offset / BLOCK_BYTES); block < end; block++) {
      if (this.#get(block)) continue;
      this.#bits[block >> 3] |= 1 << (block & 7);
      this.#missing--;
    }
  }

  /** Forgets every block that the range touches. */
  remove(offset: number, length: number): void {
    const end = Math.min(Math.ceil((offset + length) / BLOCK_BYTES), this.#blockCount);
    for (let block = Math.floor(offset / BLOCK_BYTES); block < end; block++) {
      if (!this.#get(block)) continue;
      this.#bits[block >> 3] &= ~(1 << (block & 7));
      this.#missing++;
    }
  }

  /** Forgets every block that another map does not have as well. */
  retain(bytes: Uint8Array): void {
    this.#missing = this.#blockCount;
    for (let unit = 0; unit < this.#bits.length; unit++) {
      this.#bits[unit] &= bytes[unit] ?? 0;
      this.#missing -= bitCount(this.#bits[unit]);
    }
  }

  /** The run of blocks alike from `offset`, ending at `offset + length` at the latest. */
  run(offset: number, length: number): MapRun {
    const present = this.#get(Math.floor(offset / BLOCK_BYTES));
    const end = offset + length;
    let at = (Math.floor(offset / BLOCK_BYTES) + 1) * BLOCK_BYTES;
    while (at < end && this.#get(at / BLOCK_BYTES) === present) at += BLOCK_BYTES;
    return { offset, length: Math.min(at, end) - offset, present };
  }

  /**
   * The next unit of {@linkcode MAP_BYTE_BYTES} that misses a block, searched from `fromUnit` to the end and on
   * from the start.
   *
   * @returns Its number, or undefined if none does.
   */
  nextIncompleteUnit(fromUnit: number): number | undefined {
    if (this.#missing === 0) return undefined;
    for (let step = 0; step < this.#bits.length; step++) {
      const unit = (fromUnit + step) % this.#bits.length;
      if (this.#bits[unit] !== this.#fullByte(unit)) return unit;
    }
    return undefined;
  }

  /** How much of a hash block is here. */
  hashBlockState(index: number): "empty" | "partial" | "complete" {
    const first = index * (HASH_BLOCK_BYTES / MAP_BYTE_BYTES);
    const end = Math.min(first + HASH_BLOCK_BYTES / MAP_BYTE_BYTES, this.#bits.length);
    let [full, empty] = [true, true];
    for (let unit = first; unit < end; unit++) {
      if (this.#bits[unit] !== 0) empty = false;
      if (this.#bits[unit] !== this.#fullByte(unit)) full = false;
      if (!full && !empty) return "partial";
    }
    return full ? "complete" : "empty";
  }

  /** Percent that dnbd3 tells of an image: the mean over the map's bytes, a part of a byte counting as half. */
  get percent(): number {
    if (this.complete) return 100;
    let sum = 0;
    for (let unit = 0; unit < this.#bits.length; unit++) {
      if (this.#bits[unit] === this.#fullByte(unit)) sum += 100;
      else if (this.#bits[unit] !== 0) sum += 50;
    }
    return Math.floor(sum / this.#bits.length);
  }

  #get(block: number): boolean {
    return (this.#bits[block >> 3] & (1 << (block & 7))) !== 0;
  }

  #fullByte(unit: number): number {
    return 0xff >> Math.max(0, (unit + 1) * 8 - this.#blockCount);
  }
}

function bitCount(byte: number): number {
  let count = 0;
  for (let rest = byte; rest !== 0; rest &= rest - 1) count++;
  return count;
}
