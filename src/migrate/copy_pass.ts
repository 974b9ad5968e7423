/** One pass of a migration: everything that is marked is sent once. */
import { copyPieces, EMPTY_PIECE_BYTES } from "../device/copy_disk.ts";
import type { BlockDevice } from "../device/device.ts";
import { pieces, type Segment, segments } from "../device/segments.ts";
import type { Clock } from "../os/clock.ts";
import type { DirtyMap } from "./dirty_map.ts";

/** One read and write. */
const REQUEST_BYTES = 256 * 1024;
/** Requests under way. What is under way delays the answer to a break, and the guest's requests behind it. */
const DEPTH = 16;
/** What is looked at for holes at a time. */
const RUN_BYTES = 1024 * 1024 * 1024;

export interface PassOptions {
  readonly clock: Clock;
  /** Ends the pass, with the signal's reason. */
  readonly signal: AbortSignal;
  /** Ends it early but well when it says so; what was not sent stays marked. */
  readonly enough?: () => boolean;
  /** Told of bytes taken out of the map, and of those of them that have arrived. */
  readonly onTaken?: (byteCount: number) => void;
  readonly onArrived?: (byteCount: number) => void;
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
  options: PassOptions,
): Promise<void> {
  const { clock, signal, enough = () => false, onTaken = () => {}, onArrived = () => {} } = options;
  /** Taken out of the map and not known to have arrived. */
  const unsent = new Map<number, Segment>();
  let over = false;

  async function* plan(): AsyncGenerator<Segment> {
    for (let at = 0; !enough();) {
      const run = dirty.take(at, RUN_BYTES);
      if (run === null) return;
      at = run.offset + run.length;
      onTaken(run.length);
      // Until the pieces of the run are known it is unsent as a whole.
      let from = run.offset;
      const rest = () => ({ offset: from, length: at - from, kind: "data" as const });
      unsent.set(-1, rest());
      const runPieces = pieces(
        segments(source, run.offset, run.length),
        REQUEST_BYTES,
        EMPTY_PIECE_BYTES,
      );
      for await (const piece of runPieces) {
        unsent.set(piece.offset, piece);
        from = piece.offset + piece.length;
        unsent.set(-1, rest());
        yield piece;
        if (enough()) return;
      }
      unsent.delete(-1);
    }
  }

  try {
    await copyPieces(source, destination, plan(), {
      requestBytes: REQUEST_BYTES,
      depth: DEPTH,
      signal,
      clock,
      onBytes(byteCount, { offset }) {
        if (over) return;
        unsent.delete(offset);
        onArrived(byteCount);
      },
    });
  } finally {
    over = true;
    for (const { offset, length } of unsent.values()) dirty.mark(offset, length);
  }
}
