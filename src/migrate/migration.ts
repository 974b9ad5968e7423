/**
 * Moves a disk to another place while clients use it.
 *
 * Everything is sent in a first pass, what clients change meanwhile in further ones, until what is left can be sent
 * within the downtime that clients may see. Then they are held, the rest is sent and made durable, and the disk is
 * handed over. Whatever fails before that leaves clients with a disk that was a little slow.
 *
 * @see spec: flexnbd section 12, and 17 for what is done otherwise
 */
import type { Log } from "../base/log.ts";
import type { BlockDevice } from "../device/device.ts";
import { type Clock, delay } from "../os/clock.ts";
import { Convergence, type ConvergenceOptions } from "./convergence.ts";
import { Debt } from "./debt.ts";
import { type Attempt, type Destination, HandoverInDoubt } from "./handover.ts";
import { interruptible } from "./interruptible.ts";
import { Throttle } from "./throttle.ts";
import { Tracker } from "./tracker.ts";
import { Transfer, type TransferPhase } from "./transfer.ts";

/** Before a broken attempt is followed by the next. */
const RETRY_MS = 1000;
/** A destination that answers nothing for so long has gone. */
const SILENCE_MS_MAX = 60_000;

export type MigrationPhase =
  | "connecting"
  | TransferPhase
  | "waiting"
  | "moved"
  | "copied"
  | "broken"
  | "failed"
  | "in-doubt";

export interface MigrationOptions extends ConvergenceOptions {
  /** Where clients find the disk; something is put in front of it and taken away again. */
  readonly place: { device: BlockDevice };
  /** Bytes of it that move: the disk's size, or less. */
  readonly sizeBytes: number;
  readonly destination: Destination;
  readonly clock: Clock;
  readonly log: Log;
  /**
   * Gives the disk up on this side; see {@linkcode Attempt.finish}. Clients are held, and stay so.
   *
   * @throws If that cannot be done: then the disk stays.
   */
  readonly leave?: () => Promise<void>;
  /** `false`: the destination gets a copy, and the disk stays. Default `true`. */
  readonly handOver?: boolean;
  /** Bytes per second; `null`, the default, for as fast as it goes. */
  readonly speedLimit?: number | null;
  /** Default a minute; 0 for ever. */
  readonly silenceMsMax?: number;
}

/** How far a migration is. Bytes and milliseconds. */
export interface MigrationProgress {
  readonly destination: string;
  readonly phase: MigrationPhase;
  /** From 1: connections to the destination. */
  readonly attempt: number;
  /** From 1, within the attempt; what clients had changed is sent in the later ones. */
  readonly pass: number;
  readonly bytesTotal: number;
  /** Data that the destination acknowledged in this attempt, counted each time they were sent. */
  readonly bytesSent: number;
  readonly bytesLeft: number;
  /** Of these, changed by clients since they were sent. */
  readonly bytesDirty: number;
  /** Over the last seconds. */
  readonly bytesPerSecond: number;
  /** Since the attempt began; 0 while there is none. */
  readonly durationMs: number;
  /** `null` while that cannot be told. */
  readonly leftMs: number | null;
  readonly speedLimit: number | null;
  /** `false` when clients write faster than the disk can be moved. */
  readonly converges: boolean;
  /** Bytes per second that clients may write; `null` as fast as they like. */
  readonly writersLimit: number | null;
  readonly downtimeMs: number;
  /** Why the last attempt failed. */
  readonly lastError: string | null;
}

/** Why a migration was ended. */
class Broken extends Error {
  override readonly name = "Broken";
}

export class Migration {
  readonly #options: MigrationOptions;
  readonly #disk: BlockDevice;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #what: string;
  readonly #tracker: Tracker;
  readonly #throttle: Throttle;
  readonly #convergence: Convergence;
  readonly #debt: Debt;
  readonly #breaking = new AbortController();
  readonly #started = Promise.withResolvers<void>();
  readonly #ended: Promise<MigrationPhase>;
  #phase: MigrationPhase = "connecting";
  #attempts = 0;
  /** Of this attempt, once the destination is reached. */
  #transfer: Transfer | null = null;
  #lastError: string | null = null;
  /** The same without numbers, which differ from one attempt to the next. */
  #lastReason = "";

  /** Starts at once. */
  constructor(options: MigrationOptions) {
    const { place, sizeBytes, clock, log, speedLimit = null } = options;
    this.#options = options;
    this.#disk = place.device;
    this.#clock = clock;
    this.#log = log;
    this.#what = `migration to ${options.destination.text}`;
    this.#throttle = new Throttle(clock, speedLimit);
    const debt = this.#debt = new Debt(sizeBytes, place.device.blockSizes.minimum);
    this.#tracker = new Tracker(this.#disk, clock, (offset, length) => debt.mark(offset, length));
    this.#convergence = new Convergence(options, this.#tracker, log, this.#what);
    this.#started.promise.catch(() => {});
    this.#ended = this.#run();
  }

