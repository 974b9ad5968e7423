/**
 * The receiving half of a connection: from bytes that come to replies to what was sent.
 *
 * Replies are taken from one buffer, as many as a read brought, in whatever order the server answers. Nothing the server
 * says is believed before it is held against the request.
 *
 * @see NBD proto.md, "Transmission phase"
 */
import type { Connection } from "../../net/connection.ts";
import { checkChunk, DATA_OFFSET_BYTES, dataChunkOverhead, decodeDataOffset } from "../../wire/nbd/chunk.ts";
import { ChunkType, Command, ReplyFlag } from "../../wire/nbd/constants.ts";
import { errnoName } from "../../wire/nbd/error_code.ts";
import type { ClientAgreement } from "../../wire/nbd/handshake_client.ts";
import {
  chunkHeaderBytes,
  decodeReplyHeader,
  emptyReplyHeader,
  REPLY_MAGIC_BYTES,
  replyHeaderBytes,
  SIMPLE_REPLY_BYTES,
} from "../../wire/nbd/transmission.ts";
import { WireError } from "../../wire/wire_error.ts";
import { JoinedRead } from "./joined_read.ts";
import type { Transaction } from "./nbd_transaction.ts";
import { PayloadIntake } from "./payload_intake.ts";
import { RECEIVE_BYTES, ReceiveBuffer } from "./receive_buffer.ts";
import { checkSuccess, takeContent } from "./reply_content.ts";
import type { SentRequests } from "./sent_requests.ts";

/** So much is read where the next data of a pipe have to be waited for. */
const WAITED_BYTES = 4096;

/** Who hears from a reader. */
export interface ReaderOwner {
  /** Something came. */
  heard(): void;
  /** A part of a joined READ has its data. */
  arrived(part: Transaction): void;
  /** The last word of the server on what it was sent under the cookie; `failure` tells whether it succeeded. */
  finished(cookie: bigint, transaction: Transaction): void;
}

/** A READ for several, whose data arrive behind each other. */
interface Arriving {
  readonly joined: JoinedRead;
  readonly cookie: bigint;
}

export class ReplyReader {
  readonly #connection: Connection;
  readonly #agreement: ClientAgreement;
  readonly #sent: SentRequests;
  readonly #owner: ReaderOwner;
  readonly #buffer: ReceiveBuffer;
  readonly #payload: PayloadIntake;
  /** Behind the payload come the data of its other parts. */
  #arriving: Arriving | null = null;
  /** Whether the data of the last READ that was answered could go into a pipe. */
  #lastPipable = false;
  /** What stands before the data of a READ that is answered in one go. */
  readonly #dataOverhead: number;
  readonly #header = emptyReplyHeader();
  #stopped = false;

  /**
   * @param rest What the server sent behind the handshake.
   * @param sent What replies are held against.
   */
  constructor(
    connection: Connection,
    agreement: ClientAgreement,
    rest: Uint8Array,
    sent: SentRequests,
    owner: ReaderOwner,
  ) {
    this.#connection = connection;
    this.#agreement = agreement;
    this.#sent = sent;
    this.#owner = owner;
    this.#buffer = new ReceiveBuffer(rest);
    this.#payload = new PayloadIntake(connection, this.#buffer);
    const { structured, extended } = agreement;
    this.#dataOverhead = structured || extended ? dataChunkOverhead(extended) : SIMPLE_REPLY_BYTES;
  }

