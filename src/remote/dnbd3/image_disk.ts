/**
 * An image of dnbd3 as a disk: read-only, and as patient as its client.
 *
 * Where the servers have a list of checksums, what comes is compared with it, in one of two ways. `always`: nothing
 * is handed out before all of its hash block, 16 MiB, is here and fits; one that does not is fetched anew from
 * another server, and whoever reads notices nothing. `complete`: what comes is handed out at once, and a hash block
 * is compared when all of it has been read in order; most of it has been handed out by then, and the read that
 * completes it fails.
 */
import { allAtRest } from "../../base/all_at_rest.ts";
import { CheckedBlocks } from "../../device/checked_blocks.ts";
import { DeviceError } from "../../device/device_error.ts";
import { ReadOnlyDisk } from "../../device/read_only_disk.ts";
import { HASH_BLOCK_BYTES } from "../../wire/dnbd3/constants.ts";
import type { ImageClient } from "./image_client.ts";
import { SequenceCheck, type SequencePart } from "./sequence_check.ts";

/** When what came is compared with its checksum. */
export type Verification = "always" | "complete";

/** Longer reads are asked for in pieces of this size: proxies fetch no more at once. */
const PIECE_BYTES = 1024 * 1024;
/** Hash blocks in memory: 64 MiB. */
const CHECKED_BLOCKS_MAX = 4;

export class ImageDisk extends ReadOnlyDisk {
  readonly #verification: Verification;
  readonly #sequence: SequenceCheck;
  /** Once there are checksums. */
  #checked: CheckedBlocks | null = null;

  constructor(readonly client: ImageClient, verification: Verification = "complete") {
    super(client.image.sizeBytes, "images of dnbd3");
    this.#verification = verification;
    this.#sequence = new SequenceCheck(this.sizeBytes);
  }

  async read(offset: number, into: Uint8Array): Promise<void> {
    const isListed = this.client.checksums !== null;
    if (isListed && this.#verification === "always") return await this.#checkedBlocks().read(offset, into);
    const parts = isListed ? this.#sequence.asked(offset, into.length) : [];
    const pieces: Promise<string>[] = [];
    for (let at = 0; at < into.length; at += PIECE_BYTES) {
      pieces.push(this.client.fetch(offset + at, into.subarray(at, at + PIECE_BYTES)));
    }
    const servers = await allAtRest(pieces);
    for (const part of parts) {
      this.#check(part, into.subarray(part.offset - offset, part.offset - offset + part.length), servers);
    }
  }

  #checkedBlocks(): CheckedBlocks {
    const { sizeBytes } = this;
    const content = { sizeBytes, blockBytes: HASH_BLOCK_BYTES, checksums: this.client.checksums!.checksums };
    return this.#checked ??= new CheckedBlocks(this.client, content, CHECKED_BLOCKS_MAX);
  }

  #check(part: SequencePart, bytes: Uint8Array, servers: readonly string[]): void {
    const block = this.#sequence.arrived(part, bytes, servers);
    if (block === null || block.checksum === this.client.checksums?.checksums[block.index]) return;
    const [first, ...others] = block.servers;
    // Of several, nobody knows which it was.
    if (others.length === 0) this.client.distrust(first);
    const detail =
      `the 16 MiB at ${block.index * HASH_BLOCK_BYTES} do not fit their checksum; they came from ` +
      [first, ...others].join(", ");
    throw new DeviceError("EIO", "read", part.offset, part.length, { detail });
  }

  close(): Promise<void> {
    return this.client.close();
  }
}
