/** Replies in the form that was agreed with a client, laid into its outbox. */
import { DeviceError } from "../../device/device_error.ts";
import {
  blockStatusChunkBytes,
  dataChunkOverhead,
  encodeBlockStatus,
  encodeDataChunkHeader,
  encodeErrorChunk,
  encodeHoleChunk,
  encodeNoneChunk,
  errorChunkBytesMax,
  holeChunkBytes,
  type StatusExtent,
} from "../../wire/nbd/chunk.ts";
import { commandName, ReplyFlag, WireErrno } from "../../wire/nbd/constants.ts";
import { wireErrno } from "../../wire/nbd/error_code.ts";
import {
  chunkHeaderBytes,
  encodeSimpleReply,
  type Request,
  SIMPLE_REPLY_BYTES,
} from "../../wire/nbd/transmission.ts";
import type { ExportTraffic, Traffic } from "../export_table.ts";
import type { Fault } from "./check_request.ts";
import type { FailureLog } from "./failure_log.ts";
import type { Outbox } from "./outbox.ts";
import type { ClientTrace } from "./wire_trace.ts";

/** Where the cookie stands in a request, compact or extended. */
const COOKIE_AT = 8;

const DONE = { last: true };

/** What a reply needs to know of its request, which may be gone. */
export type Answered = Readonly<Request>;

export class Replies {
  readonly outbox: Outbox;
  /** READ and errors are answered in chunks. */
  readonly chunked: boolean;
  /** Bytes before the data of a READ that is answered in one go. */
  readonly dataOverhead: number;
  readonly #extended: boolean;
  readonly #counts: readonly Traffic[];
  readonly #failures: FailureLog;
  readonly #trace: ClientTrace;

  constructor(
    outbox: Outbox,
    agreed: { readonly structured: boolean; readonly extended: boolean },
    counts: readonly [Traffic, ExportTraffic],
    { failures, trace }: { readonly failures: FailureLog; readonly trace: ClientTrace },
  ) {
    this.outbox = outbox;
    this.chunked = agreed.structured || agreed.extended;
    this.#extended = agreed.extended;
    this.dataOverhead = this.chunked ? dataChunkOverhead(agreed.extended) : SIMPLE_REPLY_BYTES;
    this.#counts = counts;
    this.#failures = failures;
    this.#trace = trace;
  }

