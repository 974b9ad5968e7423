/**
 * Keeps the map of an incomplete image in its file, never ahead of the data.
 *
 * What the map has when a save begins is written only after the data has been made durable, and without what was
 * taken out of it meanwhile. It is written in place: whatever part of the file is old or new after a crash, it
 * claims nothing but blocks that are there.
 */
import type { BlockDevice } from "../../device/device.ts";
import type { CacheMap } from "../../wire/dnbd3/cache_map.ts";

export class MapKeeper {
  readonly #map: CacheMap;
  readonly #file: BlockDevice;
  readonly #data: () => Promise<BlockDevice>;
  /** What the file holds, certainly. */
  #durable: Uint8Array;
  #saving: Promise<void> | null = null;
  #next: Promise<void> | null = null;
  #failed: Error | null = null;

  /**
   * @param map As it is in the file now.
   * @param file The `.map` file, of the right length. Owned.
   * @param data The file of the image.
   */
  constructor(map: CacheMap, file: BlockDevice, data: () => Promise<BlockDevice>) {
    this.#map = map;
    this.#file = file;
    this.#data = data;
    this.#durable = map.encode();
  }

  /** Why nothing can be saved any more, or null. */
  get failure(): Error | null {
    return this.#failed;
  }

  /**
   * Makes all of the map durable that it has now.
   *
   * @throws If the data or the map cannot be made durable. The map then holds only what was durable before.
   */
  save(): Promise<void> {
    if (this.#saving === null) {
      return this.#saving = this.#save().finally(() => this.#saving = null);
    }
    // A save that is under way may have begun too early.
    return this.#next ??= this.#saving.catch(() => {}).then(() => {
      this.#next = null;
      return this.save();
    });
  }

  /** Does not save. */
  async close(): Promise<void> {
    await this.#next?.catch(() => {});
    await this.#saving?.catch(() => {});
    await this.#file.close();
  }

  async #save(): Promise<void> {
    if (this.#failed !== null) throw this.#failed;
    try {
      const bytes = this.#map.encode();
      const data = await this.#data();
      await data.flush();
      this.#map.encode().forEach((byte, index) => bytes[index] &= byte);
      await this.#file.write(0, bytes);
      await this.#file.flush();
      this.#durable = bytes;
    } catch (error) {
      // After a failed sync nobody knows what is in the file, except for what was there before.
      this.#failed = error as Error;
      this.#map.retain(this.#durable);
      throw error;
    }
  }
}
