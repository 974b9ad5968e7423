/**
 * Which disk this is, across restarts: a UUID, and a generation that grows with every start of a writable export.
 *
 * A peer that remembers both notices that it talks to another disk under the same name, or to one that was put back
 * to an earlier state. Beside them stands who owns the disk (`ownership.ts`). All is kept in a directory of their own, never inside the image: one file per image, named
 * after what the image is for the system (device and inode of a file, path of a block device). A file that was
 * deleted and whose inode number a new one got is told apart by its time of creation.
 */

import { type Log, silentLog } from "../base/log.ts";
import { absolutePath } from "../os/absolute_path.ts";
import { writeDurably } from "../os/durable_file.ts";
import { type FileStatus, fileStatus } from "../os/file_calls.ts";
import type { Libc } from "../os/libc.ts";
import { reasonOf } from "../os/reason.ts";
import type { DiskIdentity } from "./device.ts";
import { DeviceError } from "./device_error.ts";
import { type DiskRecord, FIRST_OWNERSHIP, identityOf, type RecordStore, whyNotOwned } from "./ownership.ts";
import { type FileRecord, formatRecord, parseRecord } from "./state_record.ts";

/** Where identities are kept unless the operator says otherwise. */
export const DEFAULT_STATE_DIRECTORY = "/var/lib/denbd";

/**
 * Makes a state directory if it does not exist, and proves that something can be kept in it.
 *
 * @throws What the file system throws.
 */
export async function proveStateDirectory(directory: string): Promise<void> {
  await Deno.mkdir(directory, { recursive: true, mode: 0o700 });
  const probe = await Deno.makeTempFile({ dir: directory, prefix: "probe-" });
  try {
    // Where no space is left a file of nothing may be made.
    await Deno.writeTextFile(probe, "x");
  } finally {
    await Deno.remove(probe);
  }
}

/**
 * Raises the generation of an image and returns its identity, new or known. The caller holds the image's lock as a
 * writer, so nobody else does the same.
 *
 * The raised generation is durable when this resolves. Where the directory cannot be written the identity is made up
 * for this run alone, with a warning: peers then treat every restart as another disk.
 *
 * @param path Absolute path of the image.
 * @throws {DeviceError} If what the directory says of the image cannot be read or understood, or is that it is not
 *   owned here.
 */
export async function raiseGeneration(
  directory: string,
  path: string,
  status: FileStatus,
  log: Log = silentLog,
): Promise<DiskIdentity> {
  const state = new DiskState(directory, path, status);
  try {
    const known = await state.read();
    refuseUnowned(path, known);
    const record = known === null
      ? { uuid: crypto.randomUUID(), generation: 1, ownership: FIRST_OWNERSHIP }
      : { ...known, generation: known.generation + 1 };
    await state.write(record);
    return identityOf(record);
  } catch (error) {
    if (error instanceof DeviceError) throw error;
    log.warn(
      `${path}: its identity cannot be kept in ${directory} (${
        reasonOf(error)
      }); it gets one for this run only`,
    );
    return { uuid: crypto.randomUUID(), generation: 1, durable: false };
  }
}

/**
 * The identity as it is, for an image served read-only; `undefined` if none was ever kept.
 *
 * @throws {DeviceError} If what the directory says of it cannot be read or understood, or is that it is not owned here.
 */
export async function readIdentity(
  directory: string,
  path: string,
  status: FileStatus,
): Promise<DiskIdentity | undefined> {
  let known;
  try {
    known = await new DiskState(directory, path, status).read();
  } catch (error) {
    if (error instanceof DeviceError) throw error;
    return undefined;
  }
  if (known === null) return undefined;
  refuseUnowned(path, known);
  return identityOf(known);
}

function refuseUnowned(path: string, known: DiskRecord | null): void {
  const why = known === null ? null : whyNotOwned(path, known.ownership);
  if (why !== null) throw new DeviceError("EPERM", "open", undefined, undefined, { detail: why });
}

/** What is kept of one image. Who writes holds the image's lock as a writer. */
export class DiskState implements RecordStore {
  readonly #directory: string;
  readonly #path: string;
  readonly #createdNs: string;
  readonly #file: string;
  latest: DiskRecord | null = null;

  /** @param path Absolute path of the image. */
  constructor(directory: string, path: string, status: FileStatus) {
    this.#directory = directory;
    this.#path = path;
    this.#createdNs = createdNsOf(status);
    this.#file = stateFile(directory, path, status);
  }

  /**
   * What is kept; `null` if nothing is.
   *
   * @throws {DeviceError} If it cannot be read or understood.
   * @throws {Error} If we may not read it, or the directory is none.
   */
  async read(): Promise<DiskRecord | null> {
    let text;
    try {
      text = await Deno.readTextFile(this.#file);
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return null;
      const reason = `cannot read ${this.#file}: ${reasonOf(error)}`;
      // Who may not look there has never kept anything there. Otherwise the disk might be another host's by now.
      if (isNotForUs(error)) throw new Error(reason);
      throw new DeviceError("EIO", "open", undefined, undefined, { detail: reason });
    }
    let record: FileRecord;
    try {
      record = parseRecord(text);
    } catch (error) {
      throw refusal(this.#file, (error as Error).message);
    }
    const { uuid, generation, ownership, createdNs } = record;
    this.latest = createdNs === this.#createdNs ? { uuid, generation, ownership } : null;
    return this.latest;
  }

  /** Durable when this resolves. @throws {Error} If it cannot be written; the old record is there, or the new one. */
  async write(record: DiskRecord): Promise<void> {
    await Deno.mkdir(this.#directory, { recursive: true, mode: 0o700 });
    const text = formatRecord({ ...record, path: this.#path, createdNs: this.#createdNs });
    await writeDurably(this.#file, text);
    this.latest = record;
  }
}

/**
 * What is kept of the image at `path`.
 *
 * @throws {OsError} If nothing is there.
 */
export function findDiskState(lib: Libc, directory: string, path: string): DiskState {
  return new DiskState(directory, absolutePath(path), fileStatus(lib, path));
}

function isNotForUs(error: unknown): boolean {
  return error instanceof Deno.errors.PermissionDenied || error instanceof Deno.errors.NotADirectory;
}

function stateFile(directory: string, path: string, status: FileStatus): string {
  const name = status.kind === "block device"
    ? `device-${encodeURIComponent(path)}`
    : `file-${status.deviceMajor}-${status.deviceMinor}-${status.inode}`;
  return `${directory}/${name}.json`;
}

function createdNsOf(status: FileStatus): string {
  return status.kind === "block device" ? "0" : String(status.createdNs);
}

function refusal(file: string, why: string): DeviceError {
  return new DeviceError("EINVAL", "open", undefined, undefined, {
    detail: `cannot use ${file}: ${why}; remove it to give the disk a new identity, if no other host owns it`,
  });
}
