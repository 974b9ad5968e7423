import { type Log, silentLog } from "../base/log.ts";
import { fileStatus, OpenFile } from "../os/file_calls.ts";
import { libc } from "../os/libc.ts";
import { OsError } from "../os/os_error.ts";
import type { BlockDevice } from "./device.ts";
import { DeviceError, narrowErrno } from "./device_error.ts";
import { FileDisk, type FileDiskOptions } from "./file.ts";
import { PlainFileDisk } from "./plain_file.ts";
import { StickySync } from "./sticky_sync.ts";

export interface OpenFileDiskOptions extends FileDiskOptions {
  /** Where a failed sync is told. */
  readonly log?: Log;
}

/**
 * Opens an image file or block device as a disk.
 *
 * @param path Links are followed.
 * @throws {DeviceError} Of the operation `open`: the path is missing, a directory, may not be read or written.
 */
export function openFileDisk(path: string, options: OpenFileDiskOptions = {}): Promise<BlockDevice> {
  return Promise.try(() => {
    const { log = silentLog } = options;
    const onSyncFailure = (reason: string) =>
      log.error(
        `${path}: ${reason}; what was written since the flush before may be lost, nothing more is accepted`,
      );
    const lib = libc();
    if (lib === null) {
      log.warn(`${path}: libc cannot be opened; serving without holes, locks or trimming`);
      return new StickySync(new PlainFileDisk(path, options), onSyncFailure);
    }
    try {
      const { kind } = fileStatus(lib, path);
      if (kind === "directory") throw refusal(path, "is a directory");
      if (kind === "other") throw refusal(path, "is neither a file nor a block device");
      const file = OpenFile.open(lib, path, options);
      return new StickySync(new FileDisk(file, options), onSyncFailure);
    } catch (error) {
      if (!(error instanceof OsError)) throw error;
      throw new DeviceError(narrowErrno(error.code), "open", undefined, undefined, {
        detail: reasons[error.code] === undefined ? error.message : `${path}: ${reasons[error.code]}`,
        cause: error,
      });
    }
  });
}

const reasons: Readonly<Record<string, string>> = {
  ENOENT: "there is no such file",
  ENOTDIR: "part of the path is not a directory",
  EACCES: "permission denied",
  EPERM: "permission denied",
  EROFS: "the file system is read-only",
  ETXTBSY: "it is being executed",
  EISDIR: "it is a directory",
};

function refusal(path: string, why: string): DeviceError {
  return new DeviceError("EINVAL", "open", undefined, undefined, { detail: `${path} ${why}` });
}
