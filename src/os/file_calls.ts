/**
 * Positional calls on one open file or block device, as Linux has them and Deno does not: reads that never wait,
 * holes, allocation, device controls. Values or an {@linkcode OsError}.
 *
 * Calls are of two kinds. Synchronous ones cost about as much as the system call they make. Those that return a
 * promise run on the thread pool, where errno is lost; what follows from that is decided here:
 *
 * - a read that failed is asked again through the runtime, whose errors carry a code;
 * - a write or allocation that failed is asked again synchronously: both may be repeated, and mostly fail at once;
 * - a sync is **never** asked twice: the kernel reports a failed write-back once, and the second call would lie.
 *   It goes through the runtime in the first place.
 *
 * So the runtime has the file open as well. It refuses to open anything under `/dev` unless the program may do
 * everything: what fails on the pool there is EIO.
 */

import { cString, lastError, type Libc } from "./libc.ts";
import { errnoName, OsError } from "./os_error.ts";

const O_RDONLY = 0;
const O_RDWR = 0o2;
const O_NONBLOCK = 0o4000;
const O_CLOEXEC = 0o2000000;
const RWF_NOWAIT = 0x8;
const SEEK_END = 2;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const POSIX_FADV_WILLNEED = 3;
const AT_FDCWD = -100;
const AT_EMPTY_PATH = 0x1000;
const RUSAGE_THREAD = 1;
const STATX_BASIC_AND_BTIME = 0xfff;
const BLKGETSIZE64 = 0x80081272n;
const BLKSSZGET = 0x1268n;
const BLKDISCARD = 0x1277n;
const BLKROTATIONAL = 0x127en;
const FS_IOC_FIEMAP = 0xc020660bn;
/** The same number on every machine. */
const SYS_CACHESTAT = 451;
/** With larger pages fewer are counted, and nothing is taken to be cached. */
const PAGE_BYTES = 4096;
/** Linux moves at most this many bytes in one call. */
const CALL_BYTES_MAX = 0x7ffff000;

/** Modes of `fallocate`. Both leave the size of the file alone. */
export const ALLOCATE = {
  /** Takes the storage away; reads give zeroes. KEEP_SIZE | PUNCH_HOLE. */
  punch: 0x1 | 0x2,
  /** Reads give zeroes, and storage is there. KEEP_SIZE | ZERO_RANGE. */
  zero: 0x1 | 0x10,
} as const;

/** What `statx` says of a file. */
export interface FileStatus {
  readonly kind: "file" | "directory" | "block device" | "other";
  readonly sizeBytes: number;
  /** Bytes of storage that are allocated. */
  readonly allocatedBytes: number;
  readonly inode: bigint;
  readonly deviceMajor: number;
  readonly deviceMinor: number;
  /** When its content last changed, in nanoseconds since 1970. */
  readonly modifiedNs: bigint;
  /** When the file was created, in nanoseconds since 1970; 0 where the file system does not know. */
  readonly createdNs: bigint;
}

const KINDS: Readonly<Record<number, FileStatus["kind"]>> = {
  0o040000: "directory",
  0o060000: "block device",
  0o100000: "file",
};

function decodeStatus(bytes: Uint8Array<ArrayBuffer>): FileStatus {
  const view = new DataView(bytes.buffer);
  const hasCreated = (view.getUint32(0, true) & 0x800) !== 0;
  return {
    kind: KINDS[view.getUint16(28, true) & 0o170000] ?? "other",
    sizeBytes: Number(view.getBigUint64(40, true)),
    allocatedBytes: Number(view.getBigUint64(48, true)) * 512,
    inode: view.getBigUint64(32, true),
    deviceMajor: view.getUint32(136, true),
    deviceMinor: view.getUint32(140, true),
    modifiedNs: view.getBigInt64(112, true) * 1_000_000_000n + BigInt(view.getUint32(120, true)),
    createdNs: hasCreated
      ? view.getBigInt64(80, true) * 1_000_000_000n + BigInt(view.getUint32(88, true))
      : 0n,
  };
}

function statx(lib: Libc, dirfd: number, path: string, flags: number): FileStatus {
  const bytes = new Uint8Array(256);
  if (lib.statx(dirfd, cString(path), flags, STATX_BASIC_AND_BTIME, bytes) !== 0) {
    throw lastError(lib, "stat", path);
  }
  return decodeStatus(bytes);
}

/** What is at `path`, links followed. @throws {OsError} */
export function fileStatus(lib: Libc, path: string): FileStatus {
  return statx(lib, AT_FDCWD, path, 0);
}

