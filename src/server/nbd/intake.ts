/**
 * The bytes that a client has sent and nobody has used up yet.
 *
 * A quiet connection holds 4 KiB; a larger buffer is taken from the pool when a message asks for it and given
 * back when it is used up. A disk that takes its time with a write keeps the buffer that holds the payload;
 * the intake then goes on with another one.
 */
import type { BufferPool, PooledBuffer } from "../../net/buffer_pool.ts";
import type { Connection } from "../../net/connection.ts";

const QUIET_BYTES = 4096;
const BUSY_BYTES = 256 * 1024;
/** What is read behind a long message: at least the header of the next. */
const NEXT_BYTES = 32;

/** A buffer some of whose bytes others may still be reading. */
interface Held {
  readonly buffer: PooledBuffer;
  holders: number;
  current: boolean;
}

export class Intake {
  readonly #pool: BufferPool;
  #held: Held;
  #quiet: PooledBuffer | null = null;
  /** Whether the last bytes needed a large buffer: the next ones probably do, too. */
  #wasLarge = false;
  /** The unused bytes are those from `start` to `end`. */
  start = 0;
  end = 0;

  /** @param received Bytes of the client that came with its handshake. */
  constructor(pool: BufferPool, received: Uint8Array) {
    this.#pool = pool;
    const size = received.length <= QUIET_BYTES ? QUIET_BYTES : Math.max(received.length, BUSY_BYTES);
    this.#held = { buffer: pool.take(size), holders: 0, current: true };
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
   * @returns The number of bytes read, or `null` at the end, as {@linkcode Connection.read} does.
   */
  fill(
    connection: Connection,
    wantedBytes: number,
    patient: boolean,
  ): number | null | Promise<number | null> {
    const isLarge = wantedBytes > QUIET_BYTES;
    // A long message is not followed by a part of the next long one, which would have to be moved.
    const limit = isLarge ? wantedBytes - this.available + NEXT_BYTES : Infinity;
    if (connection.readNow !== undefined) {
      this.#makeRoom(wantedBytes, isLarge || this.#wasLarge);
      // Looking for it again and again would be in the way of a long message.
      const count = connection.readNow(this.#room(limit), patient && !isLarge);
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
    if (available === 0) {
      if (capacity !== size || holders > 0) return this.#replace(size);
      this.start = this.end = 0;
      return;
    }
    const wanted = Math.min(wantedBytes, BUSY_BYTES);
    if (capacity - this.start >= wanted && this.end < capacity) return;
    if (holders > 0 || capacity < wanted || available === capacity) {
      return this.#replace(wanted > QUIET_BYTES || available >= QUIET_BYTES ? BUSY_BYTES : QUIET_BYTES);
    }
    buffer.bytes.copyWithin(0, this.start, this.end);
    this.end = available;
    this.start = 0;
  }

  /** Goes on in another buffer, with what has not been used up. */
  #replace(byteCount: number): void {
    const old = this.#held;
    let buffer: PooledBuffer;
    if (byteCount <= QUIET_BYTES && this.#quiet !== null) {
      buffer = this.#quiet;
      this.#quiet = null;
    } else {
      buffer = this.#pool.take(byteCount);
    }
    buffer.bytes.set(old.buffer.bytes.subarray(this.start, this.end));
    this.#held = { buffer, holders: 0, current: true };
    this.end -= this.start;
    this.start = 0;
    old.current = false;
    this.#release(old);
  }

  #release(held: Held): void {
    if (held.current || held.holders > 0) return;
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
