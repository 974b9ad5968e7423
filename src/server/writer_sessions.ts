/**
 * Who writes to one export: the sessions of denbd clients, and for whom the export is reserved.
 *
 * A session is one writer, however many connections it has and however often it makes them anew. When it comes back
 * with a higher generation, what it had before is cut off, and it is served when the disk has done with that.
 *
 * Where an export has one writer at a time, a session reserves it when it comes. The reservation outlives lost
 * connections and, in the {@linkcode ReservationStore}, restarts. It ends when the session says goodbye, when the
 * operator breaks it, or when its session has been away for longer than {@linkcode WriterRules.awayMsMax} and somebody
 * else wants to write. Each time it is given it has a new grant: a session that finds the grant it knows can be sure
 * that nobody else has written meanwhile.
 *
 * A session belongs to whoever has shown a channel key or a certificate when it was opened: nobody else can take its
 * place. Where there is neither, its id alone tells it from others: 122 random bits that nobody is told but the
 * server, so on a plain link they are as safe as the network is. Messages, logs and status have the label of a session
 * only ({@linkcode sessionLabel}), which is of no use to take its place.
 *
 * Other clients cannot say who they are. One of them reserves the export by its first write, for as long as its
 * connection lasts; before that it is a reader among others.
 *
 * Who loses the right to write keeps nobody out: the next who wants to write has the export when the disk has done
 * with what the former had asked for.
 */
import { type Log, silentLog } from "../base/log.ts";
import type { Clock } from "../os/clock.ts";
import type { Peer } from "../net/connection.ts";
import { sessionLabel, type SessionName } from "../wire/nbd/denbd_context.ts";
import type { Reservation, ReservationStore } from "./reservation_store.ts";

/** How long a session keeps its reservation while it has no connection, unless the operator says otherwise. */
export const RESERVATION_AWAY_MS = 60_000;
/** The most that a session is told of that: what the operator ends is over for everybody after so long. */
const LEASE_MS_MAX = 60_000;

export interface WriterRules {
  /** Whether there is one writing session at a time. Asked anew each time. */
  readonly exclusive: () => boolean;
  /** In milliseconds; infinite where only the operator ends a reservation. */
  readonly awayMsMax: number;
}

/** Who comes in the name of a session. */
export type Comer = Pick<Peer, "text" | "key" | "certificateName">;

/** A session may not write, and why; for the client and the log. */
export class WriterRefused extends Error {
  override readonly name = "WriterRefused";
}

/** A connection, as far as its session is concerned. */
export interface Member {
  /** Cuts it off. */
  cut(reason: string): void;
  /** Resolves when the disk has done with all that it had asked for. */
  readonly ended: Promise<void>;
}

/** What somebody who may write has in hand. It is given back by {@linkcode leave}, once. */
export interface Admission {
  /** What makes this hold of the export one that nobody else has had meanwhile; absent where many may write. */
  readonly grant?: string;
  /** For how long, at least, the grant outlives the session's connections; in milliseconds, absent if for less than one. */
  readonly leaseMs?: number;
  /** The connection is ready for requests. Returns whether it may have any: `false` if it was replaced before. */
  enter(member: Member): boolean;
  /** @param goodbye The client will not come back. */
  leave(goodbye: boolean): void;
  /** Why a change may not be made now; `null` if it may. */
  mayChange(): string | null;
  /** It asks for no changes from now on: it gives way to whoever wants to write. */
  forgo(): void;
}

/** For status. */
export interface Holder {
  /** Its label; `null`: a client that has none. */
  readonly session: string | null;
  /** Who came last in its name. */
  readonly who: string;
  readonly connections: number;
  /** Since when it has no connection, in milliseconds; 0 while it has one. */
  readonly awayMs: number;
}

/** A session that has connections, or is about to. */
interface Session {
  readonly id: string;
  /** Whose it is; `null` where nobody has proven to be anybody. */
  identity: string | null;
  generation: number;
  readonly members: Set<Member>;
  /** Admissions that were not given back. */
  admitted: number;
  /** Those of them that may not write any more. */
  forgone: number;
  /** One of its connections has said goodbye. */
  leaving: boolean;
  /** Resolves when all that a newer generation has replaced has ended. */
  replaced: Promise<unknown>;
}

