/**
 * The hall in which a client is until its handshake is over: what it sees of the exports, what it is told of this
 * server, and the reservations that it asks for on the way.
 */
import { printable } from "../../base/printable.ts";
import type { DiskIdentity } from "../../device/device.ts";
import type { Peer } from "../../net/connection.ts";
import { BASE_ALLOCATION, PAYLOAD_BYTES_ADVERTISED, TransmissionFlag } from "../../wire/nbd/constants.ts";
import {
  decodeSession,
  DENBD_NAMESPACE,
  encodeFacts,
  type SessionName,
} from "../../wire/nbd/denbd_context.ts";
import {
  type ExportOffer,
  greetOldstyle,
  type Refusal,
  type ServerHall,
} from "../../wire/nbd/handshake_server.ts";
import { CRC32_CONTEXT, encodeMoved, MIGRATION_QUERY, type Moved } from "../../wire/nbd/migration_message.ts";
import { type Export, type ExportTable, transmissionFlags } from "../export_table.ts";
import { answerQuery, type MigrationDesk } from "../migration_desk.ts";
import type { Strangers } from "../strangers.ts";
import { type Admission, WriterRefused, type WriterSessions } from "../writer_sessions.ts";
import { READABLE_BACKLOG } from "./backlog.ts";
import type { Judge } from "./judge.ts";

/** A disk that is at another host now. */
export interface Departed {
  readonly exported: Export;
  readonly moved: Moved;
  /** Called when somebody has learned of it. */
  told(): void;
}

/** What all halls of a server open to. */
export interface House {
  readonly exports: ExportTable;
  readonly judge: Judge;
  /** A UUID of this run of the server, told to clients that ask. */
  readonly instance: string | undefined;
  readonly strangers: Strangers;
  /** By the name of their export. */
  readonly departed: ReadonlyMap<string, Departed>;
  /** No new clients are let in. */
  isDraining(): boolean;
  writersOf(exported: Export): WriterSessions;
}

/** What one client sees of the exports during its handshake. */
export class Hall implements ServerHall {
  readonly tls: ServerHall["tls"];
  #peer: Peer;
  readonly #house: House;
  /** Where the client has been told to go. */
  #learned: Departed | null = null;
  readonly #offered = new Map<ExportOffer, Export>();
  /** Of the sessions that the client has named. */
  readonly #admissions = new Map<Export, Promise<Admission>>();
  readonly #refusals = new Map<Export, string>();
  /** Of the migration whose data are to come over this connection. */
  migrationId: string | null = null;

  constructor(peer: Peer, tls: ServerHall["tls"], house: House) {
    this.tls = tls;
    this.#peer = peer;
    this.#house = house;
  }

  /** TLS has shown the client's certificate. What was asked for in clear may have been somebody else's words. */
  recognise(peer: Peer): void {
    this.#peer = peer;
    this.#giveBack();
    this.#refusals.clear();
    this.migrationId = null;
  }

  /** The export that an offer was made for. */
  exportOf(offer: ExportOffer): Export {
    return this.#offered.get(offer)!;
  }

  list(): { name: string; description: string }[] | Refusal {
    return this.#house.exports.list()
      .filter((exported) => this.#house.judge(this.#peer, exported).rights !== "none")
      .map(({ name, description }) => ({ name, description }));
  }

  find(name: string): ExportOffer | Refusal {
    const exported = this.#house.exports.find(name);
    const unknown: Refusal = {
      refused: "unknown",
      reason: name === "" ? "there is no default export" : "no such export",
    };
    if (exported === undefined) return this.#whereTo(name) ?? unknown;
    const { rights, reason, conceals } = this.#house.judge(this.#peer, exported);
    if (rights === "none") return conceals ? { ...unknown, inTruth: reason } : { refused: "policy", reason };
    const refusal = this.#refusals.get(exported);
    if (refusal !== undefined) return { refused: "policy", reason: refusal };
    const mayWrite = rights === "write" && !exported.readOnly && exported.device.can.write;
    const closed = exported.whyClosed?.() ?? null;
    if (closed !== null) {
      // Its source may still have something to say, or to ask.
      const contextsFor = (query: string) => mayWrite ? this.#answerMigration(exported.desk, query) : [];
      return { refused: "policy", reason: closed, contextsFor };
    }
    const offer: ExportOffer = {
      name: exported.name,
      description: exported.description,
      sizeBytes: exported.sizeBytes,
      transmissionFlags: mayWrite ? this.#flagsForWriter(exported) : transmissionFlags(exported, false),
      blockSizes: {
        minimum: exported.device.blockSizes.minimum,
        preferred: exported.device.blockSizes.preferred,
        maximumPayload: Math.max(PAYLOAD_BYTES_ADVERTISED, exported.device.blockSizes.preferred),
      },
      contexts: [BASE_ALLOCATION],
      contextsFor: (query) => {
        if (query === DENBD_NAMESPACE) {
          return encodeFacts({
            instance: this.#instanceOf(exported),
            identity: durable(exported.device.identity),
            arrived: exported.device.identity?.arrived,
            othersWrite: isReader(offer) && mayChange(exported) || undefined,
            window: this.#house.instance === undefined ? undefined : READABLE_BACKLOG,
          });
        }
        if (!mayWrite) return [];
        const session = decodeSession(query);
        return session === null
          ? this.#answerMigration(exported.desk, query)
          : this.#admit(exported, session);
      },
    };
    this.#offered.set(offer, exported);
    return offer;
  }

  #instanceOf({ instance }: Export): string | undefined {
    return this.#house.instance === undefined ? undefined : instance ?? this.#house.instance;
  }

