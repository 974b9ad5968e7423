/**
 * The destination's disk as the copy sees it: what is sent is counted, and kept to the speed limit.
 *
 * Only data count: zeroes that the destination makes itself cost the link nothing.
 */
import type { BlockDevice, Extent, WriteOptions, ZeroOptions } from "../device/device.ts";
import type { Throttle } from "./throttle.ts";

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
    }
  }

  async zero(offset: number, length: number, options?: ZeroOptions): Promise<void> {
    await this.ask(() => this.#disk.zero(offset, length, options));
  }

  async flush(): Promise<void> {
    if (this.#disk.can.flush) await this.ask(() => this.#disk.flush());
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
