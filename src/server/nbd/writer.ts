/**
 * WRITE, and everything else that changes the disk or waits for it.
 *
 * A WRITE goes to the disk from the buffer in which it arrived. One that is larger than that buffer goes piece by
 * piece, before all of it is there. Where both the connection and the disk know how, the payload of a large one goes
 * through a pipe and is never seen here (see `payload_pipes.ts`).
 */
import { DeviceError } from "../../device/device_error.ts";
import type { Pipe } from "../../os/pipe.ts";
import { Command, CommandFlag, PAYLOAD_BYTES_MAX, WireErrno } from "../../wire/nbd/constants.ts";
import type { Request } from "../../wire/nbd/transmission.ts";
import { WireError } from "../../wire/wire_error.ts";
import { commandName } from "../../wire/nbd/constants.ts";
import type { Export, Traffic } from "../export_table.ts";
import type { Backlog } from "./backlog.ts";
import type { Fault } from "./check_request.ts";
import type { Intake } from "./intake.ts";
import { type PayloadPipes, PIECE_BYTES } from "./payload_pipes.ts";
import type { Answered, Replies } from "./replies.ts";
import type { RequestTimes } from "./request_times.ts";

/** Pieces of a large WRITE end at multiples of this, or of the disk's blocks, so that no page is written twice. */
const PIECE_ALIGNMENT = 4096;
/** Of a payload that is read: with a header before it, that much fits a buffer of 256 KiB. */
const READ_BYTES = 256 * 1024 - 64;
/** Of a payload that goes through a pipe; for a smaller one the calls cost more than the copy. */
const PIPED_BYTES_MIN = 64 * 1024;
/** Of a piped payload that has to be waited for: what is read meanwhile is copied. */
const AWAITED_BYTES = 4096;

const NOT_WANTED: Fault = { error: WireErrno.EINVAL, text: "the command takes no such payload" };

/** A large WRITE, or a payload that nobody wants, on its way in. */
export interface Arriving {
  readonly request: Answered;
  readonly sinceMs: number;
  /** Why it is refused; the payload is read past. */
  fault: Fault | null;
  /** Bytes that have been handed to the disk, or read past. */
  receivedBytes: number;
  /** Through which the bytes go that follow, and which may hold some of them; `null` if they are read. */
  pipe: Pipe | null;
  /** Pieces that the disk has not finished, and one for those to come. */
  unfinished: number;
  /** The rest will not come, and nobody hears an answer. */
  abandoned: boolean;
}

export class Writer {
  readonly #exported: Export;
  readonly #traffic: Traffic;
  readonly #replies: Replies;
  readonly #backlog: Backlog;
  readonly #times: RequestTimes;
  readonly #pipes: PayloadPipes;
  /** Of the export's failed flushes, those from before this client, and those that it was told of. */
  #knownFailures: number;

  constructor(
    exported: Export,
    traffic: Traffic,
    replies: Replies,
    backlog: Backlog,
    times: RequestTimes,
    pipes: PayloadPipes,
  ) {
    this.#exported = exported;
    this.#traffic = traffic;
    this.#replies = replies;
    this.#backlog = backlog;
    this.#times = times;
    this.#pipes = pipes;
    this.#knownFailures = exported.traffic.failedFlushes;
  }

  /** Performs a WRITE that has been checked, whose payload ends where the unused bytes of the intake start. */
  write(request: Request, intake: Intake): void {
    const { offset, length, flags } = request;
    const { device } = this.#exported;
    this.#count(request);
    const data = intake.bytes.subarray(intake.start - length, intake.start);
    let writing: void | Promise<void>;
    try {
      writing = (flags & CommandFlag.FUA) === 0
        ? device.write(offset, data)
        : this.#durably(request, (fua) => device.write(offset, data, { fua }));
    } catch (error) {
      return this.#replies.failure(request, error);
    }
    if (writing === undefined) {
      this.#times.answeredNow(Command.WRITE);
      return this.#replies.done(request.cookie, offset);
    }
    this.#finish(request, length, writing.finally(intake.hold()));
  }

