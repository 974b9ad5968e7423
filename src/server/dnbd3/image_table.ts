/**
 * The images of a server: what a base path holds, found by name and revision.
 *
 * The table is filled by a scan at the start and on each reload. An image that a client asks for and the scan did
 * not see is looked for on the spot, so a new file needs no reload.
 */
import type { Log } from "../../base/log.ts";
import { printable } from "../../base/printable.ts";
import { CacheMap } from "../../wire/dnbd3/cache_map.ts";
import { type ChecksumList, checksumListBytes, decodeChecksumList } from "../../wire/dnbd3/checksum_list.ts";
import { BLOCK_BYTES } from "../../wire/dnbd3/constants.ts";
import { virtualSize } from "../../wire/dnbd3/message.ts";
import { WireError } from "../../wire/wire_error.ts";
import { Image } from "./image.ts";
import {
  formatImageName,
  type ImageName,
  imageOfPath,
  isImageName,
  pathsOfImage,
  revisionsAmong,
  splitName,
} from "./image_name.ts";
import type { ImageStore } from "./image_store.ts";

export interface ImageTableSettings {
  /** Files without `.rN` are images of revision 1. */
  readonly vmdkLegacyMode: boolean;
  /** Forget images whose file is gone. */
  readonly removeMissingImages: boolean;
  readonly maxImages: number;
}

export class ImageTable {
  readonly store: ImageStore;
  settings: ImageTableSettings;
  readonly #log: Log;
  /** By name, then by revision. */
  readonly #images = new Map<string, Map<number, Image>>();
  readonly #loading = new Map<string, Promise<Image | null>>();
  #nextId = 1;
  #count = 0;
  #scanning: Promise<void> | null = null;
  /** Told of each image that is added. */
  onAdded: (image: Image) => void = () => {};
  /** Told of each image that is no longer offered. */
  onRemoved: (image: Image) => void = () => {};

  constructor(store: ImageStore, settings: ImageTableSettings, log: Log) {
    this.store = store;
    this.settings = settings;
    this.#log = log;
  }

  /** All images on offer, quarantined ones included, in the order in which they were found. */
  list(): Image[] {
    return [...this.#images.values()].flatMap((revisions) => [...revisions.values()])
      .sort((one, other) => one.id - other.id);
  }

  /** An image that is already known; no look at the disk. */
  known(name: string, revision: number): Image | null {
    return this.#images.get(name)?.get(revision) ?? null;
  }

  /** Revisions of a name that are already known, the newest first. */
  knownRevisions(name: string): number[] {
    return [...this.#images.get(name)?.keys() ?? []].sort((one, other) => other - one);
  }

  /**
   * Looks at all files: adds new images, forgets those whose file is gone, and takes a file that was changed or
   * replaced for what it is now, as the operator asked for it.
   *
   * @throws If the base path cannot be read; nothing has changed then.
   */
  scan(): Promise<void> {
    this.#scanning ??= this.#scan().finally(() => this.#scanning = null);
    return this.#scanning;
  }

  async #scan(): Promise<void> {
    const paths = await this.store.list();
    if (this.settings.removeMissingImages) {
      for (const image of this.list()) if (image.isGone()) this.#remove(image, "its file is gone");
    }
    for (const path of paths.sort()) {
      const name = this.#imageOf(path);
      if (name === null) continue;
      const known = this.known(name.name, name.revision);
      if (known === null) await this.#load(name, path);
      else if (known.path === path) await this.#refresh(known);
      else {this.#log.warn(
          `${printable(path)} is skipped: ${printable(known.path)} is ${printable(`${known}`)}`,
        );}
    }
  }

  /**
   * The image a client asks for.
   *
   * @param revision 0: the newest that can be had.
   * @returns The image, its file open, or null.
   */
  async find(name: string, revision: number): Promise<Image | null> {
    if (!isImageName(name)) return null;
    const revisions = revision === 0 ? await this.#revisionsOf(name) : [revision];
    for (const candidate of revisions) {
      const image = await this.#findExactly({ name, revision: candidate });
      if (image !== null) return image;
    }
    return null;
  }

  /** Looks at what is here of incomplete images: another server may be completing them on the same storage. */
  async readMapsAgain(): Promise<void> {
    for (const image of this.list()) {
      if (image.map === null || image.isCopied) continue;
      image.map = await this.#readMap(image.path, image.sizeBytes);
      if (image.map !== null) continue;
      image.becomeComplete();
      this.#log.info(`image ${printable(`${image}`)} is complete`);
    }
  }

  /** Offers an image no more. */
  forget(image: Image, reason: string): void {
    this.#remove(image, reason);
  }

  /** Forgets all images. */
  async close(): Promise<void> {
    const images = this.list();
    this.#images.clear();
    this.#count = 0;
    await Promise.all(images.map((image) => image.retire()));
  }

