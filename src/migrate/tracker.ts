/**
 * Stands in front of a disk while it moves: tells what clients change, and can hold them.
 *
 * It is put before the disk when a migration begins and taken away when it ends, under clients that notice nothing. A
 * change is told when the disk has finished it, for only then is it there to be read; while it is under way it is
 * counted, so that whoever holds the clients can wait for the last.
 */
import type {
  Abilities,
  BlockDevice,
  BlockSizes,
  DiskIdentity,
  Extent,
  WriteOptions,
  ZeroOptions,
} from "../device/device.ts";
import { DeviceError } from "../device/device_error.ts";
import type { Clock } from "../os/clock.ts";
import { Throttle } from "./throttle.ts";

export class Tracker implements BlockDevice {
  readonly sizeBytes: number;
  readonly blockSizes: BlockSizes;
  readonly can: Abilities;
  readonly identity?: DiskIdentity;
  readonly #clock: Clock;
  /** Slows clients that write faster than the disk can be moved. */
  #writePace: Throttle | null = null;
  readonly #disk: BlockDevice;
  readonly #changed: (offset: number, length: number) => void;
  /** Changes under way. */
  #changes = 0;
  #quiet: PromiseWithResolvers<void> | null = null;
  /** Settles when held clients go on, or never will. */
  #gate: PromiseWithResolvers<void> | null = null;

  /** @param changed Told of every range that a client has changed, whether it was told that it succeeded or not. */
  constructor(disk: BlockDevice, clock: Clock, changed: (offset: number, length: number) => void) {
    this.#disk = disk;
    this.#clock = clock;
    this.#changed = changed;
    this.sizeBytes = disk.sizeBytes;
    this.blockSizes = disk.blockSizes;
    this.can = disk.can;
    this.identity = disk.identity;
  }

  get syncFailure(): string | null {
    return this.#disk.syncFailure ?? null;
  }

  /** Bytes per second that clients may write; `null` as fast as they like. */
  get writeLimit(): number | null {
    return this.#writePace?.bytesPerSecond ?? null;
  }

  set writeLimit(limit: number | null) {
    if (limit === null) this.#writePace = null;
    else if (this.#writePace === null) this.#writePace = new Throttle(this.#clock, limit);
    else this.#writePace.bytesPerSecond = limit;
  }

  /** Whether clients wait. */
  get holds(): boolean {
    return this.#gate !== null;
  }

  /** Lets clients wait from now on. Returns when what they had asked for before has been done. */
  hold(): Promise<void> {
    if (this.#gate === null) {
      this.#gate = Promise.withResolvers();
      this.#gate.promise.catch(() => {});
    }
    if (this.#changes === 0) return Promise.resolve();
    this.#quiet ??= Promise.withResolvers();
    return this.#quiet.promise;
  }

  /** Lets clients go on; what they asked for meanwhile is done in its order. */
  release(): void {
    const gate = this.#gate;
    this.#gate = null;
    gate?.resolve();
  }

  /** The disk has moved: whatever waits, and whatever comes, fails. */
  refuse(): void {
    this.#gate ??= Promise.withResolvers();
    this.#gate.promise.catch(() => {});
    this.#gate.reject(
      new DeviceError("ESHUTDOWN", "write", undefined, undefined, { detail: "it has moved" }),
    );
  }

  read(offset: number, into: Uint8Array): void | Promise<void> {
    if (this.#gate !== null) return this.#later(() => this.read(offset, into));
    return this.#disk.read(offset, into);
  }

  write(offset: number, data: Uint8Array, options?: WriteOptions): void | Promise<void> {
    if (this.#gate !== null) return this.#later(() => this.write(offset, data, options));
    const slowed = this.#writePace?.take(data.length);
    if (slowed !== undefined) {
      return slowed.then(() => this.#unpacedWrite(offset, data, options));
    }
    return this.#change(offset, data.length, () => this.#disk.write(offset, data, options));
  }

  #unpacedWrite(offset: number, data: Uint8Array, options?: WriteOptions): void | Promise<void> {
    if (this.#gate !== null) return this.#later(() => this.#unpacedWrite(offset, data, options));
    return this.#change(offset, data.length, () => this.#disk.write(offset, data, options));
  }

  flush(): void | Promise<void> {
    if (this.#gate !== null) return this.#later(() => this.flush());
    return this.#disk.flush();
  }

  trim(offset: number, length: number, options?: WriteOptions): void | Promise<void> {
    if (this.#gate !== null) return this.#later(() => this.trim(offset, length, options));
    return this.#change(offset, length, () => this.#disk.trim(offset, length, options));
  }

  zero(offset: number, length: number, options?: ZeroOptions): void | Promise<void> {
    if (this.#gate !== null) return this.#later(() => this.zero(offset, length, options));
    return this.#change(offset, length, () => this.#disk.zero(offset, length, options));
  }

  extents(offset: number, length: number): Extent[] | Promise<Extent[]> {
    return this.#disk.extents(offset, length);
  }

  cache(offset: number, length: number): void | Promise<void> {
    return this.#disk.cache(offset, length);
  }

  close(): Promise<void> {
    return this.#disk.close();
  }

  async #later(operation: () => void | Promise<void>): Promise<void> {
    await this.#gate!.promise;
    await operation();
  }

  #change(offset: number, length: number, operation: () => void | Promise<void>): void | Promise<void> {
    let changing;
    try {
      changing = operation();
    } catch (error) {
      this.#changed(offset, length);
      throw error;
    }
    if (changing === undefined) return this.#changed(offset, length);
    this.#changes++;
    return changing.finally(() => {
      this.#changed(offset, length);
      this.#changes--;
      if (this.#changes > 0) return;
      this.#quiet?.resolve();
      this.#quiet = null;
    });
  }
}
