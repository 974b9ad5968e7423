/**
 * Where the payloads of replies go.
 *
 * Data of a READ go to their place in the caller's buffer: past the receive buffer when much of them is still to come.
 * A READ without a buffer is shown its data where they were received, if that is in one piece there, or in a pipe into
 * which they went without being copied. At most one payload is on its way.
 */
import type { Connection } from "../../net/connection.ts";
import { Command } from "../../wire/nbd/constants.ts";
import type { Transaction } from "./nbd_transaction.ts";
import { PipedData } from "./piped_data.ts";
import { RECEIVE_BYTES, type ReceiveBuffer } from "./receive_buffer.ts";

/** Data of which at least this much is missing are received in place. */
const IN_PLACE_BYTES_MIN = 16 * 1024;
/** A READ without a buffer is shown no more than this in the receive buffer. */
const SHOWN_BYTES_MAX = RECEIVE_BYTES / 2 + 64;
/** Data that go into a pipe and were received already are copied into it, if they are no more. */
const PUT_BYTES_MAX = 16 * 1024;

const nothing = new Uint8Array(0);

/** A payload that goes to a place in memory. */
interface Filling {
  readonly bytes: Uint8Array;
  filled: number;
  /** Called when it is all there. */
  readonly complete: () => void;
}

export class PayloadIntake {
  readonly #connection: Connection;
  readonly #buffer: ReceiveBuffer;
  /** What is on its way. Never both. */
  #filling: Filling | null = null;
  #piped: PipedData | null = null;
  #awaitedBytes = 0;

  constructor(connection: Connection, buffer: ReceiveBuffer) {
    this.#connection = connection;
    this.#buffer = buffer;
  }

  /** Whether what the server sends next belongs to a payload. */
  get isUnderWay(): boolean {
    return this.#filling !== null || this.#piped !== null;
  }

  /** What goes into a pipe, which takes it past the buffer. */
  get piped(): PipedData | null {
    return this.#piped;
  }

  /** The place of what is missing, if it is so much that it is to be received there. */
  get place(): Uint8Array | null {
    const filling = this.#filling;
    // What is missing is not in the buffer.
    if (filling === null || filling.bytes.length - filling.filled < IN_PLACE_BYTES_MIN) return null;
    return filling.bytes.subarray(filling.filled);
  }

  /** How many bytes of a payload that goes to a place in memory are still to come. */
  get missingBytes(): number {
    return this.#filling === null ? 0 : this.#filling.bytes.length - this.#filling.filled;
  }

  /** So many bytes were received in the {@linkcode place}. */
  received(count: number): void {
    this.#filling!.filled += count;
  }

  /** The length of the reply that is awaited whole in the buffer, of which a part may be there; else 0. */
  get awaitedBytes(): number {
    return this.#awaitedBytes;
  }

  /** Has the next bytes received in `bytes`. @param complete Called when they are all there. */
  fill(bytes: Uint8Array, complete: () => void): void {
    this.#filling = { bytes, filled: 0, complete };
  }

  /**
   * Has the data of a READ received, all of which come now, where it is best.
   *
   * @param dataAt So many bytes of the reply stand before them in the buffer.
   * @param complete Called when they are all there.
   * @returns `false` if the reply has to be awaited in the buffer, header and all.
   */
  take(transaction: Transaction, dataAt: number, complete: () => void): boolean {
    this.#awaitedBytes = 0;
    if (this.#beginPiping(transaction, dataAt, complete)) return true;
    if (isShown(transaction, dataAt)) return this.#show(transaction, dataAt, complete);
    this.#buffer.skip(dataAt);
    this.fill(transaction.claim(0, transaction.length), complete);
    return true;
  }

  /** Takes from the buffer what belongs to the payload. @returns `false` if some of it is still to come. */
  takeReceived(): boolean {
    const filling = this.#filling;
    // What goes into a pipe has left the buffer.
    if (filling === null) return false;
    filling.filled += this.#buffer.moveInto(filling.bytes, filling.filled);
    if (filling.filled < filling.bytes.length) return false;
    this.#filling = null;
    filling.complete();
    return true;
  }

  /** Moves what has been received into the pipe. @returns `false` if nothing could be. */
  move(): boolean {
    const piped = this.#piped!;
    const count = piped.move();
    if (count === undefined) return false;
    if (count === 0) this.#takeOut(piped, nothing);
    else if (piped.missingBytes === 0) this.#finishPiped(piped);
    return true;
  }

  /** Puts what was received into the pipe, or where that takes no more, goes on without it. */
  put(bytes: Uint8Array<ArrayBuffer>): void {
    const piped = this.#piped!;
    const count = piped.put(bytes);
    if (count < bytes.length) this.#takeOut(piped, bytes.subarray(count));
    else if (piped.missingBytes === 0) this.#finishPiped(piped);
  }

  /** Nothing more comes. */
  close(): void {
    this.#piped?.giveBack();
    this.#piped = null;
  }

  /** Has data received into a pipe, if most of them are still to come. @returns Whether one can be had. */
  #beginPiping(transaction: Transaction, dataAt: number, complete: () => void): boolean {
    const thereBytes = this.#buffer.available - dataAt;
    if (transaction.openPipe === null || thereBytes > PUT_BYTES_MAX || thereBytes >= transaction.length) {
      return false;
    }
    if (this.#connection.moveNow === undefined) return false;
    const pipe = transaction.openPipe();
    if (pipe === null) return false;
    this.#piped = new PipedData(this.#connection, pipe, transaction, complete);
    this.#buffer.skip(dataAt);
    if (thereBytes > 0) this.put(this.#buffer.take(thereBytes));
    return true;
  }

  #finishPiped(piped: PipedData): void {
    this.#piped = null;
    piped.handOver();
    piped.complete();
  }

  /** Goes on without the pipe, which takes no more, with what it holds and `rest` behind that. */
  #takeOut(piped: PipedData, rest: Uint8Array): void {
    const { bytes, filled } = piped.takeOut();
    bytes.set(rest, filled);
    this.#piped = null;
    this.#filling = { bytes, filled: filled + rest.length, complete: piped.complete };
  }

  /** Shows data that are all in the buffer. @returns `false` if they are not. */
  #show(transaction: Transaction, dataAt: number, complete: () => void): boolean {
    const replyBytes = dataAt + transaction.length;
    if (this.#buffer.available < replyBytes) {
      this.#awaitedBytes = replyBytes;
      return false;
    }
    this.#buffer.skip(dataAt);
    transaction.shown = this.#buffer.take(transaction.length);
    complete();
    return true;
  }
}

/** Whether it is a READ whose data are shown in the receive buffer, behind so many bytes of a reply. */
function isShown({ type, buffer, length }: Transaction, dataAt: number): boolean {
  return type === Command.READ && buffer === null && dataAt + length <= SHOWN_BYTES_MAX;
}
