/**
 * Room for images. A proxy deletes copies that nobody has used for long, if it has run for long enough to know, and
 * only such as can be had again.
 */
import type { Log } from "../../base/log.ts";
import { printable } from "../../base/printable.ts";
import { formatSize } from "../../base/size_text.ts";
import type { Image } from "./image.ts";
import { SIDECAR_SUFFIXES } from "./image_name.ts";
import type { CopyStore } from "./image_store.ts";

/** Left over besides the image. */
const MARGIN_BYTES = 10 * 1024 * 1024;
/** What a copy with holes needs to begin with. */
const SPARSE_BYTES = 2 * 1024 ** 3;
/** What is made when a write finds none. */
const FORCED_BYTES = 256 * 1024 * 1024;
/** With so much left over besides, a write may fit. */
const FORCED_SPARE_BYTES = 64 * 1024;
const DELETED_MAX = 50;
/** Without holes, an image that was used within this time is kept, and so are all that were used later. */
const RECENT_MS = 24 * 3600 * 1000;
/** Who reads over other protocols is no user, but leaves the time. */
const IN_USE_MS = 60_000;

export interface DiskSpaceOptions {
  readonly store: CopyStore;
  readonly log: Log;
  settings(): { readonly sparseFiles: boolean; readonly autoFreeDiskSpaceDelay: number };
  /** Since the start. */
  uptimeMs(): number;
  /** Unix time in ms. */
  wallMs(): number;
  /** Images that could be had again. */
  replaceable(): Image[];
  /** The image is about to be deleted: nobody gets it any more, and its files are closed. */
  retire(image: Image): Promise<void>;
}

export class DiskSpace {
  readonly #options: DiskSpaceOptions;
  #making: Promise<unknown> = Promise.resolve();

  constructor(options: DiskSpaceOptions) {
    this.#options = options;
  }

  /** Whether there is room for a new image, after deleting old ones if need be and allowed. */
  ensureFor(imageBytes: number): Promise<boolean> {
    const { sparseFiles } = this.#options.settings();
    const wantedBytes = sparseFiles ? SPARSE_BYTES : imageBytes + MARGIN_BYTES;
    return this.#ensure(wantedBytes, false);
  }

  /** Makes room at once: a write of so many bytes found none. Returns whether it is worth another try. */
  async force(byteCount: number): Promise<boolean> {
    if (await this.#ensure(FORCED_BYTES, true)) return true;
    return (await this.#options.store.space()).freeBytes > byteCount + FORCED_SPARE_BYTES;
  }

  /** One after the other: what one deletes another counts on. */
  #ensure(wantedBytes: number, forced: boolean): Promise<boolean> {
    const making = this.#making.then(() => this.#ensureNow(wantedBytes, forced));
    this.#making = making.catch(() => {});
    return making;
  }

  async #ensureNow(wantedBytes: number, forced: boolean): Promise<boolean> {
    const { store, log, settings, uptimeMs, wallMs } = this.#options;
    const { sparseFiles, autoFreeDiskSpaceDelay } = settings();
    for (let deleted = 0; deleted <= DELETED_MAX; deleted++) {
      const { freeBytes } = await store.space();
      if (freeBytes >= wantedBytes) return true;
      const mayDelete = autoFreeDiskSpaceDelay >= 0 &&
        (forced || uptimeMs() >= autoFreeDiskSpaceDelay * 1000);
      const oldest = mayDelete ? this.#oldest() : undefined;
      const isRecent = oldest !== undefined && wallMs() - oldest.accessedAtMs < RECENT_MS;
      if (oldest === undefined || (isRecent && !sparseFiles)) {
        log.warn(`${store.root}: ${formatSize(freeBytes)} are free, ${formatSize(wantedBytes)} are wanted`);
        return false;
      }
      await this.#delete(oldest);
    }
    return false;
  }

  #oldest(): Image | undefined {
    const { replaceable, wallMs } = this.#options;
    return replaceable()
      .filter((image) => image.users.size === 0 && wallMs() - image.accessedAtMs > IN_USE_MS)
      .sort((one, other) => one.accessedAtMs - other.accessedAtMs)[0];
  }

  async #delete(image: Image): Promise<void> {
    const { store, log, retire, wallMs } = this.#options;
    const hours = Math.max(0, Math.floor((wallMs() - image.accessedAtMs) / 3_600_000));
    log.warn(`image ${printable(`${image}`)}, last used ${hours} h ago, is deleted to make room`);
    await retire(image);
    // Without its map the rest would count as complete, so the image goes first.
    await store.remove(image.path);
    for (const suffix of SIDECAR_SUFFIXES) await store.remove(image.path + suffix);
  }
}