  /**
   * Resolves when the first attempt has reached the destination.
   *
   * @throws {AttemptFailure} If it could not; there is no other.
   */
  get started(): Promise<void> {
    return this.#started.promise;
  }

  /** Resolves at the end with the last phase: `moved`, `copied`, `broken`, `failed` (no attempt began) or `in-doubt`. */
  get ended(): Promise<MigrationPhase> {
    return this.#ended;
  }

  /**
   * Breaks it off; clients notice nothing.
   *
   * @returns When it has ended. `false` if it was too late: the disk has moved.
   */
  async break(): Promise<boolean> {
    this.#breaking.abort(new Broken("it was broken off"));
    const phase = await this.#ended;
    return phase !== "moved" && phase !== "in-doubt";
  }

  /** Bytes per second; `null` for as fast as it goes. */
  set speedLimit(limit: number | null) {
    this.#throttle.bytesPerSecond = limit;
  }

  /** After it has moved: lets go of the requests of clients that were held, which fail. To be called when they have been cut off. */
  refuseClients(): void {
    this.#tracker.refuse();
  }

  progress(): MigrationProgress {
    const { pending } = this.#debt;
    const { pass = 0, sentBytes = 0, underWayBytes = 0 } = this.#transfer ?? {};
    const bytesLeft = pending.bytes + underWayBytes;
    const bytesPerSecond = Math.round(this.#transfer?.speed ?? this.#convergence.speed);
    return {
      destination: this.#options.destination.text,
      phase: this.#phase,
      attempt: this.#attempts,
      pass,
      bytesTotal: pending.sizeBytes,
      bytesSent: sentBytes,
      bytesLeft,
      bytesDirty: pass > 1 ? bytesLeft : 0,
      bytesPerSecond,
      durationMs: this.#transfer === null ? 0 : this.#clock.now() - this.#transfer.beganMs,
      leftMs: bytesPerSecond > 0 ? 1000 * bytesLeft / bytesPerSecond : null,
      speedLimit: this.#throttle.bytesPerSecond,
      converges: this.#convergence.converges,
      writersLimit: this.#tracker.writeLimit,
      downtimeMs: this.#convergence.downtimeMs,
      lastError: this.#lastError,
    };
  }

  async #run(): Promise<MigrationPhase> {
    // Whoever made it may still want to look at it first.
    await undefined;
    const { place } = this.#options;
    try {
      this.#phase = await this.#attemptUntilDone();
    } catch (error) {
      this.#phase = error instanceof HandoverInDoubt
        ? "in-doubt"
        : error === this.#breaking.signal.reason
        ? "broken"
        : "failed";
      this.#lastError = (error as Error).message;
      this.#started.reject(error);
    }
    if (this.#phase !== "moved" && this.#phase !== "in-doubt") {
      this.#tracker.writeLimit = null;
      this.#tracker.release();
      if (place.device === this.#tracker) place.device = this.#disk;
    }
    return this.#phase;
  }

  async #attemptUntilDone(): Promise<MigrationPhase> {
    const { destination, place } = this.#options;
    const { signal } = this.#breaking;
    while (true) {
      this.#phase = "connecting";
      this.#attempts++;
      this.#transfer = null;
      try {
        signal.throwIfAborted();
        const attempt = await destination.begin(signal);
        if (place.device !== this.#tracker) place.device = this.#tracker;
        this.#started.resolve();
        await (this.#transfer = this.#begin(attempt)).run();
        return this.#options.handOver === false ? "copied" : "moved";
      } catch (error) {
        if (error instanceof HandoverInDoubt) throw error;
        signal.throwIfAborted();
        if (place.device !== this.#tracker) throw error;
        this.#report(error as Error);
      }
      this.#phase = "waiting";
      await interruptible(delay(this.#clock, RETRY_MS), signal);
    }
  }

  #begin(attempt: Attempt): Transfer {
    const { clock, leave, handOver = true, silenceMsMax = SILENCE_MS_MAX } = this.#options;
    return new Transfer(attempt, this.#breaking.signal, {
      disk: this.#disk,
      tracker: this.#tracker,
      debt: this.#debt,
      throttle: this.#throttle,
      convergence: this.#convergence,
      clock,
      log: this.#log,
      what: this.#what,
      leave,
      handOver,
      silenceMsMax,
      entered: (phase) => this.#phase = phase,
    });
  }

  /** Once for each reason, however many attempts it costs, and wherever they come to. */
  #report(error: Error): void {
    const reason = error.message.replace(/\d+/g, "");
    const again = reason === this.#lastReason;
    this.#lastReason = reason;
    this.#lastError = error.message;
    const line = `${this.#what}: ${error.message}; clients go on here, it is tried again`;
    if (again) this.#log.debug(line);
    else this.#log.error(line);
  }
}
