/**
 * The transmission phase of one connection, the client's side.
 *
 * Requests that are handed over in one turn of the event loop leave in one write, short payloads among them;
 * replies are taken from one buffer, as many as a read brought, in whatever order the server answers. Data of a
 * READ go to their place in the caller's buffer: past the receive buffer when much of them is still to come. A READ
 * without a buffer is shown its data where they were received, or in a pipe into which they went without being copied.
 * Large ones of neighbouring ranges go out as one (see `read_joiner.ts`).
 *
 * Nothing the server says is believed before it is held against the request. A server that breaks the protocol
 * ends the connection, because from there on no byte of it means anything.
 *
 * A server that says nothing is asked for a sign of life, if it answers such questions whatever its disk does. One
 * that owes an answer to that is gone; any other is slow.
 *
 * A connection never answers for the disk: what it could not finish goes back to its owner, who fails it or sends
 * it on another connection.
 *
 * @see NBD proto.md, "Transmission phase"
 */
import { printable } from "../base/printable.ts";
import type { Connection } from "../net/connection.ts";
import type { Clock } from "../os/clock.ts";
import { type Pipe, pipes } from "../os/pipe.ts";
import {
  checkChunk,
  DATA_OFFSET_BYTES,
  dataChunkOverhead,
  decodeBlockStatusPayload,
  decodeDataOffset,
  decodeErrorPayload,
  decodeHolePayload,
} from "../wire/nbd/chunk.ts";
import {
  CHUNK_ERROR_BIT,
  ChunkType,
  Command,
  CommandFlag,
  ReplyFlag,
  TransmissionFlag,
} from "../wire/nbd/constants.ts";
import { errnoName } from "../wire/nbd/error_code.ts";
import { probeContextId, type ProbeWindow } from "../wire/nbd/denbd_context.ts";
import type { ClientAgreement } from "../wire/nbd/handshake_client.ts";
import {
  chunkHeaderBytes,
  decodeReplyHeader,
  encodeRequest,
  REPLY_MAGIC_BYTES,
  type ReplyHeader,
  replyHeaderBytes,
  requestBytes,
  SIMPLE_REPLY_BYTES,
} from "../wire/nbd/transmission.ts";
import { WireError } from "../wire/wire_error.ts";
import { CookieTable } from "./cookie_table.ts";
import { Coverage } from "./coverage.ts";
import { JoinedRead } from "./joined_read.ts";
import { denbdFacts, exportFacts } from "./nbd_export.ts";
import { type Failure, Transaction } from "./nbd_transaction.ts";
import { JOIN_LIMITS, type JoinLimits, ReadJoiner } from "./read_joiner.ts";

/** Room for many small replies; a longer payload is received where it belongs. */
const RECEIVE_BYTES = 256 * 1024;
/** Room at first: a quiet connection needs no more. */
const RECEIVE_BYTES_FIRST = 16 * 1024;
/** Data of which at least this much is missing are received in place. */
const IN_PLACE_BYTES_MIN = 16 * 1024;
/** A READ without a buffer is shown no more than this in the receive buffer. */
const SHOWN_BYTES_MAX = RECEIVE_BYTES / 2 + 64;
/** Data that go into a pipe and were received already are copied into it, if they are no more. */
const PUT_BYTES_MAX = 16 * 1024;
/** So much is read where the next data of a pipe have to be waited for. */
const WAITED_BYTES = 4096;
/** Requests that leave in one write. */
const SEND_BYTES = 256 * 1024;
/** Longer payloads are not copied behind their header but written on their own. */
const COPIED_PAYLOAD_BYTES_MAX = 64 * 1024;

/** A payload is handed to the transport in pieces, whose end is a sign of life. */
const PAYLOAD_PIECE_BYTES = 1024 * 1024;

/** A server that has been silent for so long is asked for a sign of life. */
const PROBE_AFTER_MS = 5000;
/** Length of a range u64, id of a context u32. */
const PROBE_BYTES = 12;

/** How long a READ may wait for its neighbours, in milliseconds. */
const HELD_MS_MAX = 2;

/** How long a server may take to receive our goodbye. */
const GOODBYE_MS_MAX = 1000;

/** Who hands requests to a connection. */
export interface ConnectionOwner {
  /**
   * The server has answered. The connection no longer knows the transaction.
   *
   * @param failure `null` if it succeeded.
   */
  answered(connection: NbdConnection, transaction: Transaction, failure: Failure | null): void;
  /**
   * The connection is over, and nobody touches the buffers of its transactions any more. Called once.
   *
   * @param unanswered In the order in which they were submitted; they may or may not have been executed.
   * @param reason A {@linkcode WireError} if the server broke the protocol.
   */
  ended(connection: NbdConnection, unanswered: Transaction[], reason: Error): void;
}

