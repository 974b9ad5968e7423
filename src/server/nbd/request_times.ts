/**
 * How long the requests of one client take.
 *
 * Requests that are answered in the turn in which they arrived are timed together, from the arrival to the write
 * of their replies: reading the clock for each would cost a noticeable part of what the request costs.
 */
import { Command } from "../../wire/nbd/constants.ts";
import type { ExportTraffic } from "../export_table.ts";

/** Names of the operations, by command. */
const OPERATIONS: readonly string[] = Object.assign([], {
  [Command.READ]: "read",
  [Command.WRITE]: "write",
  [Command.FLUSH]: "flush",
  [Command.TRIM]: "trim",
  [Command.CACHE]: "cache",
  [Command.WRITE_ZEROES]: "zero",
  [Command.BLOCK_STATUS]: "status",
});

export class RequestTimes {
  readonly #traffic: ExportTraffic;
  readonly #now: () => number;
  readonly #answered = new Uint32Array(OPERATIONS.length);
  #anyAnswered = false;
  #batchAtMs = 0;

  /** @param now Monotonic milliseconds. */
  constructor(traffic: ExportTraffic, now: () => number) {
    this.#traffic = traffic;
    this.#now = now;
  }

  /** When the requests that are being performed had arrived. */
  get batchAtMs(): number {
    return this.#batchAtMs;
  }

  beginBatch(): void {
    this.#batchAtMs = this.#now();
  }

  /** A request of this batch has been answered at once. */
  answeredNow(type: number): void {
    this.#answered[type]++;
    this.#anyAnswered = true;
  }

  /** The replies of this batch are on their way. */
  endBatch(): void {
    if (!this.#anyAnswered) return;
    this.#anyAnswered = false;
    const durationUs = (this.#now() - this.#batchAtMs) * 1000;
    const answered = this.#answered;
    for (let type = 0; type < answered.length; type++) {
      if (answered[type] > 0) this.#traffic.took(OPERATIONS[type], durationUs, answered[type]);
      answered[type] = 0;
    }
  }

  /** A request that had arrived at `sinceMs` has been answered. */
  answeredLater(type: number, sinceMs: number): void {
    this.#traffic.took(OPERATIONS[type], (this.#now() - sinceMs) * 1000, 1);
  }
}