type Hold =
  | { readonly kind: "session"; reservation: Reservation; awaySinceMs: number | null }
  | {
    readonly kind: "connection";
    readonly who: string;
    readonly member: () => Member | null;
    forgone: boolean;
  };

export class WriterSessions {
  readonly #rules: WriterRules;
  readonly #store: ReservationStore | null;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #sessions = new Map<string, Session>();
  #hold: Hold | null = null;
  /** Sessions whose reservation was broken: they may not come back. */
  #barred: readonly string[];
  #saving: Promise<void> = Promise.resolve();

  /**
   * @param store Of this disk; `null` where reservations end with the program.
   * @throws {DeviceError} If what it holds cannot be understood.
   */
  constructor(rules: WriterRules, store: ReservationStore | null, clock: Clock, log: Log = silentLog) {
    this.#rules = rules;
    this.#store = store;
    this.#clock = clock;
    this.#log = log;
    const { reservation, barred } = store?.load() ?? { reservation: null, barred: [] };
    this.#barred = barred;
    // Whoever had it before the restart has all of its time to come back.
    if (reservation !== null) {
      this.#hold = { kind: "session", reservation, awaySinceMs: clock.now() };
    }
    this.#forgetIfShared();
  }

  /** For whom the export is reserved now, or `null`. */
  get holder(): Holder | null {
    const hold = this.#hold;
    if (hold === null || !this.#rules.exclusive()) return null;
    if (hold.kind === "connection") return { session: null, who: hold.who, connections: 1, awayMs: 0 };
    const { session, who } = hold.reservation;
    return {
      session: sessionLabel(session),
      who,
      connections: this.#sessions.get(session)?.members.size ?? 0,
      awayMs: hold.awaySinceMs === null ? 0 : this.#clock.now() - hold.awaySinceMs,
    };
  }

  /**
   * Lets in a connection of a session. It resolves when older connections of the session have ended, and the
   * reservation is durable.
   *
   * @throws {WriterRefused} If the session may not write.
   */
  async admit({ id, generation }: SessionName, comer: Comer): Promise<Admission> {
    if (this.#barred.includes(id)) throw new WriterRefused("the operator has broken its reservation");
    const known = this.#sessions.get(id);
    const owner = known?.identity ?? this.#reservationOf(id)?.identity ?? null;
    const identity = identityOf(comer) ?? owner;
    if (owner !== null && identityOf(comer) !== owner) {
      throw new WriterRefused("its session was opened by somebody else, with another key or certificate");
    }
    if (known !== undefined && generation < known.generation) {
      throw new WriterRefused("a newer connection of the same session is there");
    }
    const exclusive = !this.#forgetIfShared();
    const former = exclusive ? this.#reserve(id, identity, comer.text) : [];
    const session = known ??
      {
        id,
        identity,
        generation,
        members: new Set(),
        admitted: 0,
        forgone: 0,
        leaving: false,
        replaced: Promise.resolve(),
      };
    session.identity = identity;
    this.#sessions.set(id, session);
    session.admitted++;
    if (generation > session.generation) this.#replace(session, generation);
    session.replaced = Promise.all([session.replaced, ...former]);
    const admission = this.#admissionOf(session, comer.text);
    try {
      await Promise.all([session.replaced, this.#saving]);
      if (session.generation !== generation) {
        throw new WriterRefused("a newer connection of the same session is there");
      }
      const refusal = admission.mayChange();
      if (refusal !== null) throw new WriterRefused(refusal);
      return admission;
    } catch (error) {
      admission.leave(false);
      if (error instanceof WriterRefused) throw error;
      throw new WriterRefused(`the reservation cannot be kept: ${(error as Error).message}`);
    }
  }

  /** Why a client that cannot say who it is may not be offered to write, or `null`. */
  get whyTaken(): string | null {
    const hold = this.#hold;
    return hold === null || !this.#rules.exclusive() || this.#isOver(hold) ? null : this.#whyNot(hold);
  }

  /**
   * Lets in the connection of a client that cannot say who it is.
   *
   * @throws {WriterRefused} If what is left of an expired reservation cannot be removed.
   */
  async admitVisitor(who: string): Promise<Admission> {
    const former = this.#forgetIfShared() ? [] : this.#endIfOver();
    try {
      await Promise.all([this.#saving, ...former]);
    } catch (error) {
      throw new WriterRefused(`an old reservation cannot be removed: ${(error as Error).message}`);
    }
    let member: Member | null = null;
    const hold: Hold = { kind: "connection", who, member: () => member, forgone: false };
    return {
      enter: (entered) => {
        member = entered;
        return true;
      },
      leave: () => {
        if (this.#hold === hold) this.#hold = null;
      },
      mayChange: () => {
        if (this.#forgetIfShared()) return null;
        if (this.#hold !== null && this.#hold !== hold) return this.#whyNot(this.#hold);
        this.#hold = hold;
        return null;
      },
      forgo: () => void (hold.forgone = true),
    };
  }

  /**
   * Ends the reservation, at the operator's word: who holds it is cut off, and a session may not come back.
   *
   * @returns For whom it was, or `null` if there was none.
   * @throws If that cannot be made durable.
   */
  async unreserve(): Promise<string | null> {
    const hold = this.#hold;
    if (hold === null) return null;
    const who = hold.kind === "session" ? hold.reservation.who : hold.who;
    if (hold.kind === "connection") {
      this.#hold = null;
      hold.member()?.cut("the operator has broken its reservation");
      return who;
    }
    const { session: id } = hold.reservation;
    this.#barred = [...this.#barred, id].slice(-BARRED_MAX);
    this.#release();
    this.#cut(id, "the operator has broken its reservation");
    await this.#saving;
    return who;
  }

  /** Where many may write, nobody's reservation says anything. Returns whether that is so. */
  #forgetIfShared(): boolean {
    if (this.#rules.exclusive()) return false;
    const hold = this.#hold;
    if (hold === null) return true;
    this.#release();
    // It was told that nobody else may write: it has to hear that this is over before anybody does.
    if (hold.kind === "session") {
      this.#cut(hold.reservation.session, "the export is open to many writers now");
    }
    return true;
  }

  #cut(id: string, reason: string): void {
    for (const member of this.#sessions.get(id)?.members ?? []) member.cut(reason);
  }

  #reservationOf(id: string): Reservation | null {
    const hold = this.#hold;
    return hold?.kind === "session" && hold.reservation.session === id ? hold.reservation : null;
  }

  /** Returns the ends of what has to end before anybody writes. */
  #reserve(id: string, identity: string | null, who: string): Promise<void>[] {
    const hold = this.#hold;
    if (hold?.kind === "session" && hold.reservation.session === id) {
      hold.awaySinceMs = null;
      if (hold.reservation.identity !== identity) {
        this.#save(hold.reservation = { ...hold.reservation, identity });
      }
      return [];
    }
    const former = this.#endIfOver();
    if (this.#hold !== null) throw new WriterRefused(this.#whyNot(this.#hold));
    const reservation: Reservation = { session: id, identity, who, grant: crypto.randomUUID() };
    this.#hold = { kind: "session", reservation, awaySinceMs: null };
    this.#log.info(`reserved for ${who}, session ${sessionLabel(id)}`);
    this.#save(reservation);
    return former;
  }

  /** Ends a hold that keeps nobody out any more. Returns the ends of the connections that are cut off by that. */
  #endIfOver(): Promise<void>[] {
    const hold = this.#hold;
    if (hold === null || !this.#isOver(hold)) return [];
    const members = hold.kind === "session"
      ? [...this.#sessions.get(hold.reservation.session)?.members ?? []]
      : [hold.member()].filter((member) => member !== null);
    this.#release();
    for (const member of members) member.cut("it may not write any more, and somebody else wants to");
    return members.map(({ ended }) => ended);
  }

  #release(): void {
    const hold = this.#hold;
    this.#hold = null;
    if (hold?.kind !== "session") return;
    const { who, session } = hold.reservation;
    this.#log.info(`no longer reserved for ${who}, session ${sessionLabel(session)}`);
    this.#save(null);
  }

  /** What is not durable holds for nobody: a later attempt saves again. */
  #save(reservation: Reservation | null): void {
    const barred = this.#barred;
    this.#saving = this.#saving.catch(() => {}).then(() => this.#store?.save({ reservation, barred }));
    this.#saving.catch((error) => {
      this.#log.error(`the reservation cannot be kept: ${error.message}`);
      if (this.#hold?.kind !== "session" || this.#hold.reservation !== reservation) return;
      this.#hold = null;
      this.#cut(reservation.session, "its reservation cannot be kept");
    });
  }

  get #leaseMs(): number | undefined {
    const leaseMs = Math.floor(Math.min(this.#rules.awayMsMax, LEASE_MS_MAX));
    return leaseMs > 0 ? leaseMs : undefined;
  }

  /** Its session has been away for too long, or may not write any more. */
  #isOver(hold: Hold): boolean {
    if (hold.kind === "connection") return hold.forgone;
    const { awaySinceMs, reservation } = hold;
    if (awaySinceMs !== null) return this.#clock.now() - awaySinceMs >= this.#rules.awayMsMax;
    const session = this.#sessions.get(reservation.session);
    return session !== undefined && session.admitted > 0 && session.forgone === session.admitted;
  }

  #whyNot(hold: Hold): string {
    if (hold.kind === "connection") return `it is being written by ${hold.who}`;
    const { reservation: { who }, awaySinceMs } = hold;
    const away = awaySinceMs === null
      ? ""
      : `, which has been away for ${Math.floor((this.#clock.now() - awaySinceMs) / 1000)} s`;
    return `it is reserved for ${who}${away}`;
  }

  #replace(session: Session, generation: number): void {
    session.generation = generation;
    const old = [...session.members];
    session.members.clear();
    for (const member of old) member.cut("replaced by a newer connection of its session");
    session.replaced = Promise.all([session.replaced, ...old.map(({ ended }) => ended)]);
  }

  #admissionOf(session: Session, who: string): Admission {
    const { generation } = session;
    let hold = this.#hold;
    let member: Member | null = null;
    let forgone = false;
    return {
      grant: hold?.kind === "session" ? hold.reservation.grant : undefined,
      leaseMs: hold?.kind === "session" ? this.#leaseMs : undefined,
      enter: (entered) => {
        // Nor may it go on if it has been told of a reservation that has ended meanwhile.
        if (session.generation !== generation || hold !== null && this.#hold !== hold) return false;
        session.members.add(member = entered);
        return true;
      },
      leave: (goodbye) => {
        if (member !== null) session.members.delete(member);
        if (forgone) session.forgone--;
        // Who may not write any more has nothing to come back for.
        if (goodbye || forgone && session.admitted === 1) session.leaving = true;
        if (--session.admitted === 0) this.#ended(session);
      },
      forgo: () => {
        if (!forgone) session.forgone++;
        forgone = true;
      },
      mayChange: () => {
        if (this.#forgetIfShared() || hold !== null && this.#hold === hold) return null;
        if (this.#hold !== null) return this.#whyNot(this.#hold);
        if (this.#barred.includes(session.id)) return "the operator has broken its reservation";
        // Since it came the export has been given to one writer at a time. It has heard of no grant, and trusts none.
        this.#reserve(session.id, session.identity, who);
        hold = this.#hold;
        return null;
      },
    };
  }

  /** It has no connection any more. */
  #ended(session: Session): void {
    this.#sessions.delete(session.id);
    const hold = this.#hold;
    if (hold?.kind !== "session" || hold.reservation.session !== session.id) return;
    if (session.leaving) this.#release();
    else hold.awaySinceMs = this.#clock.now();
  }
}

/** What a peer has proven to be; `null` where it has proven nothing. */
function identityOf({ key, certificateName }: Comer): string | null {
  if (key !== undefined) return `key ${key}`;
  return certificateName === undefined ? null : `certificate ${certificateName}`;
}

/** So many broken reservations are remembered. */
const BARRED_MAX = 64;