/** When a silent server is given up. Times in milliseconds, infinite for never. */
export interface Patience {
  /** How long it may owe an answer to a probe without sending anything. */
  readonly stallMs: number;
  /** How long it may owe an answer to a request without sending or taking anything, whatever its disk does. */
  readonly silenceMs: number;
}

const ENDLESS: Patience = { stallMs: Infinity, silenceMs: Infinity };

/** Where the bytes of the current payload go. */
interface Target {
  readonly bytes: Uint8Array;
  filled: number;
  /** Called when they are all there. */
  readonly complete: () => void;
}

/** A pipe on its way to hold all data of a READ. */
interface Piping {
  readonly pipe: Pipe;
  /** What it holds before them. */
  readonly headBytes: number;
  readonly transaction: Transaction;
  /** Called when they are all there. */
  readonly complete: () => void;
}

/** A READ for several, whose data arrive behind each other. */
interface Arriving {
  readonly joined: JoinedRead;
  readonly cookie: bigint;
}

export class NbdConnection {
  /** What was agreed in the handshake. */
  readonly agreement: ClientAgreement;
  readonly #connection: Connection;
  readonly #owner: ConnectionOwner;
  readonly #clock: Clock;

  readonly #patience: Patience;
  /** What the server leaves room for a probe behind; `null` if it answers none. */
  readonly #window: ProbeWindow | null;
  #probe: Transaction | null = null;
  /** Something came, or went, since the last look. */
  #heard = true;
  /** By the clock; as exact as the looks. */
  #heardMs = 0;
  #look: Disposable | null = null;
  /** Bytes of READ and WRITE that are unanswered. */
  #unansweredBytes = 0;

  /** Of a request that is the measure of {@linkcode answeredSentMs} when it, or a later one, is answered. */
  #witness: { readonly cookie: bigint; readonly sentMs: number } | null = null;
  #answeredSentMs: number;

  /** Reads that wait for their neighbours. */
  readonly #joiner: ReadJoiner;
  #hurry: Disposable | null = null;
  readonly #queue: Transaction[] = [];
  readonly #unanswered = new CookieTable();
  #sending: Promise<void> | null = null;
  /** Bytes are on their way out. */
  #writing = false;
  #sendBytes = new Uint8Array(4096);
  #sendView = new DataView(this.#sendBytes.buffer);
  /** Its payload is on its way; an answer that overtakes it waits in {@linkcode #early}. */
  #payloadOf: Transaction | null = null;
  #early: Failure | null | undefined;

