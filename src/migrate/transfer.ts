/**
 * One attempt to bring a disk to its destination: passes while clients go on, and the end for which they are held.
 */
import { allAtRest } from "../base/all_at_rest.ts";
import type { Log } from "../base/log.ts";
import type { BlockDevice } from "../device/device.ts";
import type { Clock } from "../os/clock.ts";
import { Comparison } from "./comparison.ts";
import type { Convergence } from "./convergence.ts";
import { copyPass, type PassOptions } from "./copy_pass.ts";
import type { Debt } from "./debt.ts";
import { type Attempt, AttemptFailure, HandoverInDoubt } from "./handover.ts";
import { interruptible } from "./interruptible.ts";
import { Outflow } from "./outflow.ts";
import { RecentSpeed } from "./recent_speed.ts";
import type { Throttle } from "./throttle.ts";
import type { Tracker } from "./tracker.ts";

/** How often one looks whether the destination is silent. */
const WATCH_MS = 250;
/** Ranges found different; more mean that one of the ends does not keep what it is given. */
const DIFFERENCES_MAX = 8;

/** What is done just now. */
export type TransferPhase = "copying" | "comparing" | "finishing";

/** What all attempts of a migration have in common. */
export interface TransferOptions {
  /** As it is behind the tracker. */
  readonly disk: BlockDevice;
  readonly tracker: Tracker;
  readonly debt: Debt;
  readonly throttle: Throttle;
  readonly convergence: Convergence;
  readonly clock: Clock;
  readonly log: Log;
  /** What is under way, for the log. */
  readonly what: string;
  /** See `MigrationOptions`. */
  readonly leave?: () => Promise<void>;
  readonly handOver: boolean;
  readonly silenceMsMax: number;
  readonly entered: (phase: TransferPhase) => void;
}

export class Transfer {
  /** By the clock. */
  readonly beganMs: number;
  readonly #attempt: Attempt;
  readonly #options: TransferOptions;
  readonly #debt: Debt;
  readonly #tracker: Tracker;
  readonly #convergence: Convergence;
  readonly #clock: Clock;
  readonly #outflow: Outflow;
  readonly #speed = new RecentSpeed();
  readonly #failing = new AbortController();
  /** Fires when it has failed, or the migration is broken off. */
  readonly #signal: AbortSignal;
  #pass = 0;
  /** Bytes of the pass that are taken out of the map and have not arrived. */
  #underWay = 0;
  /** Ranges that differed while nobody wrote. */
  #differences = 0;
  /** There is no way back. */
  #left = false;

  /** @param breaking Fires when the migration is broken off. */
  constructor(attempt: Attempt, breaking: AbortSignal, options: TransferOptions) {
    const { debt, tracker, convergence, clock, throttle } = options;
    this.#attempt = attempt;
    this.#options = options;
    this.#debt = debt;
    this.#tracker = tracker;
    this.#convergence = convergence;
    this.#clock = clock;
    this.#signal = AbortSignal.any([this.#failing.signal, breaking]);
    this.#outflow = new Outflow(attempt.disk, throttle, () => clock.now());
    this.beganMs = clock.now();
    if (!attempt.resumes) debt.markAll();
  }

  /** From 1. */
  get pass(): number {
    return this.#pass;
  }

  /** Data that the destination has acknowledged, counted each time they were sent. */
  get sentBytes(): number {
    return this.#outflow.ackedBytes;
  }

  /** Data that are on their way. */
  get underWayBytes(): number {
    return this.#underWay;
  }

  /** Bytes per second, of late; `null` before that can be told. */
  get speed(): number | null {
    return this.#speed.at(this.#clock.now(), this.sentBytes);
  }

