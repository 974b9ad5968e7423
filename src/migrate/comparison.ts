/** Finds out whether the destination holds what the source does. */
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
  readonly signal: AbortSignal;
}

/**
 * Compares what is marked. Data by their checksums; where both ends know that there are none, there is nothing to
 * compare.
 *
 * @param uncompared What is compared is unmarked, whatever the result.
 * @throws {DeviceError} The first failure of either disk, what `differs` throws, or the signal's reason.
 */
export async function compare(
  source: BlockDevice,
  uncompared: DirtyMap,
  options: ComparisonOptions,
): Promise<void> {
  const { destination, isPending, differs, signal } = options;
  const sweep = new Sweep(uncompared, source, { pieceBytes: COMPARED_BYTES });
  const ours = new RangeChecksum(source);
  let failed = false;

  async function compareData(offset: number, length: number): Promise<void> {
    const theirs = options.checksum(offset, length);
    theirs.catch(() => {});
    const checksum = await ours.of(offset, length);
    if (await interruptible(theirs, signal) !== checksum) differs(offset, length);
  }

  async function compareEmpty(offset: number, length: number): Promise<void> {
    const end = offset + length;
    for (let at = offset; at < end;) {
      const extents = Promise.resolve(destination.extents(at, end - at));
      for (const { kind, length } of await interruptible(extents, signal)) {
        const extentEnd = at + length;
        if (kind !== "data") at = extentEnd;
        for (; at < extentEnd; at = Math.min(extentEnd, at + COMPARED_BYTES)) {
          await compareData(at, Math.min(COMPARED_BYTES, extentEnd - at));
        }
      }
    }
  }

  async function comparePiece(piece: Segment): Promise<void> {
    const { kind, offset, length } = piece;
    if (isPending(offset, length)) return;
    if (kind === "data") await compareData(offset, length);
    else await compareEmpty(offset, length);
    sweep.done(piece);
  }

  async function work(): Promise<void> {
    try {
      while (!failed) {
        signal.throwIfAborted();
        const { value: piece, done } = await sweep.plan.next();
        if (done) return;
        await comparePiece(piece);
      }
    } catch (error) {
      failed = true;
      throw error;
    }
  }

  try {
    const results = await Promise.allSettled(Array.from({ length: DEPTH }, work));
    for (const result of results) if (result.status === "rejected") throw result.reason;
  } finally {
    // Also what was found pending.
    sweep.end();
  }
}
