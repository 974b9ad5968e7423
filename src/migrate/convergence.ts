/**
 * When clients of a disk that moves are held for the rest of it, for how long, and what is done when passes do not help
 * because clients write as fast as the disk can be moved.
 */
import type { Log } from "../base/log.ts";

/** How long clients are held, if nobody says. */
const DOWNTIME_MS = 200;
/** Of the time for which clients may be held, this is for the rest of the copy; the handover takes the other half. */
const COPY_PART = 0.5;
/**
 * Where nobody said how long clients may be held, they are held for so long at most when passes do not help: flexnbd
 * would cut them off as soon as it expects to be done within that. Without their load the rest goes faster than what
 * was measured, by this factor at most.
 */
const PATIENCE_MS = 5000;
const UNBURDENED_FACTOR = 4;
/** Clients are let go on when the end takes this many times longer than promised, and at least the milliseconds below. */
const HOLD_FACTOR_MAX = 4;
const HOLD_MS_MIN = 1000;
/** A pass that sent less says little about the speed. */
const MEASURABLE_BYTES = 1024 * 1024;
/** Passes that leave so large a part of what they found are no progress… */
const STUBBORN_PART = 0.8;
/** …and after so many of them in a row something is done or said. */
const STUBBORN_PASSES = 3;
/** Writers are slowed to this part of the speed of the copy, and to less of it each time. */
const SLOWED_PART = 0.5;

export interface ConvergenceOptions {
  /** How long clients may be held. Default 200, and more only if the disk could not be moved otherwise. */
  readonly downtimeMs?: number;
  /** Slow writers down if they write faster than the disk can be moved. Default `false`: it is only said. */
  readonly slowWriters?: boolean;
}

/** What can be done about clients that write. */
export interface Writers {
  /** Bytes per second; `null` as fast as they like. */
  writeLimit: number | null;
}

/** One pass over what the destination lacks; bytes and milliseconds. */
export interface Pass {
  /** From 1, within the attempt. */
  readonly number: number;
  /** What there was to send at its beginning, and at its end. */
  readonly found: number;
  readonly left: number;
  /** What was sent, and in which time. */
  readonly sent: number;
  readonly tookMs: number;
}

export class Convergence {
  readonly downtimeMs: number;
  readonly #hasDowntime: boolean;
  readonly #slowsWriters: boolean;
  readonly #writers: Writers;
  readonly #log: Log;
  /** For messages. */
  readonly #what: string;
  #speed = 0;
  #stubborn = 0;
  /** When passes do not help, clients may be held for longer, once. */
  #patient = false;
  /** For how long clients may be held for the rest of the copy. */
  #budgetMs = 0;
  #converges = true;

  /** @param what What is under way, for the log. */
  constructor(
    { downtimeMs, slowWriters = false }: ConvergenceOptions,
    writers: Writers,
    log: Log,
    what: string,
  ) {
    this.downtimeMs = downtimeMs ?? DOWNTIME_MS;
    this.#hasDowntime = downtimeMs !== undefined;
    this.#slowsWriters = slowWriters;
    this.#writers = writers;
    this.#log = log;
    this.#what = what;
  }

  /** Bytes per second of the last pass that said something of it; 0 before. */
  get speed(): number {
    return this.#speed;
  }

  /** `false` when clients write faster than the disk can be moved. */
  get converges(): boolean {
    return this.#converges;
  }

  /** How long clients may be held before they are let go on. */
  get holdMs(): number {
    return this.#budgetMs > this.downtimeMs
      ? PATIENCE_MS
      : Math.max(HOLD_MS_MIN, HOLD_FACTOR_MAX * this.downtimeMs);
  }

  /** An attempt begins. */
  begin(): void {
    this.#stubborn = 0;
    this.#budgetMs = this.downtimeMs * COPY_PART;
    this.#patient = !this.#slowsWriters && !this.#hasDowntime;
  }

  /** Whether what is left can be sent in the time for which clients may be held. */
  fits(left: number): boolean {
    return this.#leftMs(left) <= this.#budgetMs;
  }

  /**
   * A pass is over. Looks whether they still help, and if not does or says something.
   *
   * @returns Whether the next step is to be another one in any case. The first sends large pieces: it says little of how
   *   long it takes to send what clients have scattered.
   */
  passed(pass: Pass): boolean {
    const { number, left, sent, tookMs } = pass;
    if (sent >= MEASURABLE_BYTES || this.#speed === 0) {
      this.#speed = Math.max(1, 1000 * sent / Math.max(tookMs, 0.1));
    }
    this.#judge(pass);
    return number === 1 && left >= MEASURABLE_BYTES;
  }

  /** Clients were held in vain: they are not held again before much less is left. */
  heldInVain(): void {
    this.#budgetMs = Math.min(this.#budgetMs, this.downtimeMs * COPY_PART) / 2;
    this.#patient = false;
    this.#log.warn(`${this.#what}: clients would have been held for too long; it goes on`);
  }

  #leftMs(left: number): number {
    return left === 0 ? 0 : this.#speed === 0 ? Infinity : 1000 * left / this.#speed;
  }

  #judge({ number, found, left }: Pass): void {
    const isStubborn = number > 1 && left > found * STUBBORN_PART && !this.fits(left);
    this.#stubborn = isStubborn ? this.#stubborn + 1 : 0;
    const { writeLimit } = this.#writers;
    if (this.#patient && this.#stubborn > 0 && this.#leftMs(left) <= UNBURDENED_FACTOR * PATIENCE_MS) {
      this.#budgetMs = UNBURDENED_FACTOR * PATIENCE_MS;
      this.#log.warn(
        `${this.#what}: clients write as fast as the disk can be moved; ` +
          `they are held for up to ${PATIENCE_MS / 1000} s`,
      );
      return;
    }
    if (this.#stubborn < STUBBORN_PASSES) {
      if (this.#stubborn === 0 && writeLimit === null) this.#converges = true;
      return;
    }
    if (this.#slowsWriters) {
      const slower = Math.ceil((writeLimit ?? this.#speed) * SLOWED_PART);
      this.#log.info(`${this.#what}: clients may write ${slower} bytes/s until it is done`);
      this.#writers.writeLimit = slower;
      this.#stubborn = 0;
    } else if (this.#converges) {
      this.#log.warn(
        `${this.#what} does not converge: clients write faster than ` +
          `${Math.round(this.#speed)} bytes/s; it goes on until they write less, or it is broken off`,
      );
    }
    this.#converges = this.#slowsWriters;
  }
}
