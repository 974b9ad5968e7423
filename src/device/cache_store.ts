/**
 * Where a cache keeps its blocks. Blocks are numbered from the start of the disk; the last one may be short.
 */
export interface BlockStore {
  /** Bytes of a block: a power of two. */
  readonly blockBytes: number;
  /** A restart finds the blocks again. So only what the disk has for certain is put there. */
  readonly survives: boolean;
  /** The most that is kept; a read that takes more than a good part of it is not worth keeping. */
  readonly capacityBytes: number;
  /** Bytes that are kept now. */
  readonly keptBytes: number;
  has(block: number): boolean;
  /**
   * Copies a part of a block that it {@linkcode has}, from the byte `from` of the block.
   *
   * @throws {DeviceError} If it cannot, thrown or rejected; it no longer has the block then.
   */
  read(block: number, from: number, into: Uint8Array): void | Promise<void>;
  /**
   * The bytes of a range where they are kept, if all of it is, in one piece; `null` otherwise. They may change with
   * the next call. Only for stores in memory.
   *
   * @param offset From the start of the disk.
   */
  view?(offset: number, length: number): Uint8Array | null;
  /** Keeps the whole of a block, which it may throw out again at any time. `bytes` do not change afterwards. */
  put(block: number, bytes: Uint8Array): void;
  /**
   * Throws out the blocks from `first` to before `end`. When it has returned or its promise is resolved, no restart
   * brings them back.
   *
   * @throws {DeviceError} If that cannot be had, thrown or rejected.
   */
  forget(first: number, end: number): void | Promise<void>;
  /** Idempotent. */
  close(): Promise<void>;
}
