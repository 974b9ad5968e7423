/**
 * The transmission phase of one connection, the client's side: requests go in, and come back answered.
 *
 * The two halves know nothing of each other. Requests leave through a {@linkcode RequestSender}, their replies come in
 * through a {@linkcode ReplyReader}, and between them stand the {@linkcode SentRequests}. A server that breaks the
 * protocol ends the connection, because from there on no byte of it means anything.
 *
 * A connection never answers for the disk: what it could not finish goes back to its owner, who fails it or sends
 * it on another connection.
 *
 * @see NBD proto.md, "Transmission phase"
 */
import type { Connection } from "../../net/connection.ts";
import type { Clock } from "../../os/clock.ts";
import type { ClientAgreement } from "../../wire/nbd/handshake_client.ts";
import { JoinedRead } from "./joined_read.ts";
import type { Failure, Transaction } from "./nbd_transaction.ts";
import { Probe, probeWindow } from "./probe.ts";
import { JOIN_LIMITS, type JoinLimits } from "./read_joiner.ts";
import { ReplyReader } from "./reply_reader.ts";
import { RequestSender } from "./request_sender.ts";
import { SentRequests } from "./sent_requests.ts";
import { ENDLESS_PATIENCE, type Patience, SignsOfLife } from "./signs_of_life.ts";

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

export class NbdConnection {
  /** What was agreed in the handshake. */
  readonly agreement: ClientAgreement;
  readonly #connection: Connection;
  readonly #owner: ConnectionOwner;
  readonly #clock: Clock;
  readonly #sent: SentRequests;
  readonly #sender: RequestSender;
  readonly #reader: ReplyReader;
  readonly #life: SignsOfLife;

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
    patience: Patience = ENDLESS_PATIENCE,
    joining: JoinLimits = JOIN_LIMITS,
  ) {
    this.agreement = agreement;
    this.#connection = connection;
    this.#owner = owner;
    this.#clock = clock;
    const window = probeWindow(agreement);
    this.#sent = new SentRequests(clock, window, begunMs);
    this.#life = new SignsOfLife(clock, patience, window !== null, {
      owes: () => this.unansweredCount > 0,
      ask: () => window !== null && this.#ask(),
      gone: (reason) => this.close(reason),
    });
    const heard = () => this.#life.heard();
    this.#sender = new RequestSender(connection, agreement, this.#sent, clock, joining, {
      answered: (transaction, failure) => this.#owner.answered(this, transaction, failure),
      taken: heard,
      broke: (error) => this.close(error),
    });
    this.#reader = new ReplyReader(connection, agreement, rest, this.#sent, {
      heard,
      arrived: (part) => this.#answer(part, null),
      finished: (cookie, transaction) => this.#finish(cookie, transaction),
    });
    this.#ended = this.#run();
  }

  /** For messages. */
  get peerText(): string {
    return this.#connection.peer.text;
  }

  /** When a request was sent that has been answered, by the clock: until then at least the server had this connection. */
  get answeredSentMs(): number {
    return this.#sent.answeredSentMs;
  }

  /** Requests handed over and not answered. */
  get unansweredCount(): number {
    return this.#sender.waitingCount + this.#sent.count - (this.#life.isAsked ? 1 : 0);
  }

  /** Whether a WRITE may take its data from a file. */
  get sendsFiles(): boolean {
    return this.#connection.sendFile !== undefined;
  }

  /** Sends a request. Not to be called after {@linkcode ConnectionOwner.ended}, through which it may come back. */
  submit(transaction: Transaction): void {
    transaction.restart();
    // Nothing was owed until now.
    if (this.unansweredCount === 0) this.#life.heard();
    this.#sender.submit(transaction);
  }

  /**
   * Leaves politely, if the server is listening: sends a DISC, and closes. What is unanswered is given back.
   *
   * @returns When the connection is over.
   */
  async disconnect(): Promise<void> {
    if (!this.#leaving) {
      this.#leave();
      if (this.#endReason === null && !this.#sender.isWriting) await this.#leaveWord();
      this.close(new Error("the connection was closed"));
    }
    await this.#ended;
    await this.#connection.left;
  }

  async #leaveWord(): Promise<void> {
    const late = Promise.withResolvers<void>();
    using _timer = this.#clock.timer(GOODBYE_MS_MAX, late.resolve);
    try {
      await Promise.race([this.#sender.sayGoodbye(), late.promise]);
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
    this.#leave();
    await this.#sender.sayGoodbye();
  }

  #leave(): void {
    this.#leaving = true;
    this.#sender.stop();
  }

  /** Ends the connection at once. Idempotent; the owner hears of it when all buffers are at rest. */
  close(reason: Error): void {
    this.#endReason ??= reason;
    this.#life.stop();
    this.#sender.stop();
    this.#reader.stop();
    this.#connection.close();
  }

  async #run(): Promise<void> {
    try {
      // What came behind the handshake is looked at when the owner has got hold of the connection.
      await undefined;
      await this.#reader.run();
    } catch (error) {
      this.close(error as Error);
    }
    this.close(new Error("the server closed the connection"));
    this.#reader.close();
    await this.#sender.atRest;
    const left = [...this.#sent.takeAll(), ...this.#sender.takeAll()];
    const unanswered = left.flatMap((each) => each instanceof JoinedRead ? each.parts : [each])
      .filter((each) => !(each instanceof Probe));
    this.#owner.ended(this, unanswered, this.#endReason!);
  }

  /** Asks for a sign of life. @returns `false` if nothing more is said to the server. */
  #ask(): boolean {
    if (this.#leaving) return false;
    this.#sender.submitFirst(new Probe(this.agreement));
    return true;
  }

  /** The last word of the server on a transaction. */
  #finish(cookie: bigint, transaction: Transaction): void {
    const { failure } = transaction;
    this.#sent.settle(cookie, transaction);
    this.#sender.resume();
    if (transaction instanceof Probe) this.#life.answered();
    else if (transaction instanceof JoinedRead) this.#handOut(transaction);
    else if (!this.#sender.defers(transaction, failure)) this.#answer(transaction, failure);
  }

  /** Gives its parts what has come for all of them, or asks for them one by one. */
  #handOut(joined: JoinedRead): void {
    if (joined.failure !== null) return this.#sender.submitApart(joined);
    for (const part of joined.takeParts()) this.#answer(part, null);
  }

  #answer(transaction: Transaction, failure: Failure | null): void {
    this.#sender.noteAnswer(transaction);
    this.#owner.answered(this, transaction, failure);
  }
}
