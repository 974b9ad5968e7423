import type { OpenFile } from "../os/file_calls.ts";
import type { Pipe } from "../os/pipe.ts";
import type {
  Abilities,
  BlockDevice,
  BlockSizes,
  DiskIdentity,
  Extent,
  WriteOptions,
  ZeroOptions,
} from "./device.ts";
import { DeviceError, type DeviceOperation } from "./device_error.ts";

/**
 * Remembers that a flush failed.
 *
 * The kernel tells of a failed write-back once, and may drop the pages that it could not write: a second flush
 * succeeds although data is lost. So after the first failure every flush and every change of this disk fails with
 * EIO, whoever asks, until the disk is opened anew. Reads go on.
 *
 * The disk below says which of its failures were failed syncs: they are {@linkcode DeviceError}s of the operation
 * `flush`, also when a write with `fua` met them.
 */
export class StickySync implements BlockDevice {
  readonly sizeBytes: number;
  readonly blockSizes: BlockSizes;
  readonly can: Abilities;
  readonly identity?: DiskIdentity;
  readonly #disk: BlockDevice;
  readonly #onFailure: (reason: string) => void;
  #failure: DeviceError | null = null;

  /** @param onFailure Told once, when the first sync fails. */
  constructor(disk: BlockDevice, onFailure: (reason: string) => void = () => {}) {
    this.#disk = disk;
    this.#onFailure = onFailure;
    this.sizeBytes = disk.sizeBytes;
    this.blockSizes = disk.blockSizes;
    this.can = disk.can;
    this.identity = disk.identity;
  }

  get syncFailure(): string | null {
    return this.#failure?.message ?? null;
  }

  read(offset: number, into: Uint8Array): void | Promise<void> {
    return this.#disk.read(offset, into);
  }

  write(offset: number, data: Uint8Array, options?: WriteOptions): void | Promise<void> {
    if (this.#failure !== null) throw this.#refusal("write", offset, data.length);
    if (!options?.fua) return this.#disk.write(offset, data, options);
    return this.#watch(() => this.#disk.write(offset, data, options));
  }

  takesPipe(offset: number, length: number): boolean {
    return this.#disk.takesPipe?.(offset, length) ?? false;
  }

  writeFromPipe(offset: number, length: number, pipe: Pipe): void | Promise<void> {
    if (this.#failure !== null) throw this.#refusal("write", offset, length);
    if (this.#disk.writeFromPipe !== undefined) return this.#disk.writeFromPipe(offset, length, pipe);
    const data = new Uint8Array(length);
    pipe.take(data);
    return this.#disk.write(offset, data);
  }

  flush(): void | Promise<void> {
    if (this.#failure !== null) throw this.#refusal("flush");
    return this.#watch(() => this.#disk.flush());
  }

  trim(offset: number, length: number, options?: WriteOptions): void | Promise<void> {
    if (this.#failure !== null) throw this.#refusal("trim", offset, length);
    return this.#watch(() => this.#disk.trim(offset, length, options));
  }

  zero(offset: number, length: number, options?: ZeroOptions): void | Promise<void> {
    if (this.#failure !== null) throw this.#refusal("zero", offset, length);
    return this.#watch(() => this.#disk.zero(offset, length, options));
  }

  extents(offset: number, length: number): Extent[] | Promise<Extent[]> {
    return this.#disk.extents(offset, length);
  }

  cache(offset: number, length: number): void | Promise<void> {
    return this.#disk.cache(offset, length);
  }

  cachedFile(offset: number, length: number): OpenFile | null {
    return this.#disk.cachedFile?.(offset, length) ?? null;
  }

  close(): Promise<void> {
    return this.#disk.close();
  }

  #watch(operation: () => void | Promise<void>): void | Promise<void> {
    let result;
    try {
      result = operation();
    } catch (error) {
      this.#note(error);
      throw error;
    }
    return result instanceof Promise ? this.#watchPromise(result) : undefined;
  }

  async #watchPromise(result: Promise<void>): Promise<void> {
    try {
      await result;
    } catch (error) {
      this.#note(error);
      throw error;
    }
    // Another sync failed while this one ran. The kernel told the other one; this one's success may be hollow.
    if (this.#failure !== null) throw this.#refusal("flush");
  }

  #note(error: unknown): void {
    if (this.#failure !== null || !(error instanceof DeviceError) || error.operation !== "flush") return;
    if (error.errno === "ESHUTDOWN") return; // closed: nothing was tried
    this.#failure = error;
    this.#onFailure(error.message);
  }

  #refusal(operation: DeviceOperation, offset?: number, length?: number): DeviceError {
    return new DeviceError("EIO", operation, offset, length, {
      detail: "an earlier flush failed; open the disk anew",
      cause: this.#failure,
    });
  }
}
