/**
 * Sums up hash blocks of an image that are asked for from their beginning to their end, as a copy does, in reads of
 * any size that may be answered in any order. Reads here and there are passed over, and cost nothing.
 */
import { crc32 } from "../../base/crc32.ts";
import { joinCrc32 } from "../../base/crc32_join.ts";
import { hashBlockRange } from "../../wire/dnbd3/checksum_list.ts";
import { HASH_BLOCK_BYTES } from "../../wire/dnbd3/constants.ts";

/** A part of a read that belongs to a hash block which is read in order. */
export interface SequencePart {
  readonly offset: number;
  readonly length: number;
  readonly run: Run;
  /** Which part of the hash block. */
  readonly index: number;
}

/** A hash block all bytes of which have come. */
export interface SummedBlock {
  readonly index: number;
  readonly checksum: number;
  /** Where its bytes came from. */
  readonly servers: ReadonlySet<string>;
}

/** A hash block, as far as it has been asked for. */
interface Run {
  readonly hashBlock: number;
  readonly end: number;
  /** Where the next read has to begin. */
  next: number;
  readonly parts: { readonly length: number; checksum: number }[];
  /** Parts that were asked for and have not come. */
  missing: number;
  readonly servers: Set<string>;
}

export class SequenceCheck {
  readonly #imageBytes: number;
  /** The hash block that is asked for now; those before may still be answered. */
  #run: Run | null = null;

  /** @param imageBytes Virtual size of the image. */
  constructor(imageBytes: number) {
    this.#imageBytes = imageBytes;
  }

  /**
   * To be called when a read is asked for, in the order of the reads.
   *
   * @returns The parts of it that {@linkcode arrived} wants to see.
   */
  asked(offset: number, length: number): SequencePart[] {
    const parts: SequencePart[] = [];
    let at = offset;
    while (at < offset + length) {
      const hashBlock = Math.floor(at / HASH_BLOCK_BYTES);
      const range = hashBlockRange(hashBlock, this.#imageBytes);
      const end = range.offset + range.length;
      // A run that has come as far as here has ended.
      if (at === range.offset) {
        this.#run = { hashBlock, end, next: at, parts: [], missing: 0, servers: new Set() };
      }
      const until = Math.min(end, offset + length);
      const run = this.#run;
      if (run?.next === at) {
        parts.push({ offset: at, length: until - at, run, index: run.parts.length });
        run.parts.push({ length: until - at, checksum: 0 });
        run.next = until;
        run.missing++;
      }
      at = until;
    }
    return parts;
  }

  /**
   * A part has come.
   *
   * @param bytes As long as the part; not kept.
   * @returns Its hash block, if all of that has come.
   */
  arrived({ run, index }: SequencePart, bytes: Uint8Array, servers: Iterable<string>): SummedBlock | null {
    run.parts[index].checksum = crc32(bytes);
    for (const server of servers) run.servers.add(server);
    run.missing--;
    if (run.missing > 0 || run.next < run.end) return null;
    const checksum = run.parts.reduce((sum, part) => joinCrc32(sum, part.checksum, part.length), 0);
    return { index: run.hashBlock, checksum, servers: run.servers };
  }
}