  /**
   * Reads replies until the connection ends, or the reader is stopped.
   *
   * @throws {WireError} If the server breaks the protocol. @throws What the connection throws.
   */
  async run(): Promise<void> {
    const payload = this.#payload;
    this.#parse();
    while (true) {
      if (payload.piped !== null) {
        if (payload.move()) {
          await undefined;
        } else {
          // Only who reads can wait.
          const bytes = new Uint8Array(Math.min(WAITED_BYTES, payload.piped.missingBytes));
          const count = await this.#connection.read(bytes);
          if (count === null || this.#stopped) return;
          payload.put(bytes.subarray(0, count));
        }
        this.#owner.heard();
        this.#parse();
        continue;
      }
      const place = payload.place;
      const into = place ?? this.#room();
      const there = this.#connection.readNow?.(into, true);
      const count = there === undefined ? await this.#connection.read(into) : there;
      // After a close the server's last words no longer count.
      if (count === null || this.#stopped) return;
      this.#owner.heard();
      if (place === null) this.#buffer.received(count);
      else payload.received(count);
      this.#parse();
      // What was answered leaves before more is taken.
      await undefined;
    }
  }

  /** Takes in nothing more. Idempotent. */
  stop(): void {
    this.#stopped = true;
  }

  /** Gives back what belongs to others, when {@linkcode run} has ended. */
  close(): void {
    this.#payload.close();
  }

  #room(): Uint8Array {
    const { awaitedBytes: awaited, missingBytes } = this.#payload;
    if (awaited === 0 && this.#pipesNext) {
      const headerBytes = this.#arriving === null || this.#arriving.joined.parts.length === 1
        ? this.#dataOverhead
        : 0;
      return this.#buffer.room(0, missingBytes + headerBytes);
    }
    // Behind long data no more than the beginning of the next reply, the rest of which might have to be moved.
    return this.#buffer.room(awaited, awaited > 0 ? awaited + this.#dataOverhead : Infinity);
  }

  /** Whether the data that come next should probably go into a pipe: most servers answer in order. */
  get #pipesNext(): boolean {
    if (this.#connection.moveNow === undefined) return false;
    if (this.#buffer.available >= this.#dataOverhead) return false;
    const { oldest } = this.#sent;
    return oldest === null ? this.#lastPipable : oldest.openPipe !== null;
  }

  /** Takes from the buffer all that is complete. */
  #parse(): void {
    while (this.#takeNext());
  }

  /** @returns `false` if the rest of it is still to come. */
  #takeNext(): boolean {
    if (this.#payload.isUnderWay) return this.#payload.takeReceived();
    return this.#arriving === null ? this.#takeMessage() : this.#takePart(this.#arriving);
  }

  #takeMessage(): boolean {
    const { available, view, start } = this.#buffer;
    if (available < REPLY_MAGIC_BYTES) return false;
    const headerBytes = replyHeaderBytes(view, start, this.#agreement);
    if (available < headerBytes) return false;
    const header = this.#header;
    decodeReplyHeader(view, start, header);
    const transaction = this.#sent.get(header.cookie);
    if (transaction === undefined) throw new WireError(`reply with the unknown cookie ${header.cookie}`);
    if (header.form !== "simple") {
      checkChunk(header, transaction);
      return this.#takeChunk(transaction);
    }
    const succeeds = header.error === 0 && !this.#agreement.structured;
    if (succeeds && transaction.type === Command.READ) {
      return this.#takeData(header.cookie, transaction, headerBytes);
    }
    this.#buffer.skip(headerBytes);
    this.#takeSimpleReply(header.cookie, transaction);
    return true;
  }

  #takeSimpleReply(cookie: bigint, transaction: Transaction): void {
    if (this.#header.error !== 0) {
      transaction.failure ??= { errno: errnoName(this.#header.error) };
    } else if (transaction.type === Command.READ) {
      // Some servers fail a READ by a simple reply where chunks were agreed; none may succeed by one.
      throw new WireError("simple reply with data where chunks were agreed");
    } else if (transaction.type === Command.BLOCK_STATUS) {
      throw new WireError("BLOCK_STATUS succeeded without a status");
    }
    this.#finish(cookie, transaction);
  }

  #takeChunk(transaction: Transaction): boolean {
    const { cookie, flags, type, payloadBytes } = this.#header;
    const isLast = (flags & ReplyFlag.DONE) !== 0;
    const headerBytes = chunkHeaderBytes(this.#agreement.extended);
    const buffer = this.#buffer;
    if (type === ChunkType.OFFSET_DATA) {
      const dataAt = headerBytes + DATA_OFFSET_BYTES;
      if (buffer.available < dataAt) return false;
      const offset = decodeDataOffset(buffer.view, buffer.start + headerBytes, payloadBytes, transaction);
      const length = payloadBytes - DATA_OFFSET_BYTES;
      // Behind an error nothing counts, whatever it is.
      const isWhole = isLast && length === transaction.length && transaction.isUntouched;
      if (isWhole) return this.#takeData(cookie, transaction, dataAt);
      const place = transaction.claim(offset - transaction.offset, length);
      buffer.skip(dataAt);
      this.#payload.fill(place, () => {
        if (isLast) this.#finish(cookie, transaction);
      });
      return true;
    }
    if (headerBytes + payloadBytes > RECEIVE_BYTES) {
      // Only a status can be that long: at most STATUS_EXTENTS_MAX extents, one such payload at a time.
      const bytes = new Uint8Array(payloadBytes);
      buffer.skip(headerBytes);
      this.#payload.fill(bytes, () => {
        takeContent(this.#agreement, transaction, type, new DataView(bytes.buffer), 0, payloadBytes);
        if (isLast) this.#finish(cookie, transaction);
      });
      return true;
    }
    if (buffer.available < headerBytes + payloadBytes) return false;
    takeContent(this.#agreement, transaction, type, buffer.view, buffer.start + headerBytes, payloadBytes);
    buffer.skip(headerBytes + payloadBytes);
    if (isLast) this.#finish(cookie, transaction);
    return true;
  }

  /**
   * Takes in the data of a READ that come in one piece, behind which nothing more is said of it.
   *
   * @returns `false` if they have to be awaited, header and all.
   */
  #takeData(cookie: bigint, transaction: Transaction, dataAt: number): boolean {
    if (transaction instanceof JoinedRead) {
      this.#buffer.skip(dataAt);
      this.#arriving = { joined: transaction, cookie };
      return true;
    }
    return this.#payload.take(transaction, dataAt, () => this.#finish(cookie, transaction));
  }

  /** Takes in the data of the next part, which is answered without waiting for the others. */
  #takePart({ joined, cookie }: Arriving): boolean {
    const [part] = joined.parts;
    return this.#payload.take(part, 0, () => {
      joined.parts.shift();
      this.#lastPipable = part.openPipe !== null;
      this.#owner.arrived(part);
      if (joined.parts.length > 0) return;
      this.#arriving = null;
      this.#owner.finished(cookie, joined);
    });
  }

  /** The last word of the server on a transaction. */
  #finish(cookie: bigint, transaction: Transaction): void {
    if (transaction.failure === null) {
      checkSuccess(this.#agreement, transaction);
      if (transaction.type === Command.READ) this.#lastPipable = transaction.openPipe !== null;
    }
    this.#owner.finished(cookie, transaction);
  }
}
