/**
 * An NBD server: takes connections, negotiates, and runs a session for each client.
 *
 * @see NBD proto.md
 */
import { counted } from "../../base/counted.ts";
import type { Log } from "../../base/log.ts";
import { printable } from "../../base/printable.ts";
import { BufferPool } from "../../net/buffer_pool.ts";
import type { Connection, Peer } from "../../net/connection.ts";
import { converse, type Conversed } from "../../net/converse.ts";
import type { Listener } from "../../net/listener.ts";
import type { ShownCertificate } from "../../net/shown_certificate.ts";
import type { Clock } from "../../os/clock.ts";
import { TransmissionFlag } from "../../wire/nbd/constants.ts";
import { DENBD_NAMESPACE } from "../../wire/nbd/denbd_context.ts";
import {
  type Agreement,
  greetNewstyle,
  resumeNewstyle,
  type StartTls,
} from "../../wire/nbd/handshake_server.ts";
import type { Moved } from "../../wire/nbd/migration_message.ts";
import { WireError } from "../../wire/wire_error.ts";
import type { Export, ExportTable } from "../export_table.ts";
import type { ReservationStore } from "../reservation_store.ts";
import { type StrangerCounts, type StrangerLimits, Strangers } from "../strangers.ts";
import { type Admission, RESERVATION_AWAY_MS, WriterSessions } from "../writer_sessions.ts";
import { type Client, type ClientRules, Clients, type PresentClient } from "./clients.ts";
import { type Departed, Hall, type House } from "./hall.ts";
import type { Judge } from "./judge.ts";
import { Session } from "./session.ts";
import { ClientTrace, WireTrace } from "./wire_trace.ts";

/** Bounds on what clients may cost; times in milliseconds. */
export interface NbdLimits {
  /** From the connection to the end of the handshake; 0 = no limit. */
  readonly handshakeMs: number;
  /** Connections at the same time. */
  readonly connections: number;
  /** The same from one IP address. */
  readonly connectionsPerAddress: number;
  /** A request that takes longer has its client disconnected; 0 = no limit. */
  readonly requestMs: number;
}

const DEFAULT_LIMITS: NbdLimits = {
  handshakeMs: 10_000,
  connections: 4096,
  connectionsPerAddress: 1024,
  requestMs: 0,
};

/** Of the connections these may be in the handshake. */
const STRANGERS: StrangerLimits = { halfOpen: 1024, halfOpenPerAddress: 512, inVainPerSecond: 1000 };
/** Who comes to nothing behind STARTTLS has cost as much as so many that did so before. */
const TLS_TIMES = 20;

/** TLS for clients that ask for it by STARTTLS. */
export interface ServerTls {
  /** Clients without it are refused, unless they come through an encrypted channel. */
  readonly required: boolean;
  /** Runs the handshake of TLS; the given connection is the result's from then on, or closed. */
  accept(connection: Connection, signal: AbortSignal): Promise<Connection>;
  /** Judges a certificate anew that was good in the handshake. Returns why it counts no more, or `null`. */
  certificateFault(shown: ShownCertificate): string | null;
}

export interface NbdServerOptions {
  readonly exports: ExportTable;
  readonly judge: Judge;
  readonly log: Log;
  readonly clock: Clock;
  readonly limits?: Partial<NbdLimits>;
  /** Greets as servers did before newstyle: the only or default export at once. */
  readonly oldstyle?: boolean;
  /** A UUID of this run of the server, told to clients that ask; see `denbd_context.ts`. */
  readonly instance?: string;
  /** Called when a client has come or gone. */
  readonly changed?: () => void;
  /** Default: STARTTLS is refused. */
  readonly tls?: ServerTls;
  /** Where reservations outlive the program, if the disk has an identity that does. Default: nowhere. */
  readonly reservationStore?: (uuid: string) => ReservationStore;
  /** See `WriterRules`. Default {@linkcode RESERVATION_AWAY_MS}. */
  readonly reservationAwayMs?: number;
  /** Told when a client is gone and all that it asked for is done. */
  readonly onLeft?: (client: Client) => void;
}

/** How long the disk may take to finish what clients had asked for that were cut off. */
const ABANDON_MS = 5000;

