/** What all disks have in common that nobody can write to and whose every byte counts as data. */
import type { Abilities, BlockDevice, BlockSizes, Extent } from "./device.ts";
import { DeviceError, type DeviceOperation } from "./device_error.ts";

export abstract class ReadOnlyDisk implements BlockDevice {
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

  /** @param what What it is, in the plural, for whoever tries to write. */
  constructor(readonly sizeBytes: number, readonly what: string) {}

  abstract read(offset: number, into: Uint8Array): void | Promise<void>;

  abstract close(): Promise<void>;

  write(offset: number, data: Uint8Array): never {
    throw this.#refuse("write", offset, data.length);
  }

  /** Nothing is ever written. */
  flush(): void {}

  trim(offset: number, length: number): never {
    throw this.#refuse("trim", offset, length);
  }

  zero(offset: number, length: number): never {
    throw this.#refuse("zero", offset, length);
  }

  extents(_offset: number, length: number): Extent[] {
    return [{ length, kind: "data" }];
  }

  cache(): void {}

  #refuse(operation: DeviceOperation, offset: number, length: number): DeviceError {
    return new DeviceError("EROFS", operation, offset, length, { detail: `${this.what} are read-only` });
  }
}
