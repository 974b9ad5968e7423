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
import { type DenbdFacts, encodeSession, sessionLabel, type SessionName } from "../wire/nbd/denbd_context.ts";
import { MovedError } from "../wire/nbd/moved_error.ts";
import type { ClientWishes } from "../wire/nbd/handshake_client.ts";
import { Backoff } from "./backoff.ts";
import type { Carrier } from "./nbd.ts";
import type { ConnectionOwner, NbdConnection, Patience } from "./nbd_connection.ts";
import { denbdFacts, type ExportFacts, exportFacts } from "./nbd_export.ts";
import { type Failure, Transaction } from "./nbd_transaction.ts";
import { type Dial, openConnection, type OpenedConnection } from "./open_connection.ts";
import { type Remembered, ReplayMap } from "./replay_map.ts";

/** From dialling to the end of the handshake. */
const OPEN_MS_MAX = 15_000;
/** As `--stall`. */
export const STALL_MS = 30_000;
/** What a sole writer keeps for writing again; half of it asks for a flush, all of it holds up further changes. */
const REPLAY_BYTES_MAX = 64 * 1024 * 1024;

/** Errors that no server tells: what failed with them says nothing about the disk. */
const OWN_ERRORS: readonly ErrnoName[] = ["ETIMEDOUT", "ESHUTDOWN"];

/** Where a disk is to be looked for that has moved. */
export interface NewPlace {
  readonly dial: Dial;
  readonly exportName: string;
}

export interface SurvivalOptions {
  readonly dial: Dial;
  /** Further addresses of the same disk, tried in turn; {@linkcode dial} is the first. */
  readonly others?: readonly Dial[];
  readonly wishes: ClientWishes;
  /**
   * Decides whether a disk that has moved is followed there; a text: it is not, and why. The new place has to prove that
   * the disk came to it. Default: no disk is followed.
   *
   * @param to A URI, as the server told it.
   * @param authenticated The server has proven who it is.
   */
  readonly follow?: (to: string, authenticated: boolean) => NewPlace | string;
  /** A request that takes longer fails with ETIMEDOUT. Default: none does. */
  readonly deadlineMs?: number;
  /** Nobody else writes to the export, so what may be lost is written again. Default `false`. */
  readonly soleWriter?: boolean;
  /** As which the connections were opened, if the disk is to be written; later ones have higher generations. */
  readonly session?: SessionName;
  /**
   * Rather fail than send a change again to a server that may still execute it on the old connection: to one that
   * knows no sessions. Default `false`.
   */
  readonly strict?: boolean;
  /** Hears of a return to a server that does not prove that the content is what it was. Before anything is read. */
  readonly contentMayHaveChanged?: () => void;
  /** A denbd server that sends nothing for so long, and answers no probe, is left. Default {@linkcode STALL_MS}. */
  readonly stallMs?: number;
  /** Any server that neither sends nor takes anything for so long, and owes an answer, is left. Default: none is. */
  readonly silenceMs?: number;
  /** Default 64 MiB. */
  readonly replayBytesMax?: number;
  readonly log?: Log;
  readonly clock?: Clock;
  /** From 0 up to 1; for jitter. Default `Math.random`. */
  readonly random?: () => number;
}

/** For status. */
export interface LinkStatus {
  readonly state: "connected" | "reconnecting" | "failed" | "closed";
  /** The server: where it is, or was last. */
  readonly peer: string;
  /** What protects the connections: `none`, or see `Peer`. */
  readonly protection: string;
  /** Why it failed, or is not connected; `null` while all is well. */
  readonly trouble: string | null;
  readonly connections: number;
  readonly reconnects: number;
  /** How often a connection was tried for since there was one last. */
  readonly attempts: number;
  /** Answered, with an error or without. */
  readonly requests: number;
  readonly errors: number;
  readonly readBytes: number;
  readonly writtenBytes: number;
  /** Requests sent again. */
  readonly resent: number;
  readonly unanswered: number;
  /** Of the server, if it is denbd. */
  readonly instance: string | null;
  /** Of the disk, if the server keeps one. */
  readonly identity: { readonly uuid: string; readonly generation: number } | null;
  /** Its id is a label: whoever knows all of it can take its place. */
  readonly session: SessionName | null;
  /** Whether what old connections carried is over before new ones are served. */
  readonly fenced: boolean;
  /** Whether the server has reserved the disk for the session. */
  readonly reserved: boolean;
  readonly soleWriter: boolean;
  /** Bytes kept to be written again after a crash, roughly. */
  readonly replayBytes: number;
  /** Ranges written again after crashes. */
  readonly replayed: number;
  /** Why the next flush will fail; `null` if there is no reason. */
  readonly doubt: string | null;
  /** Why the last flush failed that had to tell of a doubt; `null` if none had. */
  readonly lastDoubt: string | null;
}

