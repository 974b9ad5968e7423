/**
 * Which disk this is, across restarts: a UUID, and a generation that grows with every start of a writable export.
 *
 * A peer that remembers both notices that it talks to another disk under the same name, or to one that was put back
 * to an earlier state. Both are kept in a directory of their own, never inside the image: one file per image, named
 * after what the image is for the system (device and inode of a file, path of a block device). A file that was
 * deleted and whose inode number a new one got is told apart by its time of creation.
 */

import { type Log, silentLog } from "../base/log.ts";
import type { FileStatus } from "../os/file_calls.ts";
import type { DiskIdentity } from "./device.ts";
import { DeviceError } from "./device_error.ts";

/** Where identities are kept unless the operator says otherwise. */
export const DEFAULT_STATE_DIRECTORY = "/var/lib/denbd";

const FORMAT = "denbd disk identity";
const VERSION = 1;

/** A file in the state directory, as JSON. */
interface StateRecord {
  readonly format: typeof FORMAT;
  readonly version: number;
  readonly uuid: string;
  readonly generation: number;
  /** For whoever looks into the directory. */
  readonly path: string;
  /** `FileStatus.createdNs` of a file; `0` for a device. */
  readonly createdNs: string;
}

/**
 * Raises the generation of an image and returns its identity, new or known. The caller holds the image's lock as a
 * writer, so nobody else does the same.
 *
 * The raised generation is durable when this resolves. Where the directory cannot be written the identity is made up
 * for this run alone, with a warning: peers then treat every restart as another disk.
 *
 * @param path Absolute path of the image.
 * @throws {DeviceError} If what the directory says of the image cannot be understood.
 */
export async function raiseGeneration(
  directory: string,
  path: string,
  status: FileStatus,
  log: Log = silentLog,
): Promise<DiskIdentity> {
  const file = stateFile(directory, path, status);
  const createdNs = createdNsOf(status);
  let known: StateRecord | null = null;
  try {
    known = await readRecord(file);
    const same = known !== null && known.createdNs === createdNs;
    const uuid = same ? known!.uuid : crypto.randomUUID();
    const generation = same ? known!.generation + 1 : 1;
    await Deno.mkdir(directory, { recursive: true, mode: 0o700 });
    await replaceDurably(directory, file, {
      format: FORMAT,
      version: VERSION,
      uuid,
      generation,
      path,
      createdNs,
    });
    return { uuid, generation, durable: true };
  } catch (error) {
    if (error instanceof DeviceError) throw error;
    const { message } = error as Error;
    log.warn(
      `${path}: its identity cannot be kept in ${directory} (${message}); it gets one for this run only`,
    );
    return { uuid: crypto.randomUUID(), generation: 1, durable: false };
  }
}

/** The identity as it is, for an image served read-only; `undefined` if none was ever kept. @throws {DeviceError} */
export async function readIdentity(
  directory: string,
  path: string,
  status: FileStatus,
): Promise<DiskIdentity | undefined> {
  let known;
  try {
    known = await readRecord(stateFile(directory, path, status));
  } catch (error) {
    if (error instanceof DeviceError) throw error;
    return undefined;
  }
  if (known === null || known.createdNs !== createdNsOf(status)) return undefined;
  return { uuid: known.uuid, generation: known.generation, durable: true };
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

async function readRecord(file: string): Promise<StateRecord | null> {
  let text;
  try {
    text = await Deno.readTextFile(file);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
  let record: Partial<StateRecord> | null = null;
  try {
    record = JSON.parse(text);
  } catch {
    // Told below.
  }
  if (record?.format !== FORMAT) throw refusal(file, "it does not hold a disk's identity");
  if (record.version !== VERSION) {
    throw refusal(file, `it has version ${record.version}, this program knows version ${VERSION}`);
  }
  const { uuid, generation, createdNs } = record;
  const valid = typeof uuid === "string" && /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(uuid) &&
    Number.isSafeInteger(generation) && generation! > 0 && typeof createdNs === "string";
  if (!valid) throw refusal(file, "it is damaged");
  return record as StateRecord;
}

function refusal(file: string, why: string): DeviceError {
  return new DeviceError("EINVAL", "open", undefined, undefined, {
    detail: `cannot use ${file}: ${why}; remove it to give the disk a new identity`,
  });
}

/** Written aside, synced, renamed, and the directory synced: after a crash the old content is there, or the new. */
async function replaceDurably(directory: string, file: string, record: StateRecord): Promise<void> {
  const aside = `${file}.new`;
  {
    using written = await Deno.open(aside, { write: true, create: true, truncate: true, mode: 0o600 });
    const bytes = new TextEncoder().encode(JSON.stringify(record, null, 2) + "\n");
    for (let done = 0; done < bytes.length;) done += await written.write(bytes.subarray(done));
    await written.sync();
  }
  await Deno.rename(aside, file);
  using opened = await Deno.open(directory);
  await opened.sync();
}
