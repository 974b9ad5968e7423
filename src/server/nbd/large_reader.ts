/**
 * READs that are too large to be held whole: they are read and answered piece by piece.
 *
 * Of each there are at most two pieces in memory, one on its way to the client while the next is read; where all
 * clients together have much in memory, one small piece. In chunks, each piece is a chunk (or several, around
 * holes), and other replies come between them. A simple reply, or one that must not be split, leaves in pieces
 * with nothing between them; if the disk fails after its beginning has left, only closing the connection is left.
 */
import type { BufferPool, PooledBuffer } from "../../net/buffer_pool.ts";
import { Command } from "../../wire/nbd/constants.ts";
import type { Export } from "../export_table.ts";
import type { Backlog } from "./backlog.ts";
import type { Answered, Replies } from "./replies.ts";
import type { RequestTimes } from "./request_times.ts";

/** The largest READ that is held whole, and the same where all clients together have much in memory. */
const WHOLE_BYTES_MAX = 1024 * 1024;
const WHOLE_BYTES_MAX_CROWDED = 64 * 1024;
/** By so much a piece is smaller: with what stands before the data it fits a buffer of that size. */
const PIECE_SPARE_BYTES = 4096;

/** What the reader of all READs does for one of a piece. */
export interface PartReader {
  /** Extents of a range in which there are holes, if that is known at once; else `null`. */
  holesIn(offset: number, length: number): { readonly kind: string; readonly length: number }[] | null;
  /** Sends a chunk of data from the file in which they are. Returns whether it did. */
  sendFile(request: Answered, offset: number, length: number, isLast: boolean): boolean;
  /** Whether {@linkcode show} may be called. */
  readonly shows: boolean;
  /**
   * Passes on, in several chunks, what comes from elsewhere. Resolves when they are on their way to the client.
   *
   * @throws What the disk throws.
   */
  show(request: Answered, offset: number, length: number): Promise<void>;
}

export class LargeReader {
  readonly #exported: Export;
  readonly #replies: Replies;
  readonly #backlog: Backlog;
  readonly #times: RequestTimes;
  readonly #pool: BufferPool;
  readonly #parts: PartReader;

  constructor(
    exported: Export,
    replies: Replies,
    backlog: Backlog,
    times: RequestTimes,
    pool: BufferPool,
    parts: PartReader,
  ) {
    this.#exported = exported;
    this.#replies = replies;
    this.#backlog = backlog;
    this.#times = times;
    this.#pool = pool;
    this.#parts = parts;
  }

  /** The largest READ that is not for this reader, in bytes. */
  get wholeBytesMax(): number {
    return this.#pool.isCrowded ? WHOLE_BYTES_MAX_CROWDED : WHOLE_BYTES_MAX;
  }

  get #pieceBytes(): number {
    return this.wholeBytesMax - PIECE_SPARE_BYTES;
  }

  /** @param inChunks The reply may be split. */
  read(request: Answered, inChunks: boolean): void {
    const sinceMs = this.#times.batchAtMs;
    const heldBytes = Math.min(request.length, 2 * this.wholeBytesMax);
    this.#backlog.begin(heldBytes);
    const reading = inChunks ? this.#readChunks(request) : this.#readWhole(request);
    reading.then(() => {
      this.#times.answeredLater(Command.READ, sinceMs);
      this.#replies.outbox.flushSoon();
      this.#backlog.end(heldBytes);
    });
  }

  async #readChunks(request: Answered): Promise<void> {
    const { outbox, dataOverhead } = this.#replies;
    const end = request.offset + request.length;
    let sending: Promise<void> | undefined;
    try {
      for (let at = request.offset; at < end && !outbox.broken;) {
        const length = Math.min(this.#pieceBytes, end - at);
        const extents = this.#parts.holesIn(at, length) ?? [{ kind: "data", length }];
        for (const { kind, length } of extents) {
          if (kind !== "data") {
            this.#replies.hole(request, at, length, false);
          } else if (this.#parts.sendFile(request, at, length, false)) {
            await outbox.drained();
          } else if (this.#parts.shows && !this.#pool.isCrowded) {
            await this.#parts.show(request, at, length);
            await sending;
            sending = outbox.drained();
          } else {
            const buffer = await this.#readPiece(at, length, dataOverhead, sending);
            this.#replies.data(buffer.view, 0, request, at, length, false);
            sending = outbox.sendBuffer(buffer, dataOverhead + length);
          }
          at += length;
        }
      }
      this.#replies.endOfChunks(request.cookie, request.offset);
    } catch (error) {
      this.#replies.failure(request, error);
    }
    await sending;
  }

  async #readWhole(request: Answered): Promise<void> {
    const { outbox, dataOverhead } = this.#replies;
    const end = request.offset + request.length;
    let sending: Promise<void> | undefined;
    let begun = false;
    try {
      for (let at = request.offset; at < end && !outbox.broken;) {
        const before = begun ? 0 : dataOverhead;
        const length = Math.min(this.#pieceBytes, end - at);
        const buffer = await this.#readPiece(at, length, before, sending);
        if (!begun) {
          await outbox.openStream();
          begun = true;
          this.#replies.data(buffer.view, 0, request, request.offset, request.length, true);
        }
        sending = outbox.sendBuffer(buffer, before + length, { inStream: true });
        at += length;
      }
    } catch (error) {
      if (begun) {
        this.#replies.faultOf(request, error);
        outbox.fail();
      } else {
        this.#replies.failure(request, error);
      }
    }
    if (begun) outbox.closeStream();
    await sending;
  }

  /** Reads a piece into a buffer, behind room for so many bytes. */
  async #readPiece(
    offset: number,
    length: number,
    roomBytes: number,
    before: Promise<void> | undefined,
  ): Promise<PooledBuffer> {
    if (this.#pool.isCrowded) await before;
    const { outbox } = this.#replies;
    const buffer = outbox.takeBuffer(roomBytes + length);
    try {
      await this.#exported.device.read(offset, buffer.bytes.subarray(roomBytes, roomBytes + length));
      await before;
      return buffer;
    } catch (error) {
      outbox.dropBuffer(buffer);
      throw error;
    }
  }
}
