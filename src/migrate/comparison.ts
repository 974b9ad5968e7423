/** Finds out whether the destination holds what the source does. */
import { allAtRest } from "../base/all_at_rest.ts";
import type { BlockDevice } from "../device/device.ts";
import { RangeChecksum } from "../device/range_checksum.ts";
import type { Segment } from "../device/segments.ts";
import type { DirtyMap } from "./dirty_map.ts";
import { interruptible } from "./interruptible.ts";
import { Sweep } from "./sweep.ts";

/** How much is compared at a time, and how many times at once: both ends shall have something to do. */
const COMPARED_BYTES = 1024 * 1024;
const DEPTH = 4;

export interface ComparisonOptions {
  /** The destination; asked for its extents. */
  readonly destination: BlockDevice;
  /** The CRC-32 of a range as the destination holds it. */
  checksum(offset: number, length: number): Promise<number>;
  /** Whether a range is still to be sent: then it is compared another time. */
  isPending(offset: number, length: number): boolean;
  /** Told of ranges that differ. */
  differs(offset: number, length: number): void;
  /** Ends what is under way, with the signal's reason. */
  readonly signal: AbortSignal;
}

/**
 * Compares what is marked, and unmarks it whatever the result: data by their checksums; where both ends know that
 * there are none, there is nothing to compare.
 */
export class Comparison {
  readonly #source: BlockDevice;
  readonly #uncompared: DirtyMap;
  readonly #options: ComparisonOptions;
  readonly #ours: RangeChecksum;

  constructor(source: BlockDevice, uncompared: DirtyMap, options: ComparisonOptions) {
    this.#source = source;
    this.#uncompared = uncompared;
    this.#options = options;
    this.#ours = new RangeChecksum(source);
  }

  /**
   * Compares a piece that has just been sent: both ends still have it close at hand. What holds no data, and what has
   * changed again, is left to {@linkcode rest}.
   *
   * @throws {DeviceError} If it cannot be read here or there. @throws What `differs` throws, or the signal's reason.
   */
  async sent({ kind, offset, length }: Segment): Promise<void> {
    if (kind !== "data" || this.#options.isPending(offset, length)) return;
    // Before it is read: who changes it from now on marks it.
    this.#uncompared.clear(offset, length);
    try {
      await this.#compareData(offset, length);
    } catch (error) {
      this.#uncompared.mark(offset, length);
      throw error;
    }
  }

  /**
   * Compares everything that is left.
   *
   * @throws As {@linkcode sent}; the first failure.
   */
  async rest(): Promise<void> {
    const sweep = new Sweep(this.#uncompared, this.#source, { pieceBytes: COMPARED_BYTES });
    let failed = false;
    const work = async () => {
      try {
        while (!failed) {
          this.#options.signal.throwIfAborted();
          const { value: piece, done } = await sweep.plan.next();
          if (done) return;
          if (await this.#comparePiece(piece)) sweep.done(piece);
        }
      } catch (error) {
        failed = true;
        throw error;
      }
    };
    try {
      await allAtRest(Array.from({ length: DEPTH }, work));
    } finally {
      sweep.end();
    }
  }

  /** Returns `false` if it is still to be sent. */
  async #comparePiece({ kind, offset, length }: Segment): Promise<boolean> {
    if (this.#options.isPending(offset, length)) return false;
    if (kind === "data") await this.#compareData(offset, length);
    else await this.#compareEmpty(offset, length);
    return true;
  }

  async #compareData(offset: number, length: number): Promise<void> {
    const { checksum, differs, signal } = this.#options;
    const theirs = checksum(offset, length);
    theirs.catch(() => {});
    const ours = await this.#ours.of(offset, length);
    if (await interruptible(theirs, signal) !== ours) differs(offset, length);
  }

  async #compareEmpty(offset: number, length: number): Promise<void> {
    const { destination, signal } = this.#options;
    const end = offset + length;
    for (let at = offset; at < end;) {
      const extents = Promise.resolve(destination.extents(at, end - at));
      for (const { kind, length } of await interruptible(extents, signal)) {
        const extentEnd = at + length;
        if (kind !== "data") at = extentEnd;
        for (; at < extentEnd; at = Math.min(extentEnd, at + COMPARED_BYTES)) {
          await this.#compareData(at, Math.min(COMPARED_BYTES, extentEnd - at));
        }
      }
    }
  }
}
