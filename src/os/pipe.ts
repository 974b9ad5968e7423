/**
 * Pipes through which the kernel moves bytes between sockets and files, by `splice(2)`: what a socket has received
 * goes into a file, or to another socket, without being copied to us and back.
 *
 * A pipe holds pieces of what was received as they are, and only so many of them, whatever their size: small ones fill
 * it before its bytes are used up. Bytes leave it in the order in which they came in.
 */
import { lastError, type Libc, libc } from "./libc.ts";
import { OsError } from "./os_error.ts";
import { BROKEN, WOULD_BLOCK } from "./socket_calls.ts";

/** {@linkcode Pipe.fill} and {@linkcode Pipe.send}: the kernel does not splice this kind of descriptor. */
export const UNSUPPORTED = -3;

const O_NONBLOCK = 0o4000;
const O_CLOEXEC = 0o2000000;
const F_SETPIPE_SZ = 1031;
const F_GETPIPE_SZ = 1032;
const SPLICE_F_NONBLOCK = 2;
const SPLICE_F_MORE = 4;
const EINTR = 4;
const EAGAIN = 11;
const EINVAL = 22;
/**
 * What anybody may have by default. It is room for 256 pieces, which have some 1,450 bytes each where they came over
 * an Ethernet.
 */
const CAPACITY_BYTES = 1024 * 1024;
/** With less, as the kernel gives to who has many, nothing is gained. */
const CAPACITY_BYTES_MIN = 64 * 1024;

/** `loff_t`, little endian, of calls that do not wait. */
const position = new Uint32Array(2);

export class Pipe {
  /** How much it can hold at best; the kernel may have given less than was asked for. */
  readonly capacityBytes: number;
  readonly #lib: Libc;
  readonly #readEnd: number;
  readonly #writeEnd: number;
  #heldBytes = 0;
  #closed = false;

  private constructor(lib: Libc, readEnd: number, writeEnd: number) {
    this.#lib = lib;
    this.#readEnd = readEnd;
    this.#writeEnd = writeEnd;
    const given = lib.fcntlValue(writeEnd, F_SETPIPE_SZ, CAPACITY_BYTES);
    this.capacityBytes = given > 0 ? given : lib.fcntlValue(writeEnd, F_GETPIPE_SZ, 0);
  }

  /** @returns `null` where there is no libc, or no descriptor or room to be had. */
  static open(): Pipe | null {
    const lib = libc();
    const ends = new Int32Array(2);
    if (lib === null || lib.pipe2(ends, O_NONBLOCK | O_CLOEXEC) !== 0) return null;
    const pipe = new Pipe(lib, ends[0], ends[1]);
    if (pipe.capacityBytes >= CAPACITY_BYTES_MIN) return pipe;
    pipe.close();
    return null;
  }

  /** Bytes that went in and did not come out. */
  get heldBytes(): number {
    return this.#heldBytes;
  }

  /**
   * Takes up to `length` bytes that a socket has received. Does not wait.
   *
   * @returns A count, 0 at the end of the stream, {@linkcode WOULD_BLOCK} if nothing is there or the pipe is full,
   *   {@linkcode BROKEN} or {@linkcode UNSUPPORTED}.
   */
  fill(socket: number, length: number): number {
    const count = this.#lib.splice(socket, null, this.#writeEnd, null, length, SPLICE_F_NONBLOCK);
    if (count < 0) return this.#failure();
    this.#heldBytes += count;
    return count;
  }

  /**
   * Sends up to `length` of its bytes, of which it must hold one. The socket must be one that does not wait, as the
   * runtime's are.
   *
   * @param more More follows at once: it is better to let both leave together.
   * @returns A count, {@linkcode WOULD_BLOCK}, {@linkcode BROKEN} or {@linkcode UNSUPPORTED}.
   */
  send(socket: number, length: number, more: boolean): number {
    const flags = more ? SPLICE_F_NONBLOCK | SPLICE_F_MORE : SPLICE_F_NONBLOCK;
    const count = this.#lib.splice(this.#readEnd, null, socket, null, length, flags);
    if (count < 0) return this.#failure();
    this.#heldBytes -= count;
    return count;
  }

