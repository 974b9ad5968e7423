/** What a command that serves an image does about who owns it; see `device/ownership.ts`. */
import type { AdjustableLog } from "../base/log.ts";
import { parseDiskLocator } from "../base/uri.ts";
import type { BlockDevice } from "../device/device.ts";
import { openFileDisk } from "../device/open_file_disk.ts";
import type { DiskRecord, RecordStore } from "../device/ownership.ts";
import { type DiskState, findDiskState } from "../device/state_directory.ts";
import { askDestination, carryOut } from "../migrate/ownership_carrier.ts";
import { OwnershipDesk } from "../migrate/ownership_desk.ts";
import { settle, type SourceOutcome } from "../migrate/ownership_source.ts";
import { dialOf } from "../open_disk.ts";
import { type Clock, systemClock } from "../os/clock.ts";
import { libc } from "../os/libc.ts";
import { OsError } from "../os/os_error.ts";
import type { MigrationDesk } from "../server/migration_desk.ts";

/** For one question to the other host. */
const ANSWER_MS_MAX = 10_000;
/** Between two attempts to tell the other host that nothing comes of a move; grows up to the second. */
const TELL_MS_MIN = 1000;
const TELL_MS_MAX = 60_000;

export interface OwnershipSurroundings {
  readonly stateDirectory: string;
  readonly log: AdjustableLog;
  env(name: string): string | undefined;
}

/** What is kept of an image; `null` where nothing can be. */
export function diskState(path: string, stateDirectory: string): DiskState | null {
  const lib = libc();
  if (lib === null) return null;
  try {
    return findDiskState(lib, stateDirectory, path);
  } catch (error) {
    // Whoever opens it will say why.
    if (error instanceof OsError) return null;
    throw error;
  }
}

/**
 * Asks the other host where it is in doubt who owns an image, before that is opened.
 *
 * @returns What is kept afterwards.
 * @throws {DeviceError} If the image is in use, or what is kept of it cannot be understood.
 */
export async function settleOwnership(
  path: string,
  surroundings: OwnershipSurroundings,
): Promise<DiskRecord | null> {
  const state = diskState(path, surroundings.stateDirectory);
  const known = await state?.read().catch(unreadable) ?? null;
  if (state === null || known?.ownership.state !== "in-doubt") return known;
  // Locked meanwhile: nobody else is to come to a decision.
  const disk = await openFileDisk(path, { log: surroundings.log });
  try {
    const outcome = await settleOnce(state, systemClock, surroundings);
    surroundings.log.info(`${path}: was in doubt, and is ${outcome.is} now`);
    return await state.read();
  } finally {
    await disk.close();
  }
}

/** A directory that cannot be read is told of when the disk is opened. */
function unreadable(error: Error): null {
  if (error.name === "DeviceError") throw error;
  return null;
}

async function settleOnce(
  store: RecordStore,
  clock: Clock,
  { log, env }: OwnershipSurroundings,
  stopped?: AbortSignal,
): Promise<SourceOutcome> {
  const known = (await store.read())!;
  const { peer = "" } = known.ownership.migration ?? {};
  return await carryOut(settle(known, () => new Date().toISOString()), {
    store,
    async ask(request) {
      const late = new AbortController();
      using _timer = clock.timer(ANSWER_MS_MAX, () => {
        late.abort(new Error(`no answer within ${ANSWER_MS_MAX / 1000} s`));
      });
      const signal = stopped === undefined ? late.signal : AbortSignal.any([late.signal, stopped]);
      const failed = (reason: Error) =>
        void (stopped?.aborted || log.warn(`${peer} does not tell of the disk: ${reason.message}`));
      try {
        const locator = parseDiskLocator(peer);
        if (locator.kind !== "nbd") throw new Error("it is no NBD server");
        const dial = dialOf(locator, { log, env });
        return await askDestination(dial, locator.exportName, request, signal, failed);
      } catch (error) {
        failed(error as Error);
        return null;
      }
    },
  });
}

/** The ownership of an image that is served: others may ask about it, and it may move away. */
export class ServedOwnership implements RecordStore, AsyncDisposable {
  readonly desk: MigrationDesk;
  readonly #state: DiskState;
  readonly #stopping = new AbortController();
  readonly #telling: Promise<void>;

  /** @param device Opened, as the owner of the image. */
  constructor(
    state: DiskState,
    device: BlockDevice,
    surroundings: OwnershipSurroundings,
    clock = systemClock,
  ) {
    this.#state = state;
    const { log } = surroundings;
    this.desk = new OwnershipDesk({
      store: this,
      known: null,
      device,
      sizeBytes: device.sizeBytes,
      log,
      receives: () => false,
    });
    this.#telling = this.#tell(surroundings, clock).catch((error) => {
      log.warn(`the end of a migration was not written down: ${error.message}`);
    });
  }

  get latest(): DiskRecord | null {
    return this.#state.latest;
  }

  read(): Promise<DiskRecord | null> {
    return this.#state.read();
  }

  /** Whoever writes has news: what was to be told is over. */
  async write(record: DiskRecord): Promise<void> {
    await this[Symbol.asyncDispose]();
    await this.#state.write(record);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort();
    await this.#telling;
  }

  /** Tells the destination of a move that was cut off that nothing comes of it. */
  async #tell(surroundings: OwnershipSurroundings, clock: Clock): Promise<void> {
    const { signal } = this.#stopping;
    for (let pauseMs = TELL_MS_MIN; !signal.aborted; pauseMs = Math.min(2 * pauseMs, TELL_MS_MAX)) {
      const known = await this.#state.read();
      if (known?.ownership.role !== "leaving") return;
      await settleOnce(this.#state, clock, surroundings, signal);
      if (signal.aborted) return;
      const { promise: over, resolve } = Promise.withResolvers<void>();
      signal.addEventListener("abort", () => resolve(), { once: true });
      using _timer = clock.timer(pauseMs, resolve, { background: true });
      await over;
    }
  }
}
