/** Cache files in their directory: one for each disk, named after it. */
import { type Log, silentLog } from "../base/log.ts";
import { reasonOf } from "../os/reason.ts";
import { FileStore } from "./block_cache.ts";
import {
  CACHE_BEGINNING_BYTES,
  cacheFileBytes,
  type CacheSubject,
  checkBeginning,
} from "./block_cache_map.ts";
import type { BlockDevice } from "./device.ts";
import { DeviceError } from "./device_error.ts";
import { openFileDisk } from "./open_file_disk.ts";

/** Large enough that the map stays small: 64 KiB a GiB. */
const BLOCK_BYTES = 64 * 1024;

/**
 * Opens the cache file of a disk, and makes it where there is none. It is as large as the disk, with holes for what is
 * not there.
 *
 * @param directory Made if it does not exist, for this user alone.
 * @param source The name of the disk.
 * @param options `isTrusted`: nobody else has written to the disk since the file was used last; otherwise what it has
 *   is not used. Default `true`.
 * @throws {DeviceError} If the file cannot be used, or another program uses it, or the disk cannot be flushed.
 */
export async function openCacheFile(
  directory: string,
  disk: Pick<BlockDevice, "sizeBytes" | "blockSizes" | "identity" | "can" | "flush">,
  source: string,
  { log = silentLog, isTrusted = true }: { log?: Log; isTrusted?: boolean } = {},
): Promise<FileStore> {
  const { sizeBytes, blockSizes, identity, can } = disk;
  // What was written by an earlier life of this program may yet be lost; a block of it would outlive it here.
  if (can.write && can.flush) await disk.flush();
  const subject: CacheSubject = {
    sizeBytes,
    blockBytes: Math.max(BLOCK_BYTES, blockSizes.minimum),
    // Nobody can tell whether a disk without an identity is still the same: the next start does not trust the file.
    identity: identity === undefined || !isTrusted
      ? `unknown ${crypto.randomUUID()}`
      : `uuid ${identity.uuid} generation ${identity.generation}`,
  };
  const path = `${directory}/${await fileName(source)}`;
  try {
    await Deno.mkdir(directory, { recursive: true, mode: 0o700 });
    await makeRoom(path, cacheFileBytes(subject));
  } catch (error) {
    if (error instanceof DeviceError) throw error;
    throw refusal(path, reasonOf(error, { EEXIST: `${directory} is no directory` }));
  }
  // Holes may stay holes, and come back.
  const file = await openFileDisk(path, { discard: "unmap", log });
  try {
    const remove = () => removeDurably(directory, path);
    return await FileStore.open(file, subject, { name: path, remove, log });
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function fileName(source: string): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(source));
  return `${new Uint8Array(digest).toHex().slice(0, 32)}.cache`;
}

/** Makes the file if need be. One of another size is replaced: whoever uses it keeps the old one. */
async function makeRoom(path: string, sizeBytes: number): Promise<void> {
  const options = { read: true, write: true, create: true, mode: 0o600 };
  {
    using file = await Deno.open(path, options);
    const start = new Uint8Array(CACHE_BEGINNING_BYTES);
    await file.read(start);
    try {
      checkBeginning(start);
    } catch (error) {
      throw refusal(path, `${(error as Error).message}; remove it, or choose another directory`);
    }
    if ((await file.stat()).size === sizeBytes) return;
  }
  await Deno.remove(path);
  using file = await Deno.open(path, options);
  await file.truncate(sizeBytes);
}

async function removeDurably(directory: string, path: string): Promise<void> {
  await Deno.remove(path);
  using opened = await Deno.open(directory);
  await opened.sync();
}

function refusal(path: string, why: string): DeviceError {
  return new DeviceError("EINVAL", "open", undefined, undefined, { detail: `cannot use ${path}: ${why}` });
}