  /** Done, and nothing more to say. */
  done(cookie: bigint, requestOffset: number): void {
    if (this.#trace.wanted) this.#trace.reply(cookie, DONE);
    const { outbox } = this;
    if (this.#extended) {
      outbox.reserve(chunkHeaderBytes(true));
      outbox.commit(encodeNoneChunk(outbox.view, outbox.at, true, cookie, requestOffset));
    } else {
      outbox.reserve(SIMPLE_REPLY_BYTES);
      outbox.commit(encodeSimpleReply(outbox.view, outbox.at, cookie, 0));
    }
  }

  /** The end of a reply that was made of several chunks. */
  endOfChunks(cookie: bigint, requestOffset: number): void {
    if (this.#trace.wanted) this.#trace.reply(cookie, DONE);
    const { outbox } = this;
    outbox.reserve(chunkHeaderBytes(this.#extended));
    outbox.commit(encodeNoneChunk(outbox.view, outbox.at, this.#extended, cookie, requestOffset));
  }

  /**
   * Writes what stands before the data of a READ: {@linkcode dataOverhead} bytes at `at`.
   *
   * @param offset Where the data stand on the disk; `dataBytes` of them follow.
   * @param isLast Nothing follows for this request.
   */
  data(
    view: DataView,
    at: number,
    request: Answered,
    offset: number,
    dataBytes: number,
    isLast: boolean,
  ): void {
    this.passed(request, offset, dataBytes, isLast);
    this.beforeData(view, at, request, offset, dataBytes, isLast);
  }

  /** As {@linkcode data}, for a reply that may not leave; if it does, {@linkcode passed} is to be called. */
  beforeData(
    view: DataView,
    at: number,
    request: Answered,
    offset: number,
    dataBytes: number,
    isLast: boolean,
  ): void {
    if (!this.chunked) {
      encodeSimpleReply(view, at, request.cookie, 0);
      return;
    }
    const flags = isLast ? ReplyFlag.DONE : 0;
    encodeDataChunkHeader(
      view,
      at,
      this.#extended,
      flags,
      request.cookie,
      request.offset,
      offset,
      dataBytes,
    );
  }

  /** Notes that data leave. */
  passed(request: Answered, offset: number, dataBytes: number, isLast: boolean): void {
    if (this.#trace.wanted) this.#trace.reply(request.cookie, { data: dataBytes, offset, last: isLast });
  }

  /** Tells of a hole in the range of a READ; only where replies are in chunks. */
  hole(request: Answered, offset: number, length: number, isLast: boolean): void {
    const { outbox } = this;
    if (this.#trace.wanted) this.#trace.reply(request.cookie, { hole: length, offset, last: isLast });
    outbox.reserve(holeChunkBytes(this.#extended));
    const { view, at } = outbox;
    const flags = isLast ? ReplyFlag.DONE : 0;
    outbox.commit(
      encodeHoleChunk(view, at, this.#extended, flags, request.cookie, request.offset, offset, length),
    );
  }

  /** Tells the extents of one metadata context. */
  status(request: Answered, contextId: number, extents: readonly StatusExtent[], isLast: boolean): void {
    const { outbox } = this;
    if (this.#trace.wanted) {
      this.#trace.reply(request.cookie, { context: contextId, extents: extents.length, last: isLast });
    }
    outbox.reserve(blockStatusChunkBytes(this.#extended, extents.length));
    const { view, at } = outbox;
    const flags = isLast ? ReplyFlag.DONE : 0;
    outbox.commit(
      encodeBlockStatus(
        view,
        at,
        this.#extended,
        flags,
        request.cookie,
        request.offset,
        contextId,
        extents,
      ),
    );
  }

  fault(request: Answered, fault: Fault): void {
    for (const counts of this.#counts) counts.errors++;
    const { outbox } = this;
    const { cookie, offset } = request;
    if (this.#trace.wanted) this.#trace.reply(cookie, { error: fault.error, text: fault.text, last: true });
    if (!this.chunked) {
      outbox.reserve(SIMPLE_REPLY_BYTES);
      return outbox.commit(encodeSimpleReply(outbox.view, outbox.at, cookie, fault.error));
    }
    outbox.reserve(errorChunkBytesMax(this.#extended));
    const { view, at } = outbox;
    outbox.commit(
      encodeErrorChunk(
        view,
        at,
        this.#extended,
        ReplyFlag.DONE,
        cookie,
        offset,
        fault.error,
        fault.text,
      ),
    );
  }

  /** What stands at `at` is no request; its cookie, if it is one, goes back with EINVAL. Simple replies only. */
  badMagic(view: DataView, at: number): void {
    const { outbox } = this;
    outbox.reserve(SIMPLE_REPLY_BYTES);
    const cookie = view.getBigUint64(at + COOKIE_AT);
    outbox.commit(encodeSimpleReply(outbox.view, outbox.at, cookie, WireErrno.EINVAL));
  }

  /** The disk failed: its cause goes to the log, its errno to the client. */
  failure(request: Answered, error: unknown): void {
    this.fault(request, this.faultOf(request, error));
  }

  faultOf(request: Answered, error: unknown): Fault {
    const errno = error instanceof DeviceError ? error.errno : "EIO";
    if (errno !== "ENOTSUP") {
      const kind = `${commandName(request.type)} failed`;
      this.#failures.failed(
        `${kind}: ${errno}`,
        `${kind}: ${error instanceof Error ? error.message : error}`,
      );
    }
    return { error: wireErrno(errno), text: `the disk failed: ${errno}` };
  }
}
