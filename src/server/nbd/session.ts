/**
 * The transmission phase with one client: requests in, replies out.
 *
 * All complete requests that have arrived are performed in one go; those that the disk answers at once are
 * replied to in one write. Those that must wait are replied to when they are done, in whatever order. When too
 * much is waiting, nothing more is read from the client.
 *
 * A READ lands in the buffer from which its reply is sent, a WRITE goes to the disk from the buffer in which it
 * arrived; a large WRITE goes piece by piece, before all of it is there.
 */
import { isAllZero } from "../../base/zeroes.ts";
import type { Log } from "../../base/log.ts";
import type { Extent } from "../../device/device.ts";
import { DeviceError } from "../../device/device_error.ts";
import type { BufferPool } from "../../net/buffer_pool.ts";
import type { Connection } from "../../net/connection.ts";
import {
  blockStatusChunkBytes,
  dataChunkOverhead,
  decodeStatusQuery,
  encodeBlockStatus,
  encodeDataChunkHeader,
  encodeErrorChunk,
  encodeHoleChunk,
  encodeNoneChunk,
  errorChunkBytesMax,
  holeChunkBytes,
  type StatusExtent,
  statusQueryBytesMax,
} from "../../wire/nbd/chunk.ts";
import {
  AllocationStatus,
  BASE_ALLOCATION,
  Command,
  CommandFlag,
  commandName,
  PAYLOAD_BYTES_MAX,
  ReplyFlag,
  STATUS_EXTENTS_MAX,
  TransmissionFlag,
  WireErrno,
} from "../../wire/nbd/constants.ts";
import { wireErrno } from "../../wire/nbd/error_code.ts";
import {
  decodeRequest,
  encodeSimpleReply,
  type Request,
  requestBytes,
  SIMPLE_REPLY_BYTES,
} from "../../wire/nbd/transmission.ts";
import { WireError } from "../../wire/wire_error.ts";
import type { Export } from "../export_table.ts";
import { Traffic } from "../export_table.ts";
import { checkRequest, type Fault, type SessionRules } from "./check_request.ts";
import { Intake } from "./intake.ts";
import { Outbox } from "./outbox.ts";

/** A WRITE up to this size is awaited whole; a larger one goes to the disk in pieces of this size. */
const PIECE_BYTES = 256 * 1024 - 64;
/** Pieces of a large WRITE are multiples of this, so that a disk with large blocks need not read to write. */
const PIECE_ALIGNMENT = 64 * 1024;
/** Requests that wait for the disk. */
const REQUESTS_WAITING_MAX = 128;
/** Bytes of requests that wait for the disk. */
const BYTES_WAITING_MAX = 64 * 1024 * 1024;
/** Bytes of replies that the client has not taken. */
const UNSENT_BYTES_MAX = 4 * 1024 * 1024;
/** Replies that are ready leave when they are this many bytes, before the rest of the requests is looked at. */
const FLUSH_BYTES = 192 * 1024;
/** A hole in a READ is told as a hole from this size. */
const HOLE_BYTES_MIN = 512;
/** From this size a READ asks the disk where its holes are rather than look for zeroes. */
const EXTENTS_READ_BYTES_MIN = 64 * 1024;

/** What was agreed with the client; the handshake's result. */
export interface SessionTerms {
  readonly exported: Export;
  readonly transmissionFlags: number;
  readonly structured: boolean;
  readonly extended: boolean;
  readonly contexts: readonly { readonly id: number; readonly name: string }[];
}

/** What a session shares with its server. */
export interface SessionSurroundings {
  readonly connection: Connection;
  readonly pool: BufferPool;
  readonly log: Log;
  /** Monotonic, in milliseconds. */
  now(): number;
}

/** A WRITE, or a payload nobody wants, that is still arriving. */
interface Arriving {
  readonly request: Readonly<Request>;
  readonly sinceMs: number;
  /** Why it is refused, in which case the payload is only read past. */
  fault: Fault | null;
  receivedBytes: number;
  /** Pieces that the disk has not finished, and one for the arrival itself. */
  unfinished: number;
  /** The rest will not come, and nobody hears an answer. */
  abandoned: boolean;
}

