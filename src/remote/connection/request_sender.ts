/**
 * The sending half of a connection: from requests that were handed over to bytes on their way.
 *
 * What is handed over in one turn of the event loop leaves in one write, and what comes while that is under way in the
 * next. Large READs of neighbouring ranges go out as one (see `read_joiner.ts`). A request waits here as long as the
 * server has no room for it.
 */
import type { Connection } from "../../net/connection.ts";
import type { Clock } from "../../os/clock.ts";
import { Command } from "../../wire/nbd/constants.ts";
import type { ClientAgreement } from "../../wire/nbd/handshake_client.ts";
import type { JoinedRead } from "./joined_read.ts";
import { exportFacts } from "../nbd_export.ts";
import { type Failure, Transaction } from "./nbd_transaction.ts";
import { Probe } from "./probe.ts";
import { type JoinLimits, ReadJoiner } from "./read_joiner.ts";
import { RequestBatch } from "./request_batch.ts";
import type { SentRequests } from "./sent_requests.ts";

/** A payload is handed to the transport in pieces, whose end is a sign of life. */
const PAYLOAD_PIECE_BYTES = 1024 * 1024;

/** How long a READ may wait for its neighbours, in milliseconds. */
const HELD_MS_MAX = 2;

/** Who hears from a sender. */
export interface SenderOwner {
  /** A request has left whose answer overtook its payload: see {@linkcode RequestSender.defers}. */
  answered(transaction: Transaction, failure: Failure | null): void;
  /** The transport has taken more. */
  taken(): void;
  /** Nothing more can be sent. */
  broke(error: Error): void;
}

export class RequestSender {
  readonly #connection: Connection;
  readonly #sent: SentRequests;
  readonly #clock: Clock;
  readonly #owner: SenderOwner;
  /** Reads that wait for their neighbours. */
  readonly #joiner: ReadJoiner;
  #hurry: Disposable | null = null;
  readonly #queue: Transaction[] = [];
  readonly #batch: RequestBatch;
  #sending: Promise<void> | null = null;
  /** Bytes are on their way out. */
  #writing = false;
  #stopped = false;
  /** Of the request whose payload is on its way: the answer that came too early. */
  #early: Failure | null | undefined;

  readonly #now = () => this.#clock.now();

  /** @param sent Is told what is sent, and says what the server has room for. */
  constructor(
    connection: Connection,
    agreement: ClientAgreement,
    sent: SentRequests,
    clock: Clock,
    joining: JoinLimits,
    owner: SenderOwner,
  ) {
    this.#connection = connection;
    this.#sent = sent;
    this.#clock = clock;
    this.#owner = owner;
    this.#batch = new RequestBatch(agreement.extended);
    const { maximumPayload } = exportFacts(agreement).blockSizes;
    const joinedBytesMax = Math.min(joining.joinedBytesMax, maximumPayload);
    this.#joiner = new ReadJoiner({ ...joining, joinedBytesMax });
  }

  /** Requests that have not been sent. */
  get waitingCount(): number {
    return this.#joiner.held.length + this.#queue.length;
  }

  /** Whether a write is under way, into which nothing may be said. */
  get isWriting(): boolean {
    return this.#writing;
  }

  /** Resolves when the transport reads no more bytes of ours; `null` if it reads none. */
  get atRest(): Promise<void> | null {
    return this.#sending;
  }

