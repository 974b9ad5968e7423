import type { BlockDevice, Extent } from "./device.ts";

/** A run of bytes of one kind. */
export interface Segment {
  /** First byte, from the start of the disk. */
  readonly offset: number;
  readonly length: number;
  readonly kind: Extent["kind"];
}

/**
 * Walks over a range and says where there are data and where not, as far as the disk knows. Neighbours may be of
 * the same kind.
 *
 * @param offset In bytes; a multiple of the disk's minimum block, as is `length`.
 */
export async function* segments(disk: BlockDevice, offset: number, length: number): AsyncGenerator<Segment> {
  const end = offset + length;
  let at = offset;
  while (at < end) {
    for (const { kind, length } of await disk.extents(at, end - at)) {
      yield { offset: at, length, kind };
      at += length;
    }
  }
}

/**
 * Cuts segments so that none crosses a multiple of `pieceBytes`, or for those without data of `emptyPieceBytes`.
 */
export async function* pieces(
  whole: AsyncIterable<Segment>,
  pieceBytes: number,
  emptyPieceBytes: number,
): AsyncGenerator<Segment> {
  for await (const { offset, length, kind } of whole) {
    const size = kind === "data" ? pieceBytes : emptyPieceBytes;
    for (let at = offset; at < offset + length;) {
      const end = Math.min(offset + length, at - at % size + size);
      yield { offset: at, length: end - at, kind };
      at = end;
    }
  }
}
