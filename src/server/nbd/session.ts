/**
 * The transmission phase with one client: requests in, replies out.
 *
 * All complete requests that have arrived are performed in one go; those that the disk answers at once are
 * replied to in one write. Those that must wait are replied to when they are done, in whatever order. When too
 * much is waiting, nothing more is read from the client.
 */
import type { Log } from "../../base/log.ts";
import type { BufferPool } from "../../net/buffer_pool.ts";
import type { Connection } from "../../net/connection.ts";
import { decodeStatusQuery, statusQueryBytesMax } from "../../wire/nbd/chunk.ts";
import { Command, CommandFlag, TransmissionFlag, WireErrno } from "../../wire/nbd/constants.ts";
import { decodeRequest, type Request, requestBytes } from "../../wire/nbd/transmission.ts";
import { WireError } from "../../wire/wire_error.ts";
import { type Export, Traffic } from "../export_table.ts";
import { Backlog } from "./backlog.ts";
import { changesDisk, checkRequest, type Fault, type SessionRules } from "./check_request.ts";
import { FailureLog } from "./failure_log.ts";
import { Intake } from "./intake.ts";
import { Outbox } from "./outbox.ts";
import { PayloadPipes } from "./payload_pipes.ts";
import { Reader } from "./reader.ts";
import { Replies } from "./replies.ts";
import { RequestTimes } from "./request_times.ts";
import { type SelectedContext, StatusReporter } from "./status_reporter.ts";
import type { ClientTrace } from "./wire_trace.ts";
import { type Arriving, Writer } from "./writer.ts";

/** A WRITE up to this size is awaited whole; a larger one that is not there goes to the disk in pieces. */
const WHOLE_WRITE_BYTES_MAX = 128 * 1024;
/** Bytes of replies that the client has not taken; beyond that it has to read before it may ask. */
const UNSENT_BYTES_MAX = 512 * 1024;
/** Where all clients together have too much waiting. */
const UNSENT_BYTES_MAX_CROWDED = 128 * 1024;

const SHUTTING_DOWN: Fault = { error: WireErrno.ESHUTDOWN, text: "the server is shutting down" };

/** What was agreed with the client; the handshake's result. */
export interface SessionTerms {
  readonly exported: Export;
  readonly transmissionFlags: number;
  readonly structured: boolean;
  readonly extended: boolean;
  readonly contexts: readonly SelectedContext[];
  /** Why the client may not change the disk now, or `null`. Default: it may, as far as it was told so. */
  readonly mayChange?: () => string | null;
}

/** What a session shares with its server. */
export interface SessionSurroundings {
  readonly connection: Connection;
  readonly pool: BufferPool;
  readonly log: Log;
  readonly trace: ClientTrace;
  /** Monotonic, in milliseconds. */
  now(): number;
}

export class Session {
  readonly traffic = new Traffic();
  readonly exported: Export;
  readonly #contexts: readonly SelectedContext[];
  readonly #mayChange: SessionTerms["mayChange"];
  readonly #connection: Connection;
  readonly #pool: BufferPool;
  readonly #log: Log;
  readonly #trace: ClientTrace;
  readonly #extended: boolean;
  readonly #headerBytes: number;
  readonly #outbox: Outbox;
  readonly #backlog: Backlog;
  readonly #times: RequestTimes;
  readonly #failures: FailureLog;
  readonly #replies: Replies;
  readonly #reader: Reader;
  readonly #writer: Writer;
  readonly #status: StatusReporter;
  /** Of the request being performed; used again for the next. */
  readonly #request: Request = { flags: 0, type: 0, cookie: 0n, offset: 0, length: 0 };
  #rules: SessionRules;
  #intake!: Intake;
  #arriving: Arriving | null = null;
  /** The last request's payload went through a pipe; so will the next one's, whose header is read by itself. */
  #piping = false;
  #ending: "no" | "drain" | "disconnect" = "no";
  #endReason = "";
  #busySinceMs: number | null = null;

