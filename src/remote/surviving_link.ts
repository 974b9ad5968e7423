/**
 * Connections to one export that come back: the carrier of a disk that sees at most a pause.
 *
 * Every request stays in a table until it is answered. When a connection is lost, all of them are given up, new
 * ones are made with growing pauses, the export is compared with what it was, and what is unanswered is sent
 * again. Overlapping requests are never with a server together, so sending again does no harm.
 *
 * Writes that were answered and not flushed may be gone with a server that crashed. A sole writer keeps them and
 * writes them again before anything else happens, as does a session for which a denbd server has reserved the export
 * all the while; otherwise the next flush fails, because nobody can tell. A denbd server says whether it is still the
 * same process, which has lost nothing; with a server of others every lost connection counts as a crash.
 *
 * A denbd server is told the session, and has done with what it received on old connections before it serves new
 * ones. No other server can be made to forget that.
 */
import { type Log, silentLog } from "../base/log.ts";
import { printable } from "../base/printable.ts";
import type { DiskIdentity } from "../device/device.ts";
import type { ErrnoName } from "../device/device_error.ts";
import { type Clock, systemClock } from "../os/clock.ts";
import { Command } from "../wire/nbd/constants.ts";
import { type DenbdFacts, sessionLabel } from "../wire/nbd/denbd_context.ts";
import { MovedError } from "../wire/nbd/moved_error.ts";
import { Backoff } from "./backoff.ts";
import { KnownDisk } from "./known_disk.ts";
import type { LinkStatus } from "./link_status.ts";
import type { Carrier } from "./nbd.ts";
import type { ConnectionOwner, NbdConnection } from "./connection/nbd_connection.ts";
import { denbdFacts, type ExportFacts } from "./nbd_export.ts";
import { type Failure, Transaction } from "./connection/nbd_transaction.ts";
import type { OpenedConnection } from "./open_connection.ts";
import type { Patience } from "./connection/signs_of_life.ts";
import { STALL_MS, type SurvivalOptions } from "./survival_options.ts";
import { Unanswered, type UnansweredOwner } from "./unanswered.ts";
import { Unflushed } from "./unflushed.ts";
import { Whereabouts } from "./whereabouts.ts";

/** What a sole writer keeps for writing again; half of it asks for a flush, all of it holds up further changes. */
const REPLAY_BYTES_MAX = 64 * 1024 * 1024;

/** Errors that no server tells: what failed with them says nothing about the disk. */
const OWN_ERRORS: readonly ErrnoName[] = ["ETIMEDOUT", "ESHUTDOWN"];

/** Marks a transaction of our own that the connection took with it. */
const LOST = new Error("the connection was lost");

/** What is behind the addresses is not the disk as it was. */
class ChangedError extends Error {}

export class SurvivingLink implements Carrier, ConnectionOwner, UnansweredOwner {
  readonly #options: SurvivalOptions;
  readonly #disk: KnownDisk;
  readonly #whereabouts: Whereabouts;
  readonly #connectionCount: number;
  readonly #patience: Patience;
  readonly #replayBytesMax: number;
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #backoff: Backoff;

  readonly #connections = new Set<NbdConnection>();
  readonly #unanswered: Unanswered;
  readonly #unflushed = new Unflushed();
  /** Requests go out as they come. */
  #up = true;
  #reconnecting = false;
  /** By the clock, when the present or last outage began. */
  #lostAtMs = 0;
  /** Changes that wait for a flush of ours because too much is kept. */
  #held: Transaction[] = [];
  #ownFlush: Transaction | null = null;
  #end: Failure | null = null;
  readonly #closing = new AbortController();

  #peerText: string;
  #protection: string;
  #trouble: string | null = null;
  #reconnects = 0;
  #resent = 0;
  readonly #traffic = { requests: 0, errors: 0, readBytes: 0, writtenBytes: 0 };

