/** Images in a directory tree. */
import type { BlockDevice } from "../../device/device.ts";
import { openFileDisk } from "../../device/open_file_disk.ts";
import { fileStatus } from "../../os/file_calls.ts";
import { libc } from "../../os/libc.ts";
import { OsError } from "../../os/os_error.ts";
import { isImageEntry } from "./image_name.ts";
import type { FileIdentity, ImageStore } from "./image_store.ts";

/** Directories below each other; links may lead in circles. */
const DEPTH_MAX = 32;

export class DirectoryStore implements ImageStore {
  /** @param root The base path, absolute and without a slash at the end. */
  constructor(readonly root: string) {}

  async list(): Promise<string[]> {
    const paths: string[] = [];
    await this.#collect("", 0, paths);
    return paths;
  }

  async #collect(directory: string, depth: number, paths: string[]): Promise<void> {
    for await (const entry of Deno.readDir(this.absolute(directory))) {
      if (!isImageEntry(entry.name)) continue;
      const path = directory === "" ? entry.name : `${directory}/${entry.name}`;
      let { isFile, isDirectory } = entry;
      if (entry.isSymlink) {
        const target = await Deno.stat(this.absolute(path)).catch(() => null);
        [isFile, isDirectory] = [target?.isFile ?? false, target?.isDirectory ?? false];
      }
      if (isFile) paths.push(path);
      // A directory that vanishes meanwhile, or may not be read, hides only what is in it.
      else if (isDirectory && depth < DEPTH_MAX) await this.#collect(path, depth + 1, paths).catch(() => {});
    }
  }

  async entries(directory: string): Promise<string[]> {
    try {
      return (await Array.fromAsync(Deno.readDir(this.absolute(directory)))).map((entry) => entry.name);
    } catch {
      return [];
    }
  }

  identify(path: string): FileIdentity | null {
    const lib = libc();
    try {
      if (lib === null) return identifyPlainly(this.absolute(path));
      const { kind, deviceMajor, deviceMinor, inode, sizeBytes, modifiedNs } = fileStatus(
        lib,
        this.absolute(path),
      );
      if (kind !== "file") return null;
      return { device: deviceMajor * 2 ** 20 + deviceMinor, inode, sizeBytes, modifiedNs };
    } catch (error) {
      if (error instanceof OsError || error instanceof Deno.errors.NotFound) return null;
      throw error;
    }
  }

  open(path: string): Promise<BlockDevice> {
    return openFileDisk(this.absolute(path), { readOnly: true });
  }

  async readSmall(path: string, bytesMax: number): Promise<Uint8Array | null> {
    let file: Deno.FsFile;
    try {
      file = await Deno.open(this.absolute(path));
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return null;
      throw error;
    }
    using _file = file;
    const bytes = new Uint8Array(bytesMax);
    let length = 0;
    while (length < bytesMax) {
      const count = await file.read(bytes.subarray(length));
      if (count === null) break;
      length += count;
    }
    return bytes.subarray(0, length);
  }

  /** The path as the system knows it. */
  protected absolute(path: string): string {
    return path === "" ? this.root : `${this.root}/${path}`;
  }
}

/** Without libc times are told in whole milliseconds. */
function identifyPlainly(path: string): FileIdentity | null {
  const { isFile, dev, ino, size, mtime } = Deno.statSync(path);
  if (!isFile) return null;
  return {
    device: dev,
    inode: BigInt(ino ?? 0),
    sizeBytes: size,
    modifiedNs: BigInt(mtime?.getTime() ?? 0) * 1_000_000n,
  };
}