  /** Performs a FLUSH, TRIM, WRITE_ZEROES or CACHE that has been checked. */
  perform(request: Request): void {
    const { offset, length, flags } = request;
    const { device } = this.#exported;
    switch (request.type) {
      case Command.FLUSH:
        return this.#finish(request, 0, this.#flush());
      case Command.TRIM:
        return this.#finish(
          request,
          0,
          this.#durably(request, (fua) => device.trim(offset, length, { fua })),
        );
      case Command.WRITE_ZEROES: {
        const mayPunch = (flags & CommandFlag.NO_HOLE) === 0;
        const fast = (flags & CommandFlag.FAST_ZERO) !== 0;
        const zero = (fua: boolean) => device.zero(offset, length, { fua, mayPunch, fast });
        return this.#finish(request, 0, this.#durably(request, zero));
      }
      case Command.CACHE:
        return this.#finish(request, 0, attempt(() => device.cache(offset, length)));
    }
  }

  /** Whether the payload of a WRITE would go through a pipe, of which so much has been read already. */
  mayPipe({ type, offset, length }: Request, readBytes: number): boolean {
    if (type !== Command.WRITE || length < PIPED_BYTES_MIN || !this.#pipes.canFill) return false;
    return 2 * readBytes < length && this.#exported.device.takesPipe?.(offset, length) === true;
  }

  /**
   * Begins to take a payload that will not be there all at once.
   *
   * @param fault Why the request is refused, if it is.
   * @param piped Take it through a pipe, if there is one to be had.
   * @throws {WireError} If the payload is too large even to be read past.
   */
  beginArriving(shared: Request, fault: Fault | null, piped: boolean): Arriving {
    const request = { ...shared };
    if (request.length > PAYLOAD_BYTES_MAX) {
      throw new WireError(`${commandName(request.type)} with a payload of ${request.length} bytes`);
    }
    const refused = request.type === Command.WRITE ? fault : NOT_WANTED;
    if (refused === null) this.#count(request);
    this.#backlog.begin(0);
    return {
      request,
      sinceMs: this.#times.batchAtMs,
      fault: refused,
      receivedBytes: 0,
      pipe: piped && refused === null ? this.#pipes.take() : null,
      unfinished: 1,
      abandoned: false,
    };
  }

  /** How much of such a payload to ask for, when all that is there has been taken. */
  wantedBytes({ pipe, request, receivedBytes }: Arriving): number {
    return pipe === null
      ? READ_BYTES
      : Math.min(AWAITED_BYTES, request.length - receivedBytes - pipe.heldBytes);
  }

  /**
   * Takes what is there of such a payload. Returns whether it is complete.
   *
   * @param patient There is nothing to do but to wait for the client.
   */
  receive(arriving: Arriving, intake: Intake, patient: boolean): boolean {
    while (arriving.pipe !== null) {
      if (arriving.fault !== null) this.#dropPipe(arriving);
      else if (!this.#receivePiped(arriving, arriving.pipe, intake, patient)) return false;
    }
    return this.#receiveRead(arriving, intake);
  }

  #receiveRead(arriving: Arriving, intake: Intake): boolean {
    const missing = arriving.request.length - arriving.receivedBytes;
    let count = Math.min(missing, intake.available);
    if (arriving.fault === null && count < missing) count = this.#alignedCount(arriving, count);
    if (count === 0 && missing > 0) return false;
    if (arriving.fault === null && count > 0) {
      const data = intake.bytes.subarray(intake.start, intake.start + count);
      const write = (offset: number) => this.#exported.device.write(offset, data);
      this.#writePiece(arriving, count, write, () => intake.hold());
    }
    intake.start += count;
    arriving.receivedBytes += count;
    if (count < missing) return false;
    this.#endPiece(arriving);
    return true;
  }

  /** The most of so many bytes that ends where a page or a block does. */
  #alignedCount({ request, receivedBytes }: Arriving, count: number): number {
    const alignment = Math.max(PIECE_ALIGNMENT, this.#exported.device.blockSizes.minimum);
    return Math.max(0, count - (request.offset + receivedBytes + count) % alignment);
  }

  /** Takes the next piece of a payload through the pipe. Returns whether it was there. */
  #receivePiped(arriving: Arriving, pipe: Pipe, intake: Intake, patient: boolean): boolean {
    const missing = arriving.request.length - arriving.receivedBytes;
    const byteCount = missing <= PIECE_BYTES ? missing : this.#alignedCount(arriving, PIECE_BYTES);
    const state = this.#pipes.fill(pipe, byteCount, intake, patient);
    if (state === "waiting") return false;
    const { device } = this.#exported;
    if (state === "full" || device.writeFromPipe === undefined) {
      const wrote = this.#writeCopied(arriving, pipe, pipe.heldBytes === missing);
      if (arriving.receivedBytes === arriving.request.length) this.#dropPipe(arriving);
      return wrote;
    }
    const isLast = byteCount === missing;
    const write = (offset: number) => device.writeFromPipe!(offset, byteCount, pipe);
    this.#writePiece(arriving, byteCount, write, () => {
      arriving.pipe = isLast ? null : this.#pipes.take();
      return () => this.#pipes.give(pipe);
    });
    if (arriving.pipe !== pipe) {
      arriving.receivedBytes += byteCount;
      return true;
    }
    // After a failure it still holds some.
    arriving.receivedBytes += byteCount - pipe.heldBytes;
    if (isLast) this.#dropPipe(arriving);
    return true;
  }

  /**
   * Writes what a pipe holds, by way of a copy. Returns whether that was a page at least: with less, what follows is
   * read, whatever it is that the pipe does not take.
   */
  #writeCopied(arriving: Arriving, pipe: Pipe, isLast: boolean): boolean {
    const data = new Uint8Array(pipe.heldBytes);
    pipe.take(data);
    const byteCount = isLast ? data.length : this.#alignedCount(arriving, data.length);
    // Less than a page: it takes less room than before.
    const rest = data.subarray(byteCount);
    if (pipe.put(rest) < rest.length) throw new Error("a pipe does not take back what it held");
    if (byteCount === 0) return false;
    const { device } = this.#exported;
    const write = (offset: number) => device.write(offset, data.subarray(0, byteCount));
    this.#writePiece(arriving, byteCount, write, () => () => {});
    arriving.receivedBytes += byteCount;
    return true;
  }

  /** What is still to come will be read; what the pipe holds counts as read past. */
  #dropPipe(arriving: Arriving): void {
    const { pipe } = arriving;
    if (pipe === null) return;
    arriving.pipe = null;
    arriving.receivedBytes += pipe.heldBytes;
    this.#pipes.give(pipe);
  }

  /** The session is over before all of the payload has arrived. */
  abandon(arriving: Arriving): void {
    arriving.abandoned = true;
    this.#dropPipe(arriving);
    this.#endPiece(arriving);
  }

  /** @param hold Called if the disk takes its time; what it returns is called when the disk is done. */
  #writePiece(
    arriving: Arriving,
    byteCount: number,
    write: (offset: number) => void | Promise<void>,
    hold: () => () => void,
  ): void {
    let writing: void | Promise<void>;
    try {
      writing = write(arriving.request.offset + arriving.receivedBytes);
    } catch (error) {
      arriving.fault = this.#replies.faultOf(arriving.request, error);
      return;
    }
    if (writing === undefined) return;
    arriving.unfinished++;
    this.#backlog.beginBytes(byteCount);
    const letGo = hold();
    writing.catch((error) => {
      arriving.fault ??= this.#replies.faultOf(arriving.request, error);
    }).then(() => {
      letGo();
      this.#endPiece(arriving);
      this.#replies.outbox.flushSoon();
      this.#backlog.endBytes(byteCount);
    });
  }

  /** The last piece to finish answers the WRITE. */
  #endPiece(arriving: Arriving): void {
    arriving.unfinished--;
    if (arriving.unfinished > 0) return;
    if (arriving.abandoned) return this.#backlog.end(0);
    const { request, fault, sinceMs } = arriving;
    if (fault !== null) {
      this.#replies.fault(request, fault);
    } else if ((request.flags & CommandFlag.FUA) !== 0) {
      this.#finish(request, 0, this.#sync());
    } else {
      this.#replies.done(request.cookie, request.offset);
      this.#times.answeredLater(request.type, sinceMs);
    }
    this.#backlog.end(0);
  }

  #count({ length, flags }: Answered): void {
    const { traffic } = this.#exported;
    this.#traffic.writtenBytes += length;
    traffic.writtenBytes += length;
    if ((flags & CommandFlag.FUA) === 0) traffic.dirtied(length);
  }

  /**
   * A disk may say only once that something is lost. So a flush of one client that has failed is one of every other,
   * too: each of them may have written what was lost.
   */
  #flush(): void | Promise<void> {
    const { traffic } = this.#exported;
    const known = () => {
      const others = traffic.failedFlushes - this.#knownFailures;
      this.#knownFailures = traffic.failedFlushes;
      return others;
    };
    const ended = () => {
      if (known() === 0) return;
      throw new DeviceError("EIO", "flush", undefined, undefined, {
        detail: "a flush of another client failed",
      });
    };
    const syncing = this.#sync();
    if (syncing === undefined) return attempt(ended);
    return syncing.then(ended, (error) => {
      if (tellsOfLoss(error)) known();
      throw error;
    });
  }

  #sync(): void | Promise<void> {
    const { device, traffic } = this.#exported;
    const synced = traffic.flushing();
    // It was offered although the disk has none: because nothing can be written, nothing is to be done.
    const syncing = device.can.flush ? attempt(() => device.flush()) : undefined;
    if (syncing === undefined) return synced();
    return syncing.then(synced, (error) => {
      if (tellsOfLoss(error)) this.#noteLoss();
      throw error;
    });
  }

  #noteLoss(): void {
    this.#exported.traffic.failedFlushes++;
    // Who is away hears of it by this when he comes back.
    this.#exported.instance = crypto.randomUUID();
  }

  /** Performs something that writes, and flushes where FUA was asked for and the disk does not know it. */
  #durably(request: Answered, operation: (fua: boolean) => void | Promise<void>): void | Promise<void> {
    const { device } = this.#exported;
    const fua = (request.flags & CommandFlag.FUA) !== 0;
    if (!fua || device.can.fua) return attempt(() => operation(fua));
    return Promise.resolve(attempt(() => operation(false))).then(() => this.#sync());
  }

  /** Answers when `doing` is done; with it this many bytes wait. */
  #finish(shared: Answered, byteCount: number, doing: void | Promise<void>): void {
    if (doing === undefined) {
      this.#times.answeredNow(shared.type);
      return this.#replies.done(shared.cookie, shared.offset);
    }
    const request = { ...shared };
    const sinceMs = this.#times.batchAtMs;
    this.#backlog.begin(byteCount);
    doing.then(
      () => this.#replies.done(request.cookie, request.offset),
      (error) => this.#replies.failure(request, error),
    ).then(() => {
      this.#times.answeredLater(request.type, sinceMs);
      this.#replies.outbox.flushSoon();
      this.#backlog.end(byteCount);
    });
  }
}

/** Whether a flush that failed so may have lost something: one that came too late did nothing. */
function tellsOfLoss(error: unknown): boolean {
  return !(error instanceof DeviceError) || error.errno !== "ETIMEDOUT" && error.errno !== "ESHUTDOWN";
}

/** Turns what is thrown at once into a rejection. */
function attempt(operation: () => void | Promise<void>): void | Promise<void> {
  try {
    return operation();
  } catch (error) {
    return Promise.reject(error);
  }
}
