/**
 * What a proxy offers: the images of its table, and those of other servers, which it copies while they are read.
 */
import type { Log } from "../../base/log.ts";
import { printable } from "../../base/printable.ts";
import { formatSize } from "../../base/size_text.ts";
import type { Clock } from "../../os/clock.ts";
import { decodeAccessTime, encodeAccessTime, META_BYTES_MAX } from "../../wire/dnbd3/access_time.ts";
import { CacheMap } from "../../wire/dnbd3/cache_map.ts";
import {
  type ChecksumList,
  checksumListBytes,
  decodeChecksumList,
  encodeChecksumList,
} from "../../wire/dnbd3/checksum_list.ts";
import { BLOCK_BYTES } from "../../wire/dnbd3/constants.ts";
import type { SelectedImage, Selection } from "../../wire/dnbd3/message.ts";
import { WireError } from "../../wire/wire_error.ts";
import { DiskSpace } from "./disk_space.ts";
import type { Image, ImageUser } from "./image.ts";
import { ImageCopy } from "./image_copy.ts";
import { isImageName, pathsOfImage } from "./image_name.ts";
import type { CopyStore } from "./image_store.ts";
import type { ImageTable } from "./image_table.ts";
import { LookupMemory } from "./lookup_memory.ts";
import type { ProxySettings } from "./proxy_settings.ts";
import type { ImageTrouble } from "./reluctance.ts";
import type { ImageFinder } from "./server.ts";
import type { BlockSource } from "./session.ts";
import type { Uplink, Upstream } from "./uplink.ts";

const TICK_MS = 1000;
/** How often the times of last use are written down. */
const ACCESS_MS = 300_000;

export interface ProxyOptions {
  readonly table: ImageTable;
  readonly store: CopyStore;
  readonly upstream: Upstream;
  readonly settings: ProxySettings;
  readonly clock: Clock;
  readonly log: Log;
  /** Unix time in ms. */
  wallMs(): number;
  /** Told of each image when the first client gets it. */
  onFirstUse?: (image: Image) => void;
}

export class ProxyImages implements ImageFinder, BlockSource {
  settings: ProxySettings;
  readonly #options: ProxyOptions;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #space: DiskSpace;
  readonly #memory: LookupMemory;
  readonly #asking = new Map<string, Promise<Image | null>>();
  readonly #copies = new Map<Image, Promise<ImageCopy>>();
  /** Those of the copies that are open. */
  readonly #open = new Map<Image, ImageCopy>();
  readonly #used = new WeakSet<Image>();
  /** What the `.meta` file of an image says, in seconds since 1970; null if there is none. */
  readonly #accessNoted = new WeakMap<Image, number | null>();
  #accessMs: number;
  #receivedBefore = 0;
  #timer: Disposable | null = null;
  #closed = false;

