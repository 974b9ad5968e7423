/**
 * Names of images and of their files.
 *
 * An image is a name and a revision; its file is the name, below the base path, with `.r` and the revision behind.
 * Directories are part of the name: `lab/win10` revision 3 is the file `lab/win10.r3`. Names are compared byte for
 * byte.
 */
import { isRevision } from "../../wire/dnbd3/message.ts";

/** Sidecars of an image are named by appending one of these to its file's name. */
export const SIDECAR_SUFFIXES = [".crc", ".map", ".meta"] as const;

/** The longest name that fits into the answer to a selection, in bytes. */
const NAME_BYTES_MAX = 987;
/** Directory entries that are longer, in bytes, are no images. */
const ENTRY_BYTES_MAX = 150;

export interface ImageName {
  readonly name: string;
  /** From 1 to 65535. */
  readonly revision: number;
}

/** For log lines and status: `lab/win10:3`. Also the name of the image's NBD export. */
export function formatImageName({ name, revision }: ImageName): string {
  return `${name}:${revision}`;
}

/** Whether a directory entry may hold images: a file that is none, or a directory nobody should look into. */
export function isImageEntry(entry: string): boolean {
  return !entry.startsWith(".") && byteLength(entry) <= ENTRY_BYTES_MAX &&
    !SIDECAR_SUFFIXES.some((suffix) => entry.endsWith(suffix));
}

/**
 * The image that a file holds.
 *
 * @param path Relative to the base path, whose entries all are {@linkcode isImageEntry}.
 * @param legacy Files without `.rN` are images of revision 1 under their full name.
 * @returns The image, or null if the file holds none.
 * @throws {RangeError} If it looks like one, but has an impossible revision or name.
 */
export function imageOfPath(path: string, legacy: boolean): ImageName | null {
  const match = /^(.*[^/])\.r(\d+)$/.exec(path);
  if (match === null && !legacy) return null;
  const name = match === null ? path : match[1];
  const revision = match === null ? 1 : Number(match[2]);
  if (!isRevision(revision)) throw new RangeError(`revision ${match![2]} is not from 1 to 65535`);
  if (!isImageName(name)) throw new RangeError("its name cannot be asked for");
  return { name, revision };
}

/** Paths, relative to the base path, where an image's file may be, the likeliest first. */
export function pathsOfImage({ name, revision }: ImageName, legacy: boolean): string[] {
  const path = `${name}.r${revision}`;
  // A sidecar is no image, though its name may be asked for.
  return legacy && revision === 1 && isImageEntry(splitName(name).baseName) ? [path, name] : [path];
}

/**
 * The revisions of an image among the entries of its directory. Only exact matches count: `win.r2.r3` is
 * revision 3 of `win.r2`, not of `win`.
 *
 * @param baseName The image's name after its last slash.
 * @returns Revisions, the newest first.
 */
export function revisionsAmong(entries: Iterable<string>, baseName: string, legacy: boolean): number[] {
  const revisions = new Set<number>();
  for (const entry of entries) {
    if (legacy && entry === baseName) revisions.add(1);
    if (!entry.startsWith(`${baseName}.r`) || !isImageEntry(entry)) continue;
    const digits = entry.slice(baseName.length + 2);
    // Leading zeroes would name the same revision twice; only the scan, which knows both files, takes them.
    if (/^[1-9]\d*$/.test(digits) && isRevision(Number(digits))) revisions.add(Number(digits));
  }
  return [...revisions].sort((one, other) => other - one);
}

/**
 * Whether a client may ask for this name: no part of the path is empty, hidden, or leads upwards.
 */
export function isImageName(name: string): boolean {
  return byteLength(name) <= NAME_BYTES_MAX && !name.includes("\0") &&
    name.split("/").every((part) => part !== "" && !part.startsWith("."));
}

/** The part of a name in front of its last slash, "" for none, and the part behind. */
export function splitName(name: string): { directory: string; baseName: string } {
  const slash = name.lastIndexOf("/");
  return { directory: slash < 0 ? "" : name.slice(0, slash), baseName: name.slice(slash + 1) };
}

/**
 * The world wide name by which dnbd3 tells an image to the outside: a hash of the name in three groups.
 *
 * @returns 64 bits.
 */
export function worldWideName(name: string): bigint {
  let hash = 0n;
  for (const byte of new Int8Array(new TextEncoder().encode(name).buffer)) {
    hash = BigInt.asUintN(64, hash * 131n + BigInt(byte));
  }
  const low = hash & 0xffffffn;
  const high = BigInt.asUintN(64, (hash & 0xfff000000n) << 24n);
  return low | 0x2000000347000000n | high;
}

function byteLength(text: string): number {
  return new TextEncoder().encode(text).length;
}