  /** For an export that has moved away; `null` for any other. */
  #whereTo(name: string): Refusal | null {
    const departed = this.#house.departed.get(name) ??
      (name === "" && this.#house.departed.size === 1 ? [...this.#house.departed.values()][0] : undefined);
    if (departed === undefined || this.#house.judge(this.#peer, departed.exported).rights === "none") {
      return null;
    }
    return {
      refused: "policy",
      reason: "the disk has moved to another host",
      contextsFor: (query) => {
        const name = query === DENBD_NAMESPACE ? encodeMoved(departed.moved) : null;
        if (name === null) return [];
        this.#learned = departed;
        return [...encodeFacts({ instance: this.#instanceOf(departed.exported) }), name];
      },
    };
  }

  /** What somebody may do who has the right to write. */
  #flagsForWriter(exported: Export): number {
    const flags = transmissionFlags(exported, true);
    if (exported.writers !== "one-session" || this.#admissions.has(exported)) return flags;
    // Several connections of a client that has no session would be several writers.
    const taken = this.#house.writersOf(exported).whyTaken;
    return (taken === null ? flags : transmissionFlags(exported, false)) & ~TransmissionFlag.CAN_MULTI_CONN;
  }

  async #admit(exported: Export, session: SessionName): Promise<string[]> {
    if (this.#admissions.has(exported)) return [];
    const admitting = this.#house.writersOf(exported).admit(session, this.#peer);
    this.#admissions.set(exported, admitting);
    try {
      const { grant: reservation, leaseMs } = await admitting;
      // Who writes to the disk by another way asks nobody here.
      const isAlone = exported.writtenElsewhere?.() !== true;
      return encodeFacts({ session, reservation, leaseMs: isAlone ? leaseMs : undefined });
    } catch (error) {
      this.#admissions.delete(exported);
      if (!(error instanceof WriterRefused)) throw error;
      // What cannot be said here is the answer to GO.
      this.#refusals.set(exported, error.message);
      return [];
    }
  }

  /** The client has the export from now on. */
  async takeAdmission(exported: Export): Promise<Admission | null> {
    const admission = await this.#admissions.get(exported) ?? null;
    this.#admissions.delete(exported);
    return admission;
  }

  /** The handshake is over. Gives back what the client has not taken. */
  leave(): void {
    this.#learned?.told();
    this.#giveBack();
  }

  #giveBack(): void {
    for (const admitting of this.#admissions.values()) {
      admitting.then((admission) => admission.leave(false), () => {});
    }
    this.#admissions.clear();
  }

  #answerMigration(desk: MigrationDesk | undefined, query: string): string[] | Promise<string[]> {
    if (desk === undefined) return [];
    if (query === CRC32_CONTEXT) return [query];
    if (!query.startsWith(MIGRATION_QUERY)) return [];
    return answerQuery(desk, query, this.#peer, (id) => this.migrationId = id);
  }

  shuttingDown(): string | null {
    return this.#house.isDraining() ? "the server is shutting down" : null;
  }

  *greetOldstyle(): ReturnType<typeof greetOldstyle> {
    const closing = this.shuttingDown();
    if (closing !== null) throw new Error(closing);
    const offer = this.find("");
    if ("refused" in offer) throw new Error(offer.reason);
    return yield* greetOldstyle(offer);
  }

  refused(optionName: string, exportName: string, reason: string): void {
    this.#house.strangers.complain(this.#peer, `${optionName} "${printable(exportName)}": ${reason}`);
  }
}

function isReader({ transmissionFlags }: ExportOffer): boolean {
  return (transmissionFlags & TransmissionFlag.READ_ONLY) !== 0;
}

/** Whether anybody may write to the disk. */
function mayChange({ readOnly, device, writtenElsewhere }: Export): boolean {
  return !readOnly && device.can.write || writtenElsewhere?.() === true;
}

/** An identity that was made up for this run says nothing about the disk to who comes back after the next. */
function durable(identity: DiskIdentity | undefined): DiskIdentity | undefined {
  return identity?.durable === true ? identity : undefined;
}