  #received = new Uint8Array(RECEIVE_BYTES_FIRST);
  #view = new DataView(this.#received.buffer);
  #start = 0;
  #end = 0;
  /** The length of the reply of which a part is in the buffer, where it is awaited whole and known; else 0. */
  #awaitedBytes = 0;
  #target: Target | null = null;
  /** What is received goes there. Never beside a target. */
  #piping: Piping | null = null;
  /** Behind the target, or the pipe, come the data of its other parts. */
  #arriving: Arriving | null = null;
  /** Whether the last READ that was answered had its data put into a pipe. */
  #lastPiped = false;
  /** What stands before the data of a READ that is answered in one go. */
  readonly #dataOverhead: number;
  readonly #header: ReplyHeader = {
    form: "simple",
    cookie: 0n,
    error: 0,
    flags: 0,
    type: 0,
    requestOffset: 0,
    payloadBytes: 0,
  };

  readonly #now = () => this.#clock.now();

  #endReason: Error | null = null;
  #leaving = false;
  readonly #ended: Promise<void>;

  /**
   * @param connection Through with the handshake.
   * @param rest What the server sent behind it.
   * @param begunMs When the handshake began, by the clock.
   */
  constructor(
    connection: Connection,
    agreement: ClientAgreement,
    rest: Uint8Array,
    owner: ConnectionOwner,
    clock: Clock,
    begunMs: number,
    patience: Patience = ENDLESS,
    joining: JoinLimits = JOIN_LIMITS,
  ) {
    this.#answeredSentMs = begunMs;
    this.#clock = clock;
    this.#patience = patience;
    this.#window = probeWindow(agreement);
    this.#connection = connection;
    this.agreement = agreement;
    const { structured, extended } = agreement;
    this.#dataOverhead = structured || extended ? dataChunkOverhead(extended) : SIMPLE_REPLY_BYTES;
    this.#owner = owner;
    const { maximumPayload } = exportFacts(agreement).blockSizes;
    const joinedBytesMax = Math.min(joining.joinedBytesMax, maximumPayload);
    this.#joiner = new ReadJoiner({ ...joining, joinedBytesMax });
    // The handshake reads less at a time than fits in here.
    this.#received.set(rest);
    this.#end = rest.length;
    this.#ended = this.#run();
    this.#lookLater();
  }

  /** For messages. */
  get peerText(): string {
    return this.#connection.peer.text;
  }

  /** When a request was sent that has been answered, by the clock: until then at least the server had this connection. */
  get answeredSentMs(): number {
    return this.#answeredSentMs;
  }

  /** Requests handed over and not answered. */
  get unansweredCount(): number {
    const held = this.#joiner.held.length;
    return held + this.#queue.length + this.#unanswered.size - (this.#probe === null ? 0 : 1);
  }

  /** Whether a WRITE may take its data from a file. */
  get sendsFiles(): boolean {
    return this.#connection.sendFile !== undefined;
  }

  /** Sends a request. Not to be called after {@linkcode ConnectionOwner.ended}, through which it may come back. */
  submit(transaction: Transaction): void {
    transaction.restart();
    // Nothing was owed until now.
    if (this.unansweredCount === 0) this.#heard = true;
    if (this.#joiner.takes(transaction)) {
      this.#joiner.hold(transaction);
      if (!this.#joiner.isReady) return this.#hurryLater();
    } else {
      this.#queue.push(transaction);
    }
    this.#sendSoon();
  }

  /** What is held is not held for long. */
  #hurryLater(): void {
    this.#hurry ??= this.#clock.timer(HELD_MS_MAX, () => {
      this.#hurry = null;
      this.#joiner.hurry();
      this.#sendSoon();
    }, { background: true });
  }

  /** A microtask later everything of this turn is in the queue. */
  #sendSoon(): void {
    this.#sending ??= Promise.resolve().then(() => this.#send());
  }

  /**
   * Leaves politely, if the server is listening: sends a DISC, and closes. What is unanswered is given back.
   *
   * @returns When the connection is over.
   */
  async disconnect(): Promise<void> {
    if (!this.#leaving) {
      this.#leaving = true;
      if (this.#endReason === null && !this.#writing) await this.#leaveWord();
      this.close(new Error("the connection was closed"));
    }
    await this.#ended;
    await this.#connection.left;
  }

  async #leaveWord(): Promise<void> {
    const late = Promise.withResolvers<void>();
    using _timer = this.#clock.timer(GOODBYE_MS_MAX, late.resolve);
    try {
      await Promise.race([this.#sendGoodbye(), late.promise]);
    } catch {
      // The server left first.
    }
  }

  /**
   * Sends a DISC when everything has been answered, and leaves it to the server to close.
   *
   * @throws {Error} If it could not be sent: the connection is over, requests are unanswered, or it broke.
   */
  async sayGoodbye(): Promise<void> {
    if (this.#endReason !== null) throw this.#endReason;
    if (this.unansweredCount > 0) throw new Error(`${this.unansweredCount} requests are unanswered`);
    this.#leaving = true;
    await this.#sendGoodbye();
  }

  async #sendGoodbye(): Promise<void> {
    const length = this.#encode(0, Command.DISC, 0, 0n, 0, 0);
    const sent = this.#connection.write(this.#sendBytes.subarray(0, length));
    if (sent !== undefined) await sent;
  }

  /** Ends the connection at once. Idempotent; the owner hears of it when all buffers are at rest. */
  close(reason: Error): void {
    this.#endReason ??= reason;
    this.#connection.close();
  }

  async #run(): Promise<void> {
    try {
      // What came behind the handshake is looked at when the owner has got hold of the connection.
      await undefined;
      this.#parse();
      await this.#receive();
    } catch (error) {
      this.close(error as Error);
    }
    this.#look?.[Symbol.dispose]();
    this.#look = null;
    this.#hurry?.[Symbol.dispose]();
    if (this.#piping !== null) this.#giveBack(this.#piping);
    await this.#sending;
    const left = [...this.#unanswered.values(), ...this.#queue, ...this.#joiner.held];
    const unanswered = left.flatMap((each) => each instanceof JoinedRead ? each.parts : [each])
      .filter((each) => each !== this.#probe);
    this.#unanswered.clear();
    this.#queue.length = 0;
    this.#owner.ended(this, unanswered, this.#endReason ?? new Error("the server closed the connection"));
  }

  // --- Signs of life ---

  #lookLater(): void {
    const { stallMs, silenceMs } = this.#patience;
    const limitMs = Math.min(this.#window === null ? Infinity : stallMs, silenceMs);
    if (limitMs === Infinity) return;
    this.#look = this.#clock.timer(Math.min(PROBE_AFTER_MS, limitMs / 3), () => {
      this.#lookForLife();
      if (this.#endReason === null) this.#lookLater();
    }, { background: true });
  }

  #lookForLife(): void {
    const nowMs = this.#clock.now();
    if (this.#heard) {
      this.#heard = false;
      this.#heardMs = nowMs;
      return;
    }
    const silentMs = nowMs - this.#heardMs;
    const isGone = this.#probe !== null && silentMs >= this.#patience.stallMs ||
      this.unansweredCount > 0 && silentMs >= this.#patience.silenceMs;
    if (isGone) return this.close(new Error(`no sign of life for ${Math.round(silentMs / 1000)} s`));
    if (this.#window === null || this.#probe !== null || this.#leaving) return;
    this.#probe = this.#makeProbe();
    this.#queue.unshift(this.#probe);
    this.#sendSoon();
  }

  #makeProbe(): Transaction {
    const lengthBytes = this.agreement.blockSizes?.minimum ?? 1;
    const payload = new Uint8Array(PROBE_BYTES);
    const view = new DataView(payload.buffer);
    view.setBigUint64(0, BigInt(lengthBytes));
    view.setUint32(8, probeContextId(this.agreement.contexts)!);
    return new Transaction(Command.BLOCK_STATUS, CommandFlag.PAYLOAD_LEN, 0, lengthBytes, payload);
  }

  // --- Sending ---

  async #send(): Promise<void> {
    try {
      while (this.#endReason === null && !this.#leaving) {
        this.#queue.push(...this.#joiner.release(this.#now));
        if (this.#queue.length === 0) break;
        const { length, payloadOf } = this.#gather();
        if (length === 0) break;
        this.#payloadOf = payloadOf;
        // Whatever arrives meanwhile leaves with the next write.
        this.#writing = true;
        const bytes = this.#sendBytes.subarray(0, length);
        const file = payloadOf?.file ?? null;
        const sent = file === null
          ? this.#connection.write(bytes)
          : this.#connection.sendFile!(bytes, file, payloadOf!.offset, payloadOf!.length);
        if (sent !== undefined) await sent;
        if (payloadOf !== null) {
          if (file === null) await this.#sendPayload(payloadOf.payload!);
          this.#payloadLeft();
        }
        this.#writing = false;
      }
    } catch (error) {
      this.close(error as Error);
      this.#payloadLeft();
    } finally {
      this.#sending = null;
    }
  }

  async #sendPayload(payload: Uint8Array): Promise<void> {
    for (let at = 0; at < payload.length; at += PAYLOAD_PIECE_BYTES) {
      const sent = this.#connection.write(payload.subarray(at, at + PAYLOAD_PIECE_BYTES));
      if (sent !== undefined) await sent;
      // The first piece may have gone no further than this machine.
      if (at > 0) this.#heard = true;
      if (this.#endReason !== null) throw this.#endReason;
    }
  }

  /** The transport no longer reads the payload: an answer that came too early counts now. */
  #payloadLeft(): void {
    const transaction = this.#payloadOf;
    const early = this.#early;
    this.#payloadOf = null;
    this.#early = undefined;
    if (transaction !== null && early !== undefined) this.#owner.answered(this, transaction, early);
  }

  /**
   * Encodes as much of the queue as leaves in one write.
   *
   * @returns The bytes, and a last transaction whose payload follows on its own.
   */
  #gather(): { length: number; payloadOf: Transaction | null } {
    const headerBytes = requestBytes(this.agreement.extended);
    let length = 0;
    let taken = 0;
    let payloadOf: Transaction | null = null;
    this.#witness ??= { cookie: this.#unanswered.next, sentMs: this.#clock.now() };
    while (taken < this.#queue.length && payloadOf === null) {
      const transaction = this.#queue[taken];
      if (!this.#hasRoomFor(transaction)) break;
      const payload = transaction.payload;
      const copied = payload !== null && payload.length <= COPIED_PAYLOAD_BYTES_MAX;
      const needed = length + headerBytes + (copied ? payload.length : 0);
      if (taken > 0 && needed > SEND_BYTES) break;
      this.#reserve(needed);
      const { type, flags, offset } = transaction;
      const cookie = this.#unanswered.add(transaction);
      length += this.#encode(length, type, flags, cookie, offset, payload?.length ?? transaction.length);
      this.#unansweredBytes += dataBytes(transaction);
      if (copied) {
        this.#sendBytes.set(payload, length);
        length += payload.length;
      } else if (payload !== null || transaction.file !== null) {
        payloadOf = transaction;
      }
      taken++;
    }
    if (taken === this.#queue.length) this.#queue.length = 0;
    else this.#queue.splice(0, taken);
    return { length, payloadOf };
  }

  /** Whether the server can take it and still read a probe behind it. */
  #hasRoomFor(transaction: Transaction): boolean {
    const window = this.#window;
    if (window === null || this.#unanswered.size === 0 || transaction === this.#probe) return true;
    return this.#unanswered.size < window.requests &&
      this.#unansweredBytes + dataBytes(transaction) <= window.bytes;
  }

  #encode(at: number, type: number, flags: number, cookie: bigint, offset: number, length: number): number {
    const { extended } = this.agreement;
    if (extended && type === Command.WRITE) flags |= CommandFlag.PAYLOAD_LEN;
    return encodeRequest(this.#sendView, at, extended, { flags, type, cookie, offset, length });
  }

  /** Makes the send buffer as large as needed, keeping what is in it. */
  #reserve(byteCount: number): void {
    if (byteCount <= this.#sendBytes.length) return;
    let size = this.#sendBytes.length;
    while (size < byteCount) size *= 2;
    const larger = new Uint8Array(size);
    larger.set(this.#sendBytes);
    this.#sendBytes = larger;
    this.#sendView = new DataView(larger.buffer);
  }

  // --- Receiving ---

  async #receive(): Promise<void> {
    while (true) {
      const target = this.#target;
      if (this.#piping !== null) {
        if (this.#fillPipe(this.#piping)) await undefined;
        else if (!await this.#waitToFill(this.#piping)) return;
        this.#parse();
        continue;
      }
      // A target that waits has emptied the buffer.
      const inPlace = target !== null && target.bytes.length - target.filled >= IN_PLACE_BYTES_MIN;
      const into = inPlace ? target.bytes.subarray(target.filled) : this.#room();
      const there = this.#connection.readNow?.(into, true);
      const count = there === undefined ? await this.#connection.read(into) : there;
      // After a close the server's last words no longer count.
      if (count === null || this.#endReason !== null) return;
      this.#heard = true;
      if (inPlace) target.filled += count;
      else this.#end += count;
      this.#parse();
      // What was answered leaves before more is taken.
      await undefined;
    }
  }

  /** Moves what has been received into a pipe. @returns `false` if nothing could be. */
  #fillPipe(piping: Piping): boolean {
    const { pipe, headBytes, transaction } = piping;
    const missing = headBytes + transaction.length - pipe.heldBytes;
    const count = this.#connection.moveNow?.(pipe, missing, true);
    if (count === undefined) return false;
    this.#heard = true;
    if (count === missing) this.#finishPiped(piping);
    else if (count === 0) this.#takeOut(piping, new Uint8Array(0));
    return true;
  }

  #finishPiped({ pipe, transaction, complete }: Piping): void {
    this.#piping = null;
    transaction.piped = pipe;
    complete();
  }

  /** Waits for more, which only who reads can. @returns `false` if the connection is over. */
  async #waitToFill(piping: Piping): Promise<boolean> {
    const { pipe, headBytes, transaction } = piping;
    const bytes = new Uint8Array(Math.min(WAITED_BYTES, headBytes + transaction.length - pipe.heldBytes));
    const count = await this.#connection.read(bytes);
    if (count === null || this.#endReason !== null) return false;
    this.#heard = true;
    this.#put(piping, bytes.subarray(0, count));
    return true;
  }

  /** Puts what was received into the pipe, or where that takes no more, goes on without it. */
  #put(piping: Piping, bytes: Uint8Array<ArrayBuffer>): void {
    const { pipe, headBytes, transaction } = piping;
    const count = this.#connection.moveNow === undefined ? 0 : pipe.put(bytes);
    if (count === bytes.length) {
      if (pipe.heldBytes === headBytes + transaction.length) this.#finishPiped(piping);
      return;
    }
    this.#takeOut(piping, bytes.subarray(count));
  }

  /** Goes on without the pipe, which takes no more, with what it holds and `rest` behind that. */
  #takeOut(piping: Piping, rest: Uint8Array): void {
    const { pipe, headBytes, transaction, complete } = piping;
    const place = transaction.place = new Uint8Array(transaction.length);
    const filled = pipe.heldBytes - headBytes;
    pipe.take(new Uint8Array(headBytes));
    pipe.take(place.subarray(0, filled));
    this.#giveBack(piping);
    place.set(rest, filled);
    transaction.coverage = whole(transaction.length);
    this.#target = { bytes: place, filled: filled + rest.length, complete };
  }

  #giveBack({ pipe }: Piping): void {
    this.#piping = null;
    pipes.give(pipe);
  }

  /** The free end of the buffer: never empty, for what is left in it is the beginning of a message that fits. */
  #room(): Uint8Array {
    const awaited = this.#awaitedBytes;
    if (this.#awaitsPiped) {
      this.#makeRoom();
      return this.#received.subarray(this.#end, this.#dataOverhead);
    }
    if (awaited === 0 || this.#start + awaited > this.#received.length) this.#makeRoom();
    // Behind long data no more than the beginning of the next reply, the rest of which might have to be moved.
    const limit = awaited > 0 ? this.#start + awaited + this.#dataOverhead : this.#received.length;
    return this.#received.subarray(this.#end, limit);
  }

  /** Whether a header comes next whose data should probably go into a pipe: most servers answer in order. */
  get #awaitsPiped(): boolean {
    if (this.#target !== null || this.#awaitedBytes > 0) return false;
    if (this.#connection.moveNow === undefined) return false;
    if (this.#end - this.#start >= this.#dataOverhead) return false;
    const { oldest } = this.#unanswered;
    return oldest === null ? this.#lastPiped : oldest.openPipe !== null;
  }

  #makeRoom(): void {
    const old = this.#received;
    // Whoever fills the buffer has more to say.
    if (this.#end === old.length && old.length < RECEIVE_BYTES) {
      this.#received = new Uint8Array(old.length * 4);
      this.#view = new DataView(this.#received.buffer);
      this.#received.set(old.subarray(this.#start, this.#end));
    } else {
      old.copyWithin(0, this.#start, this.#end);
    }
    this.#end -= this.#start;
    this.#start = 0;
  }

  /** Takes from the buffer all that is complete. */
  #parse(): void {
    this.#awaitedBytes = 0;
    while (this.#piping === null) {
      if (this.#target !== null) {
        if (!this.#fillTarget(this.#target)) return;
      } else if (this.#arriving !== null) {
        if (!this.#takePart(this.#arriving)) return;
      } else if (!this.#parseMessage()) {
        return;
      }
    }
  }

  #fillTarget(target: Target): boolean {
    const count = Math.min(this.#end - this.#start, target.bytes.length - target.filled);
    if (count > 0) {
      target.bytes.set(this.#received.subarray(this.#start, this.#start + count), target.filled);
      target.filled += count;
      this.#start += count;
    }
    if (target.filled < target.bytes.length) return false;
    this.#target = null;
    target.complete();
    return true;
  }

  /** @returns `false` if the rest of it is still to come. */
  #parseMessage(): boolean {
    const available = this.#end - this.#start;
    if (available < REPLY_MAGIC_BYTES) return false;
    const headerBytes = replyHeaderBytes(this.#view, this.#start, this.agreement);
    if (available < headerBytes) return false;
    const header = this.#header;
    decodeReplyHeader(this.#view, this.#start, header);
    const transaction = this.#unanswered.get(header.cookie);
    if (transaction === undefined) throw new WireError(`reply with the unknown cookie ${header.cookie}`);
    if (header.form === "simple") {
      const succeeds = header.error === 0 && !this.agreement.structured;
      if (succeeds && transaction.type === Command.READ) {
        return this.#takeData(header.cookie, transaction, headerBytes);
      }
      this.#start += headerBytes;
      this.#simpleReply(header.cookie, transaction);
      return true;
    }
    checkChunk(header, transaction);
    return this.#parseChunk(transaction, available);
  }

  #simpleReply(cookie: bigint, transaction: Transaction): void {
    if (this.#header.error !== 0) {
      transaction.failure ??= { errno: errnoName(this.#header.error) };
      this.#finish(cookie, transaction);
    } else if (transaction.type === Command.READ) {
      // Some servers fail a READ by a simple reply where chunks were agreed; none may succeed by one.
      throw new WireError("simple reply with data where chunks were agreed");
    } else if (transaction.type === Command.BLOCK_STATUS) {
      throw new WireError("BLOCK_STATUS succeeded without a status");
    } else {
      this.#finish(cookie, transaction);
    }
  }

  #parseChunk(transaction: Transaction, available: number): boolean {
    const { cookie, type, payloadBytes } = this.#header;
    const done = (this.#header.flags & ReplyFlag.DONE) !== 0;
    const headerBytes = chunkHeaderBytes(this.agreement.extended);
    const complete = () => {
      if (done) this.#finish(cookie, transaction);
    };
    if (type === ChunkType.OFFSET_DATA) {
      if (available < headerBytes + DATA_OFFSET_BYTES) return false;
      const offset = decodeDataOffset(this.#view, this.#start + headerBytes, payloadBytes, transaction);
      const from = offset - transaction.offset;
      const length = payloadBytes - DATA_OFFSET_BYTES;
      const dataAt = headerBytes + DATA_OFFSET_BYTES;
      const { coverage, failure } = transaction;
      // Behind an error nothing counts, whatever it is.
      const isWhole = done && length === transaction.length && coverage === null && failure === null;
      if (isWhole) return this.#takeData(cookie, transaction, dataAt);
      claim(transaction, from, length);
      this.#start += dataAt;
      this.#target = { bytes: placeOf(transaction).subarray(from, from + length), filled: 0, complete };
      return true;
    }
    if (headerBytes + payloadBytes > RECEIVE_BYTES) {
      // Only a status can be that long: at most STATUS_EXTENTS_MAX extents, one such payload at a time.
      const bytes = new Uint8Array(payloadBytes);
      this.#start += headerBytes;
      this.#target = {
        bytes,
        filled: 0,
        complete: () => {
          this.#takePayload(transaction, type, new DataView(bytes.buffer), 0, payloadBytes);
          complete();
        },
      };
      return true;
    }
    if (available < headerBytes + payloadBytes) return false;
    this.#takePayload(transaction, type, this.#view, this.#start + headerBytes, payloadBytes);
    this.#start += headerBytes + payloadBytes;
    complete();
    return true;
  }

  /**
   * Takes in the data of a READ that come in one piece, behind which nothing more is said of it.
   *
   * @returns `false` if they have to be awaited, header and all.
   */
  #takeData(cookie: bigint, transaction: Transaction, dataAt: number): boolean {
    if (transaction instanceof JoinedRead) {
      this.#start += dataAt;
      this.#arriving = { joined: transaction, cookie };
      return true;
    }
    return this.#place(transaction, dataAt, () => this.#finish(cookie, transaction));
  }

  /** Takes in the data of the next part, which is answered without waiting for the others. */
  #takePart({ joined, cookie }: Arriving): boolean {
    const [part] = joined.parts;
    return this.#place(part, 0, () => {
      joined.parts.shift();
      part.shown ??= part.piped === null ? placeOf(part) : null;
      this.#lastPiped = part.piped !== null;
      this.#answer(part, null);
      if (joined.parts.length > 0) return;
      this.#arriving = null;
      this.#settle(cookie, joined);
    });
  }

  /**
   * Has the data of a READ received, all of which come now, where it is best.
   *
   * @param dataAt So many bytes stand before them.
   * @returns As {@linkcode #takeData}.
   */
  #place(transaction: Transaction, dataAt: number, complete: () => void): boolean {
    if (this.#beginPiping(transaction, dataAt, complete)) return true;
    if (isShown(transaction, dataAt)) return this.#show(transaction, dataAt, complete);
    transaction.coverage = whole(transaction.length);
    this.#start += dataAt;
    this.#target = { bytes: placeOf(transaction), filled: 0, complete };
    return true;
  }

  /** Has the data of a READ received into a pipe, if most of them are still to come. @returns Whether it can be had. */
  #beginPiping(transaction: Transaction, dataAt: number, complete: () => void): boolean {
    const thereBytes = this.#end - this.#start - dataAt;
    if (transaction.openPipe === null || thereBytes > PUT_BYTES_MAX || thereBytes >= transaction.length) {
      return false;
    }
    if (this.#connection.moveNow === undefined) return false;
    const pipe = transaction.openPipe();
    if (pipe === null) return false;
    const piping = { pipe, headBytes: pipe.heldBytes, transaction, complete };
    const there = this.#received.subarray(this.#start + dataAt, this.#end);
    this.#piping = piping;
    this.#start = this.#end;
    if (thereBytes > 0) this.#put(piping, there);
    return true;
  }

  /** Ends a READ with data that are all in the buffer. @returns `false` if they are not. */
  #show(transaction: Transaction, dataAt: number, complete: () => void): boolean {
    const replyBytes = dataAt + transaction.length;
    if (this.#end - this.#start < replyBytes) {
      this.#awaitedBytes = replyBytes;
      return false;
    }
    transaction.shown = this.#received.subarray(this.#start + dataAt, this.#start + replyBytes);
    this.#start += replyBytes;
    complete();
    return true;
  }

  /** Takes in a payload that is all there. */
  #takePayload(
    transaction: Transaction,
    type: number,
    view: DataView,
    at: number,
    payloadBytes: number,
  ): void {
    if (type === ChunkType.OFFSET_HOLE) {
      const { offset, length } = decodeHolePayload(view, at, transaction);
      const from = offset - transaction.offset;
      claim(transaction, from, length);
      placeOf(transaction).fill(0, from, from + length);
    } else if (type === ChunkType.BLOCK_STATUS || type === ChunkType.BLOCK_STATUS_EXT) {
      const { extended, contexts } = this.agreement;
      const status = decodeBlockStatusPayload(view, at, extended, payloadBytes, transaction);
      const { contextId, extents } = status;
      const context = contexts.find(({ id }) => id === contextId);
      if (context === undefined) {
        throw new WireError(`status of metadata context ${contextId}, which was not agreed`);
      }
      if (transaction.statuses.has(context.name)) {
        throw new WireError(`second status of metadata context ${printable(context.name)}`);
      }
      transaction.statuses.set(context.name, extents);
    } else if ((type & CHUNK_ERROR_BIT) !== 0) {
      const { error, text } = decodeErrorPayload(view, at, type, payloadBytes, transaction);
      const detail = text === "" ? undefined : `the server says "${printable(text)}"`;
      transaction.failure ??= { errno: errnoName(error), detail };
    }
  }

  /** The last word of the server on a transaction. */
  #finish(cookie: bigint, transaction: Transaction): void {
    const { failure } = transaction;
    if (failure === null) {
      const isRead = transaction.type === Command.READ && transaction.shown === null &&
        transaction.piped === null;
      if (isRead && !transaction.coverage?.isComplete(transaction.length)) {
        throw new WireError(`READ of ${transaction.length} bytes succeeded with some missing`);
      }
      if (isRead) transaction.shown = placeOf(transaction);
      if (transaction.type === Command.READ) this.#lastPiped = transaction.piped !== null;
      if (transaction.type === Command.BLOCK_STATUS && transaction !== this.#probe) {
        for (const { name } of this.agreement.contexts) {
          if (transaction.statuses.has(name)) continue;
          throw new WireError(`no status of metadata context ${printable(name)}`);
        }
      }
    }
    this.#settle(cookie, transaction);
    if (transaction === this.#probe) {
      this.#probe = null;
      return;
    }
    if (transaction instanceof JoinedRead) this.#handOut(transaction);
    else if (this.#payloadOf === transaction) this.#early = failure;
    else this.#answer(transaction, failure);
  }

  /** Forgets what was sent. */
  #settle(cookie: bigint, transaction: Transaction): void {
    this.#unanswered.delete(cookie);
    this.#unansweredBytes -= dataBytes(transaction);
    if (this.#witness !== null && cookie >= this.#witness.cookie) {
      this.#answeredSentMs = this.#witness.sentMs;
      this.#witness = null;
    }
    if (this.#queue.length > 0) this.#sendSoon();
  }

  /** Gives the parts of a READ what has come in several pieces; those of one that failed are asked for one by one. */
  #handOut(joined: JoinedRead): void {
    const { failure, offset, shown, parts } = joined;
    // A bad block says nothing of the length.
    if (failure !== null && failure.errno !== "EIO") this.#joiner.stop();
    for (const part of parts.splice(0)) {
      if (failure === null) {
        const at = part.offset - offset;
        part.shown = shown!.subarray(at, at + part.length);
        this.#answer(part, null);
      } else {
        this.#queue.push(part);
        this.#sendSoon();
      }
    }
  }

  #answer(transaction: Transaction, failure: Failure | null): void {
    if (this.#joiner.takes(transaction)) {
      this.#joiner.answered(transaction, this.#now);
      if (this.#joiner.isReady) this.#sendSoon();
    }
    this.#owner.answered(this, transaction, failure);
  }
}

