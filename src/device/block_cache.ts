/**
 * The blocks of a cache in a file, there again after a restart, kill -9 and power loss included.
 *
 * A block is written to the file when it is put, and noted in the map when that is durable. It is taken out of the
 * map, durably, before {@linkcode FileStore.forget} is over: so what the map has was never written to since. Each
 * entry holds the checksum of its block, which is compared when the block is first read after a start.
 *
 * If the map cannot be written any more the whole file is given up, because nobody knows what it says.
 */
import { type Log, silentLog } from "../base/log.ts";
import { type Clock, systemClock } from "../os/clock.ts";
import { blockChecksum, BlockMap, blocksOffset, type CacheSubject } from "./block_cache_map.ts";
import type { BlockStore } from "./cache_store.ts";
import type { BlockDevice } from "./device.ts";
import { DeviceError } from "./device_error.ts";

/** Blocks that were put are noted in the map together, this long after the first. */
const NOTE_MS = 1000;
/** A bound on the memory for the map: 16 TiB in blocks of 64 KiB. */
const BLOCKS_MAX = 2 ** 28;
/** Bytes on their way into the file; what comes on top is not kept. */
const WRITING_BYTES_MAX = 32 * 1024 * 1024;

export interface FileStoreOptions {
  /** Of the file, for messages. */
  readonly name?: string;
  /**
   * Removes the file for good, so that no restart finds it.
   *
   * @throws If that cannot be had.
   */
  readonly remove?: () => Promise<void>;
  readonly log?: Log;
  readonly clock?: Clock;
}

/** A block that was put and is not yet noted in the map. */
interface Fresh {
  readonly checksum: number;
  written: boolean;
}

export class FileStore implements BlockStore {
  readonly blockBytes: number;
  readonly survives = true;
  readonly capacityBytes: number;
  readonly #file: BlockDevice;
  readonly #map: BlockMap;
  readonly #subject: CacheSubject;
  readonly #name: string;
  readonly #remove: () => Promise<void>;
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #blocksOffset: number;
  readonly #fresh = new Map<number, Fresh>();
  /** Blocks of the map whose checksum was compared: a bit each. */
  readonly #compared: Uint8Array;
  #writingBytes = 0;
  readonly #writing = new Set<Promise<void>>();
  #timer: Disposable | null = null;
  #noting: Promise<void> = Promise.resolve();
  #complained = false;
  /** The file is used no more. */
  #over = false;
  #givingUp: Promise<void> | null = null;
  #closing: Promise<void> | null = null;

  private constructor(file: BlockDevice, map: BlockMap, subject: CacheSubject, options: FileStoreOptions) {
    const { name = "the cache file", log = silentLog, clock = systemClock } = options;
    this.#file = file;
    this.#map = map;
    this.#subject = subject;
    this.#name = name;
    this.#remove = options.remove ?? (() => Promise.resolve());
    this.#log = log;
    this.#clock = clock;
    this.blockBytes = subject.blockBytes;
    this.capacityBytes = subject.sizeBytes;
    this.#blocksOffset = blocksOffset(subject);
    this.#compared = new Uint8Array(Math.ceil(subject.sizeBytes / subject.blockBytes / 8));
  }

  /**
   * Opens the blocks in a file, or makes it empty if they are of another disk.
   *
   * @param file Owned; of `cacheFileBytes(subject)`.
   * @throws {DeviceError} If it cannot be used.
   */
  static async open(
    file: BlockDevice,
    subject: CacheSubject,
    options: FileStoreOptions = {},
  ): Promise<FileStore> {
    const { name = "the cache file", log = silentLog } = options;
    if (subject.sizeBytes / subject.blockBytes > BLOCKS_MAX) {
      throw new DeviceError("EFBIG", "open", undefined, undefined, {
        detail: `a disk of ${subject.sizeBytes} bytes is too large for a cache file`,
      });
    }
    const map = await BlockMap.open(
      file,
      subject,
      (reason) => log.warn(`${name}: what it had is not used: ${reason}`),
    );
    return new FileStore(file, map, subject, options);
  }

