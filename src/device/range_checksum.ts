import { crc32 } from "../base/crc32.ts";
import type { BlockDevice } from "./device.ts";

/** How much is read at a time: it is still in the processor's cache when it is summed up. */
const STEP_BYTES = 256 * 1024;

/** Makes checksums of ranges of a disk, and keeps the memory that it takes for the next. */
export class RangeChecksum {
  readonly #disk: BlockDevice;
  #spare: Uint8Array | null = null;

  constructor(disk: BlockDevice) {
    this.#disk = disk;
  }

  /**
   * The CRC-32 of the bytes from `offset`, as the disk holds them now.
   *
   * @throws {DeviceError} If they cannot be read.
   */
  async of(offset: number, length: number): Promise<number> {
    const buffer = this.#spare ?? new Uint8Array(STEP_BYTES);
    this.#spare = null;
    let value = 0;
    for (let done = 0; done < length;) {
      const bytes = buffer.subarray(0, Math.min(buffer.length, length - done));
      const reading = this.#disk.read(offset + done, bytes);
      if (reading !== undefined) await reading;
      value = crc32(bytes, value);
      done += bytes.length;
    }
    this.#spare = buffer;
    return value;
  }
}
