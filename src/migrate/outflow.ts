/**
 * The destination's disk as the copy sees it: what is sent is counted, and kept to the speed limit.
 *
 * Only data count: zeroes that the destination makes itself cost the link nothing.
 */
import type { BlockDevice, Extent, WriteOptions, ZeroOptions } from "../device/device.ts";
import type { Throttle } from "./throttle.ts";

/** So much data that were acknowledged and not flushed are flushed while the next are on their way. */
const FLUSH_BYTES = 64 * 1024 * 1024;

export class Outflow implements BlockDevice {
  readonly sizeBytes: number;
  readonly blockSizes: BlockDevice["blockSizes"];
  readonly can: BlockDevice["can"];
  /** Bytes of data that the destination has acknowledged. */
  ackedBytes = 0;
  /** Requests that the destination has not answered. */
  waiting = 0;
  /** When it answered last, or was asked after it had answered everything; by the clock of whoever looks. */
  progressAtMs: number;
  readonly writeFromFile?: BlockDevice["writeFromFile"];
  readonly #disk: BlockDevice;
  readonly #throttle: Throttle;
  readonly #now: () => number;
  /** Bytes that had been acknowledged when the last flush was asked for. */
  #flushedBytes = 0;
  #flushesEarly = false;
  /** Rejected if any early flush has failed. */
  #earlyFlush: Promise<void> = Promise.resolve();

  constructor(disk: BlockDevice, throttle: Throttle, now: () => number) {
    this.#disk = disk;
    this.#throttle = throttle;
    this.#now = now;
    this.progressAtMs = now();
    this.sizeBytes = disk.sizeBytes;
    this.blockSizes = disk.blockSizes;
    this.can = disk.can;
    if (disk.writeFromFile !== undefined) {
      this.writeFromFile = (offset, length, file) =>
        this.#send(length, (at, end) => disk.writeFromFile!(offset + at, end - at, file));
    }
  }

  write(offset: number, data: Uint8Array, options?: WriteOptions): Promise<void> {
    return this.#send(
      data.length,
      (at, end) => this.#disk.write(offset + at, data.subarray(at, end), options),
    );
  }

  async #send(length: number, write: (at: number, end: number) => void | Promise<void>): Promise<void> {
    // A limit may come or go while this is under way.
    for (let at = 0; at < length;) {
      const end = Math.min(length, at + this.#throttle.pieceBytes);
      const pacing = this.#throttle.take(end - at);
      if (pacing !== undefined) await pacing;
      await this.ask(() => write(at, end));
      this.ackedBytes += end - at;
      at = end;
      this.#flushEarly();
    }
  }

  async zero(offset: number, length: number, options?: ZeroOptions): Promise<void> {
    await this.ask(() => this.#disk.zero(offset, length, options));
  }

  /** @throws Also what an early flush failed with: a server may tell of a failure only once. */
  async flush(): Promise<void> {
    if (!this.#disk.can.flush) return;
    this.#flushedBytes = this.ackedBytes;
    await this.ask(() => this.#disk.flush());
    await this.#earlyFlush;
  }

  /** Has storage begin with its work while there is more to come, so that it is not all left to the end. */
  #flushEarly(): void {
    const due = this.ackedBytes - this.#flushedBytes >= FLUSH_BYTES && this.#disk.can.flush;
    if (!due || this.#flushesEarly) return;
    this.#flushesEarly = true;
    this.#flushedBytes = this.ackedBytes;
    const before = this.#earlyFlush;
    this.#earlyFlush = this.ask(() => this.#disk.flush()).then(() => before).finally(() =>
      this.#flushesEarly = false
    );
    this.#earlyFlush.catch(() => {});
  }

  read(offset: number, into: Uint8Array): void | Promise<void> {
    return this.#disk.read(offset, into);
  }

  trim(offset: number, length: number, options?: WriteOptions): void | Promise<void> {
    return this.#disk.trim(offset, length, options);
  }

  extents(offset: number, length: number): Promise<Extent[]> {
    return this.ask(() => this.#disk.extents(offset, length));
  }

  cache(offset: number, length: number): void | Promise<void> {
    return this.#disk.cache(offset, length);
  }

  close(): Promise<void> {
    return this.#disk.close();
  }

  /** Asks the destination something, and notes when it answers. */
  async ask<T>(request: () => T | Promise<T>): Promise<T> {
    if (this.waiting === 0) this.progressAtMs = this.#now();
    this.waiting++;
    try {
      return await request();
    } finally {
      this.waiting--;
      this.progressAtMs = this.#now();
    }
  }
}
