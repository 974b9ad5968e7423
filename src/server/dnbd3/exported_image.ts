/** An image as a disk for other protocols: read-only, and refused as soon as its file has changed. */
import { DeviceError } from "../../device/device_error.ts";
import { ReadOnlyDisk } from "../../device/read_only_disk.ts";
import type { Image } from "./image.ts";
import type { BlockSource } from "./session.ts";

export class ExportedImage extends ReadOnlyDisk {
  readonly image: Image;
  readonly #source: BlockSource;

  /** @param source Where its blocks come from, those included that are not here yet. */
  constructor(image: Image, source: BlockSource) {
    super(image.sizeBytes, "images");
    this.image = image;
    this.#source = source;
  }

  read(offset: number, into: Uint8Array): void | Promise<void> {
    const reading = this.#source.readBlock(this.image, offset, into, 0, null);
    if (reading === undefined) this.#check(offset, into.length);
    else return reading.then(() => this.#check(offset, into.length));
  }

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
