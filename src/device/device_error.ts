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
    const range = offset === undefined ? "" : ` of ${length ?? "?"} bytes at ${offset}`;
    const detail = options.detail === undefined ? "" : ` (${options.detail})`;
    super(`cannot ${operation}${range}: ${errno}${detail}`, { cause: options.cause });
  }
}
