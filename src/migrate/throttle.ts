/**
 * Keeps a flow of bytes to a speed.
 *
 * Time earns bytes, up to a tenth of a second's worth; who takes more runs up a debt, and everybody behind waits until
 * it is earned. So the average holds whatever the sizes are, and a change of the limit counts from now on.
 */
import { type Clock, delay } from "../os/clock.ts";

/** What may pass at once after a pause, in seconds of the limit. */
const BURST_SECONDS = 0.1;
/** Large requests are cut so that each is worth no more than this. */
const PIECE_SECONDS = 0.05;
const PIECE_BYTES_MIN = 4096;

export class Throttle {
  readonly #clock: Clock;
  #bytesPerSecond: number | null;
  #earnedBytes = 0;
  #earnedAtMs: number;
  /** Those who wait, in order. */
  #queue: Promise<void> | null = null;
  #changed = Promise.withResolvers<void>();

  /** @param bytesPerSecond `null` for as fast as it goes. */
  constructor(clock: Clock, bytesPerSecond: number | null = null) {
    this.#clock = clock;
    this.#bytesPerSecond = bytesPerSecond;
    this.#earnedAtMs = clock.now();
  }

  get bytesPerSecond(): number | null {
    return this.#bytesPerSecond;
  }

  /** Counts at once, also for those who wait. */
  set bytesPerSecond(limit: number | null) {
    this.#earn();
    this.#bytesPerSecond = limit;
    this.#earnedBytes = Math.min(this.#earnedBytes, 0);
    if (limit === null) this.#earnedBytes = 0;
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }

  /** Into what requests should be cut; infinite without a limit. */
  get pieceBytes(): number {
    if (this.#bytesPerSecond === null) return Infinity;
    const bytes = this.#bytesPerSecond * PIECE_SECONDS;
    return Math.max(PIECE_BYTES_MIN, bytes - bytes % PIECE_BYTES_MIN);
  }

  /** Takes so many bytes; resolves when they may pass, and gives nothing if they may at once. */
  take(byteCount: number): void | Promise<void> {
    if (this.#queue === null && this.#tryTake(byteCount)) return;
    const before = this.#queue ?? Promise.resolve();
    const turn: Promise<void> = before.then(() => this.#wait(byteCount)).then(() => {
      if (this.#queue === turn) this.#queue = null;
    });
    return this.#queue = turn;
  }

  async #wait(byteCount: number): Promise<void> {
    while (!this.#tryTake(byteCount)) {
      const missingMs = 1000 * -this.#earnedBytes / Math.max(1, this.#bytesPerSecond!);
      // Timers take whole milliseconds, and a day at most.
      const waitMs = Math.min(Math.max(1, Math.ceil(missingMs)), 86_400_000);
      await Promise.race([delay(this.#clock, waitMs), this.#changed.promise]);
    }
  }

  #tryTake(byteCount: number): boolean {
    if (this.#bytesPerSecond === null) return true;
    this.#earn();
    if (this.#earnedBytes < 0 || this.#bytesPerSecond === 0) return false;
    this.#earnedBytes -= byteCount;
    return true;
  }

  #earn(): void {
    const nowMs = this.#clock.now();
    const limit = this.#bytesPerSecond ?? 0;
    const earned = this.#earnedBytes + limit * (nowMs - this.#earnedAtMs) / 1000;
    this.#earnedBytes = Math.min(earned, limit * BURST_SECONDS);
    this.#earnedAtMs = nowMs;
  }
}
