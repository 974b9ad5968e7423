/** The receiving half of a channel whose frames are opened at once: frames in, bytes out. */
import { type DirectOpener, PAYLOAD_BYTES_MAX } from "../wire/channel/frame.ts";
import { WireError } from "../wire/wire_error.ts";
import type { BufferPool, PooledBuffer } from "./buffer_pool.ts";
import type { Connection } from "./connection.ts";

/** What a quiet connection reads into. */
const QUIET_INBOX_BYTES = 16 * 1024;
/** What a busy one reads into: a few of the longest frames. */
const BUSY_INBOX_BYTES = 256 * 1024;
/** A frame up to this length probably says what is in the long one behind it, and where the reader wants that. */
const SHORT_BODY_BYTES = 1024;
const LONG_BODY_BYTES = 32 * 1024;

/**
 * Opens frames when they are read, straight into the reader's memory where there is room for a whole one. A long frame
 * behind a short one is left to the next read, for which the reader may have a better place.
 *
 * When a frame does not open, or the stream ends without a close frame, the bytes before it are still given out,
 * and then the error, at this and every further read.
 */
export class DirectFrameReceiver {
  readonly #connection: Connection;
  readonly #opener: DirectOpener;
  readonly #pool: BufferPool;
  readonly #onFailure: (error: unknown) => void;
  #inbox: PooledBuffer;
  #inboxStart = 0;
  #inboxEnd = 0;
  /** The last frame was short. */
  #wasShort = false;
  /** A payload that did not fit where it was wanted, from `surplusStart` to `surplusEnd`. */
  #surplus: PooledBuffer | null = null;
  #surplusStart = 0;
  #surplusEnd = 0;
  #reader: { into: Uint8Array<ArrayBuffer>; result: PromiseWithResolvers<number | null> } | undefined;
  /** The transport is being read into the inbox. */
  #running = false;
  /** The stream ended well. */
  #ended = false;
  #failure: { readonly error: unknown } | undefined;

