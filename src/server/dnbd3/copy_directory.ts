/** Images in a directory tree to which a proxy adds. */
import type { Log } from "../../base/log.ts";
import { nodeModule } from "../../base/node_module.ts";
import type { BlockDevice } from "../../device/device.ts";
import { DeviceError, narrowErrno } from "../../device/device_error.ts";
import { openFileDisk } from "../../device/open_file_disk.ts";
import { absolutePath } from "../../os/absolute_path.ts";
import { OpenFile } from "../../os/file_calls.ts";
import { libc } from "../../os/libc.ts";
import { DirectoryStore } from "./directory_store.ts";
import type { CopyStore, CreateOptions, Space } from "./image_store.ts";

/** `fallocate` of a range that stays readable as zeroes. */
const ALLOCATE_PLAINLY = 0;

export class CopyDirectory extends DirectoryStore implements CopyStore {
  readonly #log: Log;

  constructor(root: string, log: Log) {
    super(root);
    this.#log = log;
  }

  async create(path: string, sizeBytes: number, options: CreateOptions): Promise<void> {
    const absolute = this.absolute(path);
    const draft = draftOf(absolute);
    try {
      if (this.identify(path) !== null) throw new Error("there is such a file");
      await Deno.mkdir(folderOf(absolute), { recursive: true, mode: 0o755 });
      {
        using file = await Deno.open(draft, { write: true, create: true, truncate: true, mode: 0o644 });
        await file.truncate(sizeBytes);
        if (!options.sparse) await allocate(draft, sizeBytes, options.ignoreAllocErrors);
        await file.sync();
      }
      await Deno.rename(draft, absolute);
      await syncDirectory(folderOf(absolute));
    } catch (error) {
      await Deno.remove(draft).catch(() => {});
      throw failure(absolute, error);
    }
  }

  openForWriting(path: string): Promise<BlockDevice> {
    return openFileDisk(this.absolute(path), { log: this.#log });
  }

  async writeSmall(path: string, bytes: Uint8Array): Promise<void> {
    const absolute = this.absolute(path);
    const draft = draftOf(absolute);
    try {
      await Deno.mkdir(folderOf(absolute), { recursive: true, mode: 0o755 });
      {
        using file = await Deno.open(draft, { write: true, create: true, truncate: true, mode: 0o644 });
        for (let done = 0; done < bytes.length;) done += await file.write(bytes.subarray(done));
        await file.sync();
      }
      await Deno.rename(draft, absolute);
      await syncDirectory(folderOf(absolute));
    } catch (error) {
      await Deno.remove(draft).catch(() => {});
      throw failure(absolute, error);
    }
  }

  async remove(path: string): Promise<void> {
    const absolute = this.absolute(path);
    try {
      await Deno.remove(absolute);
      await syncDirectory(folderOf(absolute));
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw failure(absolute, error);
    }
  }

  async space(): Promise<Space> {
    const { bsize, blocks, bavail } = await nodeModule("node:fs/promises").statfs(this.root);
    return { totalBytes: bsize * blocks, freeBytes: bsize * bavail };
  }
}

function folderOf(absolute: string): string {
  return absolutePath(`${absolute}/..`);
}

/** Where a file is made before it gets its name: hidden, so that no scan takes it for an image. */
function draftOf(absolute: string): string {
  const slash = absolute.lastIndexOf("/") + 1;
  return `${absolute.slice(0, slash)}.${absolute.slice(slash)}.new`;
}

async function allocate(path: string, sizeBytes: number, ignoreErrors: boolean): Promise<void> {
  const lib = libc();
  if (lib === null) return;
  const file = OpenFile.open(lib, path);
  try {
    await file.allocate(ALLOCATE_PLAINLY, 0, sizeBytes);
  } catch (error) {
    if (!ignoreErrors) throw error;
  } finally {
    file.close();
  }
}

async function syncDirectory(path: string): Promise<void> {
  using directory = await Deno.open(path);
  await directory.sync();
}

function failure(path: string, error: unknown): DeviceError {
  if (error instanceof DeviceError) return error;
  const { code, message } = error as { code?: string; message: string };
  const errno = narrowErrno(code ?? "EIO");
  return new DeviceError(errno, "write", undefined, undefined, {
    detail: `${path}: ${message}`,
    cause: error,
  });
}
