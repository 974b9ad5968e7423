/** The sending half of a channel whose frames are made at once: bytes in, frames out. */
import { type DirectSealer, PAYLOAD_BYTES_MAX } from "../wire/channel/frame.ts";
import type { BufferPool } from "./buffer_pool.ts";
import type { Connection } from "./connection.ts";

type Bytes = Uint8Array<ArrayBuffer>;

/**
 * Long writes are cut into pieces of this length behind a first one with what is over: the header before a block is by
 * itself then, and the peer can open the block's frames where the block is wanted.
 */
const PIECE_BYTES = 64 * 1024;
/** How much goes to the transport in one write: several of the longest frames. */
const OUTBOX_BYTES = 256 * 1024;
/** How long a close frame may take to leave. */
const FINISH_MS = 1000;

/** What is written leaves in the turn in which it was written, as far as the transport takes it. */
export class DirectFrameSender {
  readonly #connection: Connection;
  readonly #sealer: DirectSealer;
  readonly #pool: BufferPool;
  /** The last write, while it waits for the transport. */
  #last: Promise<void> | null = null;
  /** What the writers wait for. */
  readonly #waiting = new Set<PromiseWithResolvers<void>>();
  #failure: { readonly error: unknown } | undefined;

  /** @param pool Where frames are put together for the transport. */
  constructor(connection: Connection, sealer: DirectSealer, pool: BufferPool) {
    this.#connection = connection;
    this.#sealer = sealer;
    this.#pool = pool;
  }

  /** See {@linkcode Connection.write}. */
  write(bytes: Bytes): void | Promise<void> {
    if (this.#last !== null) return this.#follow(this.#last.then(() => this.#send(bytes, 0)));
    const sent = this.#send(bytes, 0);
    return sent === undefined ? undefined : this.#follow(sent);
  }

  /** Ends what is outstanding with this error, and everything that follows. */
  fail(error: unknown): void {
    if (this.#failure !== undefined) return;
    this.#failure = { error };
    for (const { reject } of this.#waiting) reject(error);
    this.#waiting.clear();
  }

  /**
   * Says goodbye: sends the close frame, unless something that was written has not left. Then the peer must not
   * take the end for a good one. Sends nothing afterwards. Never throws.
   */
  async finish(): Promise<void> {
    const complete = this.#failure === undefined && this.#last === null;
    this.fail(new Error("the connection is closed"));
    if (!complete) return;
    const late = Promise.withResolvers<void>();
    const timer = setTimeout(late.resolve, FINISH_MS);
    const frame = new Uint8Array(this.#sealer.overheadBytesMax);
    try {
      await Promise.race([
        late.promise,
        this.#connection.write(frame.subarray(0, this.#sealer.sealInto("close", [], frame))),
      ]);
    } catch {
      // The transport is gone, and with it whoever could have been told.
    } finally {
      clearTimeout(timer);
    }
  }

  /** Remembers a write until it is done, or there is nothing to wait for any more. */
  #follow(sent: Promise<void>): Promise<void> {
    const done = Promise.withResolvers<void>();
    this.#waiting.add(done);
    const last = sent.finally(() => {
      this.#waiting.delete(done);
      if (this.#last === last) this.#last = null;
    });
    this.#last = last;
    last.then(done.resolve, done.reject);
    return done.promise;
  }

  #send(bytes: Bytes, from: number): void | Promise<void> {
    while (from < bytes.length) {
      if (this.#failure !== undefined) throw this.#failure.error;
      const { overheadBytesMax } = this.#sealer;
      const wanted = bytes.length - from;
      const frameCount = Math.ceil(wanted / PIECE_BYTES);
      const outbox = this.#pool.take(Math.min(OUTBOX_BYTES, wanted + frameCount * overheadBytesMax));
      const room = outbox.bytes.length;
      let filled = 0;
      while (from < bytes.length) {
        const payload = bytes.subarray(from, from + nextPiece(bytes.length - from));
        if (filled + payload.length + overheadBytesMax > room) break;
        filled += this.#sealer.sealInto("data", [payload], outbox.bytes.subarray(filled));
        from += payload.length;
      }
      let taken: void | Promise<void>;
      try {
        taken = this.#connection.write(outbox.bytes.subarray(0, filled));
      } catch (error) {
        this.#pool.give(outbox);
        this.fail(error);
        throw error;
      }
      if (taken !== undefined) return this.#sendRest(taken, outbox, bytes, from);
      this.#pool.give(outbox);
    }
  }

  async #sendRest(
    taken: Promise<void>,
    outbox: ReturnType<BufferPool["take"]>,
    bytes: Bytes,
    from: number,
  ): Promise<void> {
    try {
      await taken;
    } catch (error) {
      this.fail(error);
      throw this.#failure!.error;
    } finally {
      this.#pool.give(outbox);
    }
    await this.#send(bytes, from);
  }
}

/** How much of what is left to write goes into the next frame. */
function nextPiece(bytesLeft: number): number {
  return bytesLeft <= PAYLOAD_BYTES_MAX ? bytesLeft : bytesLeft % PIECE_BYTES || PIECE_BYTES;
}
