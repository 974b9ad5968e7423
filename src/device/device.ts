/**
 * What a disk is.
 *
 * Everything denbd serves, copies, mirrors or caches is a {@linkcode BlockDevice}: a file, memory, a disk at
 * the far end of a connection, or a disk made of other disks.
 *
 * The operations return `void | Promise<void>`, and that is the point: a disk that can answer now (page cache,
 * memory) answers without a promise, and a server replies in the same turn; a disk that must wait returns a
 * promise, and later requests overtake it. Callers therefore test for a promise rather than `await` always.
 *
 * The caller keeps the range inside the disk and aligned to `blockSizes.minimum`; a disk may rely on it. A
 * buffer handed to a disk belongs to the disk until the operation has ended, and to the caller afterwards.
 */

import type { OpenFile } from "../os/file_calls.ts";
import type { Pipe } from "../os/pipe.ts";

/** Size constraints in bytes, as NBD has them: all but the maximum are powers of two. */
export interface BlockSizes {
  /** Offsets and lengths are multiples of this. */
  readonly minimum: number;
  /** Requests of this size and alignment run best. */
  readonly preferred: number;
  /** The largest read or write; other operations have no such limit. */
  readonly maximumPayload: number;
}

/** What a disk can do. A caller never asks for what is `false` here. */
export interface Abilities {
  /** Writes, trims and zeroes are accepted. */
  readonly write: boolean;
  /** `flush` makes everything answered before it durable. */
  readonly flush: boolean;
  /** The `fua` option is kept natively; where `false`, the caller flushes instead. */
  readonly fua: boolean;
  readonly trim: boolean;
  readonly zero: boolean;
  /** `zero` with `fast` is answered: either quickly, or refused with ENOTSUP having changed nothing. */
  readonly fastZero: boolean;
  /** `cache` prefetches. */
  readonly cache: boolean;
  /** A flush covers all writes answered before it, whoever asked for them (NBD's CAN_MULTI_CONN). */
  readonly multiConn: boolean;
  /** `extents` knows about holes; where `false` it answers one extent of data. */
  readonly extents: boolean;
  /** The medium spins: a hint for schedulers. */
  readonly rotational: boolean;
}

/** A run of bytes of one kind. `data`: may hold anything. `zero`: allocated, reads as zeroes. `hole`: not allocated, reads as zeroes. */
export interface Extent {
  /** In bytes, above zero. */
  readonly length: number;
  readonly kind: "data" | "zero" | "hole";
}

export interface WriteOptions {
  /** The operation's result is durable before it is answered. */
  readonly fua?: boolean;
}

export interface ZeroOptions extends WriteOptions {
  /** The range may become a hole (NBD's NO_HOLE turned round). Default `true`. */
  readonly mayPunch?: boolean;
  /** Refuse with ENOTSUP, and change nothing, if zeroing is not faster than writing. Default `false`. */
  readonly fast?: boolean;
}

/** Which disk this is, and in which life. A lower generation, or another UUID under the same name, is another disk. */
export interface DiskIdentity {
  readonly uuid: string;
  /** From 1; raised before the first write after each start. */
  readonly generation: number;
  /** By which migration it came to this host, and the epoch of the ownership that it led to. */
  readonly arrived?: { readonly id: string; readonly epoch: number };
  /** Kept across restarts; otherwise made up for this run. */
  readonly durable: boolean;
}

/**
 * Is shown the bytes of a range, which are the disk's again when it returns; or the pipe in which they are, which is to
 * be given back to `pipes`; or `null` and why they cannot be had. Does not throw.
 */
export type Shown = (bytes: Uint8Array | Pipe | null, error?: unknown) => void;

/** A disk. All offsets and lengths are in bytes. Failures are {@linkcode DeviceError}s, thrown or rejected. */
export interface BlockDevice {
  /** Exact below 2^53. */
  readonly sizeBytes: number;
  readonly blockSizes: BlockSizes;
  readonly can: Abilities;
  /** Why nothing can be made durable any more (see `sticky_sync.ts`); `null` or absent while all is well. */
  readonly syncFailure?: string | null;
  /** Absent where nobody keeps one. */
  readonly identity?: DiskIdentity;
  /** Fills `into` from `offset`. */
  read(offset: number, into: Uint8Array): void | Promise<void>;
  write(offset: number, data: Uint8Array, options?: WriteOptions): void | Promise<void>;
  /** Makes everything answered before this call durable. */
  flush(): void | Promise<void>;
  /**
   * Writes what stands in a file at the same place, where that is quicker than to be given the data; see
   * {@linkcode cachedFile}. What changes in the file before the end may be written as it was or as it is.
   */
  writeFromFile?(offset: number, length: number, file: OpenFile): void | Promise<void>;
  /**
   * Whether a write of the range goes better by {@linkcode writeFromPipe}, for who has the data in a pipe. A disk of a
   * disk has this only if it lets writes through untouched and unseen.
   */
  takesPipe?(offset: number, length: number): boolean;
  /**
   * Writes the first `length` bytes of a pipe, which holds them. The pipe belongs to the disk until the operation has
   * ended; after a failure it still holds some of the bytes. There with {@linkcode takesPipe}, and works also where
   * that said no.
   */
  writeFromPipe?(offset: number, length: number, pipe: Pipe): void | Promise<void>;
  /** Says that the range is no longer needed; it may read as anything until written. */
  trim(offset: number, length: number, options?: WriteOptions): void | Promise<void>;
  /** The range reads as zeroes afterwards. */
  zero(offset: number, length: number, options?: ZeroOptions): void | Promise<void>;
  /**
   * Describes the range from `offset`: consecutive, neighbours differing in kind, lengths adding up to at most
   * `length` and at least one byte. May stop early; the caller asks again from there.
   */
  extents(offset: number, length: number): Extent[] | Promise<Extent[]>;
  /** Prefetches the range. A hint. */
  cache(offset: number, length: number): void | Promise<void>;
  /**
   * The open file in which the disk's bytes stand, byte for byte, if those of the range can be sent from it now
   * without waiting and in their state after everything answered so far. For who would otherwise read them only to
   * pass them on. A disk of a disk has this only if it lets reads through untouched and unseen.
   *
   * @returns `null` if the range has to be read.
   */
  cachedFile?(offset: number, length: number): OpenFile | null;
  /**
   * The bytes of a range where the disk has them in memory; the disk's again when the caller returns to the event
   * loop. As {@linkcode cachedFile}, for a disk without a file.
   *
   * @returns `null` if the range has to be read.
   */
  cachedBytes?(offset: number, length: number): Uint8Array | null;
  /**
   * As {@linkcode read}, for who only passes the bytes on: they are shown where the disk has them. Only disks have
   * this whose bytes come from elsewhere, in buffers of their own.
   *
   * @param done Called once, now or later.
   * @param openPipe The bytes may be given in a pipe that this opens, or `null` if there is none; it may hold others
   *   already, behind which they come. Default: they may not.
   */
  show?(offset: number, length: number, done: Shown, openPipe?: () => Pipe | null): void;
  /** Ends all use; does not flush. Idempotent. */
  close(): Promise<void>;
}
