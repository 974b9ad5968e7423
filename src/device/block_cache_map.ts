/**
 * Which blocks a cache file holds, so that a crash at any moment leaves a map that is true.
 *
 * The file begins with a header page, then the pages of the map, then the blocks. All numbers are little endian.
 *
 * | header | |
 * | --- | --- |
 * | 0 | `denbd-cache\n` |
 * | 12 | version, u32 |
 * | 16 | bytes of a block, u32 |
 * | 20 | bytes of the identity, u32 |
 * | 24 | bytes of the disk, u64 |
 * | 64 | the identity of the disk, UTF-8 |
 * | 4092 | CRC-32 of what is before, u32 |
 *
 * A page of the map has 1,023 entries of u32, one for each block: its CRC-32, or 0 if it is not there; then the CRC-32
 * of the page, begun with its number, so that a page in another's place is found out. A page of zeroes has no
 * entries. A page that is damaged has none either: its blocks are fetched anew.
 */
import { crc32 } from "../base/crc32.ts";
import type { BlockDevice } from "./device.ts";
import { DeviceError } from "./device_error.ts";

/** What a cache file begins with. */
const CACHE_MAGIC = new TextEncoder().encode("denbd-cache\n");
const VERSION = 1;
/** Magic and version, which are where they are in every version. */
export const CACHE_BEGINNING_BYTES = CACHE_MAGIC.length + 4;
const PAGE_BYTES = 4096;
const ENTRIES = PAGE_BYTES / 4 - 1;
const IDENTITY_AT = 64;
const IDENTITY_BYTES_MAX = PAGE_BYTES - IDENTITY_AT - 4;
/** How much of the map is read at a time. */
const READ_PAGES = 256;

/** What a cache file is for. */
export interface CacheSubject {
  /** Of the disk. */
  readonly sizeBytes: number;
  readonly blockBytes: number;
  /** Tells this disk, in this state, from others. */
  readonly identity: string;
}

/** Where the blocks begin. A multiple of 4096. */
export function blocksOffset({ sizeBytes, blockBytes }: CacheSubject): number {
  return PAGE_BYTES * (1 + pageCount(sizeBytes, blockBytes));
}

/** The size of the whole cache file. */
export function cacheFileBytes(subject: CacheSubject): number {
  return blocksOffset(subject) + subject.sizeBytes;
}

function pageCount(sizeBytes: number, blockBytes: number): number {
  return Math.ceil(Math.ceil(sizeBytes / blockBytes) / ENTRIES);
}

/** The checksum that an entry holds; never 0. */
export function blockChecksum(bytes: Uint8Array): number {
  return crc32(bytes) || 1;
}

/**
 * Looks at the beginning of a file that is to be a cache file.
 *
 * @param bytes At least {@linkcode CACHE_BEGINNING_BYTES}; zeroes where there are none.
 * @throws {SyntaxError} If it must not be written over: it is something else, or of a later version.
 */
export function checkBeginning(bytes: Uint8Array): void {
  const magic = bytes.subarray(0, CACHE_MAGIC.length);
  if (magic.every((byte) => byte === 0)) return;
  if (!magic.every((byte, index) => byte === CACHE_MAGIC[index])) {
    throw new SyntaxError("it is no cache file");
  }
  const version = new DataView(bytes.buffer, bytes.byteOffset).getUint32(CACHE_MAGIC.length, true);
  if (version > VERSION) {
    throw new SyntaxError(`it has version ${version}, this program knows version ${VERSION}`);
  }
}

export class BlockMap {
  /** Pages with entries, or that had some. */
  readonly #pages = new Map<number, Uint32Array<ArrayBuffer>>();
  readonly #file: BlockDevice;
  /** Pages that differ from those in the file. */
  readonly #dirty = new Set<number>();
  /** Pages from which something was taken that the file may still have, with the number of the commit that tells it. */
  readonly #unsafe = new Map<number, number>();
  #commits = 0;
  #queued: Promise<void> | null = null;
  /** Never rejects. */
  #tail: Promise<void> = Promise.resolve();
  #blockCount = 0;

  private constructor(file: BlockDevice) {
    this.#file = file;
  }

