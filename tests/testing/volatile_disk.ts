import type { BlockDevice, Extent, WriteOptions, ZeroOptions } from "../../src/device/device.ts";
import { DeviceError, type DeviceOperation } from "../../src/device/device_error.ts";
import { MemoryDisk } from "../../src/device/memory.ts";

/** A change that the medium may not have yet. */
interface Change {
  apply(disk: MemoryDisk): void;
  readonly durable: boolean;
}

/**
 * A disk with a cache that a crash empties: for tests of what survives.
 *
 * Changes are seen at once, and reach the medium when they are flushed, or carry `fua`. A crash keeps any of the
 * others, or none, as a real one does.
 */
export class VolatileDisk implements BlockDevice {
  readonly sizeBytes: number;
  readonly blockSizes;
  readonly can;
  readonly #medium: MemoryDisk;
  /** What reads see. */
  readonly #cached: MemoryDisk;
  #unflushed: Change[] = [];
  #crashed = false;

  /** @param medium What is there at the start, and what is left in the end. */
  constructor(medium: MemoryDisk) {
    this.#medium = medium;
    this.#cached = new MemoryDisk(medium.sizeBytes);
    this.sizeBytes = medium.sizeBytes;
    this.blockSizes = medium.blockSizes;
    this.can = medium.can;
    copyDisk(medium, this.#cached);
  }

  /** Changes that are not yet certain to survive. */
  get unflushedChanges(): number {
    return this.#unflushed.reduce((count, change) => count + (change.durable ? 0 : 1), 0);
  }

  /**
   * Ends this disk: everything asked of it later fails with ESHUTDOWN.
   *
   * @param keeps Asked for each change that was never flushed, in the order they were made. Default: none is kept.
   * @returns The medium as a restart would find it.
   */
  crash(keeps: (change: number) => boolean = () => false): MemoryDisk {
    this.#crashed = true;
    let number = 0;
    for (const change of this.#unflushed) {
      // Durable ones are on the medium, but earlier ones that are kept now must not cover them.
      if (change.durable || keeps(number++)) change.apply(this.#medium);
    }
    return this.#medium;
  }

  read(offset: number, into: Uint8Array): void {
    this.#check("read");
    this.#cached.read(offset, into);
  }

  write(offset: number, data: Uint8Array, { fua = false }: WriteOptions = {}): void {
    this.#check("write");
    const kept = data.slice();
    this.#change({ durable: fua, apply: (disk) => disk.write(offset, kept) });
  }

  flush(): void {
    this.#check("flush");
    for (const change of this.#unflushed) change.apply(this.#medium);
    this.#unflushed = [];
  }

  trim(offset: number, length: number, { fua = false }: WriteOptions = {}): void {
    this.#check("trim");
    this.#change({ durable: fua, apply: (disk) => disk.trim(offset, length) });
  }

  zero(offset: number, length: number, { fua = false, mayPunch }: ZeroOptions = {}): void {
    this.#check("zero");
    this.#change({ durable: fua, apply: (disk) => disk.zero(offset, length, { mayPunch }) });
  }

  extents(offset: number, length: number): Extent[] {
    this.#check("extents");
    return this.#cached.extents(offset, length);
  }

  cache(): void {}

  close(): Promise<void> {
    return Promise.resolve();
  }

  #change(change: Change): void {
    change.apply(this.#cached);
    if (change.durable) change.apply(this.#medium);
    this.#unflushed.push(change);
  }

  #check(operation: DeviceOperation): void {
    if (this.#crashed) {
      throw new DeviceError("ESHUTDOWN", operation, undefined, undefined, { detail: "crashed" });
    }
  }
}

function copyDisk(from: MemoryDisk, to: MemoryDisk): void {
  for (let offset = 0; offset < from.sizeBytes;) {
    for (const { kind, length } of from.extents(offset, from.sizeBytes - offset)) {
      if (kind === "data") {
        const data = new Uint8Array(length);
        from.read(offset, data);
        to.write(offset, data);
      }
      offset += length;
    }
  }
}
