/**
 * One revision of an image, as long as somebody uses it or the table offers it.
 *
 * A revision never changes. The file is therefore watched: as soon as another file stands at its path, or this one
 * was written to, the image is quarantined, which drops whoever uses it, and nothing read from it afterwards is
 * handed on. What was read is checked before it leaves (see {@linkcode Image.isUnchanged}), so no answer mixes old
 * and new content.
 */
import type { BlockDevice } from "../../device/device.ts";
import { DeviceError } from "../../device/device_error.ts";
import type { CacheMap } from "../../wire/dnbd3/cache_map.ts";
import type { ChecksumList } from "../../wire/dnbd3/checksum_list.ts";
import { HASH_BLOCK_BYTES } from "../../wire/dnbd3/constants.ts";
import { virtualSize } from "../../wire/dnbd3/message.ts";
import { formatImageName, type ImageName } from "./image_name.ts";
import { type FileIdentity, type ImageStore, sameIdentity } from "./image_store.ts";

/** Somebody who reads an image until it is taken away. */
export interface ImageUser {
  /** The image is no longer to be trusted: stop at once. */
  drop(reason: string): void;
}

export interface ImageParts extends ImageName {
  /** A running number, never used again. */
  readonly id: number;
  readonly path: string;
  readonly identity: FileIdentity;
  readonly checksums: ChecksumList | null;
  /** What is here of an incomplete image; null if all is. */
  readonly map: CacheMap | null;
}

export class Image implements ImageName {
  readonly id: number;
  readonly name: string;
  readonly revision: number;
  readonly path: string;
  /** Bytes of the file. */
  readonly fileBytes: number;
  /** Bytes that clients see: whole blocks, the file being filled up with zeroes. */
  readonly sizeBytes: number;
  checksums: ChecksumList | null;
  map: CacheMap | null;
  readonly users = new Set<ImageUser>();
  /** Bytes of blocks sent to clients. */
  sentBytes = 0;
  /** When somebody last used it, as Unix time in ms; before that, when its file was written. */
  accessedAtMs: number;
  readonly #store: ImageStore;
  #identity: FileIdentity;
  readonly #badHashBlocks = new Set<number>();
  #quarantine: string | null = null;
  #disk: BlockDevice | null = null;
  #opening: Promise<BlockDevice> | null = null;
  #closing: Promise<unknown> | null = null;
  #openForWriting: (() => Promise<BlockDevice>) | null = null;
  #retired = false;

  constructor(parts: ImageParts, store: ImageStore) {
    this.id = parts.id;
    this.name = parts.name;
    this.revision = parts.revision;
    this.path = parts.path;
    this.checksums = parts.checksums;
    this.map = parts.map;
    this.#identity = parts.identity;
    this.#store = store;
    this.fileBytes = parts.identity.sizeBytes;
    this.accessedAtMs = Number(parts.identity.modifiedNs / 1_000_000n);
    this.sizeBytes = virtualSize(this.fileBytes);
  }

  /** Why the image is refused to everybody, or null. */
  get quarantine(): string | null {
    return this.#quarantine;
  }

  /** Hash blocks whose content does not fit their checksum. They are refused, the others are not. */
  get badHashBlocks(): ReadonlySet<number> {
    return this.#badHashBlocks;
  }

  get isOpen(): boolean {
    return this.#disk !== null;
  }

  /** What is missing is being added by this program. */
  get isCopied(): boolean {
    return this.#openForWriting !== null;
  }

  /** No longer on offer. */
  get isRetired(): boolean {
    return this.#retired;
  }

  toString(): string {
    return formatImageName(this);
  }

