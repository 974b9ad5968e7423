/**
 * A disk of any NBD server as the destination. With another denbd it changes hands in two steps; with other servers in
 * flexnbd's way: everything is written, and a DISCONNECT says that the data are the server's from then on. A connection
 * that ends otherwise says that they are not.
 *
 * @see spec: flexnbd sections 12 and 13
 */
import type { BlockDevice } from "../device/device.ts";
import { DialError } from "../net/dial.ts";
import { ConversationCutError } from "../net/converse.ts";
import { type Clock, delay } from "../os/clock.ts";
import { NbdDisk } from "../remote/nbd.ts";
import type { ConnectionOwner, NbdConnection } from "../remote/connection/nbd_connection.ts";
import { denbdFacts, type ExportFacts, exportFacts } from "../remote/nbd_export.ts";
import type { Failure, Transaction } from "../remote/connection/nbd_transaction.ts";
import { type Dial, openConnection, type OpenedConnection } from "../remote/open_connection.ts";
import { BASE_ALLOCATION } from "../wire/nbd/constants.ts";
import { DENBD_NAMESPACE } from "../wire/nbd/denbd_context.ts";
import { CRC32_CONTEXT, decodeMigrationAnswer, type MigrationAnswer } from "../wire/nbd/migration_message.ts";
import { RefusedError } from "../wire/nbd/refused_error.ts";
import { WireError } from "../wire/wire_error.ts";
import { type DataLine, DenbdAttempt } from "./denbd_attempt.ts";
import { type Attempt, AttemptFailure, type Destination } from "./handover.ts";
import type { SourceOwnership } from "./source_ownership.ts";

/** For a connection, and for the server to greet and agree; as flexnbd has them. */
const CONNECT_MS_MAX = 15_000;
const HELLO_MS_MAX = 5000;
/** For the server to close after the DISCONNECT. */
const FAREWELL_MS_MAX = 10_000;

export interface NbdDestinationOptions {
  /** For people. */
  readonly text: string;
  readonly dial: Dial;
  /** "" is the server's default export. */
  readonly exportName: string;
  /** Exactly what the destination must have. */
  readonly sizeBytes: number;
  /** Of the disk that moves, to find out that the destination is the same. */
  readonly identity?: { readonly uuid: string };
  /** Whether a server with this instance is this program, for the same reason. */
  readonly isOurs?: (instance: string) => boolean;
  readonly clock: Clock;
  /** Of the disk that moves: with another denbd it changes hands in two steps. Default: a goodbye says it all. */
  readonly ownership?: SourceOwnership;
}

export class NbdDestination implements Destination {
  readonly text: string;
  readonly #options: NbdDestinationOptions;

  constructor(options: NbdDestinationOptions) {
    this.text = options.text;
    this.#options = options;
  }

  async begin(signal: AbortSignal): Promise<Attempt> {
    const { ownership, clock } = this.#options;
    if (ownership === undefined) return new NbdAttempt(await this.#connect(signal, []), clock);
    let carrier: Courier;
    const answer = await ownership.announce(async (query) => {
      carrier = await this.#connect(signal, [query, CRC32_CONTEXT]);
      return carrier.answer;
    });
    if (answer === null) return new NbdAttempt(carrier!, clock);
    if (answer.is === "fresh" || answer.is === "resume") {
      signal.addEventListener("abort", () => void ownership.release(), { once: true });
      return new DenbdAttempt(carrier!, ownership, answer.is === "resume");
    }
    const { why, reason } = answer.is === "refused"
      ? answer
      : { why: "policy", reason: `it is ${answer.is}` };
    const failure = new AttemptFailure(why === "size" ? "size" : "rejected", reason);
    carrier!.cut(failure);
    throw failure;
  }

  /** @throws {AttemptFailure} */
  async #connect(signal: AbortSignal, queries: readonly string[]): Promise<Courier> {
    const opened = await this.#open(signal, queries);
    const carrier = new Courier(opened);
    try {
      this.#check(opened, carrier.facts);
    } catch (error) {
      carrier.cut(error as Error);
      throw error;
    }
    return carrier;
  }

