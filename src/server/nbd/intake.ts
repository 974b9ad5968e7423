/**
 * The bytes that a client has sent and nobody has used up yet.
 *
 * A quiet connection holds 4 KiB; a larger buffer is taken from the pool when a message asks for it and given
 * back when it is used up. A disk that takes its time with a write keeps the buffer that holds the payload;
 * what comes next is laid behind that payload as long as there is room, so that writes which wait share a buffer.
 */
import type { BufferPool, PooledBuffer } from "../../net/buffer_pool.ts";
import type { Connection } from "../../net/connection.ts";

const QUIET_BYTES = 4096;
const BUSY_BYTES = 256 * 1024;
/** Of a message that is read by itself; shorter ones are read together with what follows. */
const LONG_BYTES = 64 * 1024;
/** What is read behind a long message: at least the header of the next. */
const NEXT_BYTES = 32;

/** A buffer some of whose bytes others may still be reading. */
interface Held {
  readonly buffer: PooledBuffer;
  holders: number;
  current: boolean;
  /** Where the bytes end that may be somebody's, unless the buffer is the current one. */
  end: number;
}

export class Intake {
  readonly #pool: BufferPool;
  #held: Held;
  #quiet: PooledBuffer | null = null;
  /** A large buffer that was left with room in it, and that somebody holds anyway. */
  #left: Held | null = null;
  /** Whether the last bytes needed a large buffer: the next ones probably do, too. */
  #wasLarge = false;
  /** The unused bytes are those from `start` to `end`. */
  start = 0;
  end = 0;

  /** @param received Bytes of the client that came with its handshake. */
  constructor(pool: BufferPool, received: Uint8Array) {
    this.#pool = pool;
    const size = received.length <= QUIET_BYTES ? QUIET_BYTES : Math.max(received.length, BUSY_BYTES);
    this.#held = { buffer: pool.take(size), holders: 0, current: true, end: 0 };
    this.#held.buffer.bytes.set(received);
    this.end = received.length;
  }

  get bytes(): Uint8Array<ArrayBuffer> {
    return this.#held.buffer.bytes;
  }

  get view(): DataView<ArrayBuffer> {
    return this.#held.buffer.view;
  }

  get available(): number {
    return this.end - this.start;
  }

  /** Keeps the current buffer's bytes as they are until the returned function has been called. */
  hold(): () => void {
    const held = this.#held;
    held.holders++;
    return () => {
      held.holders--;
      this.#release(held);
    };
  }

  /**
   * Reads more, making room first so that a message of `wantedBytes` from `start` will fit (or as much of it as
   * a buffer holds: the caller uses up what there is and asks again).
   *
   * @param patient As {@linkcode Connection.readNow} has it.
   * @param exact Reads no more than that, because what follows is better read in another way.
   * @returns The number of bytes read, or `null` at the end, as {@linkcode Connection.read} does.
   */
  fill(
    connection: Connection,
    wantedBytes: number,
    patient: boolean,
    exact = false,
  ): number | null | Promise<number | null> {
    const isLarge = wantedBytes > QUIET_BYTES;
    // A long message is not followed by a part of the next long one, which would have to be moved.
    const isLong = wantedBytes > LONG_BYTES;
    const limit = isLong || exact ? wantedBytes - this.available + (exact ? 0 : NEXT_BYTES) : Infinity;
    if (connection.readNow !== undefined) {
      this.#makeRoom(wantedBytes, isLarge || this.#wasLarge);
      // A Unix socket holds hardly more than one long message: its rest comes while one looks. TCP has room for many,
      // and who looks takes them in small pieces.
      const mayLook = patient && !(isLong && connection.peer.transport === "tcp");
      const count = connection.readNow(this.#room(limit), mayLook);
      if (count !== undefined) {
        if (count !== null) this.end += count;
        return count;
      }
    }
    // Who waits may wait for long, and holds no more than needed.
    this.#wasLarge = isLarge;
    this.#makeRoom(wantedBytes, isLarge);
    const count = connection.read(this.#room(limit));
    if (count instanceof Promise) return this.#filled(count);
    if (count !== null) this.end += count;
    return count;
  }

  #room(limit: number): Uint8Array<ArrayBuffer> {
    return this.#held.buffer.bytes.subarray(this.end, this.end + limit);
  }

  async #filled(reading: Promise<number | null>): Promise<number | null> {
    const count = await reading;
    if (count !== null) this.end += count;
    return count;
  }

  #makeRoom(wantedBytes: number, large: boolean): void {
    const { buffer, holders } = this.#held;
    const size = large ? BUSY_BYTES : QUIET_BYTES;
    const available = this.end - this.start;
    const capacity = buffer.bytes.length;
    const wanted = Math.min(wantedBytes, BUSY_BYTES);
    if (available === 0) {
      if (capacity === size && holders > 0 && capacity - this.end >= wanted) return;
      if (capacity !== size || holders > 0) return this.#replace(size, wanted);
      this.start = this.end = 0;
      return;
    }
    if (capacity - this.start >= wanted && this.end < capacity) return;
    if (holders > 0 || capacity < wanted || available === capacity) {
      const isLarge = wanted > QUIET_BYTES || available >= QUIET_BYTES;
      return this.#replace(isLarge ? BUSY_BYTES : QUIET_BYTES, Math.max(wanted, available + 1));
    }
    buffer.bytes.copyWithin(0, this.start, this.end);
    this.end = available;
    this.start = 0;
  }

  /** Goes on in another buffer, with what has not been used up and room for so many bytes of it and behind it. */
  #replace(byteCount: number, wantedBytes: number): void {
    const old = this.#held;
    const unused = old.buffer.bytes.subarray(this.start, this.end);
    old.end = this.start;
    old.current = false;
    const left = this.#left;
    if (byteCount > QUIET_BYTES && left !== null && left.buffer.bytes.length - left.end >= wantedBytes) {
      this.#left = null;
      this.#held = left;
      left.current = true;
      this.start = left.end;
    } else {
      this.#held = { buffer: this.#takeBuffer(byteCount), holders: 0, current: true, end: 0 };
      this.start = 0;
    }
    this.#held.buffer.bytes.set(unused, this.start);
    this.end = this.start + unused.length;
    if (old.holders > 0 && old.buffer.bytes.length > QUIET_BYTES) this.#left = old;
    this.#release(old);
  }

  #takeBuffer(byteCount: number): PooledBuffer {
    const quiet = this.#quiet;
    if (byteCount > QUIET_BYTES || quiet === null) return this.#pool.take(byteCount);
    this.#quiet = null;
    return quiet;
  }

  #release(held: Held): void {
    if (held.current || held.holders > 0) return;
    if (held === this.#left) this.#left = null;
    if (held.buffer.bytes.length === QUIET_BYTES && this.#quiet === null) this.#quiet = held.buffer;
    else this.#pool.give(held.buffer);
  }

  /** Gives everything back that nobody holds. The intake must not be used afterwards. */
  close(): void {
    if (this.#held.current) {
      this.#held.current = false;
      this.#release(this.#held);
    }
    if (this.#quiet !== null) this.#pool.give(this.#quiet);
    this.#quiet = null;
  }
}
