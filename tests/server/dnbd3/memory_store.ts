/** Images in memory, whose files a test may change as it likes. */
import type { BlockDevice } from "../../../src/device/device.ts";
import { DeviceError } from "../../../src/device/device_error.ts";
import { MemoryDisk } from "../../../src/device/memory.ts";
import { isImageEntry } from "../../../src/server/dnbd3/image_name.ts";
import type { CopyStore, CreateOptions, FileIdentity, Space } from "../../../src/server/dnbd3/image_store.ts";
import { patternBytes } from "../../wire/dnbd3/vectors.ts";

interface MemoryFile {
  readonly inode: bigint;
  readonly disk: BlockDevice;
  modifiedNs: bigint;
}

export class MemoryStore implements CopyStore {
  readonly root = "/images";
  readonly files = new Map<string, MemoryFile>();
  /** Paths that were opened and not closed, as often as they were. */
  readonly openCounts = new Map<string, number>();
  /** Bytes that all files together may have. */
  capacityBytes = Infinity;
  /** How each image was made. */
  readonly created = new Map<string, CreateOptions>();
  /** The base path cannot be read. */
  unreadable = false;
  #lastInode = 0n;
  #nowNs = 1n;

  /** Puts a file at a path, in place of one that may be there. */
  put(path: string, content: BlockDevice | Uint8Array): void {
    let disk = content as BlockDevice;
    if (content instanceof Uint8Array) {
      disk = new MemoryDisk(content.length);
      if (content.length > 0) disk.write(0, content);
    }
    this.files.set(path, { inode: ++this.#lastInode, disk, modifiedNs: this.#nowNs++ });
  }

  /** Writes into a file in place. */
  async overwrite(path: string, offset: number, bytes: Uint8Array): Promise<void> {
    const file = this.files.get(path)!;
    file.modifiedNs = this.#nowNs++;
    await file.disk.write(offset, bytes);
  }

  delete(path: string): void {
    this.files.delete(path);
  }

  list(): Promise<string[]> {
    if (this.unreadable) return Promise.reject(new Deno.errors.NotFound("no such directory: /images"));
    const isListed = (path: string) => path.split("/").every(isImageEntry);
    return Promise.resolve([...this.files.keys()].filter(isListed));
  }

  entries(directory: string): Promise<string[]> {
    const prefix = directory === "" ? "" : `${directory}/`;
    const below = [...this.files.keys()].filter((path) => path.startsWith(prefix));
    return Promise.resolve([...new Set(below.map((path) => path.slice(prefix.length).split("/")[0]))]);
  }

  identify(path: string): FileIdentity | null {
    const file = this.files.get(path);
    if (file === undefined) return null;
    const { inode, modifiedNs, disk } = file;
    return { device: 1, inode, sizeBytes: disk.sizeBytes, modifiedNs };
  }

  open(path: string): Promise<BlockDevice> {
    const file = this.files.get(path);
    if (file === undefined) return Promise.reject(new DeviceError("ENOENT", "open"));
    this.openCounts.set(path, (this.openCounts.get(path) ?? 0) + 1);
    const close = () => {
      this.openCounts.set(path, this.openCounts.get(path)! - 1);
      return Promise.resolve();
    };
    return Promise.resolve(
      new Proxy(file.disk, {
        get(disk, property) {
          if (property === "close") return close;
          const value = Reflect.get(disk, property, disk);
          return typeof value === "function" ? value.bind(disk) : value;
        },
      }),
    );
  }

  async create(path: string, sizeBytes: number, options: CreateOptions): Promise<void> {
    if (this.files.has(path)) throw new DeviceError("EIO", "open", undefined, undefined, { detail: path });
    const { freeBytes } = await this.space();
    if (!options.sparse && !options.ignoreAllocErrors && sizeBytes > freeBytes) {
      throw new DeviceError("ENOSPC", "write");
    }
    this.created.set(path, options);
    this.put(path, this.makeDisk(path, sizeBytes));
  }

  /** The disk of a new image. */
  makeDisk(_path: string, sizeBytes: number): BlockDevice {
    return new MemoryDisk(sizeBytes);
  }

  openForWriting(path: string): Promise<BlockDevice> {
    return this.open(path);
  }

  writeSmall(path: string, bytes: Uint8Array): Promise<void> {
    this.put(path, bytes);
    return Promise.resolve();
  }

  remove(path: string): Promise<void> {
    this.delete(path);
    return Promise.resolve();
  }

  space(): Promise<Space> {
    let usedBytes = 0;
    for (const { disk } of this.files.values()) usedBytes += disk.sizeBytes;
    return Promise.resolve({ totalBytes: this.capacityBytes, freeBytes: this.capacityBytes - usedBytes });
  }

  async readSmall(path: string, bytesMax: number): Promise<Uint8Array | null> {
    const file = this.files.get(path);
    if (file === undefined) return null;
    const bytes = new Uint8Array(Math.min(bytesMax, file.disk.sizeBytes));
    await file.disk.read(0, bytes);
    return bytes;
  }
}

/** A read-only disk with the pattern of the recorded images, which takes no memory. */
export function patternDisk(sizeBytes: number): BlockDevice {
  const disk = new MemoryDisk(sizeBytes);
  disk.read = (offset, into) => into.set(patternBytes(offset, into.length));
  return disk;
}