  /** @param opened At least one connection, all of the same export. */
  constructor(opened: readonly OpenedConnection[], options: SurvivalOptions) {
    const [first] = opened;
    this.#options = options;
    this.#log = options.log ?? silentLog;
    this.#clock = options.clock ?? systemClock;
    this.#backoff = new Backoff(options.random ?? Math.random);
    this.#disk = new KnownDisk(first.agreement);
    this.#whereabouts = new Whereabouts(options, this.#clock);
    this.#unanswered = new Unanswered(this, this.#clock, options.deadlineMs ?? Infinity);
    this.#connectionCount = opened.length;
    this.#peerText = first.peerText;
    this.#protection = first.protection;
    this.#patience = { stallMs: options.stallMs ?? STALL_MS, silenceMs: options.silenceMs ?? Infinity };
    this.#replayBytesMax = options.replayBytesMax ?? REPLAY_BYTES_MAX;
    for (const each of opened) this.#connections.add(each.start(this, this.#patience, this.#options.joining));
  }

  get facts(): ExportFacts {
    return this.#disk.facts;
  }

  get extended(): boolean {
    return this.#disk.extended;
  }

  /** How often connections were made anew. */
  get reconnects(): number {
    return this.#reconnects;
  }

  /** How many requests were sent again. */
  get resent(): number {
    return this.#resent;
  }

  /** Bytes kept to be written again, roughly. */
  get replayBytes(): number {
    return this.#unflushed.keptBytes;
  }

  get status(): LinkStatus {
    const { instance = null, identity = null, reservation } = this.#disk.denbd;
    const { session } = this.#whereabouts;
    const failed = this.#end !== null && this.#end.errno !== "ESHUTDOWN";
    return {
      state: failed ? "failed" : this.#end !== null ? "closed" : this.#up ? "connected" : "reconnecting",
      peer: this.#peerText,
      protection: this.#protection,
      trouble: failed ? this.#end!.detail ?? null : this.#trouble,
      connections: this.#connections.size,
      reconnects: this.#reconnects,
      attempts: this.#whereabouts.attempts,
      ...this.#traffic,
      resent: this.#resent,
      unanswered: this.#unanswered.size,
      instance,
      identity,
      session: session === null ? null : { ...session, id: sessionLabel(session.id) },
      fenced: this.#isFenced,
      reserved: reservation !== undefined,
      soleWriter: this.#isSoleWriter,
      replayBytes: this.#unflushed.keptBytes,
      replayed: this.#unflushed.replayed,
      doubt: this.#unflushed.doubt,
      lastDoubt: this.#unflushed.lastDoubt,
    };
  }

