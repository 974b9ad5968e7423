/**
 * An image of dnbd3 as a disk: read-only, and as patient as its client.
 *
 * A hash block that is read from its beginning to its end is compared with its checksum, if the servers have a list.
 * Most of it has been handed out by then: it is the read that completes it which fails.
 */
import type { Abilities, BlockDevice, BlockSizes, Extent } from "../../device/device.ts";
import { DeviceError, type DeviceOperation } from "../../device/device_error.ts";
import { HASH_BLOCK_BYTES } from "../../wire/dnbd3/constants.ts";
import type { ImageClient } from "./image_client.ts";
import { SequenceCheck, type SequencePart } from "./sequence_check.ts";

/** Longer reads are asked for in pieces of this size: proxies fetch no more at once. */
const PIECE_BYTES = 1024 * 1024;

export class ImageDisk implements BlockDevice {
  readonly sizeBytes: number;
  readonly blockSizes: BlockSizes = { minimum: 1, preferred: 4096, maximumPayload: 32 * 1024 * 1024 };
  readonly can: Abilities = {
    write: false,
    flush: true,
    fua: false,
    trim: false,
    zero: false,
    fastZero: false,
    cache: false,
    // Nobody writes, so every connection sees the same.
    multiConn: true,
    extents: false,
    rotational: false,
  };

  readonly #sequence: SequenceCheck;

  constructor(readonly client: ImageClient) {
    this.sizeBytes = client.image.sizeBytes;
    this.#sequence = new SequenceCheck(this.sizeBytes);
  }

  async read(offset: number, into: Uint8Array): Promise<void> {
    const parts = this.client.checksums === null ? [] : this.#sequence.asked(offset, into.length);
    const pieces: Promise<string>[] = [];
    for (let at = 0; at < into.length; at += PIECE_BYTES) {
      pieces.push(this.client.fetch(offset + at, into.subarray(at, at + PIECE_BYTES)));
    }
    // The buffer is the caller's again only when all pieces are at rest.
    const ended = await Promise.allSettled(pieces);
    const servers: string[] = [];
    for (const each of ended) {
      if (each.status === "rejected") throw each.reason;
      servers.push(each.value);
    }
    for (const part of parts) {
      this.#check(part, into.subarray(part.offset - offset, part.offset - offset + part.length), servers);
    }
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

  write(offset: number, data: Uint8Array): never {
    throw readOnly("write", offset, data.length);
  }

  /** Nothing is ever written. */
  flush(): void {}

  trim(offset: number, length: number): never {
    throw readOnly("trim", offset, length);
  }

  zero(offset: number, length: number): never {
    throw readOnly("zero", offset, length);
  }

  extents(_offset: number, length: number): Extent[] {
    return [{ length, kind: "data" }];
  }

  cache(): void {}

  close(): Promise<void> {
    return this.client.close();
  }
}

function readOnly(operation: DeviceOperation, offset: number, length: number): DeviceError {
  return new DeviceError("EROFS", operation, offset, length, { detail: "images of dnbd3 are read-only" });
}
