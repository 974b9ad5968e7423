import { RangeOrder } from "../../src/base/range_order.ts";
import type { BlockDevice, Extent, WriteOptions, ZeroOptions } from "../../src/device/device.ts";
import { DeviceError, type DeviceOperation } from "../../src/device/device_error.ts";
import type { Random } from "./fuzzer.ts";
import { turns } from "./turns.ts";

/** How a disk behaves: each a probability per operation. */
export interface Moods {
  /** It takes a while; operations that do not overlap overtake each other. */
  readonly slow: number;
  /** It fails, at once or after a while, and changes nothing. */
  readonly failing: number;
}

/** A disk that answers now or later, well or not, as the seed has it; overlapping operations keep their order. */
export class MoodyDisk implements BlockDevice {
  readonly #next: BlockDevice;
  readonly #random: Random;
  readonly #moods: Moods;
  readonly #order = new RangeOrder();

  constructor(next: BlockDevice, random: Random, moods: Moods) {
    this.#next = next;
    this.#random = random;
    this.#moods = moods;
  }

  get sizeBytes() {
    return this.#next.sizeBytes;
  }
  get blockSizes() {
    return this.#next.blockSizes;
  }
  get can() {
    return this.#next.can;
  }

  read(offset: number, into: Uint8Array) {
    return this.#perform("read", false, offset, into.length, () => this.#next.read(offset, into));
  }
  write(offset: number, data: Uint8Array, options?: WriteOptions) {
    return this.#perform("write", true, offset, data.length, () => this.#next.write(offset, data, options));
  }
  flush() {
    return this.#perform("flush", false, 0, 0, () => this.#next.flush());
  }
  trim(offset: number, length: number, options?: WriteOptions) {
    return this.#perform("trim", true, offset, length, () => this.#next.trim(offset, length, options));
  }
  zero(offset: number, length: number, options?: ZeroOptions) {
    return this.#perform("zero", true, offset, length, () => this.#next.zero(offset, length, options));
  }
  extents(offset: number, length: number): Extent[] | Promise<Extent[]> {
    // A disk may tell less than it was asked for.
    const told = this.#random.chance(0.3) ? 1 + this.#random.below(length) : length;
    return this.#perform("extents", false, offset, length, () => this.#next.extents(offset, told));
  }
  cache(offset: number, length: number) {
    return this.#perform("cache", false, offset, length, () => this.#next.cache(offset, length));
  }
  close() {
    return this.#next.close();
  }

  #perform<T>(
    operation: DeviceOperation,
    writes: boolean,
    offset: number,
    length: number,
    work: () => T | Promise<T>,
  ): T | Promise<T> {
    const perform = this.#random.chance(this.#moods.failing)
      ? () => {
        throw new DeviceError("EIO", operation, offset, length);
      }
      : work;
    const slow = this.#random.chance(this.#moods.slow);
    if (!slow && !this.#order.conflicts(writes, offset, length)) return perform();
    const wait = this.#random.below(20);
    return this.#order.run(writes, offset, length, async () => {
      await turns(wait);
      return await perform();
    });
  }
}
