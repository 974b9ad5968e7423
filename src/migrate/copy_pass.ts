/** One pass of a migration: everything that is marked is sent once. */
import { copyPieces } from "../device/copy_disk.ts";
import type { BlockDevice } from "../device/device.ts";
import type { Segment } from "../device/segments.ts";
import type { Clock } from "../os/clock.ts";
import type { DirtyMap } from "./dirty_map.ts";
import { Sweep } from "./sweep.ts";

/** One read and write. */
const REQUEST_BYTES = 512 * 1024;
/** Pieces being sent or looked at afterwards. What is under way delays the answer to a break, and the guest's requests behind it. */
const DEPTH = 16;

export interface PassOptions {
  readonly clock: Clock;
  /** Ends the pass, with the signal's reason. */
  readonly signal: AbortSignal;
  /** Ends it early but well when it says so; what was not sent stays marked. */
  readonly enough?: () => boolean;
  /** Told of bytes taken out of the map, and of those of them that have arrived. */
  readonly onTaken?: (byteCount: number) => void;
  readonly onArrived?: (byteCount: number) => void;
  /** What is to be done with a piece that has arrived. */
  readonly afterwards?: (piece: Segment) => void | Promise<void>;
}

/**
 * Sends what is marked, in one sweep from the start to the end of the disk: no block is under way twice. What clients
 * change behind the sweep stays marked for the next.
 *
 * @param dirty What is sent is unmarked; what failed, or may have, is marked again.
 * @throws {DeviceError} The first failure of either disk, or the signal's reason.
 */
export async function copyPass(
  source: BlockDevice,
  destination: BlockDevice,
  dirty: DirtyMap,
  { clock, signal, enough, onTaken, onArrived = () => {}, afterwards }: PassOptions,
): Promise<void> {
  const sweep = new Sweep(dirty, source, { pieceBytes: REQUEST_BYTES, enough, onTaken });
  try {
    await copyPieces(source, destination, sweep.plan, {
      requestBytes: REQUEST_BYTES,
      depth: DEPTH,
      signal,
      clock,
      afterwards,
      onBytes(byteCount, piece) {
        if (sweep.done(piece)) onArrived(byteCount);
      },
    });
  } finally {
    sweep.end();
  }
}
