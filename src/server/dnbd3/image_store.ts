/** Where images are kept: a directory, or something in its place in a simulation. */
import type { BlockDevice } from "../../device/device.ts";

/** What tells a file from another, and from itself after a change. */
export interface FileIdentity {
  readonly device: number;
  readonly inode: bigint;
  readonly sizeBytes: number;
  /** Time of the last change of its content, in nanoseconds since 1970. */
  readonly modifiedNs: bigint;
}

export function sameIdentity(one: FileIdentity, other: FileIdentity): boolean {
  return one.modifiedNs === other.modifiedNs && one.sizeBytes === other.sizeBytes &&
    one.inode === other.inode && one.device === other.device;
}

/** All paths are relative to the base path, with `/` between their parts. */
export interface ImageStore {
  /** The base path, for messages. */
  readonly root: string;
  /**
   * The files of the whole tree, without hidden entries, sidecars and what else cannot be an image.
   *
   * @throws If the base path cannot be read.
   */
  list(): Promise<string[]>;
  /** The names in one directory; none if there is no such directory. */
  entries(directory: string): Promise<string[]>;
  /** Which regular file is at the path now, or null. Quick: asked before every answer. */
  identify(path: string): FileIdentity | null;
  /** Opens an image for reading. Its size is that of the file, in bytes. */
  open(path: string): Promise<BlockDevice>;
  /** The content of a small file, cut at `bytesMax`, or null if there is none. */
  readSmall(path: string, bytesMax: number): Promise<Uint8Array | null>;
}
