/**
 * A file or block device as a disk.
 *
 * What can be done at once is done at once, on the thread of the event loop: reads of data in the page cache, and
 * writes into it. What would wait goes to the thread pool: reads of data that is not cached, writes that are large
 * or come while the file system is slow to take them, allocation, and every sync. Operations under way on the pool
 * keep their order with overlapping later ones.
 *
 * Sparse files stay sparse: zeroes written over a hole are not stored. The file never grows or shrinks by our doing;
 * one that somebody else cut short answers EIO beyond its end.
 */

import { RangeOrder } from "../base/range_order.ts";
import { Slots } from "../base/slots.ts";
import { type Clock, systemClock } from "../os/clock.ts";
import type { OpenFile } from "../os/file_calls.ts";
import { OsError } from "../os/os_error.ts";
import type { Pipe } from "../os/pipe.ts";
import type {
  Abilities,
  BlockDevice,
  BlockSizes,
  DiskIdentity,
  Extent,
  WriteOptions,
  ZeroOptions,
} from "./device.ts";
import { DeviceError, type DeviceOperation, narrowErrno } from "./device_error.ts";
import { onDiskThread } from "./disk_threads.ts";
import { FileStorage } from "./file_storage.ts";
import { WritePace } from "./write_pace.ts";

/** The size of a page in memory. */
const PAGE_BYTES = 4096;
/** Longer writes go to the pool: copying them would hold up everybody else. */
const QUICK_WRITE_BYTES = 256 * 1024;
/** For how long the end of the file is taken to be where it was: looking costs a system call. */
const END_CHECK_MS = 1;
/** Bounds of one `cache`: the kernel reads ahead only a little for each call. */
const PREFETCH_BYTES_MAX = 32 * 1024 * 1024;
const PREFETCH_STEP_BYTES = 128 * 1024;

/** Cold reads of one file at a time. */
const COLD_READS_MAX = 16;

/** What becomes of storage that is trimmed or zeroed: given back, or kept. */
export type Discard = "unmap" | "ignore";

export interface FileDiskOptions {
  readonly readOnly?: boolean;
  /** Default: `unmap` for a file with holes, `ignore` for one that is fully allocated and for devices. */
  readonly discard?: Discard;
  readonly identity?: DiskIdentity;
  readonly clock?: Clock;
}

/**
 * A disk over an open file, which it owns.
 *
 * A failed sync is a {@linkcode DeviceError} of the operation `flush`, also where a write with `fua` met it. To
 * remember it is the business of {@linkcode StickySync} around this disk.
 */
export class FileDisk implements BlockDevice {
  readonly sizeBytes: number;
  readonly blockSizes: BlockSizes = { minimum: 1, preferred: 4096, maximumPayload: 32 * 1024 * 1024 };
  readonly can: Abilities;
  readonly identity?: DiskIdentity;
  readonly discard: Discard;

  readonly #file: OpenFile;
  readonly #clock: Clock;
  readonly #storage: FileStorage;
  readonly #readsCached: boolean;
  readonly #order = new RangeOrder();
  readonly #coldReads = new Slots(COLD_READS_MAX);
  readonly #pace: WritePace;
  #endCheckedMs = -Infinity;
  /** The file system turned out to take nothing from a pipe. */
  #cannotSplice = false;
  #syncing: Promise<void> | null = null;
  /** The sync after the one under way; whoever asks now joins it. */
  #nextSync: Promise<void> | null = null;
  #closing: Promise<void> | null = null;

