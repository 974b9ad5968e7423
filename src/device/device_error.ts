import { counted } from "../base/counted.ts";

/** Names of the errors a disk may fail with; anything stranger is narrowed to EIO where it is met. */
export type ErrnoName =
  | "EACCES"
  | "EBADF"
  | "EBUSY"
  | "EDQUOT"
  | "EFBIG"
  | "EINVAL"
  | "EIO"
  | "ENODEV"
  | "ENOENT"
  | "ENOMEM"
  | "ENOSPC"
  | "ENOTSUP"
  | "EOVERFLOW"
  | "EPERM"
  | "EROFS"
  | "ESHUTDOWN"
  | "ETIMEDOUT";

const ERRNO_NAMES: ReadonlySet<string> = new Set<ErrnoName>([
  "EACCES",
  "EBADF",
  "EBUSY",
  "EDQUOT",
  "EFBIG",
  "EINVAL",
  "EIO",
  "ENODEV",
  "ENOENT",
  "ENOMEM",
  "ENOSPC",
  "ENOTSUP",
  "EOVERFLOW",
  "EPERM",
  "EROFS",
  "ESHUTDOWN",
  "ETIMEDOUT",
]);

/** Narrows the system's name of an error to one that a disk may fail with. */
export function narrowErrno(code: string): ErrnoName {
  if (code === "EOPNOTSUPP" || code === "ENOSYS") return "ENOTSUP";
  return ERRNO_NAMES.has(code) ? code as ErrnoName : "EIO";
}

/** The operations of a disk, by the names used in errors and statistics. */
export type DeviceOperation =
  | "open"
  | "read"
  | "write"
  | "flush"
  | "trim"
  | "zero"
  | "extents"
  | "cache"
  | "close";

/** A disk could not do what it was asked: which errno, which operation, where, and the cause. */
export class DeviceError extends Error {
  override readonly name = "DeviceError";

  /**
   * @param errno The error's name.
   * @param operation What was attempted.
   * @param offset First byte of the range, where there is one.
   * @param length Bytes of the range, where there is one.
   * @param options `detail` says more (a path, a peer); `cause` is the error underneath.
   */
  constructor(
    readonly errno: ErrnoName,
    readonly operation: DeviceOperation,
    readonly offset?: number,
    readonly length?: number,
    options: { detail?: string; cause?: unknown } = {},
  ) {
    const bytes = length === undefined ? "? bytes" : counted(length, "byte");
    const range = offset === undefined ? "" : ` ${bytes} at ${offset}`;
    const detail = options.detail === undefined ? "" : ` (${options.detail})`;
    const doing = operation === "extents" ? "look for holes in" : operation;
    super(`cannot ${doing}${range}: ${errno}${detail}`, { cause: options.cause });
  }
}
