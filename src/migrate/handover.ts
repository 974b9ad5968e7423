/**
 * Where a disk can move to: what differs between kinds of destinations.
 *
 * A {@linkcode Destination} lasts as long as the migration; each connection to it is an {@linkcode Attempt}. The
 * migration copies to the attempt's disk, pass after pass, while clients go on writing to the source. When little is
 * left it holds the clients, copies the rest, and calls {@linkcode Attempt.finish}: when that returns, the disk
 * belongs to the destination, durably, and must never be served here again.
 */
import type { BlockDevice } from "../device/device.ts";

/** A place that a disk can move to. */
export interface Destination {
  /** For people: `192.0.2.7:4779`. */
  readonly text: string;
  /**
   * Connects, and finds out whether the disk can go there.
   *
   * @param signal Fires when the migration is broken off.
   * @throws {AttemptFailure} If it cannot.
   * @throws The signal's reason.
   */
  begin(signal: AbortSignal): Promise<Attempt>;
}

/** One connection to the destination. It ends with `finish` or with `abandon`. */
export interface Attempt {
  /** Takes `write`, `flush`, and if it can `zero`. Exactly as large as the disk that moves. */
  readonly disk: BlockDevice;
  /**
   * The destination still holds everything that the attempt before this one had acknowledged, and nobody has touched
   * it since, not even what was still under way to it: only what is left is sent. Otherwise all of it is.
   */
  readonly resumes: boolean;
  /** Resolves, with the reason, when the destination has gone; never rejects. */
  readonly lost: Promise<Error>;
  /**
   * The CRC-32 of a range as the destination holds it. Where this is there, no disk is handed over before all of it has
   * been compared since it was written last.
   */
  checksum?(offset: number, length: number): Promise<number>;
  /**
   * Hands the disk over. Everything has been written to the attempt's disk and flushed; clients are held.
   *
   * @param leave Gives the disk up on this side (no new clients, and with `--unlink` no file). To be called once, at
   *   the moment from which the disk must not be served here again; if it throws, nothing has been handed over, and
   *   nothing may be.
   * @throws {AttemptFailure} If the destination certainly does not have the disk.
   * @throws {HandoverInDoubt} If it may have it.
   * @throws What `leave` threw.
   */
  finish(leave: () => Promise<void>): Promise<void>;
  /** Ends the attempt; the destination must not take it for complete. Never throws. Idempotent. */
  abandon(reason: Error): Promise<void>;
}

/**
 * Why an attempt failed:
 *
 * - `connect`: there is no connection;
 * - `silent`: the server does not greet;
 * - `rejected`: it greets and does not take the disk;
 * - `size`: its disk has another size;
 * - `broken`: it failed later on.
 */
export type AttemptFailureKind = "connect" | "silent" | "rejected" | "size" | "broken";

/** An attempt came to nothing. The disk is where it was. */
export class AttemptFailure extends Error {
  override readonly name = "AttemptFailure";

  constructor(readonly kind: AttemptFailureKind, message: string, options?: ErrorOptions) {
    super(message, options);
  }
}

/** The disk was given up here, and nobody knows whether the destination has it. */
export class HandoverInDoubt extends Error {
  override readonly name = "HandoverInDoubt";
}
