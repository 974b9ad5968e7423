/**
 * The source's side of one migration between two denbd ends: announces the disk to the destination, hands it over, and
 * stays with it until it is certain whose it is.
 */
import type { Log } from "../base/log.ts";
import type { Migration, RecordStore } from "../device/ownership.ts";
import { type Clock, delay } from "../os/clock.ts";
import type { Dial } from "../remote/open_connection.ts";
import {
  encodeMigrationRequest,
  type MigrationAnswer,
  type MigrationRequest,
} from "../wire/nbd/migration_message.ts";
import { AttemptFailure, HandoverInDoubt } from "./handover.ts";
import { askDestination, carryOut } from "./ownership_carrier.ts";
import { announce, handOver, nextMigration, settle, type SourceOutcome } from "./ownership_source.ts";

/** For an answer; the destination may have to make much durable before it is prepared. */
const ANSWER_MS_MAX = 60_000;
/** Clients are held for so long while it is in doubt whose the disk is; after that this process gives up. */
const DOUBT_MS_MAX = 60_000;
/** To tell a destination that nothing comes of it. */
const RELEASE_MS_MAX = 5000;
/** Between two questions. */
const PAUSE_MS = 500;

/** What is still being told of migrations that are over: what is written then must not come after what is new. */
const releases = new WeakMap<RecordStore, Promise<void>>();

export interface SourceOwnershipOptions {
  readonly store: RecordStore;
  readonly dial: Dial;
  /** "" is the server's default export. */
  readonly exportName: string;
  /** The destination as it can be dialled again by another process: a URI. */
  readonly peer: string;
  readonly sizeBytes: number;
  readonly clock: Clock;
  readonly log: Log;
}

export class SourceOwnership {
  readonly #options: SourceOwnershipOptions;
  readonly #id = crypto.randomUUID();
  #migration: Migration | null = null;

  constructor(options: SourceOwnershipOptions) {
    this.#options = options;
  }

  /**
   * Announces the disk.
   *
   * @param connect Makes the connection for the data, with the query, and returns the answer that it got; `null` if
   *   the server has none, because it is not of our kind.
   * @throws What `connect` throws, and what writing the record throws.
   */
  async announce(
    connect: (query: string) => Promise<MigrationAnswer | null>,
  ): Promise<MigrationAnswer | null> {
    const { store, peer, sizeBytes } = this.#options;
    await releases.get(store);
    const known = await store.read();
    if (known === null) throw new AttemptFailure("rejected", "nothing is kept of the disk here");
    if (known.ownership.state !== "owner") {
      throw new AttemptFailure("rejected", `the disk is not owned here: it is ${known.ownership.state}`);
    }
    this.#migration ??= nextMigration(known, this.#id, peer, now());
    const ask = (request: MigrationRequest) => connect(encodeMigrationRequest(request));
    return await carryOut(announce(known, this.#migration, sizeBytes), { store, ask });
  }

  /** Says that nothing comes of it, if the destination can be reached soon. Never throws. */
  release(): Promise<void> {
    const releasing = this.#release();
    releases.set(this.#options.store, releasing);
    return releasing;
  }

  async #release(): Promise<void> {
    try {
      const { ownership } = (await this.#options.store.read())!;
      if (ownership.state === "owner" && ownership.migration?.id === this.#id) {
        await this.#settle(RELEASE_MS_MAX);
      }
    } catch (error) {
      this.#options.log.warn(`the end of the migration was not written down: ${(error as Error).message}`);
    }
  }

  /**
   * Hands the disk over; see `Attempt.finish`.
   *
   * @throws {AttemptFailure} The disk is still ours.
   * @throws {HandoverInDoubt}
   */
  async finish(leave: () => Promise<void>): Promise<void> {
    const { store, clock, log, peer } = this.#options;
    const known = await store.read();
    let left = false;
    const outcome = await carryOut(handOver(known!, now), {
      store,
      ask: (request) => this.#ask(request, ANSWER_MS_MAX),
      leave: async () => {
        await leave();
        left = true;
      },
    });
    if (outcome.is === "owner" && !left) {
      throw new AttemptFailure("broken", `the destination is not prepared: ${say(outcome.answer)}`);
    }
    let latest: SourceOutcome = outcome;
    const untilMs = clock.now() + DOUBT_MS_MAX;
    for (let asked = 0; latest.is === "in-doubt" && clock.now() < untilMs; asked++) {
      if (asked === 0) {
        log.error(`it is in doubt whether ${peer} has taken the disk over: asking until it answers`);
      }
      await delay(clock, PAUSE_MS);
      latest = await this.#settle(ANSWER_MS_MAX);
    }
    if (latest.is === "moved") return;
    throw new HandoverInDoubt(
      latest.is === "owner"
        ? "the destination has let go of the disk, which is here again when it is served anew"
        : `the destination does not say whether it has taken the disk over: ${
          say(latest.answer)
        }; see denbd own`,
    );
  }

  async #settle(answerMsMax: number): Promise<SourceOutcome> {
    const { store } = this.#options;
    const ask = (request: MigrationRequest) => this.#ask(request, answerMsMax);
    return await carryOut(settle((await store.read())!, now), { store, ask });
  }

  async #ask(request: MigrationRequest, msMax: number): Promise<MigrationAnswer | null> {
    const { dial, exportName, clock, log } = this.#options;
    const late = new AbortController();
    using _timer = clock.timer(msMax, () => late.abort(new Error(`no answer within ${msMax / 1000} s`)));
    return await askDestination(dial, exportName, request, late.signal, (reason) => {
      // The destination ends by itself, and need not be there for a farewell.
      const level = request.verb === "acknowledge" ? "debug" : "warn";
      log[level](`no answer to ${request.verb}: ${reason.message}`);
    });
  }
}

function say(answer: MigrationAnswer | null): string {
  if (answer === null) return "it did not answer";
  return answer.is === "refused" ? answer.reason : `it is ${answer.is}`;
}

function now(): string {
  return new Date().toISOString();
}
