/** How commands that work on one disk are told which: a name, or flexnbd's address and port. */
import { counted } from "../base/counted.ts";
import { type DiskLocator, parseDiskLocator } from "../base/uri.ts";
import type { BlockDevice } from "../device/device.ts";
import type { Option } from "./options.ts";
import { UsageError } from "./usage_error.ts";

/** The options of flexnbd that name a server with one disk. */
export const serverOptions = {
  addr: { type: "address", short: "l", help: "Address of the server" },
  port: { type: "port", short: "p", help: "Port of the server" },
} as const satisfies Record<string, Option>;

/** Where a range of a disk begins. */
export const fromOption = {
  type: "size",
  short: "F",
  aliases: ["offset"],
  valueName: "OFFSET",
  help: "First byte of the range",
} as const satisfies Option;

/** The option of flexnbd that chooses where connections come from. */
export const bindOption = {
  type: "address",
  short: "b",
  help: "Local address to connect from",
} as const satisfies Option;

/** How long a server may be away. */
export const deadlineOption = {
  type: "duration",
  default: 60_000,
  help:
    "How long a request to a server may take, reconnecting included; 0 for ever. Opening the disk takes no longer, and 15 s at most",
} as const satisfies Option;

/** How a disk is reached by the commands that use it themselves. */
export const reachOptions = {
  ...serverOptions,
  bind: bindOption,
  deadline: deadlineOption,
} as const satisfies Record<string, Option>;

/** What {@linkcode deadlineOption} means in milliseconds. */
export function forEver(deadline: number): number {
  return deadline === 0 ? Infinity : deadline;
}

/** The user's word that what a server lost may be written again. */
export const soleWriterOption = {
  type: "flag",
  help: "Nobody else writes to the disk: repeat what a server that crashed may have lost",
} as const satisfies Option;

/**
 * The disk that is meant by a positional word, or by `--addr` and `--port`.
 *
 * @throws {UsageError} If none or both are given, or the word is malformed.
 */
export function namedDisk(
  args: readonly string[],
  { addr, port }: { readonly addr?: string; readonly port?: number },
): DiskLocator {
  if (args.length > 0) {
    if (addr !== undefined || port !== undefined) {
      throw new UsageError("a disk and --addr or --port exclude each other");
    }
    return diskNamed(args[0]);
  }
  if (addr === undefined && port === undefined) {
    throw new UsageError("a disk is missing, or both --addr and --port are required.");
  }
  if (addr === undefined || port === undefined) throw new UsageError("both --addr and --port are required.");
  if (port === 0) throw new UsageError("--port: 0 is no port to connect to");
  return { kind: "nbd", server: { transport: "tcp", host: addr, port }, exportName: "" };
}

/**
 * The disk whose range is meant, as {@linkcode namedDisk}. With `--addr` and `--port` the range is to be said as well,
 * as flexnbd has it.
 *
 * @param size `undefined` if none was given.
 * @throws {UsageError}
 */
export function namedRange(
  args: readonly string[],
  options: { readonly addr?: string; readonly port?: number; readonly from?: number },
  size: number | undefined,
): DiskLocator {
  const locator = namedDisk(args, options);
  if (args.length === 0 && (options.from === undefined || size === undefined)) {
    throw new UsageError("both --from and --size are required.");
  }
  return locator;
}

/**
 * Bytes from `from` on that can be read or written.
 *
 * @param size How many are wanted; `undefined` for any number.
 * @throws {Error} If the disk, whose name is `name`, is not as large.
 */
export function roomBehind(
  from: number,
  size: number | undefined,
  what: "read" | "write",
  { sizeBytes }: BlockDevice,
  name: string,
): number {
  const room = sizeBytes - from;
  if (room >= (size ?? 0)) return room;
  const bytes = size === undefined ? "anything" : counted(size, "byte");
  throw new Error(`cannot ${what} ${bytes} at ${from} of ${name}: it has ${counted(sizeBytes, "byte")}`);
}

/**
 * The disk of that name.
 *
 * @throws {UsageError} If the name is malformed.
 */
export function diskNamed(text: string): DiskLocator {
  try {
    return parseDiskLocator(text);
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}
