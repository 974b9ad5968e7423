/**
 * What a proxy keeps of an image that it copies: the blocks in the image's file, and the map of them beside it.
 *
 * The map is saved from time to time, never ahead of the data. When something cannot be written nothing more is kept,
 * and the image goes on without; after a full disk it is tried again.
 */
import type { Log } from "../../base/log.ts";
import { printable } from "../../base/printable.ts";
import { DeviceError } from "../../device/device_error.ts";
import type { Clock } from "../../os/clock.ts";
import type { CacheMap } from "../../wire/dnbd3/cache_map.ts";
import type { Image } from "./image.ts";
import type { CopyStore } from "./image_store.ts";
import { MapKeeper } from "./map_keeper.ts";

/** The map is saved this long after something was added to it, or after so much. */
const SAVE_MS = 10_000;
const SAVE_BYTES = 256 * 1024 * 1024;
/** Somebody may have made room after so long. */
const ROOM_AGAIN_MS = 60_000;

export interface KeepingTools {
  readonly store: CopyStore;
  readonly clock: Clock;
  readonly log: Log;
  /** There is no room for so many bytes. Returns whether some was made. */
  makeRoom(byteCount: number): Promise<boolean>;
}

export class KeptCopy {
  readonly #image: Image;
  readonly #map: CacheMap;
  readonly #keeper: MapKeeper;
  readonly #tools: KeepingTools;
  #unsavedBytes = 0;
  #unsavedSinceMs = Infinity;
  /** Why nothing is kept any more, or null. */
  #problem: string | null = null;
  /** When it may be over. */
  #tryAgainMs = Infinity;
  /** Where the map was closed, there is nothing more to save. */
  #isWhole = false;

  /**
   * Begins, or goes on.
   *
   * @param map What is in the file; the image has it from now on.
   */
  static async open(image: Image, map: CacheMap, tools: KeepingTools): Promise<KeptCopy> {
    const { store } = tools;
    const path = mapPath(image);
    // One that was cut short, or is not there, gets its length.
    const bytes = map.encode();
    const inFile = await store.readSmall(path, bytes.length);
    if (inFile === null || inFile.length < bytes.length) await store.writeSmall(path, bytes);
    await image.startCopying(map, () => store.openForWriting(image.path));
    await image.open();
    const keeper = new MapKeeper(map, await store.openForWriting(path), () => image.file());
    return new KeptCopy(image, map, keeper, tools);
  }

  private constructor(image: Image, map: CacheMap, keeper: MapKeeper, tools: KeepingTools) {
    this.#image = image;
    this.#map = map;
    this.#keeper = keeper;
    this.#tools = tools;
  }

  /** Why nothing is kept any more, or null. */
  get problem(): string | null {
    return this.#problem;
  }

  /** To be called about once a second. */
  tick(nowMs: number): void {
    if (nowMs - this.#unsavedSinceMs >= SAVE_MS || this.#unsavedBytes >= SAVE_BYTES) {
      this.save().catch(() => {});
    }
    if (nowMs >= this.#tryAgainMs && this.#keeper.failure === null) {
      this.#tryAgainMs = Infinity;
      this.#problem = null;
    }
  }

  /** Writes blocks into the file, which the map does not have yet. Returns whether they are in it. Never throws. */
  async write(offset: number, bytes: Uint8Array): Promise<boolean> {
    if (this.#problem !== null) return false;
    for (let attempt = 1;; attempt++) {
      try {
        const file = await this.#image.file();
        await file.write(offset, bytes);
        return true;
      } catch (error) {
        const noRoom = error instanceof DeviceError && (error.errno === "ENOSPC" || error.errno === "EDQUOT");
        if (noRoom && attempt === 1 && await this.#tools.makeRoom(bytes.length)) continue;
        this.fail(error);
        if (noRoom) this.#tryAgainMs = this.#tools.clock.now() + ROOM_AGAIN_MS;
        return false;
      }
    }
  }

  /** Nothing more is kept: something could not be written. */
  fail(error: unknown): void {
    if (this.#problem !== null) return;
    this.#problem = (error as Error).message;
    this.#tools.log.error(
      `image ${printable(`${this.#image}`)}: nothing more is kept of it: ${printable(this.#problem)}`,
    );
  }

  /** Puts into the map what has been written, and may be believed. */
  note(offset: number, length: number): void {
    this.#map.add(offset, length);
    if (this.#unsavedSinceMs === Infinity) this.#unsavedSinceMs = this.#tools.clock.now();
    this.#unsavedBytes += length;
  }

  /** Makes durable what is here. @throws If that fails; nothing more is kept then. */
  async save(): Promise<void> {
    if (this.#isWhole || this.#keeper.failure !== null) return;
    this.#unsavedBytes = 0;
    this.#unsavedSinceMs = Infinity;
    try {
      await this.#keeper.save();
    } catch (error) {
      this.fail(error);
      throw error;
    }
  }

  /** All is here: makes it durable, without a map. Returns whether that succeeded. */
  async makeWhole(): Promise<boolean> {
    this.#isWhole = true;
    try {
      await (await this.#image.file()).flush();
      await this.#keeper.close();
      await this.#tools.store.remove(mapPath(this.#image));
      return true;
    } catch (error) {
      // The map in the file lags behind, which does no harm but to the next start.
      this.#tools.log.error(
        `image ${printable(`${this.#image}`)}: all is here, but is not durable: ${(error as Error).message}`,
      );
      this.fail(error);
      return false;
    }
  }

  /** Saves, and closes the map. */
  async close(): Promise<void> {
    await this.save().catch(() => {});
    await this.#keeper.close();
  }
}

function mapPath(image: Image): string {
  return `${image.path}.map`;
}