  constructor(file: OpenFile, options: FileDiskOptions = {}) {
    const { readOnly = false, discard, identity, clock = systemClock } = options;
    const isDevice = file.status.kind === "block device";
    this.identity = identity;
    this.#file = file;
    this.#clock = clock;
    this.#pace = new WritePace(clock, () => file.countSleeps());
    this.sizeBytes = isDevice ? file.deviceBytes() : file.status.sizeBytes;
    this.#storage = new FileStorage(file, this.sizeBytes, clock);
    this.discard = discard ?? (this.#storage.isSparse ? "unmap" : "ignore");
    this.#readsCached = file.canReadCached();
    this.can = {
      write: !readOnly,
      flush: true,
      fua: !readOnly,
      trim: !readOnly,
      zero: !readOnly,
      fastZero: !readOnly,
      cache: true,
      multiConn: true,
      extents: !isDevice,
      rotational: isDevice && file.deviceRotates(),
    };
  }

  read(offset: number, into: Uint8Array): void | Promise<void> {
    if (this.#order.conflicts(false, offset, into.length)) {
      this.#checkOpen("read", offset, into.length);
      return this.#order.run(false, offset, into.length, () => {
        const count = this.#readCached(offset, into);
        return count === into.length ? undefined : this.#readCold(offset, into, count);
      });
    }
    const count = this.#readCached(offset, into);
    if (count === into.length) return;
    this.#checkOpen("read", offset, into.length);
    return this.#order.run(false, offset, into.length, () => this.#readCold(offset, into, count));
  }

  /** Bytes read from the front; 0 or less if the first is not there. */
  #readCached(offset: number, into: Uint8Array): number {
    return this.#readsCached ? this.#file.readCached(offset, into) : 0;
  }

  /** Reads on the pool, except for the first `done` bytes, if any. */
  async #readCold(offset: number, into: Uint8Array, done: number): Promise<void> {
    const waited = !this.#coldReads.tryTake();
    if (waited) await this.#coldReads.take();
    try {
      // Meanwhile the reads before this one may have brought it in.
      const from = Math.max(0, waited ? this.#readCached(offset, into) : done);
      const rest = into.subarray(from);
      if (rest.length === 0) return;
      const count = await onDiskThread(() => this.#file.read(offset + from, rest));
      if (count < rest.length) throw this.#cutShort();
    } catch (error) {
      throw toDeviceError("read", offset, into.length, error);
    } finally {
      this.#coldReads.give();
    }
  }

  write(offset: number, data: Uint8Array, options?: WriteOptions): void | Promise<void> {
    const length = data.length;
    this.#checkOpen("write", offset, length);
    const nowMs = this.#clock.now();
    if (this.#beginsNow(offset, length, nowMs)) {
      this.#writeNow(offset, data, nowMs);
      return options?.fua ? this.#flush() : undefined;
    }
    return this.#order.run(true, offset, length, async () => {
      await this.#writeOnPool(offset, data);
      if (options?.fua) await this.#flush();
    });
  }

  /** Whether to write at once; if so, it must be done. */
  #beginsNow(offset: number, length: number, nowMs: number): boolean {
    return length <= QUICK_WRITE_BYTES && !this.#order.conflicts(true, offset, length) &&
      this.#edgesCached(offset, length) && this.#pace.begin(nowMs);
  }

  /** Whether a write needs to read nothing first: each page is filled whole, or is in memory. */
  #edgesCached(offset: number, length: number): boolean {
    if (offset % PAGE_BYTES === 0 && length % PAGE_BYTES === 0) return true;
    if (!this.#readsCached) return false;
    const byte = new Uint8Array(1);
    return this.#file.readCached(offset, byte) === 1 &&
      this.#file.readCached(offset + length - 1, byte) === 1;
  }

  #writeNow(offset: number, data: Uint8Array, startedMs: number): void {
    try {
      this.#checkEndNow(offset + data.length, startedMs);
      const runs = this.#storage.runsToStore(offset, data);
      if (runs === null) this.#file.writeNow(offset, data);
      else for (const { from, to } of runs) this.#file.writeNow(offset + from, data.subarray(from, to));
    } catch (error) {
      throw toDeviceError("write", offset, data.length, error);
    }
    this.#pace.ended();
  }

  async #writeOnPool(offset: number, data: Uint8Array): Promise<void> {
    try {
      await onDiskThread(async () => {
        this.#checkEnd(offset + data.length);
        const runs = this.#storage.runsToStore(offset, data);
        if (runs === null) return await this.#file.write(offset, data);
        for (const { from, to } of runs) await this.#file.write(offset + from, data.subarray(from, to));
      });
    } catch (error) {
      throw toDeviceError("write", offset, data.length, error);
    }
  }

  takesPipe(offset: number, length: number): boolean {
    // In a hole it has to be seen what is zero.
    return !this.#cannotSplice && this.#storage.isDense(offset, offset + length);
  }

  writeFromPipe(offset: number, length: number, pipe: Pipe): void | Promise<void> {
    this.#checkOpen("write", offset, length);
    if (!this.takesPipe(offset, length)) return this.write(offset, takeFrom(pipe, length));
    const nowMs = this.#clock.now();
    if (this.#beginsNow(offset, length, nowMs)) return this.#spliceNow(offset, length, pipe, nowMs);
    return this.#order.run(true, offset, length, () => this.#spliceOnPool(offset, length, pipe));
  }

  #spliceNow(offset: number, length: number, pipe: Pipe, startedMs: number): void {
    const unheld = pipe.heldBytes - length;
    try {
      this.#checkEndNow(offset + length, startedMs);
      pipe.writeNow(this.#file.fd, offset, length);
    } catch (error) {
      try {
        const rest = this.#takeUnspliced(error, pipe, unheld);
        this.#file.writeNow(offset + length - rest.length, rest);
      } catch (error) {
        throw toDeviceError("write", offset, length, error);
      }
    }
    this.#pace.ended();
  }

  async #spliceOnPool(offset: number, length: number, pipe: Pipe): Promise<void> {
    const unheld = pipe.heldBytes - length;
    try {
      await onDiskThread(async () => {
        this.#checkEnd(offset + length);
        try {
          await pipe.write(this.#file.fd, offset, length);
        } catch (error) {
          const rest = this.#takeUnspliced(error, pipe, unheld);
          await this.#file.write(offset + length - rest.length, rest);
        }
      });
    } catch (error) {
      throw toDeviceError("write", offset, length, error);
    }
  }

  /**
   * What is still to be written, if that failed only because the file system does not take it from a pipe. It is not
   * tried again.
   *
   * @param behind How many bytes of the pipe are not part of it.
   * @throws `error` if it failed for another reason.
   */
  #takeUnspliced(error: unknown, pipe: Pipe, behind: number): Uint8Array {
    if (!(error instanceof OsError) || error.code !== "EINVAL") throw error;
    this.#cannotSplice = true;
    return takeFrom(pipe, pipe.heldBytes - behind);
  }

  flush(): Promise<void> {
    this.#checkOpen("flush");
    return this.#flush();
  }

  /**
   * One `fdatasync` may answer several flushes, but only those that were asked for before it started: about what
   * was written since it says nothing. One that fails fails those that wait behind it too, and is not repeated.
   */
  #flush(): Promise<void> {
    if (this.#nextSync !== null) return this.#nextSync;
    if (this.#syncing === null) return this.#sync();
    this.#nextSync = this.#syncing.finally(() => this.#nextSync = null).then(() => this.#sync());
    return this.#nextSync;
  }

  async #sync(): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#syncing = promise;
    try {
      await this.#file.sync();
      this.#syncing = null;
      resolve();
    } catch (error) {
      this.#syncing = null;
      reject(toDeviceError("flush", undefined, undefined, error));
    }
    return promise;
  }

  trim(offset: number, length: number, options?: WriteOptions): void | Promise<void> {
    this.#checkOpen("trim", offset, length);
    if (this.discard === "ignore" || length === 0) return options?.fua ? this.#flush() : undefined;
    return this.#change("trim", offset, length, options, () => this.#storage.discard(offset, length));
  }

  zero(offset: number, length: number, options: ZeroOptions = {}): void | Promise<void> {
    this.#checkOpen("zero", offset, length);
    if (length === 0) return options.fua ? this.#flush() : undefined;
    const { mayPunch = true, fast = false } = options;
    return this.#change("zero", offset, length, options, async () => {
      this.#checkEnd(offset + length);
      const punch = mayPunch && this.discard === "unmap";
      await this.#storage.zero(offset, length, { punch, mayPunch, fast });
    });
  }

  /** Runs a change on the pool, in its turn. */
  async #change(
    operation: DeviceOperation,
    offset: number,
    length: number,
    options: WriteOptions | undefined,
    change: () => Promise<void>,
  ): Promise<void> {
    try {
      await this.#order.run(true, offset, length, async () => {
        await onDiskThread(change);
        if (options?.fua) await this.#flush();
      });
    } catch (error) {
      throw toDeviceError(operation, offset, length, error);
    }
  }

  extents(offset: number, length: number): Extent[] | Promise<Extent[]> {
    this.#checkOpen("extents", offset, length);
    if (!this.can.extents) return [{ kind: "data", length }];
    if (!this.#order.conflicts(false, offset, length)) return this.#extentsNow(offset, length);
    return this.#order.run(false, offset, length, () => this.#extentsNow(offset, length));
  }

  #extentsNow(offset: number, length: number): Extent[] {
    try {
      return this.#storage.extents(offset, length);
    } catch (error) {
      throw toDeviceError("extents", offset, length, error);
    }
  }

  async cache(offset: number, length: number): Promise<void> {
    this.#checkOpen("cache", offset, length);
    const end = offset + Math.min(length, PREFETCH_BYTES_MAX);
    await this.#coldReads.take();
    try {
      await onDiskThread(async () => {
        for (let at = offset; at < end; at += PREFETCH_STEP_BYTES) {
          await this.#file.prefetch(at, Math.min(PREFETCH_STEP_BYTES, end - at));
        }
      });
    } catch (error) {
      throw toDeviceError("cache", offset, length, error);
    } finally {
      this.#coldReads.give();
    }
  }

  cachedFile(offset: number, length: number): OpenFile | null {
    if (this.#closing !== null || this.#order.conflicts(false, offset, length)) return null;
    return this.#file.isCached(offset, length) ? this.#file : null;
  }

  /** Waits for what is under way. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await this.#order.idle();
    await Promise.allSettled([this.#syncing, this.#nextSync]);
    this.#file.close();
  }

  /** What was accepted before the disk was closed still runs; what comes later is refused. */
  #checkOpen(operation: DeviceOperation, offset?: number, length?: number): void {
    if (this.#closing === null) return;
    throw new DeviceError("ESHUTDOWN", operation, offset, length, { detail: "the disk is closed" });
  }

  /** As {@linkcode #checkEnd}, unless that was just done. */
  #checkEndNow(end: number, nowMs: number): void {
    if (nowMs - this.#endCheckedMs < END_CHECK_MS) return;
    this.#checkEnd(end);
    this.#endCheckedMs = nowMs;
  }

  /** A change behind the end would make the file longer. */
  #checkEnd(end: number): void {
    if (end > this.#file.end()) throw this.#cutShort();
  }

  #cutShort(): OsError {
    return new OsError(
      "EIO",
      "file",
      `it was cut to ${this.#file.end()} of ${this.sizeBytes} bytes while in use`,
    );
  }
}

/** The first bytes of a pipe, which holds so many. */
function takeFrom(pipe: Pipe, length: number): Uint8Array {
  const data = new Uint8Array(length);
  pipe.take(data);
  return data;
}

function toDeviceError(
  operation: DeviceOperation,
  offset: number | undefined,
  length: number | undefined,
  error: unknown,
): unknown {
  if (!(error instanceof OsError)) return error;
  return new DeviceError(narrowErrno(error.code), operation, offset, length, {
    detail: error.message,
    cause: error,
  });
}