  constructor(terms: SessionTerms, surroundings: SessionSurroundings) {
    const { connection, pool, log, trace, now } = surroundings;
    const { exported, extended, contexts } = terms;
    const { device, traffic } = exported;
    this.exported = exported;
    this.#contexts = contexts;
    this.#mayChange = terms.mayChange;
    this.#connection = connection;
    this.#pool = pool;
    this.#log = log;
    this.#trace = trace;
    this.#extended = extended;
    this.#headerBytes = requestBytes(extended);
    this.#outbox = new Outbox(connection, pool);
    this.#failures = new FailureLog(log, now);
    this.#backlog = new Backlog(() => this.#onNothingWaiting());
    this.#times = new RequestTimes(traffic, now);
    this.#replies = new Replies(this.#outbox, terms, [this.traffic, traffic], {
      failures: this.#failures,
      trace,
    });
    this.#reader = new Reader(exported, this.#replies, this.#backlog, this.#times, pool);
    const pipes = new PayloadPipes(connection, pool);
    this.#writer = new Writer(exported, this.traffic, this.#replies, this.#backlog, this.#times, pipes);
    this.#status = new StatusReporter(device, this.#replies, this.#backlog, this.#times);
    this.#rules = {
      sizeBytes: exported.sizeBytes,
      blockBytes: device.blockSizes.minimum,
      transmissionFlags: terms.transmissionFlags,
      structured: this.#replies.chunked,
      extended,
      hasContexts: contexts.length > 0,
    };
  }

  /** Since when there has been an unfinished request, in milliseconds of the server's clock; `null` if none. */
  get busySinceMs(): number | null {
    return this.#busySinceMs;
  }

  /** Whether the client has said that it leaves. */
  get saidGoodbye(): boolean {
    return this.#ending === "disconnect";
  }

  /** Requests that wait for an answer. */
  get inFlight(): number {
    return this.#backlog.requests;
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
    this.#closeIfDrained();
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
      this.#outbox.flush();
      this.#connection.close();
    }
    if (this.#arriving !== null) this.#writer.abandon(this.#arriving);
    this.#arriving = null;
    // Buffers go back only when the disk has let go of them.
    while (this.#backlog.requests > 0) await this.#backlog.wait();
    this.#outbox.flush();
    await this.#outbox.drained();
    this.#connection.close();
    this.#intake.close();
    this.#outbox.close();
    this.#failures.close();
    this.#busySinceMs = null;
    return this.#endReason === "" ? reason : this.#endReason;
  }

  async #serve(): Promise<string> {
    while (true) {
      this.#times.beginBatch();
      const wantedBytes = this.#performAll();
      this.#outbox.flush();
      this.#times.endBatch();
      if (this.#ending === "disconnect") return "disconnected";
      if (this.#outbox.broken) return "the connection broke";
      if (wantedBytes === 0) {
        const mustRead = this.#backlog.requests === 0 || this.#outbox.unsentBytes > this.#unsentBytesMax;
        await (mustRead ? this.#outbox.drained() : this.#backlog.wait());
        continue;
      }
      const idle = this.#backlog.requests === 0 && this.#intake.available === 0;
      if (idle) {
        this.#busySinceMs = null;
        this.#outbox.rest();
        if (this.#ending === "drain") return "drained";
      }
      const reading = this.#fill(wantedBytes);
      const count = reading instanceof Promise ? await reading : reading;
      if (count === null) {
        const clean = this.#arriving === null && this.#intake.available === 0;
        return clean ? "closed by the client" : "closed by the client in the middle of a request";
      }
      this.#busySinceMs ??= this.#times.batchAtMs;
    }
  }

  #fill(wantedBytes: number): number | null | Promise<number | null> {
    if (this.#arriving === null) {
      const patient = this.#waitsForClientOnly();
      return this.#intake.fill(this.#connection, wantedBytes, patient, this.#piping);
    }
    // One has already looked for what goes through a pipe.
    const piped = this.#arriving.pipe !== null;
    return this.#intake.fill(this.#connection, wantedBytes, !piped && this.#waitsForClientOnly(), piped);
  }

  /** Whether there is nothing to do until the client sends more. */
  #waitsForClientOnly(): boolean {
    const arriving = this.#arriving;
    return arriving === null
      ? this.#backlog.requests === 0
      : this.#backlog.requests === 1 && arriving.unfinished === 1;
  }

  /** Performs the requests that are there. Returns how many bytes the next one needs, or 0 if it must wait. */
  #performAll(): number {
    const intake = this.#intake;
    const request = this.#request;
    while (true) {
      if (this.#arriving !== null) {
        if (this.#backlog.isFull(this.#pool.isCrowded)) return 0;
        if (!this.#writer.receive(this.#arriving, intake, this.#waitsForClientOnly())) {
          return this.#writer.wantedBytes(this.#arriving);
        }
        this.#arriving = null;
      }
      if (this.#ending === "disconnect") return this.#headerBytes;
      if (this.#backlog.isFull(this.#pool.isCrowded) || this.#outbox.unsentBytes > this.#unsentBytesMax) {
        return 0;
      }
      if (intake.available < this.#headerBytes) return this.#headerBytes;
      this.#decode(request);
      const payloadBytes = this.#payloadBytes(request);
      const messageBytes = this.#headerBytes + payloadBytes;
      if (intake.available < messageBytes) {
        const piped = this.#writer.mayPipe(request, intake.available);
        if (!piped && payloadBytes <= this.#payloadHeldMax(request)) return messageBytes;
        intake.start += this.#headerBytes;
        this.#arriving = this.#writer.beginArriving(request, this.#refusal(request), piped);
        this.#piping = this.#arriving.pipe !== null;
        this.#countRequest(request);
        continue;
      }
      this.#piping = false;
      intake.start += messageBytes;
      this.#perform(request);
    }
  }

  get #unsentBytesMax(): number {
    return this.#pool.isCrowded ? UNSENT_BYTES_MAX_CROWDED : UNSENT_BYTES_MAX;
  }

  #decode(request: Request): void {
    const { view, start } = this.#intake;
    try {
      decodeRequest(view, start, this.#extended, request);
    } catch (error) {
      // Old clients expect an answer before the end.
      if (!this.#replies.chunked) this.#replies.badMagic(view, start);
      throw error;
    }
  }

  /** How many bytes follow the header. */
  #payloadBytes({ type, flags, length }: Request): number {
    const follows = type === Command.WRITE || this.#extended && (flags & CommandFlag.PAYLOAD_LEN) !== 0;
    return follows ? length : 0;
  }

  /** The largest payload that is awaited whole. */
  #payloadHeldMax({ type }: Request): number {
    if (type === Command.WRITE) return WHOLE_WRITE_BYTES_MAX;
    return type === Command.BLOCK_STATUS ? statusQueryBytesMax(this.#contexts.length) : 0;
  }

  /** Performs a request that is there with its payload, which ends where the unused bytes start. */
  #perform(request: Request): void {
    if (request.type === Command.DISC) {
      this.#trace.request(request);
      this.#ending = "disconnect";
      return;
    }
    this.#countRequest(request);
    const byPayload = request.type === Command.BLOCK_STATUS && this.#payloadBytes(request) > 0;
    if (byPayload) return this.#reportByPayload(request);
    const fault = this.#refusal(request);
    if (fault !== null) return this.#replies.fault(request, fault);
    switch (request.type) {
      case Command.READ:
        this.traffic.readBytes += request.length;
        this.exported.traffic.readBytes += request.length;
        return this.#reader.read(request);
      case Command.WRITE:
        return this.#writer.write(request, this.#intake);
      case Command.BLOCK_STATUS:
        return this.#status.report(request, this.#contexts);
      default:
        return this.#writer.perform(request);
    }
  }

  #reportByPayload(request: Request): void {
    const ids = this.#contexts.map(({ id }) => id);
    const offered = (this.#rules.transmissionFlags & TransmissionFlag.BLOCK_STATUS_PAYLOAD) !== 0;
    const { view, start } = this.#intake;
    const query = offered ? decodeStatusQuery(view, start - request.length, request.length, ids) : null;
    if (query === null) {
      const text = offered ? "the status query is malformed" : "a status query was not offered";
      return this.#replies.fault(request, { error: WireErrno.EINVAL, text });
    }
    const wanted = { ...request, length: query.length };
    const fault = this.#refusal(wanted);
    if (fault !== null) return this.#replies.fault(request, fault);
    this.#status.report(wanted, this.#contexts.filter(({ id }) => query.contextIds.includes(id)));
  }

  #refusal(request: Readonly<Request>): Fault | null {
    if (this.#ending === "drain") return SHUTTING_DOWN;
    const fault = checkRequest(request, this.#rules);
    if (fault !== null || this.#mayChange === undefined || !changesDisk(request.type)) return fault;
    const text = this.#mayChange();
    return text === null ? null : { error: WireErrno.EPERM, text };
  }

  #countRequest(request: Readonly<Request>): void {
    this.#trace.request(request);
    this.traffic.requests++;
    this.exported.traffic.requests++;
  }

  #onNothingWaiting(): void {
    // The reader may be waiting for the client; what it would do when it wakes is done here.
    if (this.#intake.available === 0) this.#busySinceMs = null;
    if (this.#ending === "drain") queueMicrotask(() => this.#closeIfDrained());
    // Behind the flush of the last replies.
    else queueMicrotask(() => this.#outbox.rest());
  }

  #closeIfDrained(): void {
    if (this.#backlog.requests > 0) return;
    this.#outbox.flush();
    this.#outbox.drained().then(() => this.#connection.close());
  }
}
