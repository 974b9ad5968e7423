/**
 * The destination of a migration, in flexnbd's way: a disk that one client at a time fills, and that is whole when the
 * client says goodbye.
 *
 * A goodbye counts only from a connection that has written every byte: a stranger who connects and leaves politely has
 * moved nothing. What an earlier connection wrote does not count, for nobody knows what has changed at the source since.
 *
 * @see spec: flexnbd sections 13 and 17 (2, 3)
 */
import type { Log } from "../base/log.ts";
import type { BlockDevice, DiskIdentity, Extent, WriteOptions, ZeroOptions } from "../device/device.ts";
import { DirtyMap } from "./dirty_map.ts";

export interface ReceiverOptions {
  /** Bytes that have to come. */
  readonly sizeBytes: number;
  readonly log: Log;
  /** Any goodbye is the end, as flexnbd has it. Default `false`. */
  readonly trustsGoodbye?: boolean;
  /** Clients are let in when the disk has come. Default `false`: another program serves it then. */
  readonly servesReceived?: boolean;
  /** Writes down that the image is a disk now; its identity. Default: there is none. */
  adopt?(): Promise<DiskIdentity | undefined>;
}

/** A disk that is being received. It stays in front of the disk when that has come, and is then only a way through. */
export class Receiver implements BlockDevice {
  readonly sizeBytes: number;
  readonly blockSizes: BlockDevice["blockSizes"];
  readonly can: BlockDevice["can"];
  #identity: DiskIdentity | undefined;
  readonly #disk: BlockDevice;
  readonly #options: ReceiverOptions;
  /** What the present client has not written; `null` when the disk has come. */
  #missing: DirtyMap | null;
  /** The disk has come, and is being made durable: what anybody wrote now would be in it. */
  #isCompleting = false;
  readonly #received = Promise.withResolvers<boolean>();

  constructor(disk: BlockDevice, options: ReceiverOptions) {
    this.#disk = disk;
    this.#options = options;
    this.sizeBytes = disk.sizeBytes;
    this.blockSizes = disk.blockSizes;
    this.can = disk.can;
    this.#missing = new DirtyMap(options.sizeBytes);
    this.#missing.markAll();
  }

  /** None before the disk has come. */
  get identity(): DiskIdentity | undefined {
    return this.#identity;
  }

  get syncFailure(): string | null {
    return this.#disk.syncFailure ?? null;
  }

  /** Whether the disk has not come yet. */
  get isWaiting(): boolean {
    return this.#missing !== null;
  }

  /** Why no client is let in, for who asks to be; `null`: clients are. */
  get whyClosed(): string | null {
    if (this.#isCompleting) return "a disk has just come, and is being made durable";
    if (this.isWaiting || this.#options.servesReceived === true) return null;
    return "the disk has been received, and is not served by who received it";
  }

  /** Resolves when the disk has come, with `true`, or cannot come any more because it could not be made durable. */
  get received(): Promise<boolean> {
    return this.#received.promise;
  }

  /** The client has gone. @param politely It had said so. */
  async left(politely: boolean): Promise<void> {
    const missing = this.#missing;
    if (missing === null || this.#isCompleting) return;
    const { log, trustsGoodbye = false } = this.#options;
    if (!politely || !missing.isEmpty && !trustsGoodbye) {
      const short = missing.bytes;
      missing.markAll();
      if (politely) log.warn(`the source left ${short} bytes short; waiting for all of the disk`);
      return;
    }
    this.#isCompleting = true;
    try {
      await this.#disk.flush();
      this.own(await this.#options.adopt?.());
      log.info("the disk has been received");
      this.finish();
    } catch (error) {
      log.error(`the disk was received and cannot be made durable: ${(error as Error).message}`);
      this.#received.resolve(false);
    }
  }

  /** The image is the disk from now on, whatever has been written and by whom. */
  own(identity: DiskIdentity | undefined): void {
    this.#identity = identity;
    this.#missing = null;
    this.#isCompleting = false;
  }

  /** There is nothing more to wait for. */
  finish(): void {
    this.#received.resolve(true);
  }

  read(offset: number, into: Uint8Array): void | Promise<void> {
    return this.#disk.read(offset, into);
  }

  write(offset: number, data: Uint8Array, options?: WriteOptions): void | Promise<void> {
    return this.#arriving(offset, data.length, this.#disk.write(offset, data, options));
  }

  flush(): void | Promise<void> {
    return this.#disk.flush();
  }

  trim(offset: number, length: number, options?: WriteOptions): void | Promise<void> {
    return this.#disk.trim(offset, length, options);
  }

  zero(offset: number, length: number, options?: ZeroOptions): void | Promise<void> {
    return this.#arriving(offset, length, this.#disk.zero(offset, length, options));
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

  #arriving(offset: number, length: number, writing: void | Promise<void>): void | Promise<void> {
    if (this.#missing === null) return writing;
    if (writing === undefined) return this.#missing.clear(offset, length);
    return writing.then(() => this.#missing?.clear(offset, length));
  }
}
