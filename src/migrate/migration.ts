/**
 * Moves a disk to another place while clients use it.
 *
 * Everything is sent in a first pass, what clients change meanwhile in further ones, until what is left can be sent
 * within the downtime that clients may see. Then they are held, the rest is sent and made durable, and the disk is
 * handed over. Whatever fails before that leaves clients with a disk that was a little slow.
 *
 * @see spec: flexnbd section 12, and 17 for what is done otherwise
 */
import { allAtRest } from "../base/all_at_rest.ts";
import type { Log } from "../base/log.ts";
import type { BlockDevice } from "../device/device.ts";
import { type Clock, delay } from "../os/clock.ts";
import { Comparison } from "./comparison.ts";
import { Convergence, type ConvergenceOptions } from "./convergence.ts";
import { copyPass, type PassOptions } from "./copy_pass.ts";
import { DirtyMap } from "./dirty_map.ts";
import { type Attempt, AttemptFailure, type Destination, HandoverInDoubt } from "./handover.ts";
import { interruptible } from "./interruptible.ts";
import { Outflow } from "./outflow.ts";
import { Throttle } from "./throttle.ts";
import { Tracker } from "./tracker.ts";

/** Before a broken attempt is followed by the next. */
const RETRY_MS = 1000;
/** A destination that answers nothing for so long has gone. */
const SILENCE_MS_MAX = 60_000;
/** How often it is looked after. */
const WATCH_MS = 250;
/** Ranges found different; more mean that one of the ends does not keep what it is given. */
const DIFFERENCES_MAX = 8;