  #failure(): number {
    const errno = this.#lib.errno[0];
    if (errno === EAGAIN || errno === EINTR) return WOULD_BLOCK;
    return errno === EINVAL ? UNSUPPORTED : BROKEN;
  }

  /**
   * Writes its first `length` bytes, which it must hold, into a file, now. Mostly into the page cache.
   *
   * @throws {OsError} After which the bytes that were not written are still held; EINVAL where the file system does
   *   not splice.
   */
  writeNow(file: number, offset: number, length: number): void {
    while (length > 0) {
      const count = this.#writeSome(file, offset, length);
      offset += count;
      length -= count;
    }
  }

  /** As {@linkcode writeNow}, on the pool. Until the end nothing else may be done with the pipe. */
  async write(file: number, offset: number, length: number): Promise<void> {
    while (length > 0) {
      const at = new Uint32Array([offset, offset / 0x1_0000_0000]);
      let count = await this.#lib.spliceOnPool(this.#readEnd, null, file, at, length, 0);
      if (count > 0) this.#heldBytes -= count;
      else count = this.#writeSome(file, offset, length);
      offset += count;
      length -= count;
    }
  }

  #writeSome(file: number, offset: number, length: number): number {
    position[0] = offset; // modulo 2^32
    position[1] = offset / 0x1_0000_0000;
    const count = this.#lib.splice(this.#readEnd, null, file, position, length, 0);
    if (count > 0) {
      this.#heldBytes -= count;
      return count;
    }
    if (count === 0) throw new OsError("EIO", "splice", "nothing was written");
    const error = lastError(this.#lib, "splice");
    if (error.code !== "EINTR") throw error;
    return 0;
  }

  /** Puts a copy of bytes in, as many as there is room for. @returns How many. */
  put(bytes: Uint8Array<ArrayBuffer>): number {
    const count = Math.max(0, this.#lib.write(this.#writeEnd, bytes, bytes.length));
    this.#heldBytes += count;
    return count;
  }

  /** Takes its first bytes out; `into` must not be longer than what it holds. */
  take(into: Uint8Array<ArrayBuffer>): void {
    for (let rest = into; rest.length > 0;) {
      const count = this.#lib.read(this.#readEnd, rest, rest.length);
      if (count <= 0) throw lastError(this.#lib, "read", "pipe");
      this.#heldBytes -= count;
      rest = rest.subarray(count);
    }
  }

  /** Idempotent. No call may be under way. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#lib.close(this.#readEnd);
    this.#lib.close(this.#writeEnd);
  }
}

/**
 * Pipes for all connections of the program, of which there are only so many: what all programs of a user have in pipes
 * is bounded, by 64 MiB where nobody has changed it.
 */
export class PipePool {
  readonly #max: number;
  readonly #keptMax: number;
  readonly #kept: Pipe[] = [];
  #taken = 0;

  /** @param max How many may be taken at the same time. @param keptMax How many lie ready. */
  constructor(max = 32, keptMax = 8) {
    this.#max = max;
    this.#keptMax = keptMax;
  }

  /** How many are taken. */
  get takenCount(): number {
    return this.#taken;
  }

  /** An empty pipe, or `null` if there is none to be had: who takes one does without. */
  take(): Pipe | null {
    if (this.#taken >= this.#max) return null;
    const pipe = this.#kept.pop() ?? Pipe.open();
    if (pipe !== null) this.#taken++;
    return pipe;
  }

  /** Gives a pipe back, once. What it still holds is lost. */
  give(pipe: Pipe): void {
    this.#taken--;
    if (pipe.heldBytes === 0 && this.#kept.length < this.#keptMax) this.#kept.push(pipe);
    else pipe.close();
  }

  /** Closes those that lie ready. */
  clear(): void {
    for (const pipe of this.#kept.splice(0)) pipe.close();
  }
}

/** The program's own. */
export const pipes: PipePool = new PipePool();