  async #revisionsOf(name: string): Promise<number[]> {
    const { directory, baseName } = splitName(name);
    const onDisk = revisionsAmong(
      await this.store.entries(directory),
      baseName,
      this.settings.vmdkLegacyMode,
    );
    return [...new Set([...onDisk, ...this.knownRevisions(name)])].sort((one, other) => other - one);
  }

  async #findExactly(wanted: ImageName): Promise<Image | null> {
    const known = this.known(wanted.name, wanted.revision);
    if (known !== null) return await this.#usable(known) ? known : null;
    for (const path of pathsOfImage(wanted, this.settings.vmdkLegacyMode)) {
      const image = await this.#load(wanted, path);
      if (image !== null) return await this.#usable(image) ? image : null;
    }
    return null;
  }

  /** Whether a known image can be handed to a client; opens its file. */
  async #usable(image: Image): Promise<boolean> {
    if (image.quarantine !== null) return false;
    if (!image.isUnchanged()) {
      this.#tellQuarantine(image);
      return false;
    }
    if (image.isOpen) return true;
    try {
      await image.open();
      return true;
    } catch (error) {
      if (image.quarantine !== null) this.#tellQuarantine(image);
      else {this.#log.warn(
          `cannot open ${this.#path(image)}: ${error instanceof Error ? error.message : error}`,
        );}
      if (this.settings.removeMissingImages && image.isGone()) this.#remove(image, "its file is gone");
      return false;
    }
  }

  /** Says of a quarantined image why, and what to do. */
  #tellQuarantine(image: Image): void {
    this.#log.error(
      `image ${
        printable(`${image}`)
      } is quarantined: ${image.quarantine}; a reload takes the file as it is now`,
    );
  }

  /** An image that the scan saw before: is its file still the same? */
  async #refresh(image: Image): Promise<void> {
    const identity = this.store.identify(image.path);
    if (identity === null) return;
    if (!image.isMadeOf(identity) || image.quarantine !== null) {
      this.#log.warn(`image ${printable(`${image}`)} has changed: taken for what it is now`);
      image.setQuarantine("its file was replaced");
      this.#remove(image, "its file was replaced");
      await this.#load(image, image.path);
      return;
    }
    const checksums = await this.#readChecksums(image.path, image.sizeBytes);
    if (checksums === null) return;
    if (image.checksums === null) {
      image.checksums = checksums;
      this.#log.info(`image ${printable(`${image}`)} has checksums now`);
    } else if (!image.checksums.equals(checksums)) {
      this.#log.warn(`image ${printable(`${image}`)} has other checksums than before: taken for another`);
      this.#remove(image, "its checksums were replaced");
      await this.#load(image, image.path);
    }
  }

  /** Loads an image once, however many ask. */
  #load(name: ImageName, path: string): Promise<Image | null> {
    let loading = this.#loading.get(path);
    if (loading === undefined) {
      loading = this.#read(name, path).finally(() => this.#loading.delete(path));
      this.#loading.set(path, loading);
    }
    return loading;
  }

  async #read(name: ImageName, path: string): Promise<Image | null> {
    const identity = this.store.identify(path);
    if (identity === null) return null;
    const where = `${this.store.root}/${printable(path)}`;
    if (identity.sizeBytes === 0) {
      this.#log.warn(`${where} is empty and no image`);
      return null;
    }
    if (this.#count >= this.settings.maxImages) {
      this.#log.warn(`${where} is one more than maxImages=${this.settings.maxImages}`);
      return null;
    }
    const sizeBytes = virtualSize(identity.sizeBytes);
    const checksums = await this.#readChecksums(path, sizeBytes);
    const map = await this.#readMap(path, sizeBytes);
    // Somebody else may have loaded it from another path meanwhile.
    const known = this.known(name.name, name.revision);
    if (known !== null) return known;
    const { name: imageName, revision } = name;
    const parts = { id: this.#nextId++, name: imageName, revision, path, identity, checksums, map };
    const image = new Image(parts, this.store);
    this.#add(image);
    return image;
  }

  async #readChecksums(path: string, sizeBytes: number): Promise<ChecksumList | null> {
    const bytes = await this.store.readSmall(`${path}.crc`, checksumListBytes(sizeBytes));
    if (bytes === null) return null;
    try {
      return decodeChecksumList(bytes, sizeBytes);
    } catch (error) {
      if (!(error instanceof WireError)) throw error;
      this.#log.warn(`${this.store.root}/${printable(path)}.crc is not used: ${error.message}`);
      return null;
    }
  }

  async #readMap(path: string, sizeBytes: number): Promise<CacheMap | null> {
    const wanted = Math.ceil(sizeBytes / BLOCK_BYTES / 8);
    const bytes = await this.store.readSmall(`${path}.map`, wanted);
    if (bytes === null) return null;
    const where = `${this.store.root}/${printable(path)}.map`;
    if (bytes.length < wanted) this.#log.warn(`${where} is short: ${bytes.length} of ${wanted} bytes`);
    return new CacheMap(sizeBytes, bytes);
  }

  #imageOf(path: string): ImageName | null {
    try {
      return imageOfPath(path, this.settings.vmdkLegacyMode);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      this.#log.warn(`${this.store.root}/${printable(path)} is skipped: ${error.message}`);
      return null;
    }
  }

  #add(image: Image): void {
    const revisions = this.#images.get(image.name) ?? new Map<number, Image>();
    this.#images.set(image.name, revisions);
    revisions.set(image.revision, image);
    this.#count++;
    this.onAdded(image);
  }

  #remove(image: Image, reason: string): void {
    const revisions = this.#images.get(image.name);
    if (revisions === undefined || !revisions.delete(image.revision)) return;
    if (revisions.size === 0) this.#images.delete(image.name);
    this.#count--;
    this.#log.info(`image ${printable(formatImageName(image))} is no longer offered: ${reason}`);
    this.onRemoved(image);
    image.retire();
  }

  #path(image: Image): string {
    return `${this.store.root}/${printable(image.path)}`;
  }
}