export type MigrationPhase =
  | "connecting"
  | "copying"
  | "comparing"
  | "finishing"
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
  readonly #silenceMsMax: number;
  readonly #tracker: Tracker;
  readonly #throttle: Throttle;
  readonly #convergence: Convergence;
  /** What the destination lacks. */
  readonly #pending: DirtyMap;
  /** What has not been compared since it was written; all that is pending is in it. */
  readonly #uncompared: DirtyMap;
  readonly #breaking = new AbortController();
  readonly #started = Promise.withResolvers<void>();
  readonly #ended: Promise<MigrationPhase>;
  #phase: MigrationPhase = "connecting";
  #attempts = 0;
  #pass = 0;
  #attemptBeganMs: number | null = null;
  #outflow: Outflow | null = null;
  /** Bytes of the pass that are taken out of the map and have not arrived. */
  #underWay = 0;
  /** The latest measurements of the flow: when, and how much had been sent. */
  #samples: { atMs: number; bytes: number }[] = [];
  /** Ranges of this attempt that differed while nobody wrote. */
  #differences = 0;
  /** There is no way back. */
  #left = false;
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
    this.#silenceMsMax = options.silenceMsMax ?? SILENCE_MS_MAX;
    this.#throttle = new Throttle(clock, speedLimit);
    const blockBytesMin = place.device.blockSizes.minimum;
    this.#pending = new DirtyMap(sizeBytes, { blockBytesMin });
    this.#uncompared = new DirtyMap(sizeBytes, { blockBytesMin });
    this.#tracker = new Tracker(this.#disk, clock, (offset, length) => {
      this.#pending.mark(offset, Math.min(length, sizeBytes - offset));
      this.#uncompared.mark(offset, Math.min(length, sizeBytes - offset));
    });
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
    const nowMs = this.#clock.now();
    const bytesLeft = this.#pending.bytes + this.#underWay;
    const bytesPerSecond = this.#recentSpeed(nowMs);
    return {
      destination: this.#options.destination.text,
      phase: this.#phase,
      attempt: this.#attempts,
      pass: this.#pass,
      bytesTotal: this.#pending.sizeBytes,
      bytesSent: this.#outflow?.ackedBytes ?? 0,
      bytesLeft,
      bytesDirty: this.#pass > 1 ? bytesLeft : 0,
      bytesPerSecond,
      durationMs: this.#attemptBeganMs === null ? 0 : nowMs - this.#attemptBeganMs,
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
      this.#pass = 0;
      this.#attemptBeganMs = null;
      try {
        signal.throwIfAborted();
        const attempt = await destination.begin(signal);
        if (place.device !== this.#tracker) place.device = this.#tracker;
        this.#started.resolve();
        await this.#move(attempt);
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

  /** For the log. */
  get #what(): string {
    return `migration to ${this.#options.destination.text}`;
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

  /** One attempt, from the connection to the handover. */
  async #move(attempt: Attempt): Promise<void> {
    if (!attempt.resumes) {
      this.#pending.markAll();
      this.#uncompared.markAll();
    }
    const clock = this.#clock;
    this.#attemptBeganMs = clock.now();
    this.#differences = 0;
    const outflow = this.#outflow = new Outflow(attempt.disk, this.#throttle, () => clock.now());
    this.#samples = [];
    const failing = new AbortController();
    const signal = AbortSignal.any([failing.signal, this.#breaking.signal]);
    attempt.lost.then((error) =>
      failing.abort(new AttemptFailure("broken", error.message, { cause: error }))
    );
    using _watch = this.#watch(outflow, failing);
    try {
      await this.#converge(attempt, outflow, signal);
    } catch (error) {
      this.#tracker.writeLimit = null;
      const isGone = this.#left || error instanceof HandoverInDoubt;
      if (!isGone) this.#tracker.release();
      await attempt.abandon(error as Error);
      if (!isGone || error instanceof HandoverInDoubt) throw error;
      throw new HandoverInDoubt((error as Error).message, { cause: error });
    }
  }

  async #converge(attempt: Attempt, outflow: Outflow, signal: AbortSignal): Promise<void> {
    this.#convergence.begin();
    while (true) {
      while (await this.#passLive(attempt, outflow, signal) || !this.#fits);
      // What is durable and compared now need not be when clients wait.
      await this.#assure(attempt, outflow, signal);
      if (!this.#fits) continue;
      if (await this.#finish(attempt, outflow, signal)) return;
      this.#convergence.heldInVain();
    }
  }

  /** Whether what is left can be sent in the time for which clients may be held. */
  get #fits(): boolean {
    return this.#convergence.fits(this.#pending.bytes);
  }

  /** A pass while clients go on. Returns whether another one has to follow. */
  async #passLive(attempt: Attempt, outflow: Outflow, signal: AbortSignal): Promise<boolean> {
    this.#phase = "copying";
    this.#pass++;
    const found = this.#pending.bytes;
    const beganMs = this.#clock.now();
    const sentBefore = outflow.ackedBytes;
    // Most of what the first pass sends stays as it is; the others send what may soon change again.
    const comparison = this.#pass === 1 ? this.#comparison(attempt, outflow, signal) : null;
    await this.#send(outflow, signal, { afterwards: (piece) => comparison?.sent(piece) });
    return this.#convergence.passed({
      number: this.#pass,
      found,
      left: this.#pending.bytes,
      sent: outflow.ackedBytes - sentBefore,
      tookMs: this.#clock.now() - beganMs,
    });
  }

  async #send(
    outflow: Outflow,
    signal: AbortSignal,
    options: Pick<PassOptions, "enough" | "afterwards">,
  ): Promise<void> {
    try {
      await copyPass(this.#disk, outflow, this.#pending, {
        clock: this.#clock,
        signal,
        ...options,
        onTaken: (byteCount) => this.#underWay += byteCount,
        onArrived: (byteCount) => {
          this.#underWay -= byteCount;
          this.#sample(outflow.ackedBytes);
        },
      });
    } finally {
      this.#underWay = 0;
    }
  }

  /** Holds clients for the rest. Returns `false` if that took too long, and they go on. */
  async #finish(attempt: Attempt, outflow: Outflow, signal: AbortSignal): Promise<boolean> {
    this.#phase = "finishing";
    const heldMs = this.#clock.now();
    const quiet = this.#tracker.hold();
    if (!await this.#finishCopy(quiet, attempt, outflow, signal)) {
      this.#tracker.release();
      return false;
    }
    signal.throwIfAborted();
    if (this.#options.handOver === false) {
      this.#tracker.release();
      await attempt.abandon(new Error("the copy is complete"));
      return true;
    }
    await attempt.finish(async () => {
      signal.throwIfAborted();
      if (this.#options.leave === undefined) return;
      await this.#options.leave();
      this.#left = true;
    });
    this.#log.info(`${this.#what}: done; clients were held for ${Math.round(this.#clock.now() - heldMs)} ms`);
    return true;
  }

  /** Sends the rest, makes it durable and compares it. Returns whether that was done in time. */
  async #finishCopy(
    quiet: Promise<void>,
    attempt: Attempt,
    outflow: Outflow,
    signal: AbortSignal,
  ): Promise<boolean> {
    const late = new AbortController();
    using _timer = this.#clock.timer(this.#convergence.holdMs, () => {
      this.#tracker.release();
      late.abort(late);
    });
    const either = AbortSignal.any([signal, late.signal]);
    try {
      await interruptible(quiet, either);
      await this.#send(outflow, signal, { enough: () => late.signal.aborted });
      await this.#assure(attempt, outflow, either);
    } catch (error) {
      if (error !== late) throw error;
    }
    // A comparison that found a difference has marked it.
    return !late.signal.aborted && this.#pending.isEmpty;
  }

  /** Makes what was sent durable, and compares what was not compared since; what differs is marked to be sent again. */
  async #assure(attempt: Attempt, outflow: Outflow, signal: AbortSignal): Promise<void> {
    if (!this.#tracker.holds) this.#phase = "comparing";
    const comparison = this.#comparison(attempt, outflow, signal);
    // Storage and processors have different things to do.
    await allAtRest([interruptible(outflow.flush(), signal), comparison?.rest()]);
  }

  #comparison(attempt: Attempt, outflow: Outflow, signal: AbortSignal): Comparison | null {
    if (attempt.checksum === undefined) return null;
    return new Comparison(this.#disk, this.#uncompared, {
      destination: outflow,
      checksum: (offset, length) => outflow.ask(() => attempt.checksum!(offset, length)),
      isPending: (offset, length) => this.#pending.touches(offset, length),
      differs: (offset, length) => this.#differs(offset, length),
      signal,
    });
  }

  /** Sends a range again. While clients go on it may differ because one of them was just writing there. */
  #differs(offset: number, length: number): void {
    this.#pending.mark(offset, length);
    this.#uncompared.mark(offset, length);
    if (!this.#tracker.holds) return;
    this.#log.warn(`${length} bytes at ${offset} differ at the destination; they are sent again`);
    if (++this.#differences > DIFFERENCES_MAX) {
      throw new AttemptFailure("broken", `the destination does not hold what it was sent (at ${offset})`);
    }
  }

  /** Ends the attempt when the destination has been silent for too long. */
  #watch(outflow: Outflow, failing: AbortController): Disposable {
    if (this.#silenceMsMax === 0) return { [Symbol.dispose]() {} };
    let timer: Disposable;
    const look = () => {
      const silentMs = this.#clock.now() - outflow.progressAtMs;
      if (outflow.waiting > 0 && silentMs >= this.#silenceMsMax) {
        const seconds = this.#silenceMsMax / 1000;
        return failing.abort(new AttemptFailure("broken", `the destination is silent for ${seconds} s`));
      }
      timer = this.#clock.timer(WATCH_MS, look);
    };
    timer = this.#clock.timer(WATCH_MS, look);
    return { [Symbol.dispose]: () => timer[Symbol.dispose]() };
  }

  #sample(bytes: number): void {
    const atMs = this.#clock.now();
    const last = this.#samples.at(-1);
    if (last !== undefined && atMs - last.atMs < 200) return;
    this.#samples.push({ atMs, bytes });
    while (this.#samples.length > 1 && atMs - this.#samples[0].atMs > 3000) this.#samples.shift();
  }

  #recentSpeed(nowMs: number): number {
    const [first] = this.#samples;
    const bytes = this.#outflow?.ackedBytes ?? 0;
    if (first === undefined || nowMs - first.atMs < 100) return Math.round(this.#convergence.speed);
    return Math.round(1000 * (bytes - first.bytes) / (nowMs - first.atMs));
  }
}
