/** An image as a disk for other protocols: read-only, and refused as soon as its file has changed. */
import type { Abilities, BlockDevice, BlockSizes, Extent } from "../../device/device.ts";
import { DeviceError, type DeviceOperation } from "../../device/device_error.ts";
import type { Image } from "./image.ts";
import type { BlockSource } from "./session.ts";

export class ExportedImage implements BlockDevice {
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
  readonly image: Image;
  readonly #source: BlockSource;

  /** @param source Where its blocks come from, those included that are not here yet. */
  constructor(image: Image, source: BlockSource) {
    this.image = image;
    this.#source = source;
    this.sizeBytes = image.sizeBytes;
  }

  read(offset: number, into: Uint8Array): void | Promise<void> {
    const reading = this.#source.readBlock(this.image, offset, into, 0, null);
    if (reading === undefined) this.#check(offset, into.length);
    else return reading.then(() => this.#check(offset, into.length));
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

  /** The image belongs to its table. */
  close(): Promise<void> {
    return Promise.resolve();
  }

  /** Asked after reading, so that no answer holds anything but the image as it was loaded. */
  #check(offset: number, length: number): void {
    if (this.image.isUnchanged()) return;
    const detail = `${this.image}: ${this.image.quarantine}`;
    throw new DeviceError("EIO", "read", offset, length, { detail });
  }
}

function readOnly(operation: DeviceOperation, offset: number, length: number): DeviceError {
  return new DeviceError("EROFS", operation, offset, length, { detail: "images are read-only" });
}