  /**
   * @param pool Where the space for what arrives comes from.
   * @param received The bytes behind the handshake that were read with it: less than a quiet inbox holds.
   * @param onFailure Told once, as soon as it is certain that the stream has no good end.
   */
  constructor(
    connection: Connection,
    opener: DirectOpener,
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
  read(into: Uint8Array<ArrayBuffer>): number | null | Promise<number | null> {
    if (this.#reader !== undefined) throw new Error("a read is outstanding already");
    const count = this.#take(into);
    if (count !== undefined) return count;
    const result = Promise.withResolvers<number | null>();
    this.#reader = { into, result };
    void this.#receive();
    return result.promise;
  }

  /** See {@linkcode Connection.readNow}. */
  readNow(into: Uint8Array<ArrayBuffer>, patient: boolean): number | null | undefined {
    while (true) {
      const count = this.#take(into);
      if (count !== undefined || this.#running) return count;
      this.#makeRoom();
      const arrived = this.#connection.readNow?.(this.#inbox.bytes.subarray(this.#inboxEnd), patient);
      if (arrived === undefined) return undefined;
      this.#arrived(arrived);
    }
  }

  /** Ends the stream here and now. */
  end(): void {
    this.#ended = true;
    this.#inboxStart = this.#inboxEnd;
    this.#dropSurplus();
    this.#reader?.result.resolve(null);
    this.#reader = undefined;
  }

  /** Reads the transport until there is something for the reader. */
  async #receive(): Promise<void> {
    if (this.#running) return;
    this.#running = true;
    try {
      while (this.#reader !== undefined) {
        this.#makeRoom();
        this.#arrived(await this.#connection.read(this.#inbox.bytes.subarray(this.#inboxEnd)));
        this.#answerReader();
      }
    } catch (error) {
      this.#fail(error);
      this.#answerReader();
    } finally {
      this.#running = false;
    }
  }

  #arrived(count: number | null): void {
    if (count !== null) this.#inboxEnd += count;
    else if (!this.#ended) {
      this.#fail(new WireError("the connection was cut: it ended without the peer's close"));
    }
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

  /** Gives out what is there; `undefined` if nothing is yet. */
  #take(into: Uint8Array<ArrayBuffer>): number | null | undefined {
    let filled = this.#takeSurplus(into);
    try {
      while (filled < into.length && this.#surplus === null && !this.#ended && this.#failure === undefined) {
        const count = this.#openFrame(into.subarray(filled), filled > 0);
        if (count === undefined) break;
        filled += count;
      }
    } catch (error) {
      this.#fail(error);
    }
    if (filled > 0) return filled;
    if (this.#failure !== undefined) throw this.#failure.error;
    return this.#ended ? null : undefined;
  }

  #takeSurplus(into: Uint8Array): number {
    if (this.#surplus === null) return 0;
    const part = this.#surplus.bytes.subarray(
      this.#surplusStart,
      Math.min(this.#surplusEnd, this.#surplusStart + into.length),
    );
    into.set(part);
    this.#surplusStart += part.length;
    if (this.#surplusStart === this.#surplusEnd) this.#dropSurplus();
    return part.length;
  }

  #dropSurplus(): void {
    if (this.#surplus !== null) this.#pool.give(this.#surplus);
    this.#surplus = null;
  }

  /**
   * Opens the next frame if it is there in full.
   *
   * @param isBehind Other payload stands before `into`.
   * @returns How much of it went into `into`.
   */
  #openFrame(into: Uint8Array<ArrayBuffer>, isBehind: boolean): number | undefined {
    const { headerBytes } = this.#opener;
    const { bytes } = this.#inbox;
    const bodyStart = this.#inboxStart + headerBytes;
    if (bodyStart > this.#inboxEnd) return undefined;
    const header = bytes.subarray(this.#inboxStart, bodyStart);
    const { type, bodyBytes } = this.#opener.decodeHeader(header);
    const bodyEnd = bodyStart + bodyBytes;
    if (bodyEnd > this.#inboxEnd) return undefined;
    if (isBehind && this.#wasShort && bodyBytes >= LONG_BODY_BYTES) return undefined;
    this.#wasShort = bodyBytes <= SHORT_BODY_BYTES;
    const body = bytes.subarray(bodyStart, bodyEnd);
    this.#inboxStart = bodyEnd;
    if (bodyBytes - this.#opener.overheadBytes <= into.length) {
      const count = this.#opener.openInto(header, body, into);
      return this.#accept(type, count);
    }
    this.#surplus = this.#pool.take(PAYLOAD_BYTES_MAX);
    this.#surplusStart = 0;
    this.#surplusEnd = 0;
    try {
      this.#surplusEnd = this.#accept(type, this.#opener.openInto(header, body, this.#surplus.bytes));
    } finally {
      if (this.#surplusEnd === 0) this.#dropSurplus();
    }
    return this.#takeSurplus(into);
  }

  /** A frame that was proven: how much of its payload belongs to the stream. */
  #accept(type: string, payloadBytes: number): number {
    if (type === "close") this.#ended = true;
    else if (type !== "data" && type !== "rekey") {
      throw new WireError(`a ${type} frame has no place after the handshake`);
    }
    return type === "data" ? payloadBytes : 0;
  }

  #fail(error: unknown): void {
    if (this.#failure !== undefined || this.#ended) return;
    this.#failure = { error };
    this.#onFailure(error);
  }

  /** Leaves space behind the bytes in the inbox for what is read next: much of it while much arrives. */
  #makeRoom(): void {
    const kept = this.#inboxEnd - this.#inboxStart;
    const before = this.#inbox;
    const quiet = this.#inboxEnd < QUIET_INBOX_BYTES / 2;
    const wanted = quiet ? QUIET_INBOX_BYTES : BUSY_INBOX_BYTES;
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