export class Session {
  readonly traffic = new Traffic();
  readonly #exported: Export;
  readonly #device: Export["device"];
  readonly #terms: SessionTerms;
  readonly #connection: Connection;
  readonly #pool: BufferPool;
  readonly #log: Log;
  readonly #now: () => number;
  readonly #outbox: Outbox;
  readonly #headerBytes: number;
  readonly #structured: boolean;
  readonly #extended: boolean;
  readonly #request: Request = { flags: 0, type: 0, cookie: 0n, offset: 0, length: 0 };
  #rules: SessionRules;
  #intake!: Intake;
  #arriving: Arriving | null = null;
  #waitingRequests = 0;
  #waitingBytes = 0;
  /** Resolved when something that waited for the disk is done. */
  #progress: PromiseWithResolvers<void> | null = null;
  #ending: "no" | "drain" | "disconnect" = "no";
  #endReason = "";
  #busySince: number | null = null;
  /** When the requests that are being performed had arrived. */
  #batchAtMs = 0;
  /** By command: how many requests of this batch were answered at once. */
  readonly #answered = new Uint32Array(Object.keys(OPERATIONS).length);
  #anyAnswered = false;

  constructor(terms: SessionTerms, surroundings: SessionSurroundings) {
    this.#terms = terms;
    this.#exported = terms.exported;
    this.#device = terms.exported.device;
    this.#connection = surroundings.connection;
    this.#pool = surroundings.pool;
    this.#log = surroundings.log;
    this.#now = surroundings.now;
    this.#outbox = new Outbox(surroundings.connection, surroundings.pool);
    this.#extended = terms.extended;
    this.#structured = terms.structured || terms.extended;
    this.#headerBytes = requestBytes(terms.extended);
    this.#rules = {
      sizeBytes: terms.exported.sizeBytes,
      blockBytes: terms.exported.device.blockSizes.minimum,
      transmissionFlags: terms.transmissionFlags,
      structured: this.#structured,
      extended: terms.extended,
      hasContexts: terms.contexts.length > 0,
    };
  }

  get exported(): Export {
    return this.#exported;
  }

  /** Since when the oldest unfinished request has been unfinished, in the server's milliseconds; `null` if none. */
  get busySince(): number | null {
    return this.#busySince;
  }

  /** Requests that wait for an answer. */
  get inFlight(): number {
    return this.#waitingRequests;
  }

  /** From now on every request that writes is refused: the client has lost the right. */
  forbidWrites(): void {
    const transmissionFlags = this.#rules.transmissionFlags | TransmissionFlag.READ_ONLY;
    this.#rules = { ...this.#rules, transmissionFlags };
  }

  /** Ends the session when the requests that have arrived are answered; later ones are refused with ESHUTDOWN. */
  drain(reason: string): void {
    if (this.#ending !== "no") return;
    this.#ending = "drain";
    this.#endReason = reason;
    if (this.#waitingRequests === 0 && this.#arriving === null) {
      this.#outbox.flush();
      this.#outbox.drained().then(() => this.#connection.close());
    }
  }

  /** Ends the session at once. */
  abort(reason: string): void {
    if (this.#endReason === "") this.#endReason = reason;
    this.#connection.close();
  }

  /**
   * Serves the client until it leaves, breaks the protocol, or is asked to.
   *
   * @param received Requests that came with the handshake.
   * @returns Why it ended, for the log. Never throws; the connection is closed.
   */
  async run(received: Uint8Array): Promise<string> {
    this.#intake = new Intake(this.#pool, received);
    let reason: string;
    try {
      reason = await this.#serve();
    } catch (error) {
      reason = error instanceof WireError ? `protocol error: ${error.message}` : `failed: ${error}`;
      this.#log.warn(reason);
    }
    if (this.#arriving !== null) this.#abandon(this.#arriving);
    // Buffers go back only when the disk has let go of them.
    while (this.#waitingRequests > 0) await this.#wait();
    if (this.#ending === "disconnect" || this.#ending === "drain") {
      this.#outbox.flush();
      await this.#outbox.drained();
    }
    this.#connection.close();
    this.#intake.close();
    this.#outbox.rest();
    this.#busySince = null;
    return this.#endReason === "" ? reason : this.#endReason;
  }

  async #serve(): Promise<string> {
    while (true) {
      this.#batchAtMs = this.#now();
      const wantedBytes = this.#performAll();
      this.#outbox.flush();
      if (this.#anyAnswered) this.#recordBatch();
      if (this.#ending === "disconnect") return "disconnected";
      if (this.#outbox.broken) return "the connection broke";
      if (this.#ending === "drain" && this.#waitingRequests === 0 && this.#arriving === null) {
        return "drained";
      }
      if (wantedBytes === 0) {
        if (this.#outbox.unsentBytes > UNSENT_BYTES_MAX) await this.#outbox.drained();
        else await this.#wait();
        continue;
      }
      const idle = this.#waitingRequests === 0 && this.#arriving === null && this.#intake.available === 0;
      if (idle) {
        this.#busySince = null;
        this.#outbox.rest();
      }
      const reading = this.#intake.fill(this.#connection, wantedBytes, idle);
      const count = reading instanceof Promise ? await reading : reading;
      if (count === null) {
        const clean = this.#arriving === null && this.#intake.available === 0;
        return clean ? "closed by the client" : "closed by the client in the middle of a request";
      }
      this.#busySince ??= this.#batchAtMs;
    }
  }

  /** Tells how long the requests took that were answered in the turn in which they were performed. */
  #recordBatch(): void {
    const durationUs = (this.#now() - this.#batchAtMs) * 1000;
    const answered = this.#answered;
    for (let type = 0; type < answered.length; type++) {
      if (answered[type] > 0) this.#exported.traffic.took(OPERATIONS[type], durationUs, answered[type]);
      answered[type] = 0;
    }
    this.#anyAnswered = false;
  }

  /** A request was answered in the turn in which it was performed. */
  #answeredNow(type: number): void {
    if (type < this.#answered.length) this.#answered[type]++;
    this.#anyAnswered = true;
  }

  /** A request that began at `sinceMs` has been answered. */
  #answeredLater(type: number, sinceMs: number): void {
    const name = OPERATIONS[type];
    if (name !== undefined) this.#exported.traffic.took(name, (this.#now() - sinceMs) * 1000, 1);
  }

  /** Performs the requests that are there. Returns how many bytes the next one needs, or 0 if it must wait. */
  #performAll(): number {
    const intake = this.#intake;
    const request = this.#request;
    while (true) {
      if (this.#arriving !== null) {
        if (!this.#receive(this.#arriving)) return PIECE_BYTES;
        continue;
      }
      if (this.#ending === "disconnect") return this.#headerBytes;
      if (this.#waitingRequests >= REQUESTS_WAITING_MAX || this.#waitingBytes >= BYTES_WAITING_MAX) return 0;
      if (this.#outbox.unsentBytes > UNSENT_BYTES_MAX) return 0;
      const available = intake.available;
      if (available < this.#headerBytes) return this.#headerBytes;
      decodeRequest(intake.view, intake.start, this.#extended, request);
      if (request.type === Command.WRITE) {
        const total = this.#headerBytes + request.length;
        if (request.length > PIECE_BYTES) {
          this.#beginArriving(request);
          continue;
        }
        if (available < total) return total;
        intake.start += total;
        this.#write(request);
      } else if (this.#extended && (request.flags & CommandFlag.PAYLOAD_LEN) !== 0) {
        const held = request.type === Command.BLOCK_STATUS &&
          request.length <= statusQueryBytesMax(this.#terms.contexts.length);
        if (!held) {
          this.#beginArriving(request);
          continue;
        }
        const total = this.#headerBytes + request.length;
        if (available < total) return total;
        this.#blockStatusByPayload(request, intake.start + this.#headerBytes);
        intake.start += total;
      } else {
        intake.start += this.#headerBytes;
        this.#perform(request);
      }
    }
  }

  #perform(request: Request): void {
    if (request.type === Command.DISC) {
      this.#ending = "disconnect";
      return;
    }
    this.traffic.requests++;
    this.#exported.traffic.requests++;
    const fault = this.#refusal(request);
    if (fault !== null) return this.#replyFault(request, fault);
    switch (request.type) {
      case Command.READ:
        return this.#read(request);
      case Command.FLUSH:
        return this.#finish(request, 0, this.#flush());
      case Command.TRIM: {
        const { offset, length } = request;
        return this.#finish(
          request,
          0,
          this.#durably(request, (fua) => this.#device.trim(offset, length, { fua })),
        );
      }
      case Command.WRITE_ZEROES: {
        const { offset, length, flags } = request;
        const mayPunch = (flags & CommandFlag.NO_HOLE) === 0;
        const fast = (flags & CommandFlag.FAST_ZERO) !== 0;
        const zeroing = this.#durably(
          request,
          (fua) => this.#device.zero(offset, length, { fua, mayPunch, fast }),
        );
        return this.#finish(request, 0, zeroing);
      }
      case Command.CACHE: {
        const { offset, length } = request;
        return this.#finish(request, 0, attempt(() => this.#device.cache(offset, length)));
      }
      case Command.BLOCK_STATUS:
        return this.#blockStatus(request, this.#terms.contexts);
    }
  }

  #refusal(request: Readonly<Request>): Fault | null {
    if (this.#ending === "drain") return { error: WireErrno.ESHUTDOWN, text: "the server is shutting down" };
    return checkRequest(request, this.#rules);
  }

  // --- READ ---

  #read(request: Request): void {
    const { offset, length, flags, cookie } = request;
    this.traffic.readBytes += length;
    this.#exported.traffic.readBytes += length;
    const outbox = this.#outbox;
    if (this.#structured && (flags & CommandFlag.DF) === 0 && length >= EXTENTS_READ_BYTES_MIN) {
      if (this.#readAroundHoles(request)) return;
    }
    const overhead = this.#structured ? dataChunkOverhead(this.#extended) : SIMPLE_REPLY_BYTES;
    outbox.reserve(overhead + length);
    const at = outbox.at + overhead;
    const into = outbox.bytes.subarray(at, at + length);
    let reading: void | Promise<void>;
    try {
      reading = this.#device.read(offset, into);
    } catch (error) {
      return this.#replyError(request, error);
    }
    if (reading !== undefined) return this.#readLater(request, reading, overhead);
    this.#answeredNow(Command.READ);
    if (!this.#structured) {
      encodeSimpleReply(outbox.view, outbox.at, cookie, 0);
    } else if (
      (flags & CommandFlag.DF) === 0 && length >= HOLE_BYTES_MIN && isAllZero(into)
    ) {
      const bytes = encodeHoleChunk(
        outbox.view,
        outbox.at,
        this.#extended,
        ReplyFlag.DONE,
        cookie,
        offset,
        offset,
        length,
      );
      return outbox.commit(bytes);
    } else {
      encodeDataChunkHeader(
        outbox.view,
        outbox.at,
        this.#extended,
        ReplyFlag.DONE,
        cookie,
        offset,
        offset,
        length,
      );
    }
    outbox.commit(overhead + length);
    if (overhead + length >= FLUSH_BYTES) outbox.flush();
  }

  /** The disk takes its time; the reply keeps its place. */
  #readLater(request: Readonly<Request>, reading: Promise<void>, overhead: number): void {
    const { cookie, offset, length } = request;
    const kept = { ...request };
    const sinceMs = this.#batchAtMs;
    const region = this.#outbox.setAside(overhead + length);
    this.#begin(length);
    reading.then(() => {
      if (this.#structured) {
        encodeDataChunkHeader(
          region.view,
          region.at,
          this.#extended,
          ReplyFlag.DONE,
          cookie,
          offset,
          offset,
          length,
        );
      } else {
        encodeSimpleReply(region.view, region.at, cookie, 0);
      }
      region.send(overhead + length);
    }, (error) => {
      region.drop();
      this.#replyError(kept, error);
      this.#outbox.flushSoon();
    }).then(() => {
      this.#answeredLater(Command.READ, sinceMs);
      this.#end(length);
    });
  }

  /**
   * Answers a READ of which the disk knows holes: each hole is a chunk of a few bytes. Returns whether it did;
   * what is all data, or not to be had at once, is read as usual.
   */
  #readAroundHoles(request: Request): boolean {
    if (!this.#device.can.extents) return false;
    const { cookie, offset, length } = request;
    let extents: Extent[] | Promise<Extent[]>;
    try {
      extents = this.#device.extents(offset, length);
    } catch {
      return false; // Reading will tell.
    }
    if (extents instanceof Promise) {
      extents.catch(() => {});
      return false;
    }
    if (!extents.some((extent) => extent.kind !== "data" && extent.length >= HOLE_BYTES_MIN)) return false;
    let covered = 0;
    for (const extent of extents) covered += extent.length;
    if (covered < length) extents.push({ length: length - covered, kind: "data" });
    const outbox = this.#outbox;
    const parts = this.#beginParts(request);
    let at = offset;
    for (const extent of extents) {
      const isHole = extent.kind !== "data";
      if (isHole) {
        outbox.reserve(holeChunkBytes(this.#extended));
        outbox.commit(
          encodeHoleChunk(outbox.view, outbox.at, this.#extended, 0, cookie, offset, at, extent.length),
        );
      } else {
        this.#readPart(parts, at, extent.length);
      }
      at += extent.length;
    }
    this.#endPart(parts);
    return true;
  }

  /** Reads one piece of a READ into a data chunk of its own. */
  #readPart(parts: Parts, offset: number, length: number): void {
    const overhead = dataChunkOverhead(this.#extended);
    const { cookie, offset: requestOffset } = parts.request;
    const outbox = this.#outbox;
    outbox.reserve(overhead + length);
    const at = outbox.at + overhead;
    let reading: void | Promise<void>;
    try {
      reading = this.#device.read(offset, outbox.bytes.subarray(at, at + length));
    } catch (error) {
      parts.error ??= error;
      return;
    }
    const encode = (view: DataView, at: number) =>
      encodeDataChunkHeader(view, at, this.#extended, 0, cookie, requestOffset, offset, length);
    if (reading === undefined) {
      encode(outbox.view, outbox.at);
      outbox.commit(overhead + length);
      if (overhead + length >= FLUSH_BYTES) outbox.flush();
      return;
    }
    const region = outbox.setAside(overhead + length);
    parts.unfinished++;
    reading.then(() => {
      encode(region.view, region.at);
      region.send(overhead + length);
    }, (error) => {
      parts.error ??= error;
      region.drop();
    }).then(() => {
      this.#endPart(parts);
      this.#outbox.flushSoon();
    });
  }

  #beginParts(request: Readonly<Request>): Parts {
    this.#begin(request.length);
    return { request: { ...request }, sinceMs: this.#batchAtMs, unfinished: 1, error: undefined };
  }

  /** The last part to finish sends the end of the reply. */
  #endPart(parts: Parts): void {
    parts.unfinished--;
    if (parts.unfinished > 0) return;
    if (parts.error !== undefined) {
      this.#replyError(parts.request, parts.error);
    } else {
      const { cookie, offset } = parts.request;
      this.#outbox.reserve(32);
      this.#outbox.commit(
        encodeNoneChunk(this.#outbox.view, this.#outbox.at, this.#extended, cookie, offset),
      );
    }
    this.#answeredLater(Command.READ, parts.sinceMs);
    this.#end(parts.request.length);
  }

  // --- WRITE ---

  /** Performs a WRITE whose payload ends where the unused bytes start. */
  #write(request: Request): void {
    this.traffic.requests++;
    this.#exported.traffic.requests++;
    const fault = this.#refusal(request);
    if (fault !== null) return this.#replyFault(request, fault);
    this.#countWritten(request);
    const intake = this.#intake;
    const data = intake.bytes.subarray(intake.start - request.length, intake.start);
    let writing: void | Promise<void>;
    try {
      writing = (request.flags & CommandFlag.FUA) === 0
        ? this.#device.write(request.offset, data)
        : this.#durably(request, (fua) => this.#device.write(request.offset, data, { fua }));
    } catch (error) {
      return this.#replyError(request, error);
    }
    if (writing === undefined) {
      this.#answeredNow(Command.WRITE);
      return this.#replyDone(request.cookie, request.offset);
    }
    const letGo = intake.hold();
    this.#finish(request, request.length, writing.finally(letGo));
  }

  #beginArriving(request: Readonly<Request>): void {
    const { type, length, offset } = request;
    if (length > PAYLOAD_BYTES_MAX) {
      throw new WireError(`${commandName(type)} with a payload of ${length} bytes`);
    }
    this.#intake.start += this.#headerBytes;
    this.traffic.requests++;
    this.#exported.traffic.requests++;
    const fault = type === Command.WRITE
      ? this.#refusal(request)
      : { error: WireErrno.EINVAL, text: "the command takes no such payload" };
    if (type === Command.WRITE && fault === null) this.#countWritten(request);
    const sinceMs = this.#batchAtMs;
    this.#arriving = {
      request: { ...request, offset },
      sinceMs,
      fault,
      receivedBytes: 0,
      unfinished: 1,
      abandoned: false,
    };
    this.#begin(0);
  }

  /** Takes what is there of a large payload. Returns whether it is complete. */
  #receive(arriving: Arriving): boolean {
    const intake = this.#intake;
    const missing = arriving.request.length - arriving.receivedBytes;
    let count = Math.min(missing, intake.available);
    if (arriving.fault === null && count < missing) count -= count % PIECE_ALIGNMENT;
    if (count === 0 && missing > 0) return false;
    if (arriving.fault === null) this.#writePiece(arriving, count);
    intake.start += count;
    arriving.receivedBytes += count;
    if (arriving.receivedBytes < arriving.request.length) return false;
    this.#arriving = null;
    this.#endPiece(arriving);
    return true;
  }

  #writePiece(arriving: Arriving, byteCount: number): void {
    const intake = this.#intake;
    const data = intake.bytes.subarray(intake.start, intake.start + byteCount);
    let writing: void | Promise<void>;
    try {
      writing = this.#device.write(arriving.request.offset + arriving.receivedBytes, data);
    } catch (error) {
      arriving.fault ??= this.#faultOf(arriving.request, error);
      return;
    }
    if (writing === undefined) return;
    arriving.unfinished++;
    this.#waitingBytes += byteCount;
    const letGo = intake.hold();
    writing.catch((error) => {
      arriving.fault ??= this.#faultOf(arriving.request, error);
    }).then(() => {
      letGo();
      this.#waitingBytes -= byteCount;
      this.#endPiece(arriving);
      this.#outbox.flushSoon();
      this.#progressed();
    });
  }

  /** The session is over before all of the payload has arrived. */
  #abandon(arriving: Arriving): void {
    this.#arriving = null;
    arriving.abandoned = true;
    this.#endPiece(arriving);
  }

  /** The last piece to finish answers the WRITE. */
  #endPiece(arriving: Arriving): void {
    arriving.unfinished--;
    if (arriving.unfinished > 0) return;
    if (arriving.abandoned) return this.#end(0);
    const { request, fault } = arriving;
    if (fault !== null) {
      this.#replyFault(request, fault);
      this.#end(0);
    } else if ((request.flags & CommandFlag.FUA) !== 0) {
      this.#finish(request, 0, this.#flush());
      this.#end(0);
    } else {
      this.#replyDone(request.cookie, request.offset);
      this.#answeredLater(request.type, arriving.sinceMs);
      this.#end(0);
    }
  }

  #countWritten(request: Readonly<Request>): void {
    const { length, flags } = request;
    this.traffic.writtenBytes += length;
    this.#exported.traffic.writtenBytes += length;
    if ((flags & CommandFlag.FUA) === 0) this.#exported.traffic.dirtied(length);
  }

  // --- BLOCK_STATUS ---

  #blockStatusByPayload(request: Request, payloadAt: number): void {
    this.traffic.requests++;
    this.#exported.traffic.requests++;
    const { contexts } = this.#terms;
    const ids = contexts.map((context) => context.id);
    const offered = (this.#rules.transmissionFlags & TransmissionFlag.BLOCK_STATUS_PAYLOAD) !== 0;
    const query = offered ? decodeStatusQuery(this.#intake.view, payloadAt, request.length, ids) : null;
    if (query === null) {
      const text = offered ? "the status query is malformed" : "a status query was not offered";
      return this.#replyFault(request, { error: WireErrno.EINVAL, text });
    }
    const wanted = { ...request, length: query.length };
    const fault = this.#refusal(wanted);
    if (fault !== null) return this.#replyFault(request, fault);
    this.#blockStatus(wanted, contexts.filter((context) => query.contextIds.includes(context.id)));
  }

  #blockStatus(request: Readonly<Request>, contexts: SessionTerms["contexts"]): void {
    const kept = { ...request };
    let extents: Extent[] | Promise<Extent[]>;
    try {
      extents = this.#device.extents(kept.offset, kept.length);
    } catch (error) {
      return this.#replyError(kept, error);
    }
    if (!(extents instanceof Promise)) {
      this.#answeredNow(Command.BLOCK_STATUS);
      return this.#replyStatus(kept, contexts, extents);
    }
    const sinceMs = this.#batchAtMs;
    this.#begin(0);
    extents.then(
      (extents) => this.#replyStatus(kept, contexts, extents),
      (error) => this.#replyError(kept, error),
    ).then(() => {
      this.#answeredLater(Command.BLOCK_STATUS, sinceMs);
      this.#outbox.flushSoon();
      this.#end(0);
    });
  }

  #replyStatus(
    request: Readonly<Request>,
    contexts: SessionTerms["contexts"],
    extents: readonly Extent[],
  ): void {
    const outbox = this.#outbox;
    const one = (request.flags & CommandFlag.REQ_ONE) !== 0;
    const allocation = statusExtents(extents, request.length, one);
    for (const [index, context] of contexts.entries()) {
      // What else we publish are facts about the export as a whole: one extent, status 0.
      const told = context.name === BASE_ALLOCATION ? allocation : [{ length: request.length, status: 0 }];
      const flags = index === contexts.length - 1 ? ReplyFlag.DONE : 0;
      outbox.reserve(blockStatusChunkBytes(this.#extended, told.length));
      outbox.commit(
        encodeBlockStatus(
          outbox.view,
          outbox.at,
          this.#extended,
          flags,
          request.cookie,
          request.offset,
          context.id,
          told,
        ),
      );
    }
  }

  #flush(): void | Promise<void> {
    const flushed = this.#exported.traffic.flushing();
    const flushing = attempt(() => this.#device.flush());
    return flushing === undefined ? flushed() : flushing.then(flushed);
  }

  /** Performs something that writes, and flushes where FUA was asked for and the disk does not know it. */
  #durably(
    request: Readonly<Request>,
    operation: (fua: boolean) => void | Promise<void>,
  ): void | Promise<void> {
    const fua = (request.flags & CommandFlag.FUA) !== 0;
    if (!fua || this.#device.can.fua) return attempt(() => operation(fua));
    return Promise.resolve(attempt(() => operation(false))).then(() => this.#device.flush());
  }

  // --- Replies ---

  /** Answers when `doing` is done. Its failure is a failure of the disk. */
  #finish(request: Readonly<Request>, byteCount: number, doing: void | Promise<void>): void {
    const { cookie, offset } = request;
    if (doing === undefined) {
      this.#answeredNow(request.type);
      return this.#replyDone(cookie, offset);
    }
    const kept = { ...request };
    const sinceMs = this.#batchAtMs;
    this.#begin(byteCount);
    doing.then(
      () => this.#replyDone(cookie, offset),
      (error) => this.#replyError(kept, error),
    ).then(() => {
      this.#answeredLater(kept.type, sinceMs);
      this.#outbox.flushSoon();
      this.#end(byteCount);
    });
  }

  #replyDone(cookie: bigint, offset: number): void {
    const outbox = this.#outbox;
    outbox.reserve(32);
    if (this.#extended) {
      outbox.commit(encodeNoneChunk(outbox.view, outbox.at, true, cookie, offset));
    } else {
      outbox.commit(encodeSimpleReply(outbox.view, outbox.at, cookie, 0));
    }
  }

  #replyError(request: Readonly<Request>, error: unknown): void {
    this.#replyFault(request, this.#faultOf(request, error));
  }

  #faultOf(request: Readonly<Request>, error: unknown): Fault {
    const errno = error instanceof DeviceError ? error.errno : "EIO";
    if (errno !== "ENOTSUP") {
      this.#log.error(
        `${commandName(request.type)} failed: ${error instanceof Error ? error.message : error}`,
      );
    }
    return { error: wireErrno(errno), text: `the disk failed: ${errno}` };
  }

  #replyFault(request: Readonly<Request>, fault: Fault): void {
    this.traffic.errors++;
    this.#exported.traffic.errors++;
    const outbox = this.#outbox;
    if (!this.#structured) {
      outbox.reserve(SIMPLE_REPLY_BYTES);
      return outbox.commit(encodeSimpleReply(outbox.view, outbox.at, request.cookie, fault.error));
    }
    outbox.reserve(errorChunkBytesMax(this.#extended));
    outbox.commit(
      encodeErrorChunk(
        outbox.view,
        outbox.at,
        this.#extended,
        ReplyFlag.DONE,
        request.cookie,
        request.offset,
        fault.error,
        fault.text,
      ),
    );
  }

  // --- What waits for the disk ---

  #begin(byteCount: number): void {
    this.#waitingRequests++;
    this.#waitingBytes += byteCount;
  }

  #end(byteCount: number): void {
    this.#waitingRequests--;
    this.#waitingBytes -= byteCount;
    this.#progressed();
  }

  #progressed(): void {
    this.#progress?.resolve();
    this.#progress = null;
    if (this.#waitingRequests > 0 || this.#arriving !== null) return;
    // The reader may be waiting for the client; what it would do when it wakes is done here.
    if (this.#ending === "drain") {
      queueMicrotask(() => {
        this.#outbox.flush();
        this.#outbox.drained().then(() => this.#connection.close());
      });
    } else if (this.#intake.available === 0) {
      this.#busySince = null;
    }
  }

  #wait(): Promise<void> {
    this.#progress ??= Promise.withResolvers<void>();
    return this.#progress.promise;
  }
}

