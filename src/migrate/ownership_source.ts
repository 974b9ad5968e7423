/**
 * The source's part in the change of ownership, as conversations that read like the protocol: what is written down,
 * what is said, in which order.
 *
 * The order keeps two owners apart. The source says `commit` only after it has written down that it is in doubt, and
 * from then on it serves nothing; the destination serves only after it has written down that it owns. Whatever is cut
 * off in between is in doubt or prepared, and {@linkcode settle} ends it at the next contact.
 */
import type { DiskRecord, Migration, Ownership } from "../device/ownership.ts";
import type { MigrationAnswer, MigrationRequest } from "../wire/nbd/migration_message.ts";

/** What a conversation asks of whoever carries it out. */
export type SourceEffect =
  /** Resumed when the record is durable. */
  | { readonly kind: "write"; readonly record: DiskRecord }
  /** Resumed with the answer, or with `null` if none came. */
  | { readonly kind: "ask"; readonly request: MigrationRequest }
  /** Resumed when nothing is served here any more. */
  | { readonly kind: "leave" };

// deno-lint-ignore no-explicit-any
export type SourceConversation<T> = Generator<SourceEffect, T, any>;

/** How a change of ownership stands, for the source. `owner`: the disk is here, nothing has happened. */
export type SourceOutcome =
  | { readonly is: "owner"; readonly answer: MigrationAnswer | null }
  | { readonly is: "in-doubt"; readonly answer: MigrationAnswer | null }
  | { readonly is: "moved" };

/** The next change of hands of a disk. */
export function nextMigration(
  { uuid, generation, ownership }: DiskRecord,
  id: string,
  peer: string,
  now: string,
): Migration {
  return { id, uuid, generation, epoch: ownership.epoch + 1, peer, at: now };
}

/**
 * Announces the disk. Where it is taken, the attempt is written down before anything else: should this host fall, it
 * knows afterwards whom to tell that nothing comes of it.
 *
 * @returns The answer; `null` if none came.
 */
export function* announce(
  record: DiskRecord,
  migration: Migration,
  sizeBytes: number,
): SourceConversation<MigrationAnswer | null> {
  const { id, uuid, generation, epoch } = migration;
  const answer = yield* ask({ verb: "hello", id, uuid, generation, epoch, sizeBytes });
  if (answer?.is !== "fresh" && answer?.is !== "resume") return answer;
  if (record.ownership.migration?.id === id) return answer;
  const ownership: Ownership = { state: "owner", epoch: record.ownership.epoch, migration, role: "leaving" };
  yield* write({ ...record, ownership });
  return answer;
}

/**
 * Hands the disk over. Everything has been sent, and nothing changes here any more.
 *
 * @param record As {@linkcode announce} has written it.
 * @throws What the carrier throws when it leaves; the disk is still ours then.
 */
export function* handOver(record: DiskRecord, now: () => string): SourceConversation<SourceOutcome> {
  const { id } = record.ownership.migration!;
  const prepared = yield* ask({ verb: "prepare", id });
  if (prepared?.is !== "prepared") return { is: "owner", answer: prepared };
  const inDoubt = withState(record, "in-doubt", now());
  yield* write(inDoubt);
  try {
    yield { kind: "leave" };
  } catch (error) {
    // Nothing has been said that would let the destination take it.
    yield* write(record);
    yield* ask({ verb: "release", id });
    throw error;
  }
  return yield* settle(inDoubt, now);
}

/**
 * Ends what is unfinished at this side, if the destination answers.
 *
 * A disk in doubt is handed over if the destination is prepared or has taken it already. It comes back only if the
 * destination says that it is not going to take it. An owner whose attempt came to nothing says so.
 *
 * @param record Of a disk in doubt, or of an owner.
 */
export function* settle(record: DiskRecord, now: () => string): SourceConversation<SourceOutcome> {
  const { state, migration, role } = record.ownership;
  if (state === "moved") return { is: "moved" };
  if (state === "in-doubt") {
    const { id } = migration!;
    const answer = yield* ask({ verb: "commit", id });
    if (answer?.is === "owner") {
      yield* write(withState(record, "moved", now()));
      yield* ask({ verb: "acknowledge", id });
      return { is: "moved" };
    }
    if (answer?.is !== "receiving") return { is: "in-doubt", answer };
    yield* write(forget(record));
    return { is: "owner", answer };
  }
  if (migration === undefined || role !== "leaving") return { is: "owner", answer: null };
  const answer = yield* ask({ verb: "release", id: migration.id });
  if (answer?.is === "receiving" || answer?.is === "unknown") yield* write(forget(record));
  return { is: "owner", answer };
}

function withState(record: DiskRecord, state: "in-doubt" | "moved", now: string): DiskRecord {
  const { epoch, migration } = record.ownership;
  return { ...record, ownership: { state, epoch, migration: { ...migration!, at: now } } };
}

/** The record of an owner who has nobody to tell anything. */
function forget(record: DiskRecord): DiskRecord {
  const ownership: Ownership = { state: "owner", epoch: record.ownership.epoch };
  return { ...record, ownership };
}

function* write(record: DiskRecord): SourceConversation<void> {
  yield { kind: "write", record };
}

function* ask(request: MigrationRequest): SourceConversation<MigrationAnswer | null> {
  return yield { kind: "ask", request };
}
