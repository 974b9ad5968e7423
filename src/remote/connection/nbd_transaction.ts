/**
 * One request to a server and what has come back for it.
 *
 * The request never changes, so that it can be sent again, byte for byte, on another connection. What has come
 * back belongs to one connection and is forgotten when the request is sent anew.
 */
import type { Place } from "../../base/linked_list.ts";
import { DeviceError, type DeviceOperation, type ErrnoName } from "../../device/device_error.ts";
import type { OpenFile } from "../../os/file_calls.ts";
import { type Pipe, pipes } from "../../os/pipe.ts";
import { Command, CommandFlag } from "../../wire/nbd/constants.ts";
import type { ChunkRequest, StatusExtent } from "../../wire/nbd/chunk.ts";
import { WireError } from "../../wire/wire_error.ts";
import { Coverage } from "./coverage.ts";

/** Why a request failed. */
export interface Failure {
  readonly errno: ErrnoName;
  /** Says more: the server's text, escaped, or what happened to the connection. */
  readonly detail?: string;
  readonly cause?: unknown;
}

/** What a {@linkcode Command} is called in the terms of a disk. */
const operations: ReadonlyMap<number, DeviceOperation> = new Map<number, DeviceOperation>([
  [Command.READ, "read"],
  [Command.WRITE, "write"],
  [Command.FLUSH, "flush"],
  [Command.TRIM, "trim"],
  [Command.CACHE, "cache"],
  [Command.WRITE_ZEROES, "zero"],
  [Command.BLOCK_STATUS, "extents"],
]);

function nobody(): void {}

export class Transaction implements ChunkRequest {
  /** READ: the first error that came, which decides once the reply is complete. */
  failure: Failure | null = null;
  #statuses: Map<string, StatusExtent[]> | null = null;
  /** READ: the bytes that came, or come, to their {@linkcode place}. */
  #coverage: Coverage | null = null;
  /** READ without a buffer: what came in one piece; it is gone when {@linkcode settled} has returned. */
  shown: Uint8Array | null = null;
  /** READ without a buffer: where data are put together that cannot be shown as they come. */
  #place: Uint8Array | null = null;
  /** READ without a buffer: opens a pipe in which what comes may be given, behind what it holds already. */
  openPipe: (() => Pipe | null) | null = null;
  /** READ: the pipe that holds what came; it is given back when {@linkcode settled} has returned, unless that took it. */
  piped: Pipe | null = null;
  /** Where it stands among those that have been let in. */
  inside: Place<Transaction> | null = null;
  /** Where it stands among the unanswered ones of a link, and when it is too late for it, by the link's clock. */
  unanswered: Place<Transaction> | null = null;
  deadlineMs = 0;
  /** Called once, at the end: with `null` if it succeeded. */
  settled: (error: DeviceError | null) => void = nobody;

  /**
   * @param type A {@linkcode Command}.
   * @param flags {@linkcode CommandFlag}s. PAYLOAD_LEN of a WRITE is the connection's business.
   * @param offset In bytes.
   * @param length In bytes.
   * @param buffer READ: is filled; `null` where it is enough that the bytes are {@linkcode shown}. WRITE: the data. `length` bytes that nobody else touches until the end.
   *   BLOCK_STATUS with PAYLOAD_LEN: the payload.
   * @param file WRITE without a buffer: where the data stand, at the same offset, until the end. Only for connections
   *   that send files.
   */
  constructor(
    readonly type: number,
    readonly flags: number,
    readonly offset: number,
    readonly length: number,
    readonly buffer: Uint8Array | null,
    readonly file: OpenFile | null = null,
  ) {}

  /** BLOCK_STATUS: extents by the name of their context; its id is the connection's business. */
  get statuses(): Map<string, StatusExtent[]> {
    return this.#statuses ??= new Map();
  }

  /** Bytes that follow the header. */
  get payload(): Uint8Array | null {
    const follows = this.type === Command.WRITE || (this.flags & CommandFlag.PAYLOAD_LEN) !== 0;
    return follows ? this.buffer : null;
  }

  /** Whether the disk is changed by it. */
  get changesDisk(): boolean {
    return this.type === Command.WRITE || this.type === Command.TRIM || this.type === Command.WRITE_ZEROES;
  }

  /** Whether its answer promises durability. */
  get isDurable(): boolean {
    return (this.flags & CommandFlag.FUA) !== 0;
  }

  /** READ: whether nothing has come: neither an error nor data. */
  get isUntouched(): boolean {
    return this.failure === null && this.#coverage === null;
  }

  /** READ: whether all of the data came. */
  get isComplete(): boolean {
    if (this.shown !== null || this.piped !== null) return true;
    return this.#coverage !== null && this.#coverage.isComplete(this.length);
  }

  /**
   * READ: notes that some of the data come.
   *
   * @param from The first byte, counted from that of the request. @param length In bytes, above zero; the range is inside
   *   the request.
   * @returns Where they go.
   * @throws {WireError} If some of them came before.
   */
  claim(from: number, length: number): Uint8Array {
    this.#coverage ??= new Coverage();
    if (!this.#coverage.claim(from, length)) {
      throw new WireError(`data of ${length} bytes at ${this.offset + from} that came before`);
    }
    const place = this.buffer ?? (this.#place ??= new Uint8Array(this.length));
    return length === this.length ? place : place.subarray(from, from + length);
  }

  /** Forgets what came back. */
  restart(): void {
    this.failure = null;
    this.#coverage = null;
    this.shown = null;
    this.#giveBackPipe();
    this.#statuses = null;
  }

  /** READ without a buffer: @returns What came: bytes, or a pipe that is the caller's from now on. */
  take(): Uint8Array | Pipe | null {
    const { piped } = this;
    this.piped = null;
    return piped ?? this.shown ?? this.#place;
  }

  /** Ends it, once: whatever is called afterwards has no effect. */
  succeed(): void {
    this.#settle(null);
  }

  /** Ends it, once: whatever is called afterwards has no effect. */
  fail(failure: Failure): void {
    const operation = operations.get(this.type) ?? "read";
    const { errno, detail, cause } = failure;
    const hasRange = this.type !== Command.FLUSH;
    const offset = hasRange ? this.offset : undefined;
    const length = hasRange ? this.length : undefined;
    this.#settle(new DeviceError(errno, operation, offset, length, { detail, cause }));
  }

  #settle(error: DeviceError | null): void {
    const { settled } = this;
    this.settled = nobody;
    settled(error);
    this.#giveBackPipe();
  }

  #giveBackPipe(): void {
    if (this.piped !== null) pipes.give(this.piped);
    this.piped = null;
  }
}