/** What is known of an unanswered request. */
interface Row {
  /** By the clock. */
  readonly deadlineMs: number;
  /** A flush covers what was answered before this epoch. */
  epoch: number;
}

export class SurvivingLink implements Carrier, ConnectionOwner {
  readonly facts: ExportFacts;
  readonly extended: boolean;
  readonly #options: SurvivalOptions;
  readonly #connectionCount: number;
  #dials: readonly Dial[];
  /** Which of them comes next. */
  #dialIndex = 0;
  #peerText: string;
  #protection: string;
  #attempts = 0;
  readonly #traffic = { requests: 0, errors: 0, readBytes: 0, writtenBytes: 0 };
  #trouble: string | null = null;
  #replayed = 0;
  #lastDoubt: string | null = null;
  #wishes: ClientWishes;
  /** The migration by which a disk that was followed has come to its new place; whether all that was answered is there. */
  #awaited: { readonly id: string; readonly epoch: number; readonly holdsAll: boolean } | null = null;
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #backoff: Backoff;
  readonly #deadlineMs: number;
  readonly #patience: Patience;
  readonly #replayBytesMax: number;

  /** All that is unanswered, in the order in which it came, which is that of the deadlines. */
  readonly #table = new Map<Transaction, Row>();
  readonly #connections = new Set<NbdConnection>();
  /** Requests go out as they come. */
  #up = true;
  #reconnecting = false;
  /** Changes that wait for a flush of ours because too much is remembered. */
  #held: Transaction[] = [];
  /** Too late: they fail as soon as their connection is closed. */
  readonly #expired = new Set<Transaction>();
  #timer: Disposable | null = null;

  /** Grows with every flush. */
  #epoch = 0;
  /** The epoch of the last change that was answered and no flush has covered, or -1. */
  #unflushedEpoch = -1;
  readonly #replay = new ReplayMap();
  #ownFlush: Transaction | null = null;
  /** What the next flush has to fail with. */
  #doubt: string | null = null;

  /** What a denbd server said last. */
  #denbd: DenbdFacts;
  /** Of the session. */
  #generation: number;

  #end: Failure | null = null;
  readonly #closing = new AbortController();
  #reconnects = 0;
  #resent = 0;

  /** @param opened At least one connection, all of the same export. */
  constructor(opened: readonly OpenedConnection[], options: SurvivalOptions) {
    const [first] = opened;
    this.#options = options;
    this.facts = exportFacts(first.agreement);
    this.extended = first.agreement.extended;
    this.#denbd = denbdFacts(first.agreement);
    this.#generation = options.session?.generation ?? 0;
    this.#connectionCount = opened.length;
    this.#dials = [options.dial, ...options.others ?? []];
    this.#peerText = first.peerText;
    this.#protection = first.protection;
    this.#wishes = options.wishes;
    this.#log = options.log ?? silentLog;
    this.#clock = options.clock ?? systemClock;
    this.#backoff = new Backoff(options.random ?? Math.random);
    this.#deadlineMs = options.deadlineMs ?? Infinity;
    this.#patience = { stallMs: options.stallMs ?? STALL_MS, silenceMs: options.silenceMs ?? Infinity };
    this.#replayBytesMax = options.replayBytesMax ?? REPLAY_BYTES_MAX;
    for (const each of opened) this.#connections.add(each.start(this, this.#patience));
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
    return this.#replay.bytes;
  }