  /** Opens the file if it is not open. */
  async open(): Promise<void> {
    if (this.#disk !== null) return;
    if (this.#retired && this.users.size === 0) {
      throw new DeviceError("ESHUTDOWN", "open", undefined, undefined, { detail: `${this}` });
    }
    this.#opening ??= this.#open();
    await this.#opening;
  }

  /** Its file, open; to write as well while it is copied. */
  async file(): Promise<BlockDevice> {
    return this.#disk ?? (await this.open(), this.#disk!);
  }

  async #open(): Promise<BlockDevice> {
    try {
      // Its lock is one's own as well.
      await this.#closing;
      const disk = await (this.#openForWriting?.() ?? this.#store.open(this.path));
      const now = this.#store.identify(this.path);
      // Between the scan and now another file may have taken the place.
      if (disk.sizeBytes !== this.fileBytes || now === null || !this.isMadeOf(now)) {
        await disk.close();
        this.setQuarantine("the file changed before it was opened");
        throw new DeviceError("EIO", "open", undefined, undefined, { detail: `${this} changed` });
      }
      return this.#disk = disk;
    } finally {
      this.#opening = null;
    }
  }

  /** Closes the file; it is opened again when somebody reads. */
  async closeFile(): Promise<void> {
    const disk = this.#disk ?? await this.#opening?.catch(() => null) ?? null;
    this.#disk = null;
    if (disk !== null) this.#closing = Promise.all([this.#closing, disk.close()]);
    await this.#closing;
  }

  /** No longer on offer: closed for good as soon as nobody uses it. */
  async retire(): Promise<void> {
    this.#retired = true;
    if (this.users.size === 0) await this.closeFile();
  }

  enter(user: ImageUser): void {
    this.users.add(user);
  }

  leave(user: ImageUser): void {
    this.users.delete(user);
    if (this.#retired && this.users.size === 0) this.closeFile();
  }

  /** Whether all that the range touches is here and sound. */
  has(offset: number, length: number): boolean {
    return (this.map === null || this.map.has(offset, length)) && !this.#touchesBadBlock(offset, length);
  }

  /**
   * Reads what is here.
   *
   * @param offset In bytes; offset and length lie inside {@linkcode sizeBytes}.
   * @throws {DeviceError} If a block is missing, or known not to fit its checksum.
   */
  read(offset: number, into: Uint8Array): void | Promise<void> {
    if ((this.map !== null || this.#badHashBlocks.size > 0) && !this.has(offset, into.length)) {
      const detail = `${this}: ${
        this.#touchesBadBlock(offset, into.length) ? "fails its checksum" : "is missing"
      }`;
      throw new DeviceError("EIO", "read", offset, into.length, { detail });
    }
    return this.readUnchecked(offset, into);
  }

  /** Reads whatever the file holds, as it must be read to be checked. */
  readUnchecked(offset: number, into: Uint8Array): void | Promise<void> {
    const disk = this.#disk;
    if (disk === null) return this.open().then(() => this.readUnchecked(offset, into));
    const fileLength = Math.max(0, Math.min(into.length, this.fileBytes - offset));
    if (fileLength === into.length) return disk.read(offset, into);
    into.fill(0, fileLength);
    if (fileLength > 0) return disk.read(offset, into.subarray(0, fileLength));
  }

  /**
   * Whether the file is still what it was when the image was loaded; quarantines the image if not. Asked after
   * reading and before what was read is handed on.
   *
   * A file that is gone from its path goes on being read. An incomplete image is written to, but by nobody who puts
   * another file in its place.
   */
  isUnchanged(): boolean {
    if (this.#quarantine !== null) return false;
    const now = this.#store.identify(this.path);
    if (now === null || this.isMadeOf(now)) return true;
    const another = now.inode !== this.#identity.inode || now.device !== this.#identity.device;
    this.setQuarantine(another ? "another file stands in its place" : "its file was written to");
    return false;
  }

  /**
   * From now on this program adds to the image what is missing.
   *
   * @param map What is here.
   * @param open Opens its file to read and write.
   */
  async startCopying(map: CacheMap, open: () => Promise<BlockDevice>): Promise<void> {
    this.map = map;
    this.#openForWriting = open;
    await this.closeFile();
  }

  /** All of the image is here: from now on its file is watched. */
  becomeComplete(): void {
    this.map = null;
    this.#identity = this.#store.identify(this.path) ?? this.#identity;
    if (this.#openForWriting === null) return;
    this.#openForWriting = null;
    this.closeFile();
  }

  /** Whether a file found at the path is the one this image was made of. */
  isMadeOf(identity: FileIdentity): boolean {
    return this.map !== null
      ? identity.inode === this.#identity.inode && identity.device === this.#identity.device &&
        identity.sizeBytes === this.#identity.sizeBytes
      : sameIdentity(identity, this.#identity);
  }

  /** Whether the file at the path is gone. */
  isGone(): boolean {
    return this.#store.identify(this.path) === null;
  }

  /** Refuses the image from now on, and drops its users. */
  setQuarantine(reason: string): void {
    if (this.#quarantine !== null) return;
    this.#quarantine = reason;
    for (const user of [...this.users]) user.drop(reason);
  }

  /** Refuses one hash block from now on. */
  markBad(hashBlock: number): void {
    this.#badHashBlocks.add(hashBlock);
  }

  markGood(hashBlock: number): void {
    this.#badHashBlocks.delete(hashBlock);
  }

  #touchesBadBlock(offset: number, length: number): boolean {
    if (this.#badHashBlocks.size === 0) return false;
    const last = Math.floor((offset + Math.max(length, 1) - 1) / HASH_BLOCK_BYTES);
    for (let block = Math.floor(offset / HASH_BLOCK_BYTES); block <= last; block++) {
      if (this.#badHashBlocks.has(block)) return true;
    }
    return false;
  }
}
