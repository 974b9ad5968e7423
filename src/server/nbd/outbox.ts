/**
 * Replies on their way to one client.
 *
 * Replies that are ready are laid behind each other in a buffer and leave in one write. A reply whose data are
 * still to come keeps its place in the buffer, header and all; others are laid behind it and leave before it.
 */
import type { BufferPool, PooledBuffer } from "../../net/buffer_pool.ts";
import type { Connection } from "../../net/connection.ts";
import type { OpenFile } from "../../os/file_calls.ts";
import type { Pipe } from "../../os/pipe.ts";

const CHUNK_BYTES = 256 * 1024;
/** Where all clients together have much in memory: a reply that waits keeps a whole chunk. */
const CHUNK_BYTES_CROWDED = 16 * 1024;

/** Late replies that lie behind each other leave together, but no more than so many bytes. */
const LATE_BYTES_MAX = 64 * 1024;

/** Data of this size are worth a write of their own. */
const UNCOPIED_BYTES_MIN = 32 * 1024;

/** What is on its way, and how many writes and unfinished replies still need it. */
interface Leaving {
  readonly buffer: PooledBuffer | null;
  users: number;
  /** Called when nobody needs it any more. */
  readonly onLeft?: () => void;
}

interface Chunk extends Leaving {
  readonly buffer: PooledBuffer;
}

/** Room for one reply whose data are still to come. */
export interface Region {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly view: DataView<ArrayBuffer>;
  /** Where the room starts in the buffer. */
  readonly at: number;
  /** Sends the first `byteCount` bytes of the room, by the end of this turn. Either this or {@linkcode drop} is called, once. */
  send(byteCount: number): void;
  /** Gives the room back unsent. */
  drop(): void;
}

export class Outbox {
  readonly #connection: Connection;
  readonly #pool: BufferPool;
  /** So many ready bytes leave without waiting for more. */
  readonly #eagerBytes: number;
  #chunk: Chunk | null = null;
  /** Ready bytes of the chunk are those from `#from` to `#to`. */
  #from = 0;
  #to = 0;
  /** Late replies behind each other that are ready. */
  #late: { readonly chunk: Chunk; readonly from: number; to: number } | null = null;
  #unsentBytes = 0;
  #drained: PromiseWithResolvers<void> | null = null;
  #flushScheduled = false;
  #broken = false;
  /** The reply that leaves in pieces now; until its end what others send waits in `#behind`. */
  #stream: PromiseWithResolvers<void> | null = null;
  #behind: (() => void)[] = [];

  constructor(connection: Connection, pool: BufferPool) {
    this.#connection = connection;
    this.#pool = pool;
    this.#eagerBytes = connection.eagerBytes ?? Infinity;
  }

  /** Bytes handed to the connection that it has not taken yet. */
  get unsentBytes(): number {
    return this.#unsentBytes;
  }

  /** Whether the connection has failed; what is added afterwards is lost. */
  get broken(): boolean {
    return this.#broken;
  }