/** What a descriptor leads to. @throws {OsError} */
export function descriptorStatus(lib: Libc, fd: number): FileStatus {
  return statx(lib, fd, "", AT_EMPTY_PATH);
}

/** The device that holds a file as one number, `st_dev`. */
export function deviceNumber({ deviceMajor, deviceMinor }: FileStatus): number {
  return (deviceMinor >> 8) * 0x10_0000 + deviceMajor * 0x100 + (deviceMinor & 0xff);
}

/** Addresses of the memory behind buffers. Memory behind an ArrayBuffer never moves. */
const addresses = new WeakMap<ArrayBufferLike, number>();
let lastMemory: ArrayBufferLike | null = null;
let lastAddress = 0;

/** Address of a buffer's first byte. User space ends at 2^47, so a number is exact. */
function addressOf(bytes: Uint8Array): number {
  // Asking for `.buffer` first makes V8 move a small array out of its heap, where it could wander.
  const memory = bytes.buffer;
  if (memory !== lastMemory) {
    let address = addresses.get(memory);
    if (address === undefined) {
      const pointer = Deno.UnsafePointer.of(new Uint8Array(memory as ArrayBuffer));
      address = Number(Deno.UnsafePointer.value(pointer));
      addresses.set(memory, address);
    }
    lastMemory = memory;
    lastAddress = address;
  }
  return lastAddress + bytes.byteOffset;
}

/** `struct iovec` { void *base; size_t length }, little endian as on every machine Deno runs on. */
const iovec = new Uint32Array(4);

/** `struct cachestat_range` { u64 offset, length } and `struct cachestat` { u64 cached, … }, counted in pages. */
const cachedRange = new Uint32Array(4);
const cachedPages = new Uint32Array(10);
const lastByte = new Uint8Array(1);

/** `struct rusage`: two times of 16 bytes, then 64-bit counters, of which the thirteenth is `ru_nvcsw`. */
const usage = new Uint32Array(36);

function codeOf(error: unknown): string {
  const code = (error as { code?: unknown }).code;
  return typeof code === "string" ? code : "EIO";
}

/** Opens the file that is open already, through the runtime. `null` if it will not, or another file is there now. */
function openTwin(path: string, readOnly: boolean, status: FileStatus): Deno.FsFile | null {
  // To open a pipe would wait for a peer.
  if (status.kind === "other") return null;
  try {
    const twin = Deno.openSync(path, { read: true, write: !readOnly });
    const { dev, ino } = twin.statSync();
    if (dev === deviceNumber(status) && ino === Number(status.inode)) return twin;
    twin.close();
  } catch {
    // Errors on the pool remain without a name.
  }
  return null;
}

/** An open file or block device. Offsets and lengths are in bytes. */
export class OpenFile {
  #fd: number;
  readonly status: FileStatus;
  readonly #lib: Libc;
  /** The same file as the runtime has it, if it will. */
  readonly #twin: Deno.FsFile | null;
  /** When the last read through the twin is over: it has one position. */
  #twinRead: Promise<unknown> = Promise.resolve();
  /** The system tells what is in the page cache, as far as is known. */
  #tellsCached = true;

  private constructor(lib: Libc, fd: number, status: FileStatus, twin: Deno.FsFile | null) {
    this.#lib = lib;
    this.#fd = fd;
    this.status = status;
    this.#twin = twin;
  }

  /**
   * Opens an existing file or device; creates and cuts nothing.
   *
   * @throws {OsError} With errno's name. Never waits: a pipe is opened without a peer.
   */
  static open(lib: Libc, path: string, { readOnly = false }: { readOnly?: boolean } = {}): OpenFile {
    const flags = (readOnly ? O_RDONLY : O_RDWR) | O_NONBLOCK | O_CLOEXEC;
    const fd = lib.open(cString(path), flags, 0);
    if (fd < 0) throw lastError(lib, "open", path);
    const status = descriptorStatus(lib, fd);
    return new OpenFile(lib, fd, status, openTwin(path, readOnly, status));
  }

  /**
   * Reads what is in the page cache.
   *
   * @returns Bytes read, from the front; -1 if the first byte is not there (or errno says why not).
   */
  readCached(offset: number, into: Uint8Array): number {
    const address = addressOf(into);
    iovec[0] = address; // modulo 2^32
    iovec[1] = address / 0x1_0000_0000;
    iovec[2] = into.length;
    return this.#lib.preadv2(this.#fd, iovec, 1, offset, RWF_NOWAIT);
  }

