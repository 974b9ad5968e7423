/** Goes once over what is marked in a map, from the start to the end of the disk, in pieces that are taken out of it. */
import type { BlockDevice } from "../device/device.ts";
import { EMPTY_PIECE_BYTES } from "../device/copy_disk.ts";
import { pieces, type Segment, segments } from "../device/segments.ts";
import type { DirtyMap } from "./dirty_map.ts";

/** What is taken at a time. What changes again before it is taken is done once; afterwards, it has to be done again. */
const RUN_BYTES = EMPTY_PIECE_BYTES;

export interface SweepOptions {
  /** The longest piece of data. */
  readonly pieceBytes: number;
  /** Ends it early when it says so. */
  readonly enough?: () => boolean;
  /** Told of bytes that are taken out of the map. */
  readonly onTaken?: (byteCount: number) => void;
}

export class Sweep {
  /** The pieces, none of them twice. What is marked behind the sweep stays for the next one. */
  readonly plan: AsyncGenerator<Segment>;
  readonly #map: DirtyMap;
  /** Taken out of the map and not done: pieces by their offset, and under -1 what is not yet cut into pieces. */
  readonly #undone = new Map<number, { readonly offset: number; readonly length: number }>();
  #over = false;

  /** @param disk Whose holes are known. */
  constructor(map: DirtyMap, disk: BlockDevice, options: SweepOptions) {
    this.#map = map;
    this.plan = this.#plan(disk, options);
  }

  async *#plan(
    disk: BlockDevice,
    { pieceBytes, enough = () => false, onTaken = () => {} }: SweepOptions,
  ): AsyncGenerator<Segment> {
    for (let at = 0; !this.#over && !enough();) {
      const run = this.#map.take(at, RUN_BYTES);
      if (run === null) return;
      at = run.offset + run.length;
      onTaken(run.length);
      this.#undone.set(-1, run);
      for await (
        const piece of pieces(segments(disk, run.offset, run.length), pieceBytes, EMPTY_PIECE_BYTES)
      ) {
        if (this.#over) return;
        const from = piece.offset + piece.length;
        this.#undone.set(piece.offset, piece);
        this.#undone.set(-1, { offset: from, length: at - from });
        yield piece;
        if (enough()) return;
      }
      this.#undone.delete(-1);
    }
  }

  /** A piece needs to be done no more. Returns `false` if the sweep is over, and it counts as undone. */
  done({ offset }: Segment): boolean {
    return !this.#over && this.#undone.delete(offset);
  }

  /** Ends it: what was taken and is not done is marked again. */
  end(): void {
    this.#over = true;
    for (const { offset, length } of this.#undone.values()) this.#map.mark(offset, length);
  }
}
