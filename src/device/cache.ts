/**
 * A read cache over a disk.
 *
 * Reads are widened to blocks, which are kept; who asks for a block that somebody else is fetching waits for that.
 * What is kept is answered at once. Who reads in sequence finds the next blocks fetched already.
 *
 * There is no write-back: changes, flushes and FUA go to the disk as they come, and are answered when it answers.
 * Before a change goes to the disk its blocks are thrown out, and what is being fetched of them will not be kept,
 * nor given to anybody who asks later: what was read while it was being written may be neither old nor new. So the
 * cache is never stale for changes that come through it. Of changes that others make to the disk it knows nothing;
 * while there may be any, the disk is asked.
 *
 * Overlapping operations keep their order of arrival, as on the disk underneath.
 */
import { RangeOrder } from "../base/range_order.ts";
import type { BlockStore } from "./cache_store.ts";
import type { BlockDevice, Extent, WriteOptions, ZeroOptions } from "./device.ts";
import { UnsyncedBlocks } from "./cache_unsynced.ts";
import { SequenceDetector } from "./prefetch.ts";

/** A prefetch is cut into requests of this size, so that its first blocks need not wait for its last. */
const PREFETCH_PIECE_BYTES = 256 * 1024;
/** Prefetches under way, over all readers. */
const PREFETCH_BYTES_MAX = 8 * 1024 * 1024;
/** A single read of more than this part of the capacity would throw out everything else: it is not kept. */
const KEPT_READ_SHARE_MAX = 1 / 4;

export interface CacheOptions {
  /** The most to fetch ahead of one sequential reader, in bytes; 0 for nothing. Default 1 MiB. */
  readonly prefetchBytes?: number;
  /** Whether nobody else can have changed the disk: asked before anything is answered. Default: nobody ever can. */
  readonly isAlone?: () => boolean;
}

/** Counts since the cache was made. */
export interface CacheCounts {
  /** Reads answered without the disk. */
  hits: number;
  /** Reads that needed it, or waited for somebody else's fetch. */
  misses: number;
  /** Bytes fetched before they were asked for. */
  prefetchedBytes: number;
  /** Fetches that a change overtook, so that they were not kept. */
  discardedFetches: number;
}

/** Blocks from `first` to before `end`. */
interface Blocks {
  readonly first: number;
  readonly end: number;
}

/** Blocks on their way from the disk. */
interface Fetch {
  readonly first: number;
  readonly bytes: Uint8Array;
  /** `null` once it is there. Rejects if the disk fails. */
  arriving: Promise<void> | null;
  /** A change to its range was under way at the same time. */
  spoiled: boolean;
}

export class CacheDisk implements BlockDevice {
  readonly sizeBytes: number;
  readonly blockSizes;
  readonly can;
  readonly counts: CacheCounts = { hits: 0, misses: 0, prefetchedBytes: 0, discardedFetches: 0 };
  readonly #disk: BlockDevice;
  readonly #store: BlockStore;
  readonly #blockBytes: number;
  readonly #keptReadBytesMax: number;
  readonly #sequences: SequenceDetector;
  readonly #isAlone: () => boolean;
  #prefetchingBytes = 0;
  /** By block, those that later readers may join. */
  readonly #joinable = new Map<number, Fetch>();
  /** All that are under way. */
  readonly #fetches = new Set<Fetch>();
  /** Changes that the disk has not answered, by their blocks. */
  readonly #changes = new Set<Blocks>();
  /** Kept for a store that survives; `null` for others. */
  readonly #unsynced: UnsyncedBlocks | null;
  /** Changes that wait for the store, and what waits for these. */
  readonly #order = new RangeOrder();
  #closed = false;

