/**
 * Reads of a copy that hand out nothing before all of its hash block has been compared with its checksum.
 *
 * Hash blocks are completed in the file. Where nothing can be kept they are put together in memory, a few at a time.
 */
import { allAtRest } from "../../base/all_at_rest.ts";
import { CheckedBlocks, type DoubtfulSource } from "../../device/checked_blocks.ts";
import { hashBlockEnd, hashBlockOf } from "../../wire/dnbd3/checksum_list.ts";
import { HASH_BLOCK_BYTES } from "../../wire/dnbd3/constants.ts";
import type { CheckedHashBlocks } from "./checked_hash_blocks.ts";
import type { Image } from "./image.ts";
import type { KeptCopy } from "./kept_copy.ts";

/** Hash blocks in memory. */
const UNKEPT_MAX = 2;

export class CheckedReads {
  readonly #image: Image;
  readonly #kept: KeptCopy;
  readonly #checked: CheckedHashBlocks;
  readonly #source: DoubtfulSource;
  #unkept: CheckedBlocks | null = null;

  /** @param image Has checksums when it is read. @param source Where they come from that cannot be kept. */
  constructor(image: Image, kept: KeptCopy, checked: CheckedHashBlocks, source: DoubtfulSource) {
    this.#image = image;
    this.#kept = kept;
    this.#checked = checked;
    this.#source = source;
  }

  /**
   * Begins to read.
   *
   * @param hops To be sent with what is asked for.
   * @throws If no server gives what is missing, or it fits from nobody; nobody writes to the buffer any more then.
   */
  async read(offset: number, into: Uint8Array, hops: number): Promise<void> {
    const end = offset + into.length;
    const parts: Promise<void>[] = [];
    for (let at = offset; at < end; at = hashBlockEnd(at)) {
      const until = Math.min(end, hashBlockEnd(at));
      parts.push(this.#readPart(at, into.subarray(at - offset, until - offset), hops));
    }
    await allAtRest(parts);
  }

  /** A range in one hash block. */
  async #readPart(offset: number, into: Uint8Array, hops: number): Promise<void> {
    const isHere = this.#kept.problem === null && await this.#checked.gather(hashBlockOf(offset), hops);
    if (isHere || this.#checked.has(offset, into.length)) return await this.#image.read(offset, into);
    // It cannot be kept, so there is no place for it but in memory.
    this.#unkept ??= new CheckedBlocks(this.#source, {
      sizeBytes: this.#image.sizeBytes,
      blockBytes: HASH_BLOCK_BYTES,
      checksums: this.#image.checksums!.checksums,
    }, UNKEPT_MAX);
    await this.#unkept.read(offset, into);
  }
}
