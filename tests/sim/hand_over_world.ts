/**
 * Two hosts, a disk that moves from one to the other, a client that writes to whoever owns it, and a plan of what goes
 * wrong at which step. The parts under test are the pure ones of `src/migrate/ownership_*.ts`; what carries them out
 * is here, with every durable write and every message a step at which something may fail.
 */
import type { DiskRecord } from "../../src/device/ownership.ts";
import { answerSource } from "../../src/migrate/ownership_destination.ts";
import {
  announce,
  handOver,
  nextMigration,
  settle,
  type SourceConversation,
} from "../../src/migrate/ownership_source.ts";
import {
  decodeMigrationAnswer,
  decodeMigrationRequest,
  encodeMigrationAnswer,
  encodeMigrationRequest,
  type MigrationAnswer,
  type MigrationRequest,
} from "../../src/wire/nbd/migration_message.ts";

/** What may go wrong at a step; those that make no sense there change nothing. */
export const FAULTS = [
  "source dies before",
  "source dies after",
  "destination dies before",
  "destination dies after its sync",
  "destination dies after its record",
  "both die before",
  "both die after",
  "request lost",
  "answer lost",
  "request comes again later",
] as const;
export type Fault = typeof FAULTS[number];

/** The parts that a test may replace by broken ones, to see that the simulation finds out. */
export interface Parts {
  readonly answerSource: typeof answerSource;
  readonly handOver: typeof handOver;
  readonly settle: typeof settle;
  /** Whether the destination makes its disk durable when it is told to. */
  readonly syncs: boolean;
}

export const REAL_PARTS: Parts = { answerSource, handOver, settle, syncs: true };

const BLOCKS = 4;
const SIZE_BYTES = BLOCKS * 512;
const UUID = "00000000-0000-4000-8000-000000000001";

/** A process has died at a step. */
class Died extends Error {}

/** Something that must never be. */
export class Violation extends Error {}

export class HandOverWorld {
  readonly #parts: Parts;
  readonly #plan: ReadonlyMap<number, Fault>;
  /** Steps so far: what the plan counts. */
  steps = 0;
  /** What happened, for whoever has to understand a failure. */
  readonly history: string[] = [];

  source: DiskRecord = { uuid: UUID, generation: 3, ownership: { state: "owner", epoch: 1 } };
  destination: DiskRecord | null = null;
  /** Blocks of the source; what is written there is durable at once. */
  #sourceDisk = new Uint32Array(BLOCKS);
  #arrived = new Uint32Array(BLOCKS);
  #durable = new Uint32Array(BLOCKS);
  #receivingId: string | null = null;
  /** Blocks that the destination has not acknowledged since they were written. */
  #unsent = new Set<number>();
  /** Clients of the source are let through: its process lives, owns, and does not hold them. */
  #sourceServes = false;
  /** By block: what the client wrote there last and was told is done. */
  readonly #acknowledged = new Uint32Array(BLOCKS);
  #writes = 0;
  #ids = 1;
  /** Queries that the network has not forgotten. */
  #late: string[] = [];

  constructor(plan: ReadonlyMap<number, Fault>, parts: Parts = REAL_PARTS) {
    this.#plan = plan;
    this.#parts = parts;
  }

