/**
 * READ.
 *
 * Data land in the buffer from which the reply is sent. If the disk takes its time the reply keeps its place there.
 * Holes that the disk knows of, and small reads of nothing but zeroes, are told as holes.
 */
import { isZero } from "../../base/zero_check.ts";
import type { Extent } from "../../device/device.ts";
import { Pipe, pipes } from "../../os/pipe.ts";
import { Command, CommandFlag } from "../../wire/nbd/constants.ts";
import type { Request } from "../../wire/nbd/transmission.ts";
import type { Export } from "../export_table.ts";
import type { BufferPool } from "../../net/buffer_pool.ts";
import type { Backlog } from "./backlog.ts";
import { LargeReader, type PartReader } from "./large_reader.ts";
import type { Answered, Replies } from "./replies.ts";
import type { RequestTimes } from "./request_times.ts";

/** A hole is told as a hole from this size. */
const HOLE_BYTES_MIN = 512;
/** From this size the disk is asked where its holes are, rather than its data searched for zeroes. */
const ASK_FOR_HOLES_BYTES_MIN = 64 * 1024;
/** A reply of this size leaves before the rest of the requests is looked at. */
const SEND_AT_ONCE_BYTES = 192 * 1024;

/** From this size cached data are sent from the file itself: for less the calls cost more than the copy. */
const SEND_FILE_BYTES_MIN = 64 * 1024;

/** What comes from elsewhere in this size passes through a pipe, if that can be had: one holds so much, however it came. */
const PIPED_BYTES_MIN = 64 * 1024;
const PIPED_BYTES_MAX = 256 * 1024;
/** More comes in several parts, whose lengths are multiples of this, which no disk takes for half a block. */
const PART_STEP_BYTES = 64 * 1024;

/** A disk that so often in a row did not know its holes at once, as one far away, is no longer asked. */
const LATE_EXTENTS_MAX = 8;

/** What stands before data. */
const headerBytes = new Uint8Array(64);
const headerView = new DataView(headerBytes.buffer);

/** A READ that is answered in several chunks. */
interface Parts {
  readonly request: Answered;
  readonly sinceMs: number;
  /** Chunks whose data are still to come, and one for the rest of the chunks. */
  unfinished: number;
  error: unknown;
}

export class Reader implements PartReader {
  readonly #exported: Export;
  readonly #replies: Replies;
  readonly #backlog: Backlog;
  readonly #times: RequestTimes;

  readonly #pool: BufferPool;
  readonly #large: LargeReader;
  /** How often in a row the disk did not say at once where its holes are. */
  #lateExtents = 0;

  constructor(
    exported: Export,
    replies: Replies,
    backlog: Backlog,
    times: RequestTimes,
    pool: BufferPool,
  ) {
    this.#exported = exported;
    this.#replies = replies;
    this.#backlog = backlog;
    this.#times = times;
    this.#pool = pool;
    this.#large = new LargeReader(exported, replies, backlog, times, pool, this);
  }

  /** Performs a READ that has been checked. `request` is the caller's, and used again after the return. */
  read(request: Request): void {
    const { offset, length } = request;
    const mayTellHoles = this.#replies.chunked && (request.flags & CommandFlag.DF) === 0;
    const isLarge = length > this.#large.wholeBytesMax;
    if (mayTellHoles && length >= ASK_FOR_HOLES_BYTES_MIN) {
      const extents = this.holesIn(offset, length);
      if (extents !== null && isLarge) return this.#large.read({ ...request }, true);
      if (extents !== null) return this.#readAroundHoles(request, extents);
    }
    if (this.sendFile(request, offset, length, true)) return this.#times.answeredNow(Command.READ);
    if (isLarge) return this.#large.read({ ...request }, mayTellHoles);
    const { device } = this.#exported;
    if (device.show !== undefined) return this.#show(request, mayTellHoles);
    const cached = device.cachedBytes?.(offset, length) ?? null;
    if (cached !== null) return this.#pass(request, cached, mayTellHoles);
    const overhead = this.#replies.dataOverhead;
    const { outbox } = this.#replies;
    outbox.reserve(overhead + length);
    const into = outbox.bytes.subarray(outbox.at + overhead, outbox.at + overhead + length);
    let reading: void | Promise<void>;
    try {
      reading = this.#exported.device.read(offset, into);
    } catch (error) {
      return this.#replies.failure(request, error);
    }
    if (reading !== undefined) return this.#readLater(request, reading);
    this.#times.answeredNow(Command.READ);
    if (mayTellHoles && length >= HOLE_BYTES_MIN && isZero(into)) {
      return this.#replies.hole(request, offset, length, true);
    }
    this.#replies.data(outbox.view, outbox.at, request, offset, length, true);
    outbox.commit(overhead + length);
    if (length >= SEND_AT_ONCE_BYTES) outbox.flush();
  }

