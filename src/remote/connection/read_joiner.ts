/**
 * Joins READs of neighbouring ranges: one of 1 MiB costs a server, the system and us much less than eight of 128 KiB.
 *
 * What was asked for in one turn of the event loop is joined at once. While enough is under way to keep the server
 * busy, what continues an earlier READ is held for a moment, and joined with what comes next. A READ that continues
 * nothing does not wait, nor does any where answers take their time: over a long way all that can be under way has to be.
 * Nothing is read that nobody has asked for.
 */
import { Command } from "../../wire/nbd/constants.ts";
import { JoinedRead } from "./joined_read.ts";
import type { Transaction } from "./nbd_transaction.ts";

export interface JoinLimits {
  /** A READ from this size on is joined with its neighbours. In bytes, as all of these. */
  readonly partBytesMin: number;
  /** They are joined up to this size. */
  readonly joinedBytesMax: number;
  /** While so much is under way, others are held. */
  readonly busyBytes: number;
  /** So much is not held any longer. */
  readonly heldBytesMax: number;
}

export const JOIN_LIMITS: JoinLimits = {
  partBytesMin: 64 * 1024,
  // More is not cheaper, and some servers would hold it whole.
  joinedBytesMax: 1024 * 1024,
  busyBytes: 256 * 1024,
  heldBytesMax: 512 * 1024,
};

/** Nothing is held behind answers that take longer: 256 KiB is what 10 Gbit/s carry in a fifth of it. */
const SOON_MS = 1;
/** So many streams of READs are told apart. */
const STREAMS_MAX = 64;

const none: readonly Transaction[] = [];

export class ReadJoiner {
  readonly #limits: JoinLimits;
  #held: Transaction[] = [];
  #heldBytes = 0;
  /** What is held goes at once. */
  #hurries = false;
  /** Bytes that were released and have not arrived. */
  #underWayBytes = 0;
  /** Where READs ended, and the next of their streams begins; the latest last. */
  readonly #ends = new Set<number>();
  /** One that was released, by whose answer one sees how long they take. */
  #witness: { readonly read: Transaction; readonly sinceMs: number } | null = null;
  #answersSoon = false;
  #stopped = false;

  constructor(limits: JoinLimits) {
    this.#limits = limits;
  }

  /** What was not released. */
  get held(): readonly Transaction[] {
    return this.#held;
  }

  /** Whether it is one that may be joined. */
  takes({ type, buffer, length }: Transaction): boolean {
    const { partBytesMin, joinedBytesMax } = this.#limits;
    return !this.#stopped && type === Command.READ && buffer === null && length >= partBytesMin &&
      length <= joinedBytesMax / 2;
  }

  /** Takes one until it is released. */
  hold(read: Transaction): void {
    const { offset, length } = read;
    this.#held.push(read);
    this.#heldBytes += length;
    if (!this.#ends.delete(offset)) this.#hurries = true;
    this.#ends.add(offset + length);
    if (this.#ends.size > STREAMS_MAX) this.#ends.delete(this.#ends.values().next().value!);
  }

  /** They have been held for long enough. */
  hurry(): void {
    this.#hurries = this.#held.length > 0;
  }

  /** The server does not like it: from now on none is taken. */
  stop(): void {
    this.#stopped = true;
    this.hurry();
  }

  /** Whether {@linkcode release} would release something. */
  get isReady(): boolean {
    if (this.#held.length === 0) return false;
    const { busyBytes, heldBytesMax } = this.#limits;
    return this.#hurries || !this.#answersSoon || this.#underWayBytes < busyBytes ||
      this.#heldBytes >= heldBytesMax;
  }

  /** What is to be sent now: READs that were held, alone or joined. */
  release(now: () => number): readonly Transaction[] {
    if (!this.isReady) return none;
    const runs = this.#runs();
    this.#witness ??= { read: runs[0][0], sinceMs: now() };
    this.#underWayBytes += this.#heldBytes;
    this.#held = [];
    this.#heldBytes = 0;
    this.#hurries = false;
    return runs.map((run) => run.length === 1 ? run[0] : new JoinedRead(run));
  }

  /** What is held, by what may be joined. */
  #runs(): Transaction[][] {
    const runs: { readonly reads: Transaction[]; length: number; end: number }[] = [];
    for (const read of this.#held.sort((one, other) => one.offset - other.offset)) {
      const { offset, length } = read;
      const run = runs.findLast(({ end, length: before }) =>
        end === offset && before + length <= this.#limits.joinedBytesMax
      );
      if (run === undefined) {
        runs.push({ reads: [read], length, end: offset + length });
      } else {
        run.reads.push(read);
        run.length += length;
        run.end += length;
      }
    }
    return runs.map(({ reads }) => reads);
  }

  /** One that was released has its answer. */
  answered(read: Transaction, now: () => number): void {
    this.#underWayBytes -= read.length;
    if (this.#witness?.read !== read) return;
    this.#answersSoon = now() - this.#witness.sinceMs <= SOON_MS;
    this.#witness = null;
  }
}
