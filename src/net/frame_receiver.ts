/** The receiving half of a channel: frames in, bytes out. */
import { type Opened, type Opener } from "../wire/channel/frame.ts";
import { WireError } from "../wire/wire_error.ts";
import type { BufferPool, PooledBuffer } from "./buffer_pool.ts";
import type { Connection } from "./connection.ts";
import { giveBack } from "./give_back.ts";

type Bytes = Uint8Array<ArrayBuffer>;

/** Frames that may be with the crypto threads, or wait for the reader. */
const FRAMES_HELD_MAX = 32;
/** Their bytes; a little more may be held, by one frame. Beyond, nothing is read from the transport. */
const BYTES_HELD_MAX = 512 * 1024;
/** What a quiet connection reads into. */
const QUIET_INBOX_BYTES = 16 * 1024;
/** What a busy one reads into: a few of the longest frames. */
const BUSY_INBOX_BYTES = 256 * 1024;

/** One frame, in its place in the order. */
interface HeldFrame {
  readonly byteCount: number;
  /** What is in it, `null` for the end of the stream; undefined while it is being opened. */
  content?: Bytes | null;
  /** Instead of the content: why there is none, and nothing behind it. */
  failure?: { readonly error: unknown };
}

/**
 * Opens frames as they arrive, several at once, and gives out what was in them in order.
 *
 * When a frame does not open, or the stream ends without a close frame, the bytes before it are still given out,
 * and then the error, at this and every further read.
 */
export class FrameReceiver {
  readonly #connection: Connection;
  readonly #opener: Opener;
  readonly #pool: BufferPool;
  readonly #onFailure: (error: unknown) => void;
  #inbox: PooledBuffer;
  #inboxStart = 0;
  #inboxEnd = 0;
  readonly #held: HeldFrame[] = [];
  #heldBytes = 0;
  /** Bytes of the first held frame that were given out. */
  #taken = 0;
  #reader: { into: Uint8Array; result: PromiseWithResolvers<number | null> } | undefined;
  #running = false;
  /** Nothing further is to be read from the transport. */
  #stopped = false;
  /** Wakes the loop that waits for the reader. */
  #resume: (() => void) | undefined;

  /**
   * @param pool Where the space for what arrives comes from.
   * @param received The bytes behind the handshake that were read with it: less than a quiet inbox holds.
   * @param onFailure Told once, as soon as it is certain that the stream has no good end.
   */
  constructor(
    connection: Connection,
    opener: Opener,
    pool: BufferPool,
    received: Uint8Array,
    onFailure: (error: unknown) => void,
  ) {
    this.#connection = connection;
    this.#opener = opener;
    this.#pool = pool;
    this.#onFailure = onFailure;
    this.#inbox = pool.take(QUIET_INBOX_BYTES);
    this.#inbox.bytes.set(received);
    this.#inboxEnd = received.length;
  }

