import type { BlockStore } from "./cache_store.ts";

/** Memory is taken in pieces of this many bytes, when it is first needed. */
const PIECE_BYTES = 1 << 20;

/**
 * Blocks in a bounded piece of memory.
 *
 * Which block goes when a new one needs its place is decided by a clock hand: it passes over those that were read
 * since it came by last, and takes the first that was not.
 */
export class MemoryStore implements BlockStore {
  readonly blockBytes: number;
  readonly survives = false;
  readonly capacityBytes: number;
  readonly #slotCount: number;
  readonly #slotsPerPiece: number;
  readonly #pieces: Uint8Array[] = [];
  readonly #slotOf = new Map<number, number>();
  /** The block in each slot; -1 where there is none. */
  readonly #blockIn: Float64Array;
  readonly #wasRead: Uint8Array;
  /** Slots that were given back. */
  readonly #free: number[] = [];
  /** Slots that were ever used. */
  #used = 0;
  #hand = 0;

  /**
   * @param capacityBytes Rounded down to blocks; at least one block.
   * @param blockBytes A power of two up to 1 MiB.
   */
  constructor(capacityBytes: number, blockBytes: number) {
    if (blockBytes < 1 || blockBytes > PIECE_BYTES || PIECE_BYTES % blockBytes !== 0) {
      throw new RangeError(`cannot keep blocks of ${blockBytes} bytes`);
    }
    this.blockBytes = blockBytes;
    this.#slotCount = Math.max(1, Math.floor(capacityBytes / blockBytes));
    this.#slotsPerPiece = PIECE_BYTES / blockBytes;
    this.capacityBytes = this.#slotCount * blockBytes;
    this.#blockIn = new Float64Array(this.#slotCount).fill(-1);
    this.#wasRead = new Uint8Array(this.#slotCount);
  }

  get keptBytes(): number {
    return this.#slotOf.size * this.blockBytes;
  }

  has(block: number): boolean {
    return this.#slotOf.has(block);
  }

  read(block: number, from: number, into: Uint8Array): void {
    const slot = this.#slotOf.get(block)!;
    this.#wasRead[slot] = 1;
    const at = (slot % this.#slotsPerPiece) * this.blockBytes + from;
    into.set(this.#pieceOf(slot).subarray(at, at + into.length));
  }

  view(offset: number, length: number): Uint8Array | null {
    const first = Math.floor(offset / this.blockBytes);
    const last = Math.floor((offset + length - 1) / this.blockBytes);
    const slot = this.#slotOf.get(first);
    if (slot === undefined) return null;
    const inPiece = slot % this.#slotsPerPiece;
    if (inPiece + last - first >= this.#slotsPerPiece) return null;
    for (let block = first + 1; block <= last; block++) {
      if (this.#slotOf.get(block) !== slot + block - first) return null;
    }
    this.#wasRead.fill(1, slot, slot + last - first + 1);
    const at = inPiece * this.blockBytes + offset - first * this.blockBytes;
    return this.#pieceOf(slot).subarray(at, at + length);
  }

  put(block: number, bytes: Uint8Array): void {
    const slot = this.#slotOf.get(block) ?? this.#takeSlot();
    this.#slotOf.set(block, slot);
    this.#blockIn[slot] = block;
    this.#wasRead[slot] = 0;
    this.#pieceOf(slot).set(bytes, (slot % this.#slotsPerPiece) * this.blockBytes);
  }

  forget(first: number, end: number): void {
    // Goes through what is kept where that is less than what is to be thrown out, such as the whole disk.
    const blocks = end - first <= this.#slotOf.size
      ? numbers(first, end)
      : [...this.#slotOf.keys()].filter((block) => block >= first && block < end);
    for (const block of blocks) {
      const slot = this.#slotOf.get(block);
      if (slot === undefined) continue;
      this.#slotOf.delete(block);
      this.#blockIn[slot] = -1;
      this.#free.push(slot);
    }
  }

  close(): Promise<void> {
    this.#slotOf.clear();
    this.#pieces.length = 0;
    return Promise.resolve();
  }

  #takeSlot(): number {
    const free = this.#free.pop();
    if (free !== undefined) return free;
    if (this.#used < this.#slotCount) return this.#used++;
    while (this.#wasRead[this.#hand] === 1) {
      this.#wasRead[this.#hand] = 0;
      this.#hand = (this.#hand + 1) % this.#slotCount;
    }
    const slot = this.#hand;
    this.#hand = (this.#hand + 1) % this.#slotCount;
    this.#slotOf.delete(this.#blockIn[slot]);
    return slot;
  }

  #pieceOf(slot: number): Uint8Array {
    const index = Math.floor(slot / this.#slotsPerPiece);
    return this.#pieces[index] ??= new Uint8Array(
      Math.min(PIECE_BYTES, this.capacityBytes - index * PIECE_BYTES),
    );
  }
}

function* numbers(first: number, end: number) {
  for (let number = first; number < end; number++) yield number;
}
