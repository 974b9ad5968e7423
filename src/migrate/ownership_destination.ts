/**
 * The destination's part in the change of ownership: what it answers to each message of the source, and what it must
 * have written down before it answers.
 *
 * A pure function of what is written down and what is asked, so that any message may come again, after any crash.
 * `prepared` is the only state in which this side has given its word and depends on the other's; `commit` ends it in
 * one durable write, which is the moment at which the disk changes hands.
 */
import type { DiskRecord, Migration, Ownership } from "../device/ownership.ts";
import type { MigrationAnswer, MigrationHello, MigrationRequest } from "../wire/nbd/migration_message.ts";

/** What the destination knows besides its record. */
export interface DestinationFacts {
  readonly sizeBytes: number;
  /** The migration whose data have been coming to this very process, and nothing else since. */
  readonly receivingId: string | null;
  /** For a copy that has never had an identity. */
  newUuid(): string;
  /** ISO 8601. */
  readonly now: string;
  /** Who asks. */
  readonly peer: string;
}

/** What to do, in this order. */
export interface DestinationStep {
  /** First make the disk durable. */
  readonly syncs: boolean;
  /** Then write this down; `null`: nothing. */
  readonly record: DiskRecord | null;
  /** Then answer. */
  readonly answer: MigrationAnswer;
}

/** Decides on one message. */
export function answerSource(
  known: DiskRecord | null,
  request: MigrationRequest,
  facts: DestinationFacts,
): DestinationStep {
  if (request.verb === "hello") return answerHello(known, request, facts);
  const ownership = known?.ownership;
  const state = ownership === undefined ? "unknown" : stateOf(ownership, request.id);
  if (known === null || state === "unknown") return say("unknown");
  const { migration } = known.ownership;
  const write = (changed: Partial<DiskRecord> & Pick<DiskRecord, "ownership">, syncs = false) => ({
    syncs,
    record: { ...known, ...changed },
    answer: { is: changed.ownership.state } as MigrationAnswer,
  });
  const noted: Migration = { ...migration!, at: facts.now };
  switch (request.verb) {
    case "prepare":
      if (state === "owner") return say(state);
      // Asked again: a message that was late may have prepared it before the last of the data came.
      if (state === "prepared") return { ...say(state), syncs: true };
      // A process that was started again may be missing what was answered and not yet synced.
      if (facts.receivingId !== request.id) return say("receiving");
      return write({ ownership: { ...known.ownership, state: "prepared", migration: noted } }, true);
    case "commit": {
      if (state !== "prepared") return say(state);
      const { uuid, generation, epoch } = noted;
      const ownership: Ownership = { state: "owner", epoch, migration: noted, role: "cameBy" };
      return write({ uuid, generation: generation + 1, ownership });
    }
    case "release":
      if (state !== "prepared") return say(state);
      return write({ ownership: { ...known.ownership, state: "receiving", migration: noted } });
    default:
      return say(state);
  }
}

function answerHello(
  known: DiskRecord | null,
  { id, uuid, generation, epoch, sizeBytes }: MigrationHello,
  facts: DestinationFacts,
): DestinationStep {
  if (sizeBytes !== facts.sizeBytes) {
    return refuse("size", `the disk has ${sizeBytes} bytes, this one has ${facts.sizeBytes}`);
  }
  const ownership = known?.ownership;
  const mentioned = ownership?.migration;
  if (ownership !== undefined && stateOf(ownership, id) === "owner") return say("owner");
  if (known?.uuid === uuid && ownership?.state === "owner") {
    return refuse("policy", "this image is that disk already: see denbd own");
  }
  if (ownership?.state === "in-doubt") {
    return refuse("policy", "it is in doubt whether this image is still a disk of its own: see denbd own");
  }
  if (ownership?.state === "prepared" && mentioned!.uuid !== uuid) {
    return refuse("policy", "this image holds a whole copy of another disk, not yet settled: see denbd own");
  }
  const atLeast = ownership?.state === "moved" ? mentioned!.epoch + 1 : mentioned?.epoch ?? 0;
  const isOlder = mentioned?.uuid === uuid && ownership!.state !== "owner" && epoch < atLeast;
  if (isOlder || known?.uuid === uuid && epoch <= ownership!.epoch) {
    return refuse("policy", `this host knows of a later state of the disk than epoch ${epoch}`);
  }
  const resumes = facts.receivingId === id && ownership !== undefined && stateOf(ownership, id) !== "unknown";
  const answer: MigrationAnswer = { is: resumes ? "resume" : "fresh" };
  const migration: Migration = { id, uuid, generation, epoch, peer: facts.peer, at: facts.now };
  const own = known ?? { uuid: facts.newUuid(), generation: 1, ownership: { state: "owner", epoch: 1 } };
  const record: DiskRecord = {
    ...own,
    ownership: { state: "receiving", epoch: own.ownership.epoch, migration },
  };
  return { syncs: false, record, answer };
}

/** What the record says of one migration, as its destination. */
function stateOf(
  { state, migration, role }: Ownership,
  id: string,
): "receiving" | "prepared" | "owner" | "unknown" {
  if (migration?.id !== id) return "unknown";
  if (state === "receiving" || state === "prepared") return state;
  return state === "owner" && role === "cameBy" ? "owner" : "unknown";
}

function say(is: "receiving" | "prepared" | "owner" | "unknown"): DestinationStep {
  return { syncs: false, record: null, answer: { is } };
}

function refuse(why: "size" | "policy", reason: string): DestinationStep {
  return { syncs: false, record: null, answer: { is: "refused", why, reason } };
}