/** Names of the operations by command, for statistics. */
const OPERATIONS = ["read", "write", "disconnect", "flush", "trim", "cache", "zero", "status"] as const;

/** A READ that is answered in several chunks. */
interface Parts {
  readonly request: Readonly<Request>;
  readonly sinceMs: number;
  unfinished: number;
  error: unknown;
}

/** Turns what is thrown at once into a rejection. */
function attempt(operation: () => void | Promise<void>): void | Promise<void> {
  try {
    return operation();
  } catch (error) {
    return Promise.reject(error);
  }
}

const STATUS: Readonly<Record<Extent["kind"], number>> = {
  data: 0,
  zero: AllocationStatus.ZERO,
  hole: AllocationStatus.HOLE | AllocationStatus.ZERO,
};

/** Extents as a status chunk tells them: at most `length` bytes in all, neighbours of one status made one. */
function statusExtents(extents: readonly Extent[], length: number, one: boolean): StatusExtent[] {
  const told: { length: number; status: number }[] = [];
  let left = length;
  for (const extent of extents) {
    const status = STATUS[extent.kind];
    const byteCount = Math.min(extent.length, left);
    if (byteCount === 0) break;
    left -= byteCount;
    const last = told.at(-1);
    if (last?.status === status) last.length += byteCount;
    else if (told.length === (one ? 1 : STATUS_EXTENTS_MAX)) break;
    else told.push({ length: byteCount, status });
  }
  return told;
}