  /** See {@linkcode Connection.read}. */
  read(into: Uint8Array): number | null | Promise<number | null> {
    if (this.#reader !== undefined) throw new Error("a read is outstanding already");
    const count = this.#take(into);
    if (count !== undefined) return count;
    const result = Promise.withResolvers<number | null>();
    this.#reader = { into, result };
    if (!this.#running) {
      this.#running = true;
      void this.#receive();
    }
    return result.promise;
  }

  /** Ends the stream here and now. */
  end(): void {
    this.#stop();
    this.#held.length = 0;
    this.#held.push({ byteCount: 0, content: null });
    this.#answerReader();
  }

  /** Gives out what is there; `undefined` if nothing is yet. */
  #take(into: Uint8Array): number | null | undefined {
    let filled = 0;
    while (filled < into.length) {
      const frame = this.#held[0];
      if (frame?.content === undefined || frame.content === null) {
        if (filled > 0 || frame === undefined) break;
        if (frame.failure !== undefined) throw frame.failure.error;
        return frame.content;
      }
      const part = frame.content.subarray(this.#taken, this.#taken + into.length - filled);
      into.set(part, filled);
      filled += part.length;
      this.#taken += part.length;
      if (this.#taken < frame.content.length) break;
      this.#taken = 0;
      giveBack(frame.content);
      this.#heldBytes -= frame.byteCount;
      this.#held.shift();
    }
    if (!this.#full()) this.#resume?.();
    return filled > 0 ? filled : undefined;
  }

  #answerReader(): void {
    if (this.#reader === undefined) return;
    const { into, result } = this.#reader;
    try {
      const count = this.#take(into);
      if (count === undefined) return;
      this.#reader = undefined;
      result.resolve(count);
    } catch (error) {
      this.#reader = undefined;
      result.reject(error);
    }
  }

  #full(): boolean {
    return this.#held.length >= FRAMES_HELD_MAX || this.#heldBytes >= BYTES_HELD_MAX;
  }

  #stop(): void {
    this.#stopped = true;
    this.#resume?.();
  }

  /** Reads and opens, and pauses while enough is held, until the stream ends. */
  async #receive(): Promise<void> {
    try {
      let lastCount = 0;
      while (true) {
        this.#openFrames();
        if (this.#stopped) return;
        if (this.#full()) {
          await new Promise<void>((resume) => this.#resume = resume);
          this.#resume = undefined;
          continue;
        }
        this.#makeRoom(lastCount);
        const space = this.#inbox.bytes.subarray(this.#inboxEnd);
        let count = this.#connection.readNow?.(space, false);
        if (count === undefined) {
          const read = this.#connection.read(space);
          count = read instanceof Promise ? await read : read;
        }
        if (count === null) throw new WireError("the connection was cut: it ended without the peer's close");
        this.#inboxEnd += count;
        lastCount = count;
      }
    } catch (error) {
      const frame: HeldFrame = { byteCount: 0 };
      this.#held.push(frame);
      this.#settle(frame, { failure: { error } });
    } finally {
      this.#pool.give(this.#inbox);
    }
  }

  /** Opens the frames that are there in full, as long as they may be held. */
  #openFrames(): void {
    const { headerBytes } = this.#opener;
    while (!this.#stopped && !this.#full()) {
      const bodyStart = this.#inboxStart + headerBytes;
      if (bodyStart > this.#inboxEnd) return;
      const header = this.#inbox.bytes.subarray(this.#inboxStart, bodyStart);
      const { type, bodyBytes } = this.#opener.decodeHeader(header);
      const bodyEnd = bodyStart + bodyBytes;
      if (bodyEnd > this.#inboxEnd) return;
      const opening = this.#opener.open(header, this.#inbox.bytes.subarray(bodyStart, bodyEnd));
      this.#inboxStart = bodyEnd;
      // Should the type be forged, the frame does not open, and that is an end too.
      if (type === "close") this.#stopped = true;
      const frame: HeldFrame = { byteCount: bodyBytes };
      this.#held.push(frame);
      this.#heldBytes += bodyBytes;
      if (opening instanceof Promise) {
        opening.then(
          (opened) => this.#settle(frame, contentOf(opened)),
          (error) => this.#settle(frame, { failure: { error } }),
        );
      } else {
        this.#settle(frame, contentOf(opening));
      }
    }
  }

  #settle(frame: HeldFrame, outcome: Pick<HeldFrame, "content" | "failure">): void {
    Object.assign(frame, outcome);
    if (outcome.failure !== undefined) {
      this.#stop();
      this.#onFailure(outcome.failure.error);
    }
    if (frame === this.#held[0]) this.#answerReader();
  }

  /** Leaves space behind the bytes in the inbox for what is read next, as much as the last read lets expect. */
  #makeRoom(lastCount: number): void {
    const kept = this.#inboxEnd - this.#inboxStart;
    const wanted = kept + lastCount >= QUIET_INBOX_BYTES ? BUSY_INBOX_BYTES : QUIET_INBOX_BYTES;
    const before = this.#inbox;
    if (before.bytes.length !== wanted) {
      this.#inbox = this.#pool.take(wanted);
      this.#inbox.bytes.set(before.bytes.subarray(this.#inboxStart, this.#inboxEnd));
      this.#pool.give(before);
    } else if (this.#inboxStart > 0) {
      before.bytes.copyWithin(0, this.#inboxStart, this.#inboxEnd);
    }
    this.#inboxStart = 0;
    this.#inboxEnd = kept;
  }
}

function contentOf({ type, payload }: Opened): Pick<HeldFrame, "content" | "failure"> {
  if (type === "data" || type === "rekey") return { content: payload };
  if (type === "close") return { content: null };
  return { failure: { error: new WireError(`a ${type} frame has no place after the handshake`) } };
}
