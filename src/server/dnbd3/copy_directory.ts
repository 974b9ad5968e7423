/** Images in a directory tree to which a proxy adds. */
import type { Log } from "../../base/log.ts";
import { nodeModule } from "../../base/node_module.ts";
import type { BlockDevice } from "../../device/device.ts";
import { DeviceError, narrowErrno } from "../../device/device_error.ts";
import { openFileDisk } from "../../device/open_file_disk.ts";
import { absolutePath } from "../../os/absolute_path.ts";
import { makeDurably, syncDirectory, writeDurably } from "../../os/durable_file.ts";
import { OpenFile } from "../../os/file_calls.ts";
import { libc } from "../../os/libc.ts";
import { reasonOf } from "../../os/reason.ts";
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
      await makeDurably(absolute, async (file) => {
        await file.truncate(sizeBytes);
        if (!options.sparse) await allocate(draft, sizeBytes, options.ignoreAllocErrors);
      }, { draft, mode: 0o644 });
    } catch (error) {
      throw failure(absolute, error);
    }
  }

  openForWriting(path: string): Promise<BlockDevice> {
    return openFileDisk(this.absolute(path), { log: this.#log });
  }

  async writeSmall(path: string, bytes: Uint8Array): Promise<void> {
    const absolute = this.absolute(path);
    try {
      await Deno.mkdir(folderOf(absolute), { recursive: true, mode: 0o755 });
      await writeDurably(absolute, bytes, { draft: draftOf(absolute), mode: 0o644 });
    } catch (error) {
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

function failure(path: string, error: unknown): DeviceError {
  if (error instanceof DeviceError) return error;
  const errno = narrowErrno((error as { code?: string }).code ?? "EIO");
  return new DeviceError(errno, "write", undefined, undefined, {
    detail: `${path}: ${reasonOf(error)}`,
    cause: error,
  });
}