  get status(): LinkStatus {
    const { session, soleWriter = false } = this.#options;
    const { instance = null, identity = null, reservation } = this.#denbd;
    const failed = this.#end !== null && this.#end.errno !== "ESHUTDOWN";
    return {
      state: failed ? "failed" : this.#end !== null ? "closed" : this.#up ? "connected" : "reconnecting",
      peer: this.#peerText,
      protection: this.#protection,
      trouble: failed ? this.#end!.detail ?? null : this.#trouble,
      connections: this.#connections.size,
      reconnects: this.#reconnects,
      attempts: this.#attempts,
      ...this.#traffic,
      resent: this.#resent,
      unanswered: this.#table.size,
      instance,
      identity,
      session: session === undefined ? null : { id: sessionLabel(session.id), generation: this.#generation },
      fenced: this.#isFenced,
      reserved: reservation !== undefined,
      soleWriter,
      replayBytes: this.#replay.bytes,
      replayed: this.#replayed,
      doubt: this.#doubt,
      lastDoubt: this.#lastDoubt,
    };
  }

  /**
   * Whether nobody else can have changed the disk since we had it last: by the operator's word, because it is read-only
   * for everybody, or because the server cannot have given the reservation to anybody. It keeps that for a while after
   * it has lost sight of us, and when it answered what it answered last it had not.
   */
  get isAlone(): boolean {
    if (this.#options.soleWriter === true) return true;
    if (!this.facts.can.write) return this.#denbd.othersWrite !== true;
    const { reservation, leaseMs } = this.#denbd;
    if (!this.#up || reservation === undefined || leaseMs === undefined) return false;
    const nowMs = this.#clock.now();
    for (const { answeredSentMs } of this.#connections) if (nowMs - answeredSentMs < leaseMs) return true;
    return false;
  }

  get identity(): DiskIdentity | undefined {
    const { identity } = this.#denbd;
    return identity === undefined ? undefined : { ...identity, durable: true };
  }

  submit(transaction: Transaction): void {
    if (this.#end !== null) return transaction.fail(this.#end);
    this.#table.set(transaction, { deadlineMs: this.#clock.now() + this.#deadlineMs, epoch: 0 });
    this.#armTimer();
    if (!this.#up) return;
    if (transaction.changesDisk && this.#replay.bytes >= this.#replayBytesMax) {
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
    const row = this.#table.get(transaction);
    // A transaction of our own that is not in the table belongs to the replay.
    if (row !== undefined) {
      if (failure?.errno === "ESHUTDOWN") {
        for (const connection of this.#connections) void connection.disconnect();
        return;
      }
      this.#backoff.reset();
      this.#table.delete(transaction);
      this.#expired.delete(transaction);
      this.#count(transaction, failure);
      if (failure === null) this.#noteSuccess(transaction, row);
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
      if (!this.#table.has(transaction)) transaction.fail({ errno: "EIO", cause: LOST });
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
    for (const transaction of this.#expired) this.#expire(transaction);
    this.#expired.clear();
    if (this.#end !== null) this.#failAll(this.#end);
    else if (!this.#reconnecting) void this.#reconnect(reason);
  }

  #send(transaction: Transaction): void {
    if (transaction.type === Command.FLUSH) {
      if (this.#doubt !== null && transaction !== this.#ownFlush) return this.#reportDoubt([transaction]);
      this.#table.get(transaction)!.epoch = ++this.#epoch;
    }
    this.#leastBusy()!.submit(transaction);
  }

  /** Fails flushes that would have covered what may be lost; after that, all is said. */
  #reportDoubt(flushes: readonly Transaction[]): void {
    if (this.#doubt === null || flushes.length === 0) return;
    const detail = this.#doubt;
    this.#doubt = null;
    this.#lastDoubt = detail;
    for (const flush of flushes) {
      this.#table.delete(flush);
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

  #noteSuccess(transaction: Transaction, row: Row): void {
    const { type, offset, length, buffer } = transaction;
    if (type === Command.FLUSH) {
      this.#replay.forgetBefore(row.epoch);
      if (this.#unflushedEpoch < row.epoch) this.#unflushedEpoch = -1;
      return;
    }
    if (!transaction.changesDisk) return;
    if (transaction.isDurable) return this.#replay.forget(offset, length);
    this.#unflushedEpoch = this.#epoch;
    if (!this.#isSoleWriter || !this.facts.can.flush) return;
    // What was trimmed may read as anything.
    if (type === Command.TRIM) this.#replay.forget(offset, length);
    else this.#replay.remember(offset, length, type === Command.WRITE ? buffer : null, this.#epoch);
    if (this.#replay.bytes > this.#replayBytesMax / 2) this.#flushEarly();
  }

  /** Whether what the server may lose can be written again. */
  get #isSoleWriter(): boolean {
    return this.#options.soleWriter === true || this.#denbd.reservation !== undefined;
  }

  /** Makes room in what is remembered. */
  #flushEarly(): void {
    if (this.#ownFlush !== null) return;
    const flush = this.#ownFlush = new Transaction(Command.FLUSH, 0, 0, 0, null);
    flush.settled = (error) => {
      this.#ownFlush = null;
      // A server may tell of a failure once only; who asks next has to hear of it.
      if (error !== null && !OWN_ERRORS.includes(error.errno)) this.#doubt ??= error.message;
      const held = this.#held;
      this.#held = [];
      if (this.#up) { for (const transaction of held) this.#send(transaction); }
    };
    this.submit(flush);
  }

  // --- Coming back ---

  async #reconnect(reason: Error): Promise<void> {
    this.#reconnecting = true;
    this.#trouble = reason.message;
    this.#log.warn(`lost the connection to ${this.#peerText}: ${reason.message}`);
    let told = "";
    // A connection may be lost again before this has noticed that it was there.
    for (let attempt = 0; this.#end === null && !this.#up; attempt++) {
      await Promise.all([...this.#connections].map((connection) => connection.disconnect()));
      // All addresses are tried before a pause.
      if (attempt % this.#dials.length === 0) await this.#pause(this.#backoff.next());
      if (this.#end !== null) break;
      try {
        await this.#comeBack();
      } catch (error) {
        let { message } = error as Error;
        if (error instanceof MovedError) {
          const whyNot = this.#follow(error);
          if (whyNot === null) continue;
          message = `the disk has moved to ${printable(error.moved.to)}, which is not followed: ${whyNot}`;
        }
        if (message !== told && this.#end === null) this.#log.warn(`cannot reconnect: ${message}`);
        told = message;
        this.#trouble = message;
        this.#dialIndex = (this.#dialIndex + 1) % this.#dials.length;
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
    const opened = await this.#open();
    if (!opened.every(({ agreement }) => this.#proves(denbdFacts(agreement)))) {
      for (const each of opened) each.close();
      throw new Error("nothing proves that the disk has come there");
    }
    const changed = opened.map((each) => this.#whatChanged(each)).find((what) => what !== null) ?? null;
    if (this.#end !== null || changed !== null) {
      for (const each of opened) each.close();
      if (changed === null) return;
      const detail = `${opened[0].peerText} came back, but ${changed}`;
      // Another address may still have the right one.
      if (this.#dials.length > 1) throw new Error(detail);
      return this.#giveUp(detail);
    }
    const facts = opened.map(({ agreement }) => denbdFacts(agreement));
    if (facts.some(({ instance }) => instance !== facts[0].instance)) {
      for (const each of opened) each.close();
      throw new Error("the server restarted meanwhile");
    }
    const isSameInstance = facts[0].instance !== undefined && facts[0].instance === this.#denbd.instance;
    if (!this.#provesContent(facts[0])) this.#options.contentMayHaveChanged?.();
    const connections = opened.map((each) => each.start(this, this.#patience));
    for (const connection of connections) this.#connections.add(connection);
    // What had been answered before the disk moved went with it, and was made durable there.
    if (this.#awaited?.holdsAll === true) this.#forgetAll();
    else if (!isSameInstance) await this.#restore(facts[0]);
    if (this.#end !== null) return;
    if (this.#connections.size < connections.length) {
      // Lost again: nothing goes out before the last of these has ended.
      // Without a goodbye, which would end the session.
      const again = new Error("the connection was lost again at once");
      for (const connection of this.#connections) connection.close(again);
      await Promise.all([...this.#connections].map((connection) => connection.disconnect()));
      throw again;
    }
    this.#denbd = facts[0];
    this.#peerText = opened[0].peerText;
    this.#protection = opened[0].protection;
    this.#attempts = 0;
    this.#trouble = null;
    this.#awaited = null;
    this.#reconnects++;
    this.#resent += this.#table.size;
    this.#log.info(`reconnected to ${this.#peerText}; ${this.#table.size} requests are sent again`);
    this.#up = true;
    const unanswered = [...this.#table.keys()];
    const asks = (transaction: Transaction) =>
      transaction.type === Command.FLUSH && transaction !== this.#ownFlush;
    this.#reportDoubt(unanswered.filter(asks));
    for (const transaction of unanswered) if (this.#table.has(transaction)) this.#send(transaction);
  }

  /** Whether the content is what it was, but for what we have changed. */
  #provesContent({ instance, identity, reservation }: DenbdFacts): boolean {
    const known = this.#denbd;
    if (reservation !== known.reservation) return false;
    if (reservation !== undefined || instance !== undefined && instance === known.instance) return true;
    return identity !== undefined && identity.uuid === known.identity?.uuid &&
      (this.#options.soleWriter === true || identity.generation === known.identity.generation);
  }

  get #isFenced(): boolean {
    return this.#denbd.session !== undefined;
  }

  /** The disk has moved: it is looked for there from now on. @returns Or why it is not. */
  #follow({ moved, authenticated, instance }: MovedError): string | null {
    if (moved.uuid !== this.#denbd.identity?.uuid) return "it is another disk";
    const place = this.#options.follow?.(moved.to, authenticated) ?? "nobody wanted that";
    if (typeof place === "string") return place;
    this.#log.info(`the disk has moved from ${this.#peerText} to ${printable(moved.to)}: following`);
    const { id, epoch, to } = moved;
    this.#dials = [place.dial];
    this.#dialIndex = 0;
    this.#wishes = { ...this.#wishes, exportName: place.exportName };
    this.#peerText = to;
    // A former owner that was started anew meanwhile may itself have lost what had been answered.
    const holdsAll = instance !== undefined && instance === this.#denbd.instance;
    this.#awaited = { id, epoch, holdsAll };
    this.#backoff.reset();
    return null;
  }

  /** Whether a server proves that a disk which was followed has come to it. */
  #proves({ arrived, identity }: DenbdFacts): boolean {
    const awaited = this.#awaited;
    if (awaited === null) return true;
    const isOurs = identity !== undefined && identity.uuid === this.#denbd.identity?.uuid;
    return isOurs && arrived?.id === awaited.id && arrived.epoch === awaited.epoch;
  }

  /** What keeps an export from being the one it was, or `null`. */
  #whatChanged({ agreement }: OpenedConnection): string | null {
    const identity = denbdFacts(agreement).identity;
    const known = this.#denbd.identity;
    if (known !== undefined && identity?.uuid !== known.uuid) {
      return `it is another disk: ${identity?.uuid ?? "it has no identity"} instead of ${known.uuid}`;
    }
    if (known !== undefined && identity!.generation < known.generation) {
      return `it is an older state of the disk: generation ${identity!.generation} after ${known.generation}`;
    }
    const [before, after] = [this.facts, exportFacts(agreement)];
    if (after.sizeBytes < before.sizeBytes) {
      return `its size is ${after.sizeBytes} bytes instead of ${before.sizeBytes}`;
    }
    if (before.can.write && !after.can.write) return "it is read-only now";
    for (const [ability, had] of Object.entries(before.can)) {
      if (had && ability !== "rotational" && !after.can[ability as keyof typeof after.can]) {
        return `it no longer offers ${ability}`;
      }
    }
    if (after.blockSizes.minimum > before.blockSizes.minimum) {
      return `its blocks have ${after.blockSizes.minimum} bytes instead of ${before.blockSizes.minimum}`;
    }
    if (after.blockSizes.maximumPayload < before.blockSizes.maximumPayload) {
      return `it takes only ${after.blockSizes.maximumPayload} bytes at a time`;
    }
    if (this.extended && !agreement.extended) return "it no longer knows long requests";
    return null;
  }

  async #open(): Promise<OpenedConnection[]> {
    this.#attempts++;
    const late = new AbortController();
    using _timer = this.#clock.timer(OPEN_MS_MAX, () => {
      late.abort(new Error(`no answer for ${OPEN_MS_MAX / 1000} s`));
    });
    const signal = AbortSignal.any([late.signal, this.#closing.signal]);
    const { session } = this.#options;
    const dial = this.#dials[this.#dialIndex];
    const wishes = session === undefined
      ? this.#wishes
      : withSession(this.#wishes, { id: session.id, generation: ++this.#generation });
    const attempts = Array.from(
      { length: this.#connectionCount },
      () => openConnection(dial, wishes, signal, this.#clock),
    );
    const results = await Promise.allSettled(attempts);
    const opened = results.flatMap((result) => result.status === "fulfilled" ? [result.value] : []);
    if (opened.length > 0) return opened;
    throw (results[0] as PromiseRejectedResult).reason;
  }

  /** Makes good what the server may have lost, or notes that it cannot be known. */
  async #restore({ reservation }: DenbdFacts): Promise<void> {
    if (this.#unflushedEpoch < 0) return;
    const keptReservation = reservation !== undefined && reservation === this.#denbd.reservation;
    if (this.#options.soleWriter !== true && !keptReservation) {
      const ended = this.#denbd.reservation === undefined ? "" : " and its reservation has ended";
      this.#doubt =
        `the connection to ${this.#peerText} was lost${ended}; writes since the flush before may be, too`;
      this.#forgetAll();
      return;
    }
    const entries = [...this.#replay.entries()];
    try {
      this.#replayed += entries.length;
      // When one fails the others may still be under way, and must not overtake what comes next.
      const results = await Promise.allSettled(entries.map((entry) => this.#writeAgain(entry)));
      for (const result of results) if (result.status === "rejected") throw result.reason;
      if (entries.length > 0) await this.#perform(new Transaction(Command.FLUSH, 0, 0, 0, null));
    } catch (error) {
      if ((error as Error).cause === LOST || this.#end !== null) return;
      // The server is there and refuses. Nothing else can be done for these writes.
      this.#doubt = `writes that ${this.#peerText} may have lost could not be repeated: ${
        (error as Error).message
      }`;
      this.#log.error(this.#doubt);
    }
    if (this.#connections.size === 0) return;
    this.#forgetAll();
  }

  /** Nothing is left that could be lost. */
  #forgetAll(): void {
    this.#replay.forgetBefore(Infinity);
    this.#unflushedEpoch = -1;
  }

  async #writeAgain({ offset, length, data }: Remembered): Promise<void> {
    const { zero } = this.facts.can;
    const bytes = data ?? (zero ? null : new Uint8Array(length));
    const type = bytes === null ? Command.WRITE_ZEROES : Command.WRITE;
    await this.#perform(new Transaction(type, 0, offset, length, bytes));
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

  #armTimer(): void {
    if (this.#timer !== null || this.#deadlineMs === Infinity) return;
    for (const [transaction, { deadlineMs }] of this.#table) {
      if (this.#expired.has(transaction)) continue;
      const leftMs = Math.max(0, deadlineMs - this.#clock.now());
      this.#timer = this.#clock.timer(leftMs, () => {
        this.#timer = null;
        this.#expireDue();
        this.#armTimer();
      });
      return;
    }
  }

  #expireDue(): void {
    const nowMs = this.#clock.now();
    const sent = this.#up;
    for (const [transaction, { deadlineMs }] of this.#table) {
      if (deadlineMs > nowMs) break;
      if (sent && !this.#held.includes(transaction)) this.#expired.add(transaction);
      else this.#expire(transaction);
    }
    if (this.#expired.size === 0) return;
    // Must not be executed later: the connection that carries them goes first.
    const reason = new Error(`no answer for ${this.#deadlineMs / 1000} s`);
    for (const connection of this.#connections) connection.close(reason);
  }

  #expire(transaction: Transaction): void {
    if (!this.#table.delete(transaction)) return;
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
    this.#timer?.[Symbol.dispose]();
    if (this.#connections.size === 0) this.#failAll(failure);
  }

  #failAll(failure: Failure): void {
    const left = [...this.#table.keys()];
    this.#table.clear();
    for (const transaction of left) transaction.fail(failure);
  }
}

/** The wishes with the query that names a session. */
export function withSession(wishes: ClientWishes, session: SessionName): ClientWishes {
  return { ...wishes, contexts: [...wishes.contexts, encodeSession(session)] };
}

/** Marks a transaction of our own that the connection took with it. */
const LOST = new Error("the connection was lost");