  /**
   * Makes room for a reply of up to `byteCount` bytes at {@linkcode at} of {@linkcode bytes}. Nothing is added
   * until {@linkcode commit}.
   */
  reserve(byteCount: number): void {
    const chunk = this.#chunk;
    if (chunk !== null) {
      if (chunk.buffer.bytes.length - this.#to >= byteCount) return;
      this.flush();
      if (chunk.users === 0 && chunk.buffer.bytes.length >= byteCount) {
        this.#from = this.#to = 0;
        return;
      }
      this.#chunk = null;
      if (chunk.users === 0) this.#pool.give(chunk.buffer);
    }
    const chunkBytes = this.#pool.isCrowded ? CHUNK_BYTES_CROWDED : CHUNK_BYTES;
    this.#chunk = { buffer: this.#pool.take(Math.max(byteCount, chunkBytes)), users: 0 };
    this.#from = this.#to = 0;
  }

  /** The buffer in which room was reserved. */
  get bytes(): Uint8Array<ArrayBuffer> {
    return this.#chunk!.buffer.bytes;
  }

  get view(): DataView<ArrayBuffer> {
    return this.#chunk!.buffer.view;
  }

  /** Where the reserved room starts. */
  get at(): number {
    return this.#to;
  }

  /** The first `byteCount` bytes of the reserved room are a reply, or a part of one. */
  commit(byteCount: number): void {
    this.#to += byteCount;
    if (this.#to - this.#from >= this.#eagerBytes) this.flush();
  }

  /** Turns the first `byteCount` bytes of the reserved room into a place for a reply that comes later. */
  setAside(byteCount: number): Region {
    const chunk = this.#chunk!;
    const at = this.#to;
    this.flush();
    chunk.users++;
    this.#from = this.#to = at + byteCount;
    return {
      bytes: chunk.buffer.bytes,
      view: chunk.buffer.view,
      at,
      send: (count) => this.#finished(chunk, at, at + count),
      drop: () => this.#leave(chunk),
    };
  }

  /** Whether {@linkcode commitFile} may be called. */
  get sendsFiles(): boolean {
    return this.#connection.sendFile !== undefined;
  }

  /** As {@linkcode commit}; behind it comes a range of a file, and all that is ready leaves. */
  commitFile(byteCount: number, file: OpenFile, offset: number, length: number): void {
    const chunk = this.#chunk!;
    const from = this.#from;
    this.#to += byteCount;
    const bytes = chunk.buffer.bytes.subarray(from, this.#to);
    this.#from = this.#to;
    this.#send(
      chunk,
      bytes.length + length,
      false,
      () => this.#connection.sendFile!(bytes, file, offset, length),
    );
    if (chunk.users === 0) this.#from = this.#to = 0;
  }

  /** Whether {@linkcode sendPipe} may be called. */
  get sendsPipes(): boolean {
    return this.#connection.sendPipe !== undefined;
  }

  /**
   * Sends what a pipe holds: a whole reply, or several.
   *
   * @param ended Called once, when the pipe is needed no more.
   */
  sendPipe(pipe: Pipe, ended: () => void): void {
    const leaving = { buffer: null, users: 1, onLeft: ended };
    this.#send(leaving, pipe.heldBytes, true, () => this.#connection.sendPipe!(pipe));
  }

  /**
   * As {@linkcode commit}, with data behind it that are the caller's again afterwards: what can leave now is not
   * copied. At least that much more was reserved.
   */
  commitShown(byteCount: number, data: Uint8Array): void {
    this.#to += byteCount;
    let gone = 0;
    if (data.length >= UNCOPIED_BYTES_MIN && this.#stream === null && !this.#broken) {
      const ready = this.bytes.subarray(this.#from, this.#to);
      gone = this.#connection.writeNow?.(ready, true) ?? 0;
      this.#from += gone;
      if (gone === ready.length) data = data.subarray(this.#connection.writeNow!(data, false));
    }
    this.bytes.set(data, this.#to);
    this.#to += data.length;
    // Nothing may come between the parts of a reply.
    if (gone > 0 || this.#to - this.#from >= this.#eagerBytes) this.#flushReady();
    else this.flushSoon();
  }

  /** Takes a buffer for {@linkcode sendBuffer}. */
  takeBuffer(byteCount: number): PooledBuffer {
    return this.#pool.take(byteCount);
  }

  /** Gives such a buffer back unsent. */
  dropBuffer(buffer: PooledBuffer): void {
    this.#pool.give(buffer);
  }

  /** Sends the first bytes of a buffer. Resolves when the connection has taken them, or has failed. */
  sendBuffer(buffer: PooledBuffer, byteCount: number, { inStream = false } = {}): Promise<void> {
    if (!inStream) this.flush();
    const { promise, resolve } = Promise.withResolvers<void>();
    const bytes = buffer.bytes.subarray(0, byteCount);
    const chunk = { buffer, users: 1, onLeft: resolve };
    this.#send(chunk, byteCount, true, () => this.#connection.write(bytes), inStream);
    return promise;
  }

  /** Begins a reply that leaves in pieces, when it is its turn. Until {@linkcode closeStream} no other reply leaves. */
  async openStream(): Promise<void> {
    while (this.#stream !== null) await this.#stream.promise;
    this.flush();
    this.#stream = Promise.withResolvers<void>();
  }

  closeStream(): void {
    this.#stream?.resolve();
    this.#stream = null;
    for (const send of this.#behind.splice(0)) send();
    this.flush();
  }

  /** Closes the connection: a reply that was begun cannot be finished. */
  fail(): void {
    this.#broken = true;
    this.#connection.close();
  }

  /** Hands all ready replies to the connection. */
  flush(): void {
    this.#flushLate();
    if (this.#from !== this.#to) this.#flushReady();
  }

  #flushReady(): void {
    const chunk = this.#chunk!;
    const from = this.#from;
    this.#from = this.#to;
    if (from !== this.#to) this.#write(chunk, from, this.#to, false);
    if (chunk.users === 0) this.#from = this.#to = 0;
  }

  /** A place that was set aside has its reply. */
  #finished(chunk: Chunk, from: number, to: number): void {
    let late = this.#late;
    if (late !== null && late.chunk === chunk && late.to === from) {
      late.to = to;
      chunk.users--; // Those before keep it.
    } else {
      this.#flushLate();
      late = this.#late = { chunk, from, to };
    }
    if (late.to - late.from >= LATE_BYTES_MAX) this.#flushLate();
    else this.flushSoon();
  }

  #flushLate(): void {
    const late = this.#late;
    if (late === null) return;
    this.#late = null;
    this.#write(late.chunk, late.from, late.to, true);
  }

  /** Flushes at the end of this turn: replies that become ready one by one leave together. */
  flushSoon(): void {
    if (this.#flushScheduled) return;
    this.#flushScheduled = true;
    queueMicrotask(() => {
      this.#flushScheduled = false;
      this.flush();
    });
  }

  /** Resolves when the connection has taken everything, or has failed. */
  drained(): Promise<void> {
    if (this.#unsentBytes === 0 || this.#broken) return Promise.resolve();
    this.#drained ??= Promise.withResolvers<void>();
    return this.#drained.promise;
  }

  /** Gives the buffer back if nothing waits in it: a quiet connection holds none. */
  rest(): void {
    const chunk = this.#chunk;
    if (chunk === null || chunk.users > 0 || this.#from !== this.#to) return;
    this.#pool.give(chunk.buffer);
    this.#chunk = null;
  }

  #write(chunk: Chunk, from: number, to: number, leaves: boolean): void {
    const bytes = chunk.buffer.bytes.subarray(from, to);
    this.#send(chunk, bytes.length, leaves, () => this.#connection.write(bytes));
  }

  #send(
    chunk: Leaving,
    byteCount: number,
    leaves: boolean,
    send: () => void | Promise<void>,
    inStream = false,
  ): void {
    if (this.#stream !== null && !inStream) {
      if (!leaves) chunk.users++;
      this.#unsentBytes += byteCount;
      this.#behind.push(() => {
        this.#unsentBytes -= byteCount;
        this.#send(chunk, byteCount, true, send);
        this.#progressed();
      });
      return;
    }
    if (this.#broken) {
      if (leaves) this.#leave(chunk);
      return;
    }
    let writing: void | Promise<void>;
    try {
      writing = send();
    } catch {
      this.#broken = true;
      if (leaves) this.#leave(chunk);
      return;
    }
    if (writing === undefined) {
      if (leaves) this.#leave(chunk);
      return;
    }
    if (!leaves) chunk.users++;
    this.#unsentBytes += byteCount;
    writing.catch(() => {
      this.#broken = true;
    }).then(() => {
      this.#unsentBytes -= byteCount;
      this.#leave(chunk);
      this.#progressed();
    });
  }

  #progressed(): void {
    if (this.#unsentBytes > 0 && !this.#broken) return;
    this.#drained?.resolve();
    this.#drained = null;
  }

  #leave(chunk: Leaving): void {
    chunk.users--;
    if (chunk.users > 0) return;
    if (chunk === this.#chunk) {
      if (this.#from === this.#to) this.#from = this.#to = 0;
    } else if (chunk.buffer !== null) {
      this.#pool.give(chunk.buffer);
    }
    chunk.onLeft?.();
  }

  /** The session is over: what is not on its way goes back, the rest when the connection lets go of it. */
  close(): void {
    const chunk = this.#chunk;
    this.#chunk = null;
    this.#from = this.#to = 0;
    if (chunk !== null && chunk.users === 0) this.#pool.give(chunk.buffer);
  }
}