export class NbdServer {
  readonly #options: NbdServerOptions;
  readonly #log: Log;
  readonly #clock: Clock;
  #limits: NbdLimits;
  #tls: ServerTls | undefined;
  readonly #oldstyle: boolean;
  readonly #pool = new BufferPool();
  /** What clients ask for and are told. */
  readonly trace = new WireTrace(() => this.#clock.now());
  readonly #listeners = new Set<Listener>();
  readonly #clients: Clients;
  /** Every connection, those in handshake included, with what ends when it has ended. */
  readonly #connections = new Map<Connection, Promise<void>>();
  /** Those of them whose handshake is over. */
  readonly #inTransmission = new Set<Connection>();
  /** How many of them there are from each IP address. */
  readonly #perAddress = new Map<string, number>();
  readonly #strangers: Strangers;
  /** With the UUID of the disk, if it is to outlive the program. */
  readonly #writers = new WeakMap<
    Export,
    { readonly uuid: string | null; readonly sessions: WriterSessions }
  >();
  /** By the name of their export. */
  readonly #departed = new Map<string, Departed>();
  readonly #house: House;
  #lastId = 0;
  #draining = false;

  constructor(options: NbdServerOptions) {
    this.#options = options;
    this.#log = options.log;
    this.#clock = options.clock;
    this.#limits = { ...DEFAULT_LIMITS, ...options.limits };
    this.#tls = options.tls;
    this.#oldstyle = options.oldstyle ?? false;
    this.#strangers = new Strangers(STRANGERS, this.#log, this.#clock);
    const rules: ClientRules = {
      judge: options.judge,
      certificateFault: (peer) => this.#certificateFault(peer),
      requestMs: () => this.#limits.requestMs,
    };
    this.#clients = new Clients(rules, this.#log, this.#clock);
    this.#house = {
      exports: options.exports,
      judge: options.judge,
      instance: options.instance,
      strangers: this.#strangers,
      departed: this.#departed,
      isDraining: () => this.#draining,
      writersOf: (exported) => this.writersOf(exported),
    };
  }

  /** For clients that come from now on. */
  set tls(tls: ServerTls | undefined) {
    this.#tls = tls;
  }

  /** Sets other bounds; what is not given is as at the start. Those who are here already are not counted out. */
  set limits(limits: Partial<NbdLimits>) {
    this.#limits = { ...DEFAULT_LIMITS, ...limits };
    this.#clients.lookForSlow();
  }

  /** Bytes of memory that requests and replies of all clients occupy now. */
  get bufferedBytes(): number {
    return this.#pool.usedBytes;
  }

  /** What has come of those who came, and were no clients. */
  get strangers(): StrangerCounts {
    return this.#strangers;
  }

  /** Whether new clients are let in. */
  get draining(): boolean {
    return this.#draining;
  }

  /** Clients in transmission, in the order in which they came. */
  clients(): Client[] {
    return this.#clients.all();
  }

