/** An image of dnbd3 as a disk: read-only, and as patient as its client. */
import type { Abilities, BlockDevice, BlockSizes, Extent } from "../../device/device.ts";
import { DeviceError, type DeviceOperation } from "../../device/device_error.ts";
import type { ImageClient } from "./image_client.ts";

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

  constructor(readonly client: ImageClient) {
    this.sizeBytes = client.image.sizeBytes;
  }

  async read(offset: number, into: Uint8Array): Promise<void> {
    const pieces: Promise<string>[] = [];
    for (let at = 0; at < into.length; at += PIECE_BYTES) {
      pieces.push(this.client.fetch(offset + at, into.subarray(at, at + PIECE_BYTES)));
    }
    // The buffer is the caller's again only when all pieces are at rest.
    const ended = await Promise.allSettled(pieces);
    for (const each of ended) if (each.status === "rejected") throw each.reason;
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