  constructor(options: ProxyOptions) {
    this.#options = options;
    this.settings = options.settings;
    this.#clock = options.clock;
    this.#log = options.log;
    this.#memory = new LookupMemory(options.clock);
    const startedMs = this.#accessMs = options.clock.now();
    this.#space = new DiskSpace({
      store: options.store,
      log: options.log,
      settings: () => this.settings,
      uptimeMs: () => options.clock.now() - startedMs,
      wallMs: () => options.wallMs(),
      replaceable: () => options.table.list().filter(({ name }) => options.upstream.covers(name)),
      retire: (image) => this.#retire(image),
    });
    this.#tickLater();
  }

  /** Looks up when the images that are here were last used. */
  async readAccessTimes(): Promise<void> {
    for (const image of this.#options.table.list()) await this.#readAccessTime(image);
  }

  /** The copy of an image that is not complete, if it is being made. */
  copyOf(image: Image): ImageCopy | null {
    return this.#open.get(image) ?? null;
  }

  /** Bytes received from other servers. */
  get receivedBytes(): number {
    return [...this.#open.values()].reduce((sum, copy) => sum + copy.receivedBytes, this.#receivedBefore);
  }

  async findFor(
    selection: Selection,
    asker: { readonly isServer: boolean; readonly replicates: boolean },
  ): Promise<Image | null> {
    const image = await this.#find(selection, asker);
    if (image === null || this.#used.has(image)) return image;
    this.#used.add(image);
    this.#options.onFirstUse?.(image);
    return image;
  }

  troubleOf(image: Image): ImageTrouble {
    const copy = this.#open.get(image);
    const { write, queue } = copy?.problems ?? { write: false, queue: false };
    return { write, queue, uplink: copy?.uplink?.status().server == null };
  }

  readBlock(
    image: Image,
    offset: number,
    into: Uint8Array,
    hops: number,
    user: ImageUser | null,
  ): void | Promise<void> {
    if (user === null) image.accessedAtMs = this.#options.wallMs();
    const copy = this.#open.get(image);
    if (copy !== undefined) return copy.read(offset, into, hops, user);
    if (image.map === null || !this.#isCopied(image)) return image.read(offset, into);
    // What is here of a hash block may have been checked or not, which its copy finds out.
    if (!this.settings.verifyBeforeRelay && image.has(offset, into.length)) return image.read(offset, into);
    return this.#copy(image).then((copy) => copy.read(offset, into, hops, user));
  }

  /** A hash block of the image turned out not to fit its checksum. Fetches it anew, if there is from where. */
  async repair(image: Image, hashBlock: number): Promise<void> {
    if (this.#closed || !this.#options.upstream.covers(image.name)) return;
    try {
      if (this.#copies.has(image) || image.map !== null) (await this.#copy(image)).repair(hashBlock);
      else await this.#copy(image, { damaged: hashBlock });
    } catch (error) {
      this.#log.error(`cannot repair ${printable(`${image}`)}: ${(error as Error).message}`);
    }
  }

  /** Makes durable what is here of all images, and copies nothing any more. Whoever waits for a block gets none. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#timer?.[Symbol.dispose]();
    await Promise.all([...this.#copies.keys()].map((image) => this.#end(image)));
    await Promise.allSettled(this.#asking.values());
    await this.#noteAccessTimes();
  }

  // --- Looking for images ---

  async #find(
    { name, revision }: Selection,
    asker: { readonly isServer: boolean; readonly replicates: boolean },
  ): Promise<Image | null> {
    const { table } = this.#options;
    if (!isImageName(name)) return null;
    const here = await table.find(name, revision);
    if (asker.replicates && this.settings.backgroundReplication !== "full") {
      // It would ask for all that is missing, which nobody here has asked for.
      return here?.map === null ? here : null;
    }
    if (asker.isServer && !this.settings.lookupMissingForProxy) return here;
    if (here !== null && revision !== 0) return here;
    if (this.#memory.has(name, revision) || !this.#options.upstream.covers(name)) return here;
    return await this.#ask(name, revision, here) ?? here;
  }

  /** Asks other servers, once however many want to know. */
  #ask(name: string, revision: number, here: Image | null): Promise<Image | null> {
    const key = `${revision}/${name}`;
    let asking = this.#asking.get(key);
    if (asking === undefined) {
      asking = this.#askNow(name, revision, here).catch((error) => {
        this.#log.warn(`cannot copy ${printable(name)}:${revision}: ${(error as Error).message}`);
        return null;
      }).finally(() => {
        this.#asking.delete(key);
        this.#memory.remember(name, revision);
      });
      this.#asking.set(key, asking);
    }
    return asking;
  }

  async #askNow(name: string, revision: number, here: Image | null): Promise<Image | null> {
    const { upstream, table } = this.#options;
    const uplink = await upstream.find(name, revision, (image) => this.#refusal(image, name, here));
    if (uplink === null) return null;
    try {
      const image = await this.#clone(uplink);
      if (image !== null) return image;
    } catch (error) {
      await uplink.close();
      throw error;
    }
    await uplink.close();
    return await table.find(name, revision);
  }

  /** Why an image that a server offers is not copied, or null. */
  #refusal(image: SelectedImage, name: string, here: Image | null): string | null {
    const { maxReplicationSize } = this.settings;
    if (image.name !== name) return `it calls the image ${printable(image.name)}`;
    if (image.sizeBytes % BLOCK_BYTES !== 0) return `${image.sizeBytes} bytes are no whole blocks`;
    if (image.sizeBytes > maxReplicationSize) {
      return `${formatSize(image.sizeBytes)} are more than maxReplicationSize`;
    }
    if (here !== null && here.quarantine === null && image.revision <= here.revision) {
      return `it has revision ${image.revision}, ${here.revision} is here`;
    }
    return null;
  }

  /**
   * Makes the files of an image, with nothing in it yet.
   *
   * @returns Null if there is no room, or what is here says it is another image.
   */
  async #clone(uplink: Uplink): Promise<Image | null> {
    const { store, table } = this.#options;
    const { name, revision, sizeBytes } = uplink.image;
    const path = pathsOfImage({ name, revision }, false)[0];
    if (this.#closed || table.known(name, revision) !== null) return null;
    if (!await this.#space.ensureFor(sizeBytes)) return null;
    const kept = await this.#keptChecksums(path, sizeBytes);
    if (kept !== null && uplink.checksums !== null && !kept.equals(uplink.checksums)) {
      const server = uplink.status().server ?? "the server";
      this.#log.error(`${store.root}/${printable(path)}.crc is not the list that ${server} has; not copied`);
      return null;
    }
    // The map first: without one the image would count as complete.
    await store.writeSmall(`${path}.map`, new CacheMap(sizeBytes).encode());
    try {
      if (kept === null && uplink.checksums !== null) {
        await store.writeSmall(`${path}.crc`, encodeChecksumList(uplink.checksums));
      }
      const { sparseFiles: sparse, ignoreAllocErrors } = this.settings;
      await store.create(path, sizeBytes, { sparse, ignoreAllocErrors });
    } catch (error) {
      await store.remove(`${path}.map`).catch(() => {});
      throw error;
    }
    const image = await table.find(name, revision);
    if (image === null || image.map === null || this.#closed) return null;
    await this.#copy(image, { uplink });
    this.#log.info(
      `image ${printable(`${image}`)}, ${formatSize(sizeBytes)}, is copied from ${uplink.status().server}` +
        `${uplink.checksums === null ? "; it has no checksums" : ""}`,
    );
    return image;
  }

  async #keptChecksums(path: string, sizeBytes: number): Promise<ChecksumList | null> {
    const bytes = await this.#options.store.readSmall(`${path}.crc`, checksumListBytes(sizeBytes));
    try {
      return bytes === null ? null : decodeChecksumList(bytes, sizeBytes);
    } catch (error) {
      if (!(error instanceof WireError)) throw error;
      return null;
    }
  }

  // --- Copies ---

  #isCopied({ name }: Image): boolean {
    return !this.#closed && this.#options.upstream.covers(name);
  }

  /** The copy of an image that is not complete; made if need be. */
  #copy(
    image: Image,
    options: { readonly uplink?: Uplink; readonly damaged?: number } = {},
  ): Promise<ImageCopy> {
    let copying = this.#copies.get(image);
    if (copying === undefined) {
      const { store, upstream } = this.#options;
      copying = ImageCopy.open(image, {
        store,
        upstream,
        settings: () => this.settings,
        clock: this.#clock,
        log: this.#log,
        makeRoom: (byteCount) => this.#space.force(byteCount),
        completed: (image) => void this.#end(image),
      }, options);
      this.#copies.set(image, copying);
      copying.then((copy) => this.#open.set(image, copy), () => this.#copies.delete(image));
    }
    return copying;
  }

  async #end(image: Image): Promise<void> {
    const copying = this.#copies.get(image);
    if (copying === undefined) return;
    this.#copies.delete(image);
    const copy = await copying.catch(() => null);
    this.#open.delete(image);
    await copy?.close();
    this.#receivedBefore += copy?.receivedBytes ?? 0;
  }

  async #retire(image: Image): Promise<void> {
    this.#options.table.forget(image, "it is deleted");
    this.#memory.forget(image.name, image.revision);
    this.#memory.forget(image.name, 0);
    await this.#end(image);
    await image.closeFile();
  }

  async #readAccessTime(image: Image): Promise<void> {
    if (this.#accessNoted.has(image)) return;
    const bytes = await this.#options.store.readSmall(`${image.path}.meta`, META_BYTES_MAX);
    const seconds = bytes === null ? null : decodeAccessTime(bytes);
    this.#accessNoted.set(image, seconds);
    if (seconds === null) return;
    // It may have been used since, and a time that is still to come counts as now.
    const readMs = Math.min(seconds * 1000, this.#options.wallMs());
    image.accessedAtMs = Math.max(image.accessedAtMs, readMs);
  }

  /** Writes down when images were last used, if that has changed. */
  async #noteAccessTimes(): Promise<void> {
    for (const image of this.#options.table.list()) {
      if (!this.#options.upstream.covers(image.name)) continue;
      try {
        await this.#readAccessTime(image);
        const seconds = Math.floor(image.accessedAtMs / 1000);
        if (this.#accessNoted.get(image) === seconds) continue;
        this.#accessNoted.set(image, seconds);
        await this.#options.store.writeSmall(`${image.path}.meta`, encodeAccessTime(seconds));
      } catch (error) {
        this.#log.warn(`${printable(image.path)}.meta: ${(error as Error).message}`);
      }
    }
  }

  #tickLater(): void {
    if (this.#closed) return;
    this.#timer = this.#clock.timer(TICK_MS, () => {
      if (this.#clock.now() - this.#accessMs >= ACCESS_MS) {
        this.#accessMs = this.#clock.now();
        void this.#noteAccessTimes();
      }
      for (const [image, copy] of this.#open) {
        if (image.isRetired && image.users.size === 0) void this.#end(image);
        else copy.tick();
      }
      this.#tickLater();
    }, { background: true });
  }
}