  /**
   * @param disk Owned. Its blocks are no larger than those of the store.
   * @param store Owned.
   */
  constructor(disk: BlockDevice, store: BlockStore, options: CacheOptions = {}) {
    if (store.blockBytes % disk.blockSizes.minimum !== 0) {
      throw new RangeError(
        `cannot keep blocks of ${store.blockBytes} bytes of a disk with ${disk.blockSizes.minimum}`,
      );
    }
    const { prefetchBytes = 1024 * 1024, isAlone = () => true } = options;
    this.#isAlone = isAlone;
    this.#disk = disk;
    this.#store = store;
    this.#blockBytes = store.blockBytes;
    this.#unsynced = store.survives ? new UnsyncedBlocks() : null;
    this.#keptReadBytesMax = Math.max(store.blockBytes, store.capacityBytes * KEPT_READ_SHARE_MAX);
    this.sizeBytes = disk.sizeBytes;
    this.blockSizes = disk.blockSizes;
    this.can = { ...disk.can, cache: true };
    this.#sequences = new SequenceDetector(
      disk.sizeBytes,
      Math.min(prefetchBytes, Math.floor(this.#keptReadBytesMax)),
    );
  }

  get syncFailure(): string | null {
    return this.#disk.syncFailure ?? null;
  }

  get identity() {
    return this.#disk.identity;
  }

  /** Bytes that are kept now. */
  get keptBytes(): number {
    return this.#store.keptBytes;
  }

  read(offset: number, into: Uint8Array): void | Promise<void> {
    if (this.#order.conflicts(false, offset, into.length)) {
      return this.#order.run(false, offset, into.length, () => this.#read(offset, into));
    }
    return this.#read(offset, into);
  }

  cachedBytes(offset: number, length: number): Uint8Array | null {
    if (this.#closed || !this.#isAlone() || this.#order.conflicts(false, offset, length)) return null;
    const bytes = this.#store.view?.(offset, length) ?? null;
    if (bytes === null) return null;
    this.counts.hits += 1;
    this.#readAhead(offset, length);
    return bytes;
  }

  write(offset: number, data: Uint8Array, options?: WriteOptions): void | Promise<void> {
    return this.#change(offset, data.length, () => this.#disk.write(offset, data, options));
  }

  trim(offset: number, length: number, options?: WriteOptions): void | Promise<void> {
    return this.#change(offset, length, () => this.#disk.trim(offset, length, options));
  }

  zero(offset: number, length: number, options?: ZeroOptions): void | Promise<void> {
    return this.#change(offset, length, () => this.#disk.zero(offset, length, options));
  }

  flush(): void | Promise<void> {
    const flushed = this.#unsynced?.flushing();
    const flushing = this.#disk.flush();
    return flushing === undefined ? flushed?.() : flushing.then(flushed);
  }

  extents(offset: number, length: number): Extent[] | Promise<Extent[]> {
    if (this.#order.conflicts(false, offset, length)) {
      return this.#order.run(false, offset, length, () => this.#disk.extents(offset, length));
    }
    return this.#disk.extents(offset, length);
  }

  /** Fetches what of the range is not there, as far as it is worth keeping. What cannot be read is left out. */
  async cache(offset: number, length: number): Promise<void> {
    const end = offset + Math.min(length, Math.floor(this.#keptReadBytesMax));
    for (let at = offset; at < end && !this.#closed; at += PREFETCH_PIECE_BYTES) {
      await this.#prefetch(at, Math.min(PREFETCH_PIECE_BYTES, end - at));
    }
  }

  /** Throws out everything, for the disk may have become another. What is being fetched is not kept. */
  clear(): void | Promise<void> {
    return this.#throwOut({ first: 0, end: Math.ceil(this.sizeBytes / this.#blockBytes) });
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#disk.close();
    await Promise.allSettled([...this.#fetches].map((fetch) => fetch.arriving));
    await this.#order.idle();
    await this.#store.close();
  }

  #read(offset: number, into: Uint8Array): void | Promise<void> {
    if (into.length > this.#keptReadBytesMax || !this.#isAlone()) {
      this.counts.misses += 1;
      return this.#disk.read(offset, into);
    }
    let waiting: Promise<void>[] | null = null;
    try {
      for (let at = 0; at < into.length;) {
        const piece = this.#readPiece(offset + at, into.subarray(at));
        if (piece.copying !== undefined) (waiting ??= []).push(piece.copying);
        at += piece.length;
      }
    } catch (error) {
      (waiting ??= []).push(Promise.reject(error));
    }
    this.#readAhead(offset, into.length);
    if (waiting === null) {
      this.counts.hits += 1;
      return;
    }
    this.counts.misses += 1;
    // The buffer is the caller's again only when nothing is copied into it any more.
    return Promise.allSettled(waiting).then((results) => {
      // What failed may have been wanted by others: the disk says what holds for this range.
      if (results.some(({ status }) => status === "rejected")) return this.#disk.read(offset, into);
    });
  }

  /**
   * Begins to read as much as lies in one kept block, or in one fetch.
   *
   * @returns How much that is, and what ends when it is there.
   */
  #readPiece(offset: number, into: Uint8Array): { length: number; copying: void | Promise<void> } {
    const block = Math.floor(offset / this.#blockBytes);
    if (this.#store.has(block)) {
      const from = offset - block * this.#blockBytes;
      const piece = into.subarray(0, this.#blockBytes - from);
      return { length: piece.length, copying: this.#store.read(block, from, piece) };
    }
    const endBlock = Math.ceil((offset + into.length) / this.#blockBytes);
    const fetch = this.#joinable.get(block) ?? this.#fetch(block, endBlock);
    const from = offset - fetch.first * this.#blockBytes;
    const length = Math.min(into.length, fetch.bytes.length - from);
    const copy = () => into.set(fetch.bytes.subarray(from, from + length));
    return { length, copying: fetch.arriving === null ? copy() : fetch.arriving.then(copy) };
  }

  /** Fetches `first` and the blocks behind it up to `end` that are neither there nor under way. */
  #fetch(first: number, end: number): Fetch {
    let last = first + 1;
    while (last < end && !this.#store.has(last) && !this.#joinable.has(last)) last += 1;
    const start = first * this.#blockBytes;
    const bytes = new Uint8Array(Math.min(last * this.#blockBytes, this.sizeBytes) - start);
    const fetch: Fetch = { first, bytes, arriving: null, spoiled: this.#isChanging(first, last) };
    const reading = this.#disk.read(start, bytes);
    if (reading === undefined) {
      if (!fetch.spoiled) this.#keep(fetch);
      return fetch;
    }
    this.#fetches.add(fetch);
    if (!fetch.spoiled) { for (let block = first; block < last; block++) this.#joinable.set(block, fetch); }
    fetch.arriving = reading.then(() => {
      fetch.arriving = null;
      if (fetch.spoiled) this.counts.discardedFetches += 1;
      else this.#keep(fetch);
    }).finally(() => this.#endFetch(fetch));
    // A prefetch that fails concerns nobody; those who wait hear of it themselves.
    fetch.arriving.catch(() => {});
    return fetch;
  }

  #keep({ first, bytes }: Fetch): void {
    if (this.#closed) return;
    for (let at = 0; at < bytes.length; at += this.#blockBytes) {
      const block = first + at / this.#blockBytes;
      if (this.#unsynced?.has(block)) continue;
      this.#store.put(block, bytes.subarray(at, at + this.#blockBytes));
    }
  }

  #endFetch(fetch: Fetch): void {
    this.#fetches.delete(fetch);
    this.#part(fetch);
  }

  /** Later readers no longer join. */
  #part(fetch: Fetch): void {
    const end = this.#endOf(fetch);
    for (let block = fetch.first; block < end; block++) {
      if (this.#joinable.get(block) === fetch) this.#joinable.delete(block);
    }
  }

  #endOf({ first, bytes }: Fetch): number {
    return first + Math.ceil(bytes.length / this.#blockBytes);
  }

  #readAhead(offset: number, length: number): void {
    const ahead = this.#sequences.read(offset, length);
    if (ahead !== null) this.#prefetchAhead(ahead.offset, ahead.length);
  }

  #prefetchAhead(offset: number, length: number): void {
    for (let at = offset; at < offset + length; at += PREFETCH_PIECE_BYTES) {
      const pieceBytes = Math.min(PREFETCH_PIECE_BYTES, offset + length - at);
      if (this.#prefetchingBytes + pieceBytes > PREFETCH_BYTES_MAX || this.#closed) return;
      void this.#prefetch(at, pieceBytes);
    }
  }

  /** Fetches what of the range is neither there nor under way. Never rejects. */
  async #prefetch(offset: number, length: number): Promise<void> {
    if (this.#order.conflicts(false, offset, length)) return;
    const end = Math.ceil((offset + length) / this.#blockBytes);
    for (let block = Math.floor(offset / this.#blockBytes); block < end && !this.#closed; block++) {
      if (this.#store.has(block) || this.#joinable.has(block)) continue;
      if (this.#isChanging(block, end)) return;
      let fetch: Fetch;
      try {
        fetch = this.#fetch(block, end);
      } catch {
        return;
      }
      const { arriving, bytes } = fetch;
      block = this.#endOf(fetch) - 1;
      this.counts.prefetchedBytes += bytes.length;
      if (arriving === null) continue;
      this.#prefetchingBytes += bytes.length;
      await arriving.catch(() => {});
      this.#prefetchingBytes -= bytes.length;
    }
  }

  #change(offset: number, length: number, work: () => void | Promise<void>): void | Promise<void> {
    const blocks: Blocks = {
      first: Math.floor(offset / this.#blockBytes),
      end: Math.ceil((offset + length) / this.#blockBytes),
    };
    if (this.#order.conflicts(true, offset, length)) {
      return this.#order.run(
        true,
        offset,
        length,
        () => this.#changeAfter(this.#throwOut(blocks), blocks, work),
      );
    }
    const forgetting = this.#throwOut(blocks);
    if (forgetting !== undefined) {
      return this.#order.run(true, offset, length, () => this.#changeAfter(forgetting, blocks, work));
    }
    let working: void | Promise<void>;
    try {
      working = work();
    } catch (error) {
      this.#unsynced?.changed(blocks.first, blocks.end);
      throw error;
    }
    if (working === undefined) return this.#unsynced?.changed(blocks.first, blocks.end);
    this.#changes.add(blocks);
    return working.finally(() => this.#endChange(blocks));
  }

  async #changeAfter(
    forgetting: void | Promise<void>,
    blocks: Blocks,
    work: () => void | Promise<void>,
  ): Promise<void> {
    this.#changes.add(blocks);
    try {
      await forgetting;
      await work();
    } finally {
      this.#endChange(blocks);
    }
  }

  /** Whether it succeeded or not. */
  #endChange(blocks: Blocks): void {
    this.#unsynced?.changed(blocks.first, blocks.end);
    this.#changes.delete(blocks);
  }

  /** Throws out the blocks, and keeps what is under way from being kept. */
  #throwOut({ first, end }: Blocks): void | Promise<void> {
    for (const fetch of this.#fetches) {
      if (fetch.first < end && first < this.#endOf(fetch) && !fetch.spoiled) {
        fetch.spoiled = true;
        this.#part(fetch);
      }
    }
    return this.#store.forget(first, end);
  }

  #isChanging(first: number, end: number): boolean {
    for (const change of this.#changes) if (change.first < end && first < change.end) return true;
    return false;
  }
}
