/**
 * Where the other host of a migration is heard: carries out what `ownership_destination.ts` decides, one message at a
 * time, and keeps whoever writes to the disk apart from the data that come.
 */
import type { Log } from "../base/log.ts";
import type { BlockDevice } from "../device/device.ts";
import type { DiskRecord, RecordStore } from "../device/ownership.ts";
import type { Peer } from "../net/connection.ts";
import type { MigrationDesk, WritingSession } from "../server/migration_desk.ts";
import type { MigrationAnswer, MigrationHello, MigrationRequest } from "../wire/nbd/migration_message.ts";
import { answerSource } from "./ownership_destination.ts";

export interface OwnershipDeskOptions {
  readonly store: RecordStore;
  /** What is made durable before a copy counts as whole. */
  readonly device: Pick<BlockDevice, "flush">;
  readonly sizeBytes: number;
  readonly log: Log;
  /** Whether a disk may move here: not over one that is served. */
  readonly receives: () => boolean;
  /** What is kept at the start. */
  readonly known: DiskRecord | null;
  /** Told when the disk has become ours, with its record. */
  readonly onOwner?: (record: DiskRecord) => void;
  /** Told when the source knows that. */
  readonly onAcknowledged?: () => void;
}

export class OwnershipDesk implements MigrationDesk {
  readonly #options: OwnershipDeskOptions;
  /** The migration whose data have been coming, and nothing else since. */
  #receivingId: string | null = null;
  /** The disk whose data came last, and who sent them. */
  #source = { uuid: "", peer: "" };
  /** Clients that may write. */
  readonly #sessions = new Map<WritingSession, Visit>();
  /** The message before. */
  #turn: Promise<unknown> = Promise.resolve();
  /** The source's word is awaited: the copy is nobody's to change. */
  #prepared: boolean;
  /** A record may have been written or not: nothing is said any more. */
  #failure: string | null = null;

  constructor(options: OwnershipDeskOptions) {
    this.#options = options;
    this.#prepared = options.known?.ownership.state === "prepared";
  }

  answer(request: MigrationRequest, peer: Peer): Promise<MigrationAnswer> {
    const turn = this.#turn.then(() => this.#answer(request, peer)).catch((error): MigrationAnswer => {
      const { message } = error as Error;
      this.#options.log.error(`migration ${request.id}: ${request.verb} of ${peer.text} failed: ${message}`);
      return { is: "refused", why: "busy", reason: message };
    });
    this.#turn = turn;
    return turn;
  }

  enter(id: string | null, session: WritingSession): () => void {
    const refusal = this.#whyNot(id);
    if (refusal !== null) {
      session.forbidWrites();
      session.abort(refusal);
    } else if (id === null) {
      // It may write what it likes: nothing of what has come can be relied upon.
      this.#receivingId = null;
    }
    const gone = Promise.withResolvers<void>();
    this.#sessions.set(session, { gone, isSource: id !== null });
    return () => {
      this.#sessions.delete(session);
      gone.resolve();
    };
  }

  #whyNot(id: string | null): string | null {
    if (!this.#options.receives()) return null;
    if (id !== null) return id === this.#receivingId ? null : "another attempt has begun";
    if (this.#prepared) return "a whole copy waits for its source";
    return this.#sessions.size === 0 ? null : "another source is sending";
  }

  async #answer(request: MigrationRequest, peer: Peer): Promise<MigrationAnswer> {
    const { store, device, sizeBytes, log, receives } = this.#options;
    if (this.#failure !== null) throw new Error(this.#failure);
    if (request.verb === "hello" && !receives()) {
      return {
        is: "refused",
        why: "policy",
        reason: "the disk there is in use; a disk is received by denbd listen",
      };
    }
    const busy = request.verb === "hello" ? this.#whoSends(request) : null;
    if (busy !== null) return { is: "refused", why: "busy", reason: `the destination is busy: ${busy}` };
    const known = await store.read();
    const step = answerSource(known, request, {
      sizeBytes,
      receivingId: this.#receivingId,
      newUuid: () => crypto.randomUUID(),
      now: new Date().toISOString(),
      peer: peer.text,
    });
    const { answer, record, syncs } = step;
    const begins = answer.is === "fresh" || answer.is === "resume";
    if (begins) await this.#endSessions();
    if (syncs) await device.flush();
    if (record !== null) {
      try {
        await store.write(record);
      } catch (error) {
        this.#failure = `its record could not be written: ${(error as Error).message}`;
        throw new Error(this.#failure, { cause: error });
      }
      const { state } = record.ownership;
      this.#prepared = state === "prepared";
      if (state !== known?.ownership.state) log.info(`migration ${request.id} from ${peer.text}: ${state}`);
      if (state === "owner") this.#options.onOwner?.(record);
    }
    if (begins) {
      this.#receivingId = request.id;
      this.#source = { uuid: (request as MigrationHello).uuid, peer: peer.text };
    }
    // The word is given: nothing may change any more.
    if (answer.is === "prepared") { for (const session of this.#sessions.keys()) session.forbidWrites(); }
    if (request.verb === "acknowledge" && answer.is === "owner") this.#options.onAcknowledged?.();
    return answer;
  }

  /** Who sends another disk at the moment, or may do so; `null`: nobody. The same disk may begin again at any time. */
  #whoSends({ uuid }: MigrationHello): string | null {
    for (const [{ traffic }, { isSource }] of this.#sessions) {
      if (isSource && this.#source.uuid !== uuid) return `another disk is coming from ${this.#source.peer}`;
      if (!isSource && traffic.writtenBytes > 0) return "somebody else is writing to it";
    }
    return null;
  }

  /** What an earlier connection still has in flight must not come after what the next one sends. */
  async #endSessions(): Promise<void> {
    const sessions = [...this.#sessions];
    for (const [session] of sessions) session.abort("another attempt begins");
    await Promise.all(sessions.map(([, { gone }]) => gone.promise));
  }
}

/** A client that may write, and is here. */
interface Visit {
  /** Resolves when it has gone. */
  readonly gone: PromiseWithResolvers<void>;
  /** It brings the data of a disk that moves. */
  readonly isSource: boolean;
}