  get keptBytes(): number {
    return (this.#map.blockCount + this.#fresh.size) * this.blockBytes;
  }

  has(block: number): boolean {
    return !this.#over && (this.#fresh.has(block) || this.#map.get(block) !== 0);
  }

  read(block: number, from: number, into: Uint8Array): void | Promise<void> {
    const start = this.#blocksOffset + block * this.blockBytes;
    if (this.#fresh.get(block)?.written || this.#wasCompared(block)) {
      return this.#file.read(start + from, into);
    }
    const checksum = this.#fresh.get(block)?.checksum ?? this.#map.get(block);
    const whole = new Uint8Array(this.#bytesOf(block));
    const check = () => {
      if (blockChecksum(whole) !== checksum) throw this.#damaged(block, checksum);
      if (this.#map.get(block) === checksum) this.#compared[block >> 3] |= 1 << (block & 7);
      into.set(whole.subarray(from, from + into.length));
    };
    const reading = this.#file.read(start, whole);
    return reading === undefined ? check() : reading.then(check);
  }

  put(block: number, bytes: Uint8Array): void {
    if (this.#over || this.has(block) || this.#writingBytes + bytes.length > WRITING_BYTES_MAX) return;
    const fresh: Fresh = { checksum: blockChecksum(bytes), written: false };
    this.#fresh.set(block, fresh);
    const written = () => {
      fresh.written = true;
      this.#timer ??= this.#clock.timer(NOTE_MS, () => this.#note(), { background: true });
    };
    const failed = (error: unknown) => {
      if (this.#fresh.get(block) === fresh) this.#fresh.delete(block);
      if (!this.#complained) this.#log.warn(`${this.#name}: cannot keep more: ${(error as Error).message}`);
      this.#complained = true;
    };
    let writing: void | Promise<void>;
    try {
      writing = this.#file.write(this.#blocksOffset + block * this.blockBytes, bytes);
    } catch (error) {
      return failed(error);
    }
    if (writing === undefined) return written();
    this.#writingBytes += bytes.length;
    const ended = writing.then(written, failed).finally(() => {
      this.#writingBytes -= bytes.length;
      this.#writing.delete(ended);
    });
    this.#writing.add(ended);
  }

  forget(first: number, end: number): void | Promise<void> {
    if (this.#over) return this.#givingUp ?? undefined;
    if (end - first <= this.#fresh.size) {
      for (let block = first; block < end; block++) this.#fresh.delete(block);
    } else {
      for (const block of this.#fresh.keys()) if (block >= first && block < end) this.#fresh.delete(block);
    }
    // Bits of comparison that stay set do no harm: they count only for what the map has, and what it will have again
    // has been put since.
    if (this.#map.clear(first, end)) return this.#commit();
  }

  close(): Promise<void> {
    return this.#closing ??= this.#close();
  }

  async #close(): Promise<void> {
    await Promise.all(this.#writing);
    if (!this.#over) {
      this.#note();
      await this.#noting;
    }
    this.#over = true;
    this.#timer?.[Symbol.dispose]();
    await this.#file.close();
  }

  /** Notes what was put in the map, after it is durable. */
  #note(): void {
    this.#timer?.[Symbol.dispose]();
    this.#timer = null;
    this.#noting = this.#noting.then(async () => {
      const batch = [...this.#fresh].filter(([, fresh]) => fresh.written);
      if (batch.length === 0 || this.#over) return;
      try {
        await this.#file.flush();
      } catch (error) {
        // None of them is noted, so nothing is lost but they.
        return await this.#giveUp(error).catch(() => {});
      }
      for (const [block, fresh] of batch) {
        if (this.#fresh.get(block) !== fresh) continue;
        this.#fresh.delete(block);
        this.#map.set(block, fresh.checksum);
        this.#compared[block >> 3] |= 1 << (block & 7);
      }
      await this.#commit().catch(() => {});
    });
  }

  async #commit(): Promise<void> {
    try {
      await this.#map.commit();
    } catch (error) {
      await this.#giveUp(error);
    }
  }

  /**
   * Uses the file no more, and removes it, because what its map says is not known.
   *
   * @throws {DeviceError} If it cannot be removed. Then nothing may be written to the disk: a restart would take old
   *   blocks for new ones.
   */
  #giveUp(cause: unknown): Promise<void> {
    this.#over = true;
    this.#fresh.clear();
    return this.#givingUp ??= (async () => {
      this.#log.error(`${this.#name}: given up: ${(cause as Error).message}`);
      try {
        await this.#remove();
      } catch (error) {
        throw new DeviceError("EIO", "write", undefined, undefined, {
          detail: `${this.#name} has to be removed, and cannot be: ${(error as Error).message}`,
          cause,
        });
      }
    })();
  }

  #damaged(block: number, checksum: number): DeviceError {
    const start = block * this.blockBytes;
    this.#log.warn(`${this.#name}: the block at ${start} is damaged, and fetched anew`);
    if (this.#fresh.get(block)?.checksum === checksum) this.#fresh.delete(block);
    if (this.#map.get(block) === checksum) {
      this.#map.clear(block, block + 1);
      this.#commit().catch(() => {});
    }
    return new DeviceError("EIO", "read", start, this.#bytesOf(block), {
      detail: `${this.#name} is damaged`,
    });
  }

  #wasCompared(block: number): boolean {
    return (this.#compared[block >> 3] & (1 << (block & 7))) !== 0 && this.#map.get(block) !== 0;
  }

  #bytesOf(block: number): number {
    return Math.min(this.blockBytes, this.#subject.sizeBytes - block * this.blockBytes);
  }
}