  /**
   * Whether nobody else can have changed the disk since we had it last: by the operator's word, because it is read-only
   * for everybody, or because the server cannot have given the reservation to anybody. It keeps that for a while after
   * it has lost sight of us, and when it answered what it answered last it had not.
   */
  get isAlone(): boolean {
    if (this.#isSoleWriter) return true;
    const { reservation, leaseMs, othersWrite } = this.#disk.denbd;
    if (!this.facts.can.write) return othersWrite !== true;
    if (!this.#up || reservation === undefined || leaseMs === undefined) return false;
    const nowMs = this.#clock.now();
    for (const { answeredSentMs } of this.#connections) if (nowMs - answeredSentMs < leaseMs) return true;
    return false;
  }

  get identity(): DiskIdentity | undefined {
    const { identity } = this.#disk.denbd;
    return identity === undefined ? undefined : { ...identity, durable: true };
  }

  submit(transaction: Transaction): void {
    if (this.#end !== null) return transaction.fail(this.#end);
    this.#unanswered.add(transaction);
    if (!this.#up) return;
    if (transaction.changesDisk && this.#unflushed.keptBytes >= this.#replayBytesMax) {
      this.#held.push(transaction);
      this.#flushEarly();
    } else {
      this.#send(transaction);
    }
  }

  async close(): Promise<void> {
    this.#finish({ errno: "ESHUTDOWN", detail: "the disk was closed" });
    await Promise.all([...this.#connections].map((connection) => connection.disconnect()));
  }

  answered(_connection: NbdConnection, transaction: Transaction, failure: Failure | null): void {
    // A transaction of our own that is not among them belongs to what is written again.
    if (this.#unanswered.has(transaction)) {
      if (failure?.errno === "ESHUTDOWN") {
        for (const connection of this.#connections) void connection.disconnect();
        return;
      }
      this.#backoff.reset();
      this.#unanswered.remove(transaction);
      this.#count(transaction, failure);
      if (failure === null) this.#noteSuccess(transaction);
    }
    if (failure === null) transaction.succeed();
    else transaction.fail(failure);
  }

  #count({ type, length }: Transaction, failure: Failure | null): void {
    this.#traffic.requests++;
    if (failure !== null) this.#traffic.errors++;
    else if (type === Command.READ) this.#traffic.readBytes += length;
    else if (type === Command.WRITE) this.#traffic.writtenBytes += length;
  }

  ended(connection: NbdConnection, unanswered: Transaction[], reason: Error): void {
    this.#connections.delete(connection);
    this.#up = false;
    this.#held = [];
    for (const transaction of unanswered) {
      if (!this.#unanswered.has(transaction)) transaction.fail({ errno: "EIO", cause: LOST });
    }
    if (this.#options.strict === true && !this.#isFenced && unanswered.some((each) => each.changesDisk)) {
      this.#giveUp(
        `the connection to ${this.#peerText} was lost, and what it carried may still be executed: ` +
          "the server knows no sessions, and --strict forbids to send it again",
      );
    }
    // What went out on the others is not worth telling apart: all of it starts afresh.
    for (const other of this.#connections) other.close(reason);
    if (this.#connections.size > 0) return;
    this.#unanswered.expireLate();
    if (this.#end !== null) this.#failAll(this.#end);
    else if (!this.#reconnecting) void this.#reconnect(reason);
  }

  #send(transaction: Transaction): void {
    if (transaction.type === Command.FLUSH) {
      if (this.#unflushed.doubt !== null && transaction !== this.#ownFlush) {
        return this.#reportDoubt([transaction]);
      }
      this.#unflushed.flushSent(transaction);
    }
    this.#leastBusy()!.submit(transaction);
  }

  /** Fails flushes that would have covered what may be lost. */
  #reportDoubt(flushes: readonly Transaction[]): void {
    if (flushes.length === 0) return;
    const detail = this.#unflushed.tellDoubt();
    if (detail === null) return;
    for (const flush of flushes) {
      this.#unanswered.remove(flush);
      flush.fail({ errno: "EIO", detail });
    }
  }

  #leastBusy(): NbdConnection | null {
    let best: NbdConnection | null = null;
    for (const connection of this.#connections) {
      if (best === null || connection.unansweredCount < best.unansweredCount) best = connection;
    }
    return best;
  }

  // --- What may be lost ---

  #noteSuccess(transaction: Transaction): void {
    const keep = this.facts.can.flush && (this.#isSoleWriter || this.#disk.denbd.reservation !== undefined);
    this.#unflushed.succeeded(transaction, keep);
    const crowded = this.#unflushed.keptBytes > this.#replayBytesMax / 2;
    if (crowded && transaction.changesDisk && !transaction.isDurable) this.#flushEarly();
  }

  /** By the operator's word. */
  get #isSoleWriter(): boolean {
    return this.#options.soleWriter === true;
  }

  /** Makes room in what is kept. */
  #flushEarly(): void {
    if (this.#ownFlush !== null) return;
    const flush = this.#ownFlush = new Transaction(Command.FLUSH, 0, 0, 0, null);
    flush.settled = (error) => {
      this.#ownFlush = null;
      // A server may tell of a failure once only; who asks next has to hear of it.
      if (error !== null && !OWN_ERRORS.includes(error.errno) && this.#unflushed.doubt === null) {
        this.#unflushed.raiseDoubt(error.message);
      }
      const held = this.#held;
      this.#held = [];
      if (this.#up) { for (const transaction of held) this.#send(transaction); }
    };
    this.submit(flush);
  }

  // --- Coming back ---

  async #reconnect(reason: Error): Promise<void> {
    this.#reconnecting = true;
    this.#lostAtMs = this.#clock.now();
    this.#trouble = reason.message;
    this.#log.warn(`lost the connection to ${this.#peerText}: ${reason.message}`);
    let told = "";
    // A connection may be lost again before this has noticed that it was there.
    for (let attempt = 0; this.#end === null && !this.#up; attempt++) {
      await Promise.all([...this.#connections].map((connection) => connection.disconnect()));
      // All addresses are tried before a pause.
      if (attempt % this.#whereabouts.addressCount === 0) await this.#pause(this.#backoff.next());
      if (this.#end !== null) break;
      try {
        await this.#comeBack();
      } catch (error) {
        let { message } = error as Error;
        // Another address may still have the right one.
        if (error instanceof ChangedError && this.#whereabouts.addressCount === 1) {
          this.#giveUp(message);
          break;
        }
        if (error instanceof MovedError) {
          const whyNot = this.#follow(error);
          if (whyNot === null) continue;
          message = `the disk has moved to ${printable(error.moved.to)}, which is not followed: ${whyNot}`;
        }
        if (message !== told && this.#end === null) this.#log.warn(`cannot reconnect: ${message}`);
        told = message;
        this.#trouble = message;
        this.#whereabouts.turn();
      }
    }
    this.#reconnecting = false;
  }

  async #pause(ms: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#closing.signal.addEventListener("abort", () => resolve(), { once: true });
    using _timer = this.#clock.timer(ms, resolve);
    await promise;
  }

  /** One attempt, after which requests go out, or all use has ended. @throws If there is no connection. */
  async #comeBack(): Promise<void> {
    const opened = await this.#whereabouts.open(this.#connectionCount, this.#closing.signal);
    let facts: DenbdFacts;
    try {
      facts = this.#recognise(opened);
    } catch (error) {
      for (const each of opened) each.close();
      throw error;
    }
    if (this.#end !== null) {
      for (const each of opened) each.close();
      return;
    }
    if (!this.#disk.provesContent(facts, this.#isSoleWriter)) this.#options.contentMayHaveChanged?.();
    const connections = opened.map((each) => each.start(this, this.#patience, this.#options.joining));
    for (const connection of connections) this.#connections.add(connection);
    // What had been answered before the disk moved went with it, and was made durable there.
    if (this.#whereabouts.holdsAll) this.#unflushed.forgetAll();
    else if (!this.#disk.isSameInstance(facts)) await this.#restore(facts);
    if (this.#end !== null) return;
    if (this.#connections.size < connections.length) {
      // Lost again: nothing goes out before the last of these has ended.
      // Without a goodbye, which would end the session.
      const again = new Error("the connection was lost again at once");
      for (const connection of this.#connections) connection.close(again);
      await Promise.all([...this.#connections].map((connection) => connection.disconnect()));
      throw again;
    }
    this.#disk.denbd = facts;
    this.#peerText = opened[0].peerText;
    this.#protection = opened[0].protection;
    this.#whereabouts.found();
    this.#sendAgain();
  }

  /** @returns What the server says of itself. @throws If this is not the disk, or not all of it the same server. */
  #recognise(opened: readonly OpenedConnection[]): DenbdFacts {
    const facts = opened.map(({ agreement }) => denbdFacts(agreement));
    if (!facts.every((each) => this.#whereabouts.isProvenBy(each, this.#disk.denbd))) {
      throw new Error("nothing proves that the disk has come there");
    }
    for (const { agreement, peerText } of opened) {
      const changed = this.#disk.whatChanged(agreement);
      if (changed !== null) throw new ChangedError(`${peerText} came back, but ${changed}`);
    }
    if (facts.some(({ instance }) => instance !== facts[0].instance)) {
      throw new Error("the server restarted meanwhile");
    }
    return facts[0];
  }

  #sendAgain(): void {
    this.#trouble = null;
    this.#reconnects++;
    this.#resent += this.#unanswered.size;
    // As loud as the loss was: who reads of that wants to know when it was over.
    this.#log.warn(`reconnected to ${this.#peerText} after ${this.#outage()}`);
    this.#up = true;
    const unanswered = this.#unanswered.all();
    const asks = (transaction: Transaction) =>
      transaction.type === Command.FLUSH && transaction !== this.#ownFlush;
    this.#reportDoubt(unanswered.filter(asks));
    for (const transaction of unanswered) if (this.#unanswered.has(transaction)) this.#send(transaction);
  }

  /** How long there was no connection, and what waited for it. */
  #outage(): string {
    const seconds = ((this.#clock.now() - this.#lostAtMs) / 1000).toFixed(1);
    const count = this.#unanswered.size;
    if (count === 0) return `${seconds} s`;
    return `${seconds} s; ${count === 1 ? "1 request is" : `${count} requests are`} sent again`;
  }

  get #isFenced(): boolean {
    return this.#disk.denbd.session !== undefined;
  }

  /** The disk has moved: it is looked for there from now on. @returns Or why it is not. */
  #follow(error: MovedError): string | null {
    const whyNot = this.#whereabouts.follow(error, this.#disk.denbd);
    if (whyNot !== null) return whyNot;
    const { to } = error.moved;
    this.#log.warn(`the disk has moved from ${this.#peerText} to ${printable(to)}: following`);
    this.#peerText = to;
    this.#backoff.reset();
    return null;
  }

  /** Makes good what the server may have lost, or notes that it cannot be known. */
  async #restore(facts: DenbdFacts): Promise<void> {
    if (this.#unflushed.isEmpty) return;
    if (!this.#isSoleWriter && !this.#disk.keptReservation(facts)) {
      const ended = this.#disk.denbd.reservation === undefined ? "" : " and its reservation has ended";
      this.#unflushed.raiseDoubt(
        `the connection to ${this.#peerText} was lost${ended}; writes since the flush before may be, too`,
      );
      this.#unflushed.forgetAll();
      return;
    }
    try {
      await this.#unflushed.writeAgain((transaction) => this.#perform(transaction), this.facts.can.zero);
    } catch (error) {
      if ((error as Error).cause === LOST || this.#end !== null) return;
      // The server is there and refuses. Nothing else can be done for these writes.
      const { message } = error as Error;
      const doubt = `writes that ${this.#peerText} may have lost could not be repeated: ${message}`;
      this.#unflushed.raiseDoubt(doubt);
      this.#log.error(doubt);
    }
    if (this.#connections.size > 0) this.#unflushed.forgetAll();
  }

  /** Performs a transaction of our own, before all others. */
  #perform(transaction: Transaction): Promise<void> {
    return new Promise((resolve, reject) => {
      transaction.settled = (error) => error === null ? resolve() : reject(error);
      const connection = this.#leastBusy();
      if (connection === null) transaction.fail({ errno: "EIO", cause: LOST });
      else connection.submit(transaction);
    });
  }

  // --- Endings ---

  isOut(transaction: Transaction): boolean {
    return this.#up && !this.#held.includes(transaction);
  }

  late(): void {
    const limitMs = this.#options.deadlineMs!;
    for (const connection of this.#connections) {
      connection.close(new Error(`no answer for ${limitMs / 1000} s`));
    }
  }

  expired(transaction: Transaction): void {
    this.#held = this.#held.filter((other) => other !== transaction);
    transaction.fail({ errno: "ETIMEDOUT", detail: `no answer from ${this.#peerText}` });
  }

  /** There is nothing to come back to. */
  #giveUp(detail: string): void {
    if (this.#end !== null) return;
    this.#log.error(detail);
    this.#finish({ errno: "EIO", detail });
  }

  /** Ends all use. What is unanswered fails when no connection can deliver it any more. */
  #finish(failure: Failure): void {
    if (this.#end !== null) return;
    this.#end = failure;
    this.#closing.abort(new Error(failure.detail));
    this.#unanswered.stop();
    if (this.#connections.size === 0) this.#failAll(failure);
  }

  #failAll(failure: Failure): void {
    const left = this.#unanswered.all();
    for (const transaction of left) this.#unanswered.remove(transaction);
    for (const transaction of left) transaction.fail(failure);
  }
}