  /** Whether the file system knows reads that do not wait. */
  canReadCached(): boolean {
    return this.readCached(0, new Uint8Array(1)) >= 0 || errnoName(this.#lib.errno[0]) !== "EOPNOTSUPP";
  }

  /**
   * Whether a range is in the page cache, as far as can be told: pages that are being read in count unless they are
   * the last. Without the system call (before Linux 6.5), or where it is not allowed, nothing is.
   */
  isCached(offset: number, length: number): boolean {
    if (!this.#tellsCached) return false;
    cachedRange[0] = offset; // modulo 2^32
    cachedRange[1] = offset / 0x1_0000_0000;
    cachedRange[2] = length;
    cachedRange[3] = length / 0x1_0000_0000;
    if (this.#lib.cachestat(SYS_CACHESTAT, this.#fd, cachedRange, cachedPages, 0) !== 0) {
      this.#tellsCached = false;
      return false;
    }
    const pages = Math.ceil((offset % PAGE_BYTES + length) / PAGE_BYTES);
    return cachedPages[0] >= pages && this.readCached(offset + length - 1, lastByte) === 1;
  }

  /** Reads on the pool. @returns Bytes read; fewer than asked for at the end of the file. @throws {OsError} */
  async read(offset: number, into: Uint8Array): Promise<number> {
    let done = 0;
    while (done < into.length) {
      const rest = into.subarray(done) as Uint8Array<ArrayBuffer>;
      let count = await this.#lib.preadOnPool(
        this.fd,
        rest,
        Math.min(rest.length, CALL_BYTES_MAX),
        offset + done,
      );
      if (count < 0) count = await this.#readForErrno(offset + done, rest);
      if (count === 0) break;
      done += count;
    }
    return done;
  }

  #readForErrno(offset: number, into: Uint8Array): Promise<number> {
    const twin = this.#twin;
    if (this.#fd < 0) return Promise.reject(new OsError("EBADF", "read"));
    if (twin === null) return Promise.reject(new OsError("EIO", "read"));
    const count = this.#twinRead.then(async () => {
      await twin.seek(offset, Deno.SeekMode.Start);
      return await twin.read(into) ?? 0;
    }).catch((error) => {
      throw new OsError(codeOf(error), "read");
    });
    this.#twinRead = count.catch(() => {});
    return count;
  }

  /** Writes all of it, now. Mostly into the page cache. @throws {OsError} After which any part may be written. */
  writeNow(offset: number, data: Uint8Array): void {
    let done = 0;
    while (done < data.length) {
      const rest = (done === 0 ? data : data.subarray(done)) as Uint8Array<ArrayBuffer>;
      const count = this.#lib.pwrite(this.#fd, rest, Math.min(rest.length, CALL_BYTES_MAX), offset + done);
      if (count > 0) done += count;
      else this.#checkWrite(count);
    }
  }

  /** Writes all of it on the pool. @throws {OsError} After which any part may be written. */
  async write(offset: number, data: Uint8Array): Promise<void> {
    let done = 0;
    while (done < data.length) {
      const rest = data.subarray(done) as Uint8Array<ArrayBuffer>;
      const length = Math.min(rest.length, CALL_BYTES_MAX);
      let count = await this.#lib.pwriteOnPool(this.#fd, rest, length, offset + done);
      if (count < 0) count = this.#lib.pwrite(this.#fd, rest, length, offset + done);
      if (count > 0) done += count;
      else this.#checkWrite(count);
    }
  }

  /** Throws what a write that moved nothing failed with, unless it was only interrupted. */
  #checkWrite(count: number): void {
    if (count === 0) throw new OsError("EIO", "pwrite", "nothing was written");
    const error = lastError(this.#lib, "pwrite");
    if (error.code !== "EINTR") throw error;
  }

  /** Makes what was written durable. @throws {OsError} Once per failure: to ask again would hide it. */
  async sync(): Promise<void> {
    if (this.#twin === null) {
      if (await this.#lib.fdatasyncOnPool(this.#fd) !== 0) throw new OsError("EIO", "fdatasync");
      return;
    }
    try {
      await this.#twin.syncData();
    } catch (error) {
      throw new OsError(codeOf(error), "fdatasync");
    }
  }

  /** How often this thread has waited for something so far. */
  countSleeps(): number {
    this.#lib.getrusage(RUSAGE_THREAD, usage);
    return usage[32];
  }

  /** Where the file ends now. @throws {OsError} */
  end(): number {
    const end = Number(this.#lib.lseek(this.#fd, 0, SEEK_END));
    if (end < 0) throw lastError(this.#lib, "lseek");
    return end;
  }

  /** First byte of data at or after `offset`, `null` if there is none. @throws {OsError} */
  seekData(offset: number): number | null {
    const found = Number(this.#lib.lseek(this.#fd, offset, SEEK_DATA));
    if (found >= 0) return found;
    const error = lastError(this.#lib, "lseek");
    if (error.code === "ENXIO") return null; // a hole to the end, or beyond the end
    throw error;
  }

  /** First byte of a hole at or after `offset`; the end of the file counts as one. `null` beyond it. @throws {OsError} */
  seekHole(offset: number): number | null {
    const found = Number(this.#lib.lseek(this.#fd, offset, SEEK_HOLE));
    if (found >= 0) return found;
    const error = lastError(this.#lib, "lseek");
    if (error.code === "ENXIO") return null;
    throw error;
  }

  /**
   * The first run of storage in a range, which may have been reserved and never written: {@linkcode seekData} takes
   * such storage for a hole.
   *
   * @returns `null` if there is none. @throws {OsError} EOPNOTSUPP where the file system does not know.
   */
  findStorage(offset: number, length: number): { from: number; to: number } | null {
    // struct fiemap: start u64, length u64, flags u32, found u32, room u32, reserved u32; then struct fiemap_extent:
    // logical u64, physical u64, length u64, reserved, flags.
    const map = new BigUint64Array(4 + 7);
    map[0] = BigInt(offset);
    map[1] = BigInt(length);
    new Uint32Array(map.buffer)[6] = 1;
    if (this.#lib.ioctl(this.#fd, FS_IOC_FIEMAP, map) !== 0) throw lastError(this.#lib, "ioctl FIEMAP");
    if (new Uint32Array(map.buffer)[5] === 0) return null;
    const from = Math.max(offset, Number(map[4]));
    const to = Math.min(offset + length, Number(map[4] + map[6]));
    return from < to ? { from, to } : null;
  }

  /** `fallocate` now. @throws {OsError} EOPNOTSUPP where the file system does not know the mode. */
  allocateNow(mode: number, offset: number, length: number): void {
    while (this.#lib.fallocate(this.#fd, mode, offset, length) !== 0) {
      const error = lastError(this.#lib, "fallocate");
      if (error.code !== "EINTR") throw error;
    }
  }

  /** `fallocate` on the pool. @throws {OsError} EOPNOTSUPP where the file system does not know the mode. */
  async allocate(mode: number, offset: number, length: number): Promise<void> {
    if (await this.#lib.fallocateOnPool(this.#fd, mode, offset, length) !== 0) {
      this.allocateNow(mode, offset, length);
    }
  }

  /** Asks the kernel to read ahead; a hint, so its result is not looked at. */
  async prefetch(offset: number, length: number): Promise<void> {
    await this.#lib.posixFadviseOnPool(this.#fd, offset, length, POSIX_FADV_WILLNEED);
  }

  /** Size of a block device. @throws {OsError} */
  deviceBytes(): number {
    const size = new BigUint64Array(1);
    if (this.#lib.ioctl(this.#fd, BLKGETSIZE64, size) !== 0) throw lastError(this.#lib, "ioctl BLKGETSIZE64");
    return Number(size[0]);
  }

  /** Bytes of a block device's sector. @throws {OsError} */
  deviceSectorBytes(): number {
    const size = new Int32Array(1);
    if (this.#lib.ioctl(this.#fd, BLKSSZGET, size) !== 0) throw lastError(this.#lib, "ioctl BLKSSZGET");
    return size[0];
  }

  /** Whether a block device spins. */
  deviceRotates(): boolean {
    const answer = new Uint16Array(1);
    return this.#lib.ioctl(this.#fd, BLKROTATIONAL, answer) === 0 && answer[0] === 1;
  }

  /** Discards whole sectors of a block device, on the pool. @throws {OsError} EOPNOTSUPP where it cannot. */
  async discard(offset: number, length: number): Promise<void> {
    const range = new BigUint64Array([BigInt(offset), BigInt(length)]);
    if (await this.#lib.ioctlOnPool(this.#fd, BLKDISCARD, range) === 0) return;
    if (this.#lib.ioctl(this.#fd, BLKDISCARD, range) !== 0) throw lastError(this.#lib, "ioctl BLKDISCARD");
  }

  /** The descriptor, for calls that are not here; -1 once closed. */
  get fd(): number {
    return this.#fd;
  }

  /** Idempotent. No call may be under way. Later calls fail with EBADF, whoever got the descriptor's number since. */
  close(): void {
    const fd = this.#fd;
    if (fd < 0) return;
    this.#fd = -1;
    this.#lib.close(fd);
    this.#twin?.close();
  }
}