/** Bytes that count in a {@linkcode ProbeWindow}. */
function dataBytes({ type, length }: Transaction): number {
  return type === Command.READ || type === Command.WRITE ? length : 0;
}

/** What the server said about probes, if we can send one. */
function probeWindow(agreement: ClientAgreement): ProbeWindow | null {
  const offered = (agreement.transmissionFlags & TransmissionFlag.BLOCK_STATUS_PAYLOAD) !== 0;
  return offered && agreement.extended ? denbdFacts(agreement).window ?? null : null;
}

/** Whether it is a READ whose data are shown in the receive buffer, behind so many bytes of a reply. */
function isShown({ type, buffer, length }: Transaction, dataAt: number): boolean {
  return type === Command.READ && buffer === null && dataAt + length <= SHOWN_BYTES_MAX;
}

/** Where the data of a READ go. */
function placeOf(transaction: Transaction): Uint8Array {
  return transaction.buffer ?? (transaction.place ??= new Uint8Array(transaction.length));
}

function claim(transaction: Transaction, from: number, length: number): void {
  transaction.coverage ??= new Coverage();
  if (!transaction.coverage.claim(from, length)) {
    throw new WireError(`data of ${length} bytes at ${transaction.offset + from} that came before`);
  }
}

function whole(length: number): Coverage {
  const coverage = new Coverage();
  coverage.claim(0, length);
  return coverage;
}