  /**
   * From the connection to the handover.
   *
   * @throws {HandoverInDoubt} If the disk has been given up, and the destination may have it.
   * @throws {AttemptFailure} If it has failed otherwise. @throws Why the migration was broken off.
   */
  async run(): Promise<void> {
    this.#attempt.lost.then((error) =>
      this.#failing.abort(new AttemptFailure("broken", error.message, { cause: error }))
    );
    using _watch = this.#watch();
    try {
      await this.#converge();
    } catch (error) {
      this.#tracker.writeLimit = null;
      const isGone = this.#left || error instanceof HandoverInDoubt;
      if (!isGone) this.#tracker.release();
      await this.#attempt.abandon(error as Error);
      if (!isGone || error instanceof HandoverInDoubt) throw error;
      throw new HandoverInDoubt((error as Error).message, { cause: error });
    }
  }

  async #converge(): Promise<void> {
    this.#convergence.begin();
    while (true) {
      while (await this.#passLive() || !this.#fits);
      // What is durable and compared now need not be when clients wait.
      await this.#assure(this.#signal);
      if (!this.#fits) continue;
      if (await this.#finish()) return;
      this.#convergence.heldInVain();
    }
  }

  /** Whether what is left can be sent in the time for which clients may be held. */
  get #fits(): boolean {
    return this.#convergence.fits(this.#debt.pending.bytes);
  }

  /** A pass while clients go on. Returns whether another one has to follow. */
  async #passLive(): Promise<boolean> {
    this.#options.entered("copying");
    this.#pass++;
    const found = this.#debt.pending.bytes;
    const beganMs = this.#clock.now();
    const sentBefore = this.#outflow.ackedBytes;
    // Most of what the first pass sends stays as it is; the others send what may soon change again.
    const comparison = this.#pass === 1 ? this.#comparison(this.#signal) : null;
    await this.#send({ afterwards: (piece) => comparison?.sent(piece) });
    return this.#convergence.passed({
      number: this.#pass,
      found,
      left: this.#debt.pending.bytes,
      sent: this.#outflow.ackedBytes - sentBefore,
      tookMs: this.#clock.now() - beganMs,
    });
  }

  async #send(options: Pick<PassOptions, "enough" | "afterwards">): Promise<void> {
    try {
      await copyPass(this.#options.disk, this.#outflow, this.#debt.pending, {
        clock: this.#clock,
        signal: this.#signal,
        ...options,
        onTaken: (byteCount) => this.#underWay += byteCount,
        onArrived: (byteCount) => {
          this.#underWay -= byteCount;
          this.#speed.note(this.#clock.now(), this.#outflow.ackedBytes);
        },
      });
    } finally {
      this.#underWay = 0;
    }
  }

  /** Holds clients for the rest. Returns `false` if that took too long, and they go on. */
  async #finish(): Promise<boolean> {
    const { leave, handOver, log, what, entered } = this.#options;
    entered("finishing");
    const heldMs = this.#clock.now();
    const quiet = this.#tracker.hold();
    if (!await this.#finishCopy(quiet)) {
      this.#tracker.release();
      return false;
    }
    this.#signal.throwIfAborted();
    if (!handOver) {
      this.#tracker.release();
      await this.#attempt.abandon(new Error("the copy is complete"));
      return true;
    }
    await this.#attempt.finish(async () => {
      this.#signal.throwIfAborted();
      if (leave === undefined) return;
      await leave();
      this.#left = true;
    });
    log.info(`${what}: done; clients were held for ${Math.round(this.#clock.now() - heldMs)} ms`);
    return true;
  }

  /** Sends the rest, makes it durable and compares it. Returns whether that was done in time. */
  async #finishCopy(quiet: Promise<void>): Promise<boolean> {
    const late = new AbortController();
    using _timer = this.#clock.timer(this.#convergence.holdMs, () => {
      this.#tracker.release();
      late.abort(late);
    });
    const either = AbortSignal.any([this.#signal, late.signal]);
    try {
      await interruptible(quiet, either);
      await this.#send({ enough: () => late.signal.aborted });
      await this.#assure(either);
    } catch (error) {
      if (error !== late) throw error;
    }
    // A comparison that found a difference has marked it.
    return !late.signal.aborted && this.#debt.pending.isEmpty;
  }

  /** Makes what was sent durable, and compares what was not compared since; what differs is marked to be sent again. */
  async #assure(signal: AbortSignal): Promise<void> {
    if (!this.#tracker.holds) this.#options.entered("comparing");
    const comparison = this.#comparison(signal);
    // Storage and processors have different things to do.
    await allAtRest([interruptible(this.#outflow.flush(), signal), comparison?.rest()]);
  }

  #comparison(signal: AbortSignal): Comparison | null {
    if (this.#attempt.checksum === undefined) return null;
    return new Comparison(this.#options.disk, this.#debt.uncompared, {
      destination: this.#outflow,
      checksum: (offset, length) => this.#outflow.ask(() => this.#attempt.checksum!(offset, length)),
      isPending: (offset, length) => this.#debt.pending.touches(offset, length),
      differs: (offset, length) => this.#differs(offset, length),
      signal,
    });
  }

  /** Sends a range again. While clients go on it may differ because one of them was just writing there. */
  #differs(offset: number, length: number): void {
    this.#debt.mark(offset, length);
    if (!this.#tracker.holds) return;
    this.#options.log.warn(`${length} bytes at ${offset} differ at the destination; they are sent again`);
    if (++this.#differences > DIFFERENCES_MAX) {
      throw new AttemptFailure("broken", `the destination does not hold what it was sent (at ${offset})`);
    }
  }

  /** Ends the attempt when the destination has been silent for too long. */
  #watch(): Disposable {
    const { silenceMsMax } = this.#options;
    if (silenceMsMax === 0) return { [Symbol.dispose]() {} };
    let timer: Disposable;
    const look = () => {
      const silentMs = this.#clock.now() - this.#outflow.progressAtMs;
      if (this.#outflow.waiting > 0 && silentMs >= silenceMsMax) {
        const reason = `the destination is silent for ${silenceMsMax / 1000} s`;
        return this.#failing.abort(new AttemptFailure("broken", reason));
      }
      timer = this.#clock.timer(WATCH_MS, look);
    };
    timer = this.#clock.timer(WATCH_MS, look);
    return { [Symbol.dispose]: () => timer[Symbol.dispose]() };
  }
}