  /** Sends data from the file in which they are, if they are in memory already. Returns whether it did. */
  sendFile(request: Answered, offset: number, length: number, isLast: boolean): boolean {
    const { outbox, dataOverhead } = this.#replies;
    if (length < SEND_FILE_BYTES_MIN || !outbox.sendsFiles) return false;
    const file = this.#exported.device.cachedFile?.(offset, length) ?? null;
    if (file === null) return false;
    outbox.reserve(dataOverhead);
    this.#replies.data(outbox.view, outbox.at, request, offset, length, isLast);
    outbox.commitFile(dataOverhead, file, offset, length);
    return true;
  }

  /** Answers with bytes that the disk has in memory. */
  #pass(request: Request, bytes: Uint8Array, mayTellHoles: boolean): void {
    const { outbox, dataOverhead } = this.#replies;
    const { offset, length } = request;
    this.#times.answeredNow(Command.READ);
    if (mayTellHoles && length >= HOLE_BYTES_MIN && isZero(bytes)) {
      return this.#replies.hole(request, offset, length, true);
    }
    outbox.reserve(dataOverhead + length);
    this.#replies.data(outbox.view, outbox.at, request, offset, length, true);
    outbox.commitShown(dataOverhead, bytes);
  }

  /** Passes on what comes from elsewhere. */
  #show(shared: Request, mayBeChunks: boolean): void {
    const request = { ...shared };
    const sinceMs = this.#times.batchAtMs;
    const { offset, length } = request;
    this.#backlog.begin(length);
    const isSplit = mayBeChunks && length > PIPED_BYTES_MAX && this.shows;
    const ended = (error: unknown) => {
      if (error !== undefined) this.#replies.failure(request, error);
      else if (isSplit) this.#replies.endOfChunks(request.cookie, offset);
      if (error !== undefined || isSplit) this.#replies.outbox.flushSoon();
      this.#times.answeredLater(Command.READ, sinceMs);
      this.#backlog.end(length);
    };
    if (isSplit) this.#showParts(request, offset, length, ended);
    else this.#showPart(request, offset, length, true, ended);
  }

  get shows(): boolean {
    return this.#exported.device.show !== undefined && this.#replies.outbox.sendsPipes;
  }

  show(request: Answered, offset: number, length: number): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#showParts(request, offset, length, (error) => error === undefined ? resolve() : reject(error));
    return promise;
  }

  /** As {@linkcode #showPart}, in chunks each of which fits a pipe, and of which none is the last. */
  #showParts(request: Answered, offset: number, length: number, ended: (error: unknown) => void): void {
    const end = offset + length;
    const parts = Math.ceil(length / PIPED_BYTES_MAX);
    const partBytes = Math.ceil(length / parts / PART_STEP_BYTES) * PART_STEP_BYTES;
    let unfinished = parts;
    let failure: unknown;
    for (let at = offset; at < end; at += partBytes) {
      this.#showPart(request, at, Math.min(partBytes, end - at), false, (error) => {
        failure ??= error;
        if (--unfinished === 0) ended(failure);
      });
    }
  }

  /**
   * Passes on, as one chunk, what comes from elsewhere.
   *
   * @param ended Called once, when it is on its way to the client, or with the error if it is not.
   */
  #showPart(
    request: Answered,
    offset: number,
    length: number,
    isLast: boolean,
    ended: (error: unknown) => void,
  ): void {
    this.#pool.expect(length);
    const { outbox, dataOverhead } = this.#replies;
    const mayPipe = length >= PIPED_BYTES_MIN && length <= PIPED_BYTES_MAX && outbox.sendsPipes;
    this.#exported.device.show!(offset, length, (bytes, error) => {
      this.#pool.expect(-length);
      if (bytes === null) return ended(error);
      if (bytes instanceof Pipe) {
        this.#replies.passed(request, offset, length, isLast);
        outbox.sendPipe(bytes, () => pipes.give(bytes));
      } else {
        outbox.reserve(dataOverhead + length);
        this.#replies.data(outbox.view, outbox.at, request, offset, length, isLast);
        outbox.commitShown(dataOverhead, bytes);
      }
      ended(undefined);
    }, mayPipe ? () => this.#openPipe(request, offset, length, isLast) : undefined);
  }

  /** A pipe with all that stands before the data of a READ. */
  #openPipe(request: Answered, offset: number, length: number, isLast: boolean): Pipe | null {
    const { dataOverhead } = this.#replies;
    const pipe = pipes.take();
    if (pipe === null) return null;
    this.#replies.beforeData(headerView, 0, request, offset, length, isLast);
    if (pipe.put(headerBytes.subarray(0, dataOverhead)) === dataOverhead) return pipe;
    pipes.give(pipe);
    return null;
  }

  #readLater(shared: Request, reading: Promise<void>): void {
    const request = { ...shared };
    const sinceMs = this.#times.batchAtMs;
    const { offset, length } = request;
    const overhead = this.#replies.dataOverhead;
    const { outbox } = this.#replies;
    const region = outbox.setAside(overhead + length);
    this.#backlog.begin(length);
    reading.then(() => {
      this.#replies.data(region.view, region.at, request, offset, length, true);
      region.send(overhead + length);
    }, (error) => {
      region.drop();
      this.#replies.failure(request, error);
      outbox.flushSoon();
    }).then(() => {
      this.#times.answeredLater(Command.READ, sinceMs);
      this.#backlog.end(length);
    });
  }

  /** Extents of a range in which the disk knows holes; `null` if it is all data, or not known at once. */
  holesIn(offset: number, length: number): Extent[] | null {
    if (!this.#exported.device.can.extents || this.#lateExtents === LATE_EXTENTS_MAX) return null;
    let extents: Extent[] | Promise<Extent[]>;
    try {
      extents = this.#exported.device.extents(offset, length);
    } catch {
      return null; // Reading will tell.
    }
    if (extents instanceof Promise) {
      extents.catch(() => {});
      this.#lateExtents++;
      return null;
    }
    this.#lateExtents = 0;
    const worthTelling = ({ kind, length }: Extent) => kind !== "data" && length >= HOLE_BYTES_MIN;
    return extents.some(worthTelling) ? extents : null;
  }

  /** Answers a READ of which the disk knows holes: each hole is a chunk of a few bytes. */
  #readAroundHoles(shared: Request, extents: readonly Extent[]): void {
    const { offset, length } = shared;
    const request = { ...shared };
    const parts: Parts = { request, sinceMs: this.#times.batchAtMs, unfinished: 1, error: undefined };
    this.#backlog.begin(length);
    let at = offset;
    for (const extent of extents) {
      if (extent.kind === "data") this.#readPart(parts, at, extent.length);
      else this.#replies.hole(request, at, extent.length, false);
      at += extent.length;
    }
    // The disk may have described less than it was asked for.
    if (at < offset + length) this.#readPart(parts, at, offset + length - at);
    this.#endPart(parts);
  }

  /** Reads a part of a READ into a data chunk of its own. */
  #readPart(parts: Parts, offset: number, length: number): void {
    if (this.sendFile(parts.request, offset, length, false)) return;
    const overhead = this.#replies.dataOverhead;
    const { outbox } = this.#replies;
    outbox.reserve(overhead + length);
    const at = outbox.at + overhead;
    let reading: void | Promise<void>;
    try {
      reading = this.#exported.device.read(offset, outbox.bytes.subarray(at, at + length));
    } catch (error) {
      parts.error ??= error;
      return;
    }
    if (reading === undefined) {
      this.#replies.data(outbox.view, outbox.at, parts.request, offset, length, false);
      outbox.commit(overhead + length);
      if (length >= SEND_AT_ONCE_BYTES) outbox.flush();
      return;
    }
    const region = outbox.setAside(overhead + length);
    parts.unfinished++;
    reading.then(() => {
      this.#replies.data(region.view, region.at, parts.request, offset, length, false);
      region.send(overhead + length);
    }, (error) => {
      parts.error ??= error;
      region.drop();
    }).then(() => {
      this.#endPart(parts);
      outbox.flushSoon();
    });
  }

  /** The last part to finish sends the end of the reply. */
  #endPart(parts: Parts): void {
    parts.unfinished--;
    if (parts.unfinished > 0) return;
    const { request, error } = parts;
    if (error === undefined) this.#replies.endOfChunks(request.cookie, request.offset);
    else this.#replies.failure(request, error);
    this.#times.answeredLater(Command.READ, parts.sinceMs);
    this.#backlog.end(request.length);
  }
}