  /**
   * Reads the map of a file, or makes a new one if the file is about another disk, or nothing.
   *
   * @param file Of {@linkcode cacheFileBytes}.
   * @param dropped Told why what was there is not used. Not called for a file of zeroes.
   * @throws {DeviceError} If the file cannot be read or written, or the identity is too long.
   */
  static async open(
    file: BlockDevice,
    subject: CacheSubject,
    dropped: (reason: string) => void = () => {},
  ): Promise<BlockMap> {
    const header = encodeHeader(subject);
    const found = new Uint8Array(PAGE_BYTES);
    await file.read(0, found);
    const map = new BlockMap(file);
    const reason = whyNot(found, header);
    const pages = pageCount(subject.sizeBytes, subject.blockBytes);
    if (reason !== null) {
      if (found.some((byte) => byte !== 0)) dropped(reason);
      // The old map is gone before the new header is there.
      await file.zero(0, PAGE_BYTES * (1 + pages));
      await file.flush();
      await file.write(0, header);
      await file.flush();
      return map;
    }
    let damaged = 0;
    for (let page = 0; page < pages; page += READ_PAGES) {
      const bytes = new Uint8Array(PAGE_BYTES * Math.min(READ_PAGES, pages - page));
      await file.read(PAGE_BYTES * (1 + page), bytes);
      for (let at = 0; at < bytes.length; at += PAGE_BYTES) {
        if (!map.#load(page + at / PAGE_BYTES, bytes.subarray(at, at + PAGE_BYTES))) damaged++;
      }
    }
    if (damaged > 0) dropped(`${damaged} of ${pages} pages of its map are damaged`);
    return map;
  }

  /** Blocks that it has entries for. */
  get blockCount(): number {
    return this.#blockCount;
  }

  /** The checksum of a block, 0 if it is not there. */
  get(block: number): number {
    const page = this.#pages.get(Math.floor(block / ENTRIES));
    return page === undefined ? 0 : page[block % ENTRIES];
  }

  /** Notes a block, whose bytes are durable. {@linkcode commit} makes the note so. */
  set(block: number, checksum: number): void {
    const number = Math.floor(block / ENTRIES);
    let page = this.#pages.get(number);
    if (page === undefined) this.#pages.set(number, page = new Uint32Array(ENTRIES));
    if (page[block % ENTRIES] === 0) this.#blockCount++;
    page[block % ENTRIES] = checksum;
    this.#dirty.add(number);
  }

  /**
   * Forgets the blocks from `first` to before `end`.
   *
   * @returns Whether the file may have them still: until the next {@linkcode commit}.
   */
  clear(first: number, end: number): boolean {
    let unsafe = false;
    const firstPage = Math.floor(first / ENTRIES);
    const lastPage = Math.floor((end - 1) / ENTRIES);
    const numbers = lastPage - firstPage < this.#pages.size
      ? Array.from({ length: lastPage - firstPage + 1 }, (_, index) => firstPage + index)
      : [...this.#pages.keys()].filter((number) => number >= firstPage && number <= lastPage);
    for (const number of numbers) {
      const page = this.#pages.get(number);
      if (page === undefined) continue;
      const from = Math.max(0, first - number * ENTRIES);
      const to = Math.min(ENTRIES, end - number * ENTRIES);
      for (let index = from; index < to; index++) {
        if (page[index] === 0) continue;
        page[index] = 0;
        this.#blockCount--;
        this.#dirty.add(number);
        this.#unsafe.set(number, this.#commits + 1);
      }
      // Somebody else's clearing of the same page may be on its way.
      unsafe ||= this.#unsafe.has(number);
    }
    return unsafe;
  }

  /**
   * Makes all that was noted and forgotten before this call durable; several calls share one write.
   *
   * @throws {DeviceError} If that fails: what the file has is then unknown.
   */
  commit(): Promise<void> {
    if (this.#queued !== null) return this.#queued;
    const run = this.#tail.then(() => {
      this.#queued = null;
      return this.#writeDirty();
    });
    this.#queued = run;
    this.#tail = run.catch(() => {});
    return run;
  }

  async #writeDirty(): Promise<void> {
    const commit = ++this.#commits;
    const numbers = [...this.#dirty];
    this.#dirty.clear();
    await Promise.all(
      numbers.map((number) => this.#file.write(PAGE_BYTES * (1 + number), this.#encode(number))),
    );
    await this.#file.flush();
    for (const [number, told] of this.#unsafe) if (told <= commit) this.#unsafe.delete(number);
  }

  #encode(number: number): Uint8Array {
    const bytes = new Uint8Array(PAGE_BYTES);
    const view = new DataView(bytes.buffer);
    this.#pages.get(number)!.forEach((checksum, index) => view.setUint32(4 * index, checksum, true));
    view.setUint32(4 * ENTRIES, pageChecksum(bytes, number), true);
    return bytes;
  }

  /** @returns Whether the page is sound. */
  #load(number: number, bytes: Uint8Array): boolean {
    if (bytes.every((byte) => byte === 0)) return true;
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    if (view.getUint32(4 * ENTRIES, true) !== pageChecksum(bytes, number)) return false;
    const page = Uint32Array.from({ length: ENTRIES }, (_, index) => view.getUint32(4 * index, true));
    this.#pages.set(number, page);
    for (const checksum of page) if (checksum !== 0) this.#blockCount++;
    return true;
  }
}

function pageChecksum(bytes: Uint8Array, number: number): number {
  return crc32(bytes.subarray(0, 4 * ENTRIES), crc32(String(number)));
}

function encodeHeader({ sizeBytes, blockBytes, identity }: CacheSubject): Uint8Array {
  const text = new TextEncoder().encode(identity);
  if (text.length > IDENTITY_BYTES_MAX) {
    throw new DeviceError("EINVAL", "open", undefined, undefined, {
      detail: `the name of the disk is too long for a cache file: ${text.length} bytes`,
    });
  }
  const bytes = new Uint8Array(PAGE_BYTES);
  const view = new DataView(bytes.buffer);
  bytes.set(CACHE_MAGIC);
  view.setUint32(12, VERSION, true);
  view.setUint32(16, blockBytes, true);
  view.setUint32(20, text.length, true);
  view.setBigUint64(24, BigInt(sizeBytes), true);
  bytes.set(text, IDENTITY_AT);
  view.setUint32(PAGE_BYTES - 4, crc32(bytes.subarray(0, PAGE_BYTES - 4)), true);
  return bytes;
}

/** Why the header that was found is not the one that is wanted; `null` if it is. */
function whyNot(found: Uint8Array, wanted: Uint8Array): string | null {
  if (found.every((byte, index) => byte === wanted[index])) return null;
  const view = new DataView(found.buffer);
  if (view.getUint32(PAGE_BYTES - 4, true) !== crc32(found.subarray(0, PAGE_BYTES - 4))) {
    return "its header is damaged";
  }
  if (!CACHE_MAGIC.every((byte, index) => byte === found[index])) return "it is no cache file";
  return "it is of another disk, or of an earlier state";
}