  submit(transaction: Transaction): void {
    if (this.#joiner.takes(transaction)) {
      this.#joiner.hold(transaction);
      if (!this.#joiner.isReady) return this.#hurryLater();
    } else {
      this.#queue.push(transaction);
    }
    this.#sendSoon();
  }

  /** Sends it before all others. */
  submitFirst(probe: Probe): void {
    this.#queue.unshift(probe);
    this.#sendSoon();
  }

  /** Sends what was joined, and failed, one by one. */
  submitApart({ failure, parts }: JoinedRead): void {
    // A bad block says nothing of the length.
    if (failure?.errno !== "EIO") this.#joiner.stop();
    this.#queue.push(...parts.splice(0));
    this.#sendSoon();
  }

  /** The server has room for more. */
  resume(): void {
    if (this.#queue.length > 0) this.#sendSoon();
  }

  /** The server has answered a request: that tells how long it takes. */
  noteAnswer(transaction: Transaction): void {
    if (!this.#joiner.takes(transaction)) return;
    this.#joiner.answered(transaction, this.#now);
    if (this.#joiner.isReady) this.#sendSoon();
  }

  /**
   * Keeps the answer to a request whose payload is still on its way, and in the hands of the transport, until it has
   * left.
   *
   * @returns `false` if it is no such request.
   */
  defers(transaction: Transaction, failure: Failure | null): boolean {
    if (this.#batch.followed !== transaction) return false;
    this.#early = failure;
    return true;
  }

  /** Sends a DISC, which has to be the last word. @throws {Error} If it could not be sent. */
  async sayGoodbye(): Promise<void> {
    this.#batch.clear();
    this.#batch.add(0n, new Transaction(Command.DISC, 0, 0, 0, null));
    const sent = this.#connection.write(this.#batch.bytes);
    if (sent !== undefined) await sent;
  }

  /** Begins no more writes. Idempotent. */
  stop(): void {
    this.#stopped = true;
  }

  /** Gives up what has not been sent. @returns All of it. */
  takeAll(): Transaction[] {
    this.#hurry?.[Symbol.dispose]();
    return [...this.#queue.splice(0), ...this.#joiner.held];
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

  async #send(): Promise<void> {
    try {
      while (!this.#stopped && this.#gather()) {
        const { bytes, followed } = this.#batch;
        // Whatever arrives meanwhile leaves with the next write.
        this.#writing = true;
        const file = followed?.file ?? null;
        const sent = file === null
          ? this.#connection.write(bytes)
          : this.#connection.sendFile!(bytes, file, followed!.offset, followed!.length);
        if (sent !== undefined) await sent;
        if (followed !== null) {
          if (file === null) await this.#sendPayload(followed.payload!);
          this.#payloadLeft();
        }
        this.#writing = false;
      }
    } catch (error) {
      this.#owner.broke(error as Error);
      this.#payloadLeft();
    } finally {
      this.#sending = null;
    }
  }

  /** Takes from the queue what leaves in one write. @returns Whether that is anything. */
  #gather(): boolean {
    const queue = this.#queue;
    queue.push(...this.#joiner.release(this.#now));
    this.#batch.clear();
    let taken = 0;
    while (taken < queue.length && this.#mayGo(queue[taken])) {
      const transaction = queue[taken++];
      this.#batch.add(this.#sent.add(transaction), transaction);
    }
    if (taken === queue.length) queue.length = 0;
    else queue.splice(0, taken);
    return taken > 0;
  }

  /** A probe may always go: room is left for it. */
  #mayGo(transaction: Transaction): boolean {
    return (this.#sent.hasRoomFor(transaction) || transaction instanceof Probe) &&
      this.#batch.hasRoomFor(transaction);
  }

  async #sendPayload(payload: Uint8Array): Promise<void> {
    for (let at = 0; at < payload.length; at += PAYLOAD_PIECE_BYTES) {
      const sent = this.#connection.write(payload.subarray(at, at + PAYLOAD_PIECE_BYTES));
      if (sent !== undefined) await sent;
      // The first piece may have gone no further than this machine.
      if (at > 0) this.#owner.taken();
      if (this.#stopped) throw new Error("the connection is over");
    }
  }

  /** The transport no longer reads the payload: an answer that came too early counts now. */
  #payloadLeft(): void {
    const { followed } = this.#batch;
    const early = this.#early;
    this.#batch.clear();
    this.#early = undefined;
    if (followed !== null && early !== undefined) this.#owner.answered(followed, early);
  }
}