  /** Who writes to an export. @throws {DeviceError} If its reservation cannot be understood. */
  writersOf(exported: Export): WriterSessions {
    const { identity } = exported.device;
    const uuid = identity?.durable === true ? identity.uuid : null;
    const known = this.#writers.get(exported);
    // What is received has no identity before it is a disk. Who writes it before has to do with the copy only.
    if (known !== undefined && (known.uuid !== null || uuid === null)) return known.sessions;
    const { reservationStore, reservationAwayMs = RESERVATION_AWAY_MS } = this.#options;
    const store = uuid === null ? null : reservationStore?.(uuid) ?? null;
    const exclusive = () => exported.writers === "one-session";
    const log = this.#log.child(`export-${printable(exported.name)}`);
    const rules = { exclusive, awayMsMax: reservationAwayMs };
    const sessions = new WriterSessions(rules, store, this.#clock, log);
    this.#writers.set(exported, { uuid, sessions });
    return sessions;
  }

  /** Takes connections until the listener is closed. */
  async serve(listener: Listener): Promise<void> {
    this.#listeners.add(listener);
    try {
      await this.#strangers.attend(listener, (connection) => this.handle(connection));
    } finally {
      this.#listeners.delete(listener);
    }
  }

  /** Serves one connection. Never throws; {@linkcode drain} and {@linkcode abort} wait for its end. */
  handle(connection: Connection): void {
    const { peer } = connection;
    const fromThere = this.#perAddress.get(peer.address) ?? 0;
    const { connections, connectionsPerAddress } = this.#limits;
    const isFull = peer.transport === "tcp" && fromThere >= connectionsPerAddress
      ? { why: `${fromThere} connections from there are open`, address: peer.address }
      : this.#connections.size >= connections
      ? { why: `${this.#connections.size} connections are open` }
      : null;
    // Who has not said yet what it wants does not keep others out.
    if (isFull !== null && !this.#strangers.makeRoom(isFull.why, isFull.address)) {
      this.#strangers.turnAway(peer, isFull.why);
      return connection.close();
    }
    const id = ++this.#lastId;
    const log = this.#log.child(`client-${id}`);
    this.#perAddress.set(peer.address, fromThere + 1);
    const serving = this.#serveClient(id, connection, log).catch((error) => {
      log.error(`${peer.text}: ${error}`);
      connection.close();
    }).finally(() => {
      this.#connections.delete(connection);
      this.#inTransmission.delete(connection);
      const left = this.#perAddress.get(peer.address)! - 1;
      if (left > 0) this.#perAddress.set(peer.address, left);
      else this.#perAddress.delete(peer.address);
    });
    this.#connections.set(connection, serving);
  }

  async #serveClient(id: number, connection: Connection, log: Log): Promise<void> {
    const negotiated = await this.#negotiate(connection);
    if (negotiated === null) return connection.close();
    const { agreement, exported, rest, carrier, migrationId } = negotiated;
    const { peer } = carrier;
    const mayWrite = (agreement.transmissionFlags & TransmissionFlag.READ_ONLY) === 0;
    let admission: Admission | null = null;
    try {
      if (mayWrite) {
        admission = negotiated.admission ?? await this.writersOf(exported).admitVisitor(peer.text);
      } else {
        // It has lost the right to write since it named its session.
        negotiated.admission?.leave(true);
      }
    } catch (error) {
      this.#strangers.complain(carrier.peer, (error as Error).message);
      return carrier.close();
    }
    const session = new Session(
      { ...agreement, exported, mayChange: admission?.mayChange },
      {
        connection: carrier,
        pool: this.#pool,
        log,
        trace: new ClientTrace(this.trace, id),
        now: () => this.#clock.now(),
      },
    );
    const ended = Promise.withResolvers<void>();
    const member = { cut: (reason: string) => session.abort(reason), ended: ended.promise };
    if (admission !== null && !admission.enter(member)) {
      admission.leave(false);
      return carrier.close();
    }
    this.#inTransmission.add(connection);
    const connectedAtMs = this.#clock.now();
    const client: PresentClient = {
      id,
      peer,
      exportName: exported.name,
      rights: mayWrite ? "write" : "read",
      connectedAtMs,
      session,
      admission,
      isDenbd: agreement.contexts.some(({ name }) => name.startsWith(DENBD_NAMESPACE)),
    };
    this.#clients.enter(client);
    this.#options.changed?.();
    log.info(`${peer.text} opened "${printable(exported.name)}" to ${client.rights}`);
    if (this.#draining) session.drain("the server is shutting down");
    this.#clients.check(client);
    const closed = exported.whyClosed?.() ?? null;
    if (closed !== null) {
      session.forbidWrites();
      session.abort(closed);
    }
    const left = mayWrite ? exported.desk?.enter(migrationId, session) : undefined;
    const ending = session.run(rest);
    this.#clients.runs(client, ending);
    const reason = await ending;
    left?.();
    this.#clients.leave(client);
    ended.resolve();
    // Who leaves because we, or the export, are going will be back.
    const isSentAway = this.#draining || this.#clients.isDismissed(exported);
    admission?.leave(session.saidGoodbye && !isSentAway);
    this.#options.onLeft?.(client);
    this.#options.changed?.();
    const { requests, errors, readBytes, writtenBytes } = session.traffic;
    const seconds = ((this.#clock.now() - connectedAtMs) / 1000).toFixed(1);
    log.info(
      `${peer.text} left "${printable(exported.name)}" after ${seconds} s: ${reason}; ${client.rights}, ` +
        `${counted(requests, "request")}, ${
          counted(errors, "error")
        }, ${readBytes} bytes read, ${writtenBytes} written`,
    );
  }

  async #negotiate(connection: Connection): Promise<Negotiated | null> {
    const { peer } = connection;
    const late = new AbortController();
    const { signal } = late;
    const { handshakeMs } = this.#limits;
    using _stranger = this.#strangers.enter(peer, (reason) => late.abort(reason), handshakeMs);
    // Whoever has proven a key comes through an encrypted channel.
    const tls = this.#tls;
    const tlsMode = tls === undefined || peer.key !== undefined
      ? "off"
      : tls.required
      ? "required"
      : "offered";
    const hall = new Hall(peer, tlsMode, this.#house);
    let carrier = connection;
    let startedTls = false;
    try {
      const conversation = this.#oldstyle ? hall.greetOldstyle() : greetNewstyle(hall);
      let { result, rest }: Conversed<Agreement | StartTls | null> = await converse(conversation, carrier, {
        signal,
      });
      if (result !== null && "startTls" in result) {
        // Whoever sent these bytes in clear wants them to be taken for the client's.
        if (rest.length > 0) throw new WireError(`${rest.length} bytes in clear behind STARTTLS`);
        startedTls = true;
        carrier = await tls!.accept(connection, signal);
        hall.recognise(carrier.peer);
        ({ result, rest } = await converse(resumeNewstyle(hall, result), carrier, { signal }));
      }
      if (result !== null) {
        const exported = hall.exportOf(result.offer);
        const admission = await hall.takeAdmission(exported);
        return { agreement: result, exported, rest, carrier, admission, migrationId: hall.migrationId };
      }
      this.#strangers.spend(carrier.peer);
      carrier.close();
      return null;
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      this.#strangers.turnAway(carrier.peer, reason, startedTls ? TLS_TIMES : 1);
      carrier.close();
      return null;
    } finally {
      hall.leave();
    }
  }

  /**
   * Asks again about every client's certificate, and the judge: those who may no longer enter are ended after their current
   * request, those who may no longer write are read-only from now on. Others notice nothing.
   *
   * A client that may write from now on has to reconnect to learn of it.
   */
  reconsider(): void {
    this.#clients.reconsider();
  }

  #certificateFault({ certificate }: Peer): string | null {
    if (certificate === undefined) return null;
    return this.#tls === undefined ? "TLS is not spoken any more" : this.#tls.certificateFault(certificate);
  }

  /**
   * Serves an export no longer, which the table has forgotten: its clients are answered what they have asked for,
   * and then are disconnected. Others notice nothing.
   *
   * @param reason For the log.
   * @param deadlineMs After that they are cut off.
   * @returns When nobody has it any more.
   */
  dismiss(exported: Export, reason: string, deadlineMs: number): Promise<void> {
    return this.#clients.dismiss(exported, reason, deadlineMs);
  }

  /**
   * Tells from now on where an export has gone, which the table has forgotten and whose clients are about to be cut
   * off.
   *
   * @param deadlineMs For them to come back.
   * @returns When as many denbd clients have been told as there are now, or the time is over.
   */
  depart(exported: Export, moved: Moved, deadlineMs: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const clients = this.#clients.of(exported).filter(({ isDenbd }) => isDenbd);
    let awaited = clients.length;
    const told = () => {
      if (--awaited <= 0) resolve();
    };
    this.#departed.set(exported.name, { exported, moved, told });
    if (awaited === 0) resolve();
    const timer = this.#clock.timer(deadlineMs, resolve);
    return promise.finally(() => timer[Symbol.dispose]());
  }

  /**
   * Takes no more clients and lets the present ones finish what they have asked for.
   *
   * @param deadlineMs After that they are cut off.
   * @returns When nobody is left. `true` if everybody finished in time.
   */
  async drain(deadlineMs: number): Promise<boolean> {
    this.#draining = true;
    for (const listener of this.#listeners) listener.close();
    for (const [connection] of this.#connections) {
      if (!this.#inTransmission.has(connection)) connection.close();
    }
    for (const { session } of this.#clients.all()) session.drain("the server is shutting down");
    let late = false;
    const timer = this.#clock.timer(deadlineMs, () => {
      late = true;
      this.abort();
    });
    // A disk that never answers must not hold up the end of the program.
    const given = Promise.withResolvers<void>();
    const giveUp = this.#clock.timer(deadlineMs + ABANDON_MS, given.resolve);
    await Promise.race([Promise.all(this.#connections.values()), given.promise]);
    giveUp[Symbol.dispose]();
    timer[Symbol.dispose]();
    this.#clients.stop();
    return !late;
  }

  /** Cuts everybody off. */
  abort(): void {
    this.#draining = true;
    for (const listener of this.#listeners) listener.close();
    for (const { session } of this.#clients.all()) session.abort("cut off: the server had to stop");
    for (const connection of this.#connections.keys()) connection.close();
  }
}

/** How a handshake ended. */
interface Negotiated {
  readonly agreement: Agreement;
  readonly exported: Export;
  readonly rest: Uint8Array;
  /** The connection, or what has become of it by TLS. */
  readonly carrier: Connection;
  /** Of a client that has named its session. */
  readonly admission: Admission | null;
  readonly migrationId: string | null;
}