  /** @throws {AttemptFailure} */
  async #open(signal: AbortSignal, queries: readonly string[]): Promise<OpenedConnection> {
    const { dial, exportName, clock } = this.#options;
    const late = new AbortController();
    let timer = clock.timer(CONNECT_MS_MAX, () => {
      late.abort(new AttemptFailure("connect", `no connection within ${CONNECT_MS_MAX / 1000} s`));
    });
    try {
      return await openConnection(
        async (dialSignal) => {
          const connection = await dial(dialSignal);
          timer[Symbol.dispose]();
          timer = clock.timer(HELLO_MS_MAX, () => {
            late.abort(new AttemptFailure("silent", `no greeting within ${HELLO_MS_MAX / 1000} s`));
          });
          return connection;
        },
        { exportName, contexts: [BASE_ALLOCATION, DENBD_NAMESPACE, ...queries] },
        AbortSignal.any([signal, late.signal]),
      );
    } catch (error) {
      signal.throwIfAborted();
      throw translated(error as Error);
    } finally {
      timer[Symbol.dispose]();
    }
  }

  /** @throws {AttemptFailure} */
  #check(opened: OpenedConnection, { sizeBytes, can }: ExportFacts): void {
    const wanted = this.#options.sizeBytes;
    const { instance, identity } = denbdFacts(opened.agreement);
    if (instance !== undefined && this.#options.isOurs?.(instance) === true) {
      throw new AttemptFailure("rejected", "the destination is this very server");
    }
    if (identity !== undefined && identity.uuid === this.#options.identity?.uuid) {
      throw new AttemptFailure("rejected", "the destination is the same disk");
    }
    if (sizeBytes !== wanted) {
      throw new AttemptFailure("size", `${sizeBytes} bytes there, ${wanted} here`);
    }
    if (!can.write) throw new AttemptFailure("rejected", "the destination is read-only");
  }
}

function translated(error: Error): AttemptFailure {
  if (error instanceof AttemptFailure) return error;
  if (error instanceof DialError) return new AttemptFailure("connect", error.message, { cause: error });
  if (error instanceof ConversationCutError || error instanceof WireError || error instanceof RefusedError) {
    return new AttemptFailure("rejected", error.message, { cause: error });
  }
  return new AttemptFailure("connect", error.message, { cause: error });
}

class NbdAttempt implements Attempt {
  readonly disk: BlockDevice;
  readonly resumes = false;
  readonly #courier: Courier;
  readonly #clock: Clock;

  constructor(courier: Courier, clock: Clock) {
    this.#courier = courier;
    this.#clock = clock;
    this.disk = new NbdDisk(courier);
  }

  get lost(): Promise<Error> {
    return this.#courier.over;
  }

  async finish(leave: () => Promise<void>): Promise<void> {
    const { connection, lost } = this.#courier;
    if (lost !== null) throw new AttemptFailure("broken", lost.message, { cause: lost });
    await leave();
    try {
      await connection.sayGoodbye();
    } catch (error) {
      const { message } = error as Error;
      throw new AttemptFailure("broken", `it could not be told to take over: ${message}`, { cause: error });
    }
    // Who took the DISCONNECT closes; who is slow to do so has taken it all the same.
    await Promise.race([this.#courier.over, delay(this.#clock, FAREWELL_MS_MAX)]);
    connection.close(new Error("the disk was handed over"));
  }

  async abandon(reason: Error): Promise<void> {
    this.#courier.cut(reason);
    await this.#courier.over;
  }
}

/** Carries requests over one connection, which is never left politely by itself: that would hand the disk over. */
class Courier implements DataLine, ConnectionOwner {
  readonly facts: ExportFacts;
  readonly extended: boolean;
  readonly sendsFiles: boolean;
  readonly connection: NbdConnection;
  /** What the server said to the announcement of the disk. */
  readonly answer: MigrationAnswer | null;
  /** Resolves when the connection is over. */
  readonly over: Promise<Error>;
  readonly #resolveOver: (reason: Error) => void;
  #failure: Failure | null = null;
  /** Why the connection is over. */
  lost: Error | null = null;

  constructor(opened: OpenedConnection) {
    this.facts = exportFacts(opened.agreement);
    this.extended = opened.agreement.extended;
    this.answer = decodeMigrationAnswer(opened.agreement.contexts.map(({ name }) => name));
    const { promise, resolve } = Promise.withResolvers<Error>();
    this.over = promise;
    this.#resolveOver = resolve;
    this.connection = opened.start(this);
    this.sendsFiles = this.connection.sendsFiles;
  }

  submit(transaction: Transaction): void {
    if (this.#failure !== null) return transaction.fail(this.#failure);
    this.connection.submit(transaction);
  }

  cut(reason: Error): void {
    this.connection.close(reason);
  }

  async close(): Promise<void> {
    this.cut(new Error("the disk was closed"));
    await this.over;
  }

  answered(_connection: NbdConnection, transaction: Transaction, failure: Failure | null): void {
    if (failure === null) transaction.succeed();
    else transaction.fail(failure);
  }

  ended(connection: NbdConnection, unanswered: Transaction[], reason: Error): void {
    const detail = `the connection to ${connection.peerText} is lost: ${reason.message}`;
    this.lost = reason;
    this.#failure = { errno: "EIO", detail, cause: reason };
    for (const transaction of unanswered) transaction.fail(this.#failure);
    this.#resolveOver(reason);
  }
}
