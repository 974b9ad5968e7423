import { type Log, silentLog } from "../base/log.ts";
import { absolutePath } from "../os/absolute_path.ts";
import type { Clock } from "../os/clock.ts";
import { fileStatus, OpenFile } from "../os/file_calls.ts";
import { ImageInUse, lockImage } from "../os/file_lock.ts";
import { type Libc, libc } from "../os/libc.ts";
import { OsError } from "../os/os_error.ts";
import type { BlockDevice } from "./device.ts";
import { DeviceError, type ErrnoName, narrowErrno } from "./device_error.ts";
import { type Discard, FileDisk } from "./file.ts";
import { PlainFileDisk } from "./plain_file.ts";
import { raiseGeneration, readIdentity } from "./state_directory.ts";
import { StickySync } from "./sticky_sync.ts";

export interface OpenFileDiskOptions {
  /** Default `false`. */
  readonly readOnly?: boolean;
  /** What becomes of trimmed and zeroed storage; by default it is given back only in a file that has holes. */
  readonly discard?: Discard;
  /** Where the identities of disks are kept. Without it the disk has none. */
  readonly stateDirectory?: string;
  /** Where doubtful circumstances and failed syncs are told. */
  readonly log?: Log;
  /** By which it is decided what takes too long. Default: the system's. */
  readonly clock?: Clock;
}

/**
 * Opens an image file or block device as a disk, alone if it may be written, and locked against other programs.
 *
 * A file of 0 bytes is a disk of 0 bytes; a size that is no multiple of a sector is served to the byte.
 *
 * @param path Links are followed.
 * @throws {DeviceError} Of the operation `open`: the path is missing, a directory, may not be read or written, is in
 *   use (EBUSY, with the other program), or what the state directory says of it cannot be understood.
 */
export async function openFileDisk(path: string, options: OpenFileDiskOptions = {}): Promise<BlockDevice> {
  const { log = silentLog } = options;
  const lib = libc();
  if (lib === null) log.warn(`${path}: libc cannot be opened; no holes, no trimming, no locks`);
  const disk = lib === null
    ? new PlainFileDisk(path, options)
    : await openThroughLibc(lib, path, options, log);
  return new StickySync(disk, (reason) => {
    log.error(`${path}: ${reason}; changes since the flush before may be lost, no more are accepted`);
  });
}

async function openThroughLibc(
  lib: Libc,
  path: string,
  { readOnly = false, discard, stateDirectory, clock }: OpenFileDiskOptions,
  log: Log,
): Promise<FileDisk> {
  let file;
  try {
    // Looked at before it is opened: opening a device of another kind may have effects.
    const { kind } = fileStatus(lib, path);
    if (kind === "directory") throw refusal("EINVAL", `${path} is a directory`);
    if (kind === "other") throw refusal("EINVAL", `${path} is neither a file nor a block device`);
    file = OpenFile.open(lib, path, { readOnly });
    lock(lib, file, path, readOnly, log);
    let identity;
    if (stateDirectory !== undefined) {
      const absolute = absolutePath(path);
      identity = readOnly
        ? await readIdentity(stateDirectory, absolute, file.status)
        : await raiseGeneration(stateDirectory, absolute, file.status, log);
    }
    return new FileDisk(file, { readOnly, discard, identity, clock });
  } catch (error) {
    file?.close();
    if (!(error instanceof OsError)) throw error;
    const reason = REASONS[error.code];
    // Where the reason is put into words the cause says nothing more.
    if (reason !== undefined) throw refusal(narrowErrno(error.code), `${path}: ${reason}`);
    throw refusal(narrowErrno(error.code), error.message, error);
  }
}

function lock(lib: Libc, file: OpenFile, path: string, readOnly: boolean, log: Log): void {
  try {
    lockImage(lib, file, { readOnly });
  } catch (error) {
    if (error instanceof ImageInUse) throw refusal("EBUSY", `${path} is ${error.message}`, error);
    log.warn(
      `${path}: cannot be locked (${(error as Error).message}); other programs may change it meanwhile`,
    );
  }
}

const REASONS: Readonly<Record<string, string>> = {
  ENOENT: "there is no such file",
  ENOTDIR: "part of the path is not a directory",
  EACCES: "permission denied",
  EPERM: "permission denied",
  EROFS: "it is on a read-only file system",
  ETXTBSY: "it is being executed",
};

function refusal(errno: ErrnoName, detail: string, cause?: unknown): DeviceError {
  return new DeviceError(errno, "open", undefined, undefined, { detail, cause });
}