  /** One life of the source's process: settles what is unfinished, then tries to move the disk. */
  runSource({ reaches = true, migrates = true }: { reaches?: boolean; migrates?: boolean } = {}): void {
    try {
      this.#enter("source starts");
      if (!this.#carry(this.#parts.settle(this.source, now), reaches)) return;
      if (this.source.ownership.state !== "owner") return;
      this.#sourceServes = true;
      this.clientWrites();
      if (migrates) this.#migrate(reaches);
    } catch (error) {
      if (!(error instanceof Died)) throw error;
      this.history.push("source died");
    } finally {
      this.#sourceServes = false;
    }
  }

  #migrate(reaches: boolean): void {
    const id = this.#newId();
    for (let attempt = 0; attempt < 3; attempt++) {
      const answer = this.#carry(announce(this.source, this.#migration(id), SIZE_BYTES), reaches);
      const is = answer?.is;
      if (is !== "fresh" && is !== "resume") continue;
      if (is === "fresh") this.#unsent = new Set(this.#sourceDisk.keys());
      if (!this.#copy()) continue;
      this.clientWrites();
      if (!this.#copy()) continue;
      this.clientWrites();
      // Clients are held from here to the end of the attempt.
      this.#sourceServes = false;
      if (!this.#copy()) {
        this.#sourceServes = true;
        continue;
      }
      const outcome = this.#carry(this.#parts.handOver(this.source, now), reaches);
      if (outcome?.is !== "owner") return;
      this.#sourceServes = true;
      this.clientWrites();
    }
  }

  #migration(id: string) {
    const known = this.source.ownership.migration;
    return known?.id === id ? known : nextMigration(this.source, id, "nbd://destination/", now());
  }

  /** Sends what is unsent. @returns Whether all was acknowledged. */
  #copy(): boolean {
    const fault = this.#enter("data");
    this.#sourceMayDie(fault, "before");
    if (this.#destinationDies(fault, "before") || fault === "request lost") return false;
    for (const block of this.#unsent) this.#arrived[block] = this.#sourceDisk[block];
    this.#sourceMayDie(fault, "after");
    if (this.#destinationDies(fault, "after") || fault === "answer lost") return false;
    this.#unsent.clear();
    return true;
  }

  /** The destination's process starts again and listens; what was not synced is gone. */
  restartDestination(): void {
    this.#receivingId = null;
    this.#arrived = this.#durable.slice();
  }

  /** The client writes to whoever serves; nobody may. */
  clientWrites(): void {
    const atSource = this.#sourceServes;
    const atDestination = this.destinationOwns;
    if (atSource && atDestination) throw new Violation("two hosts serve the disk");
    if (!atSource && !atDestination) return;
    const block = this.#writes % BLOCKS;
    const value = ++this.#writes;
    if (atSource) {
      this.#sourceDisk[block] = value;
      this.#unsent.add(block);
    } else {
      this.#arrived[block] = this.#durable[block] = value;
    }
    this.#acknowledged[block] = value;
  }

  get destinationOwns(): boolean {
    const ownership = this.destination?.ownership;
    return ownership?.state === "owner" && ownership.role === "cameBy";
  }

  /** Exactly one host owns the disk, and it has all that was acknowledged. */
  checkSettled(): void {
    this.check();
    const here = this.source.ownership.state === "owner";
    if (!here && !this.destinationOwns) throw new Violation("nobody owns the disk");
    // What is durable there is what counts: the host may lose its power now.
    const disk = here ? this.#sourceDisk : this.#durable;
    if (disk.some((value, block) => value !== this.#acknowledged[block])) {
      throw new Violation(`an acknowledged write is missing: ${disk} instead of ${this.#acknowledged}`);
    }
  }

  /** What holds at any moment. */
  check(): void {
    if (this.source.ownership.state === "owner" && this.destinationOwns) {
      throw new Violation("two hosts own the disk");
    }
  }

  /** Carries a conversation out. */
  #carry<T>(conversation: SourceConversation<T>, reaches: boolean): T {
    let given: unknown;
    while (true) {
      const { done, value } = conversation.next(given);
      if (done) return value;
      given = undefined;
      if (value.kind === "write") {
        const fault = this.#enter(`source writes ${value.record.ownership.state}`);
        this.#sourceMayDie(fault, "before");
        this.source = value.record;
        this.check();
        this.#sourceMayDie(fault, "after");
      } else if (value.kind === "leave") {
        this.#sourceMayDie(this.#enter("source leaves"), "before");
      } else {
        given = reaches ? this.#ask(value.request) : null;
      }
    }
  }

  #ask(request: MigrationRequest): MigrationAnswer | null {
    const fault = this.#enter(request.verb);
    this.#sourceMayDie(fault, "before");
    const query = encodeMigrationRequest(request);
    // What was late may arrive at any time: worst is before the next message.
    const late = this.#late;
    this.#late = [];
    for (const each of late) this.#deliver(each, undefined);
    if (fault === "request comes again later") this.#late.push(query);
    if (fault === "request lost") return null;
    const answer = this.#deliver(query, fault);
    this.#sourceMayDie(fault, "after");
    return fault === "answer lost" ? null : answer;
  }

  #deliver(query: string, fault: Fault | undefined): MigrationAnswer | null {
    if (this.#destinationDies(fault, "before")) return null;
    const request = decodeMigrationRequest(query);
    const step = this.#parts.answerSource(this.destination, request, {
      sizeBytes: SIZE_BYTES,
      receivingId: this.#receivingId,
      newUuid: () => this.#newId(),
      now: now(),
      peer: "source",
    });
    if (step.syncs && this.#parts.syncs) this.#durable = this.#arrived.slice();
    if (fault === "destination dies after its sync") return this.#destinationFalls();
    if (step.record !== null) this.destination = step.record;
    const { is } = step.answer;
    this.history.push(`destination answers ${is}`);
    this.check();
    if (request.verb === "hello" && (is === "fresh" || is === "resume")) this.#receivingId = request.id;
    if (this.#destinationDies(fault, "after")) return null;
    return decodeMigrationAnswer([encodeMigrationAnswer(step.answer)]);
  }

  #destinationDies(fault: Fault | undefined, when: "before" | "after"): boolean {
    const dies = fault === `both die ${when}` ||
      fault === (when === "before" ? "destination dies before" : "destination dies after its record");
    if (dies) this.#destinationFalls();
    return dies;
  }

  #destinationFalls(): null {
    this.history.push("destination died");
    this.restartDestination();
    return null;
  }

  #sourceMayDie(fault: Fault | undefined, when: "before" | "after"): void {
    if (fault === `source dies ${when}`) throw new Died();
    if (fault !== `both die ${when}`) return;
    this.#destinationFalls();
    throw new Died();
  }

  #enter(what: string): Fault | undefined {
    const fault = this.#plan.get(this.steps++);
    this.history.push(fault === undefined ? what : `${what} [${fault}]`);
    return fault;
  }

  #newId(): string {
    return `00000000-0000-4000-8000-${String(++this.#ids).padStart(12, "0")}`;
  }
}

function now(): string {
  return "2026-01-02T03:04:05Z";
}

/**
 * Plays one plan to its end: lives of the source until everything planned has happened, then one without faults that
 * settles. @throws {Violation} With the history.
 */
export function play(plan: ReadonlyMap<number, Fault>, parts?: Parts): HandOverWorld {
  const world = new HandOverWorld(plan, parts);
  const last = Math.max(-1, ...plan.keys());
  try {
    for (let life = 0; life === 0 || world.steps <= last && life < 6; life++) {
      world.runSource();
      world.clientWrites();
    }
    world.runSource({ migrates: false });
    world.clientWrites();
    world.checkSettled();
  } catch (error) {
    if (error instanceof Violation) error.message += `\n${world.history.join("\n")}`;
    throw error;
  }
  return world;
}
