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

export interface CreateOptions {
  /** Take storage only for what is written. */
  readonly sparse: boolean;
  /** If the storage cannot be had at once, take it as it is needed. */
  readonly ignoreAllocErrors: boolean;
}

/** A store that copies of images are kept in as well. What its methods have done outlives a crash. */
export interface CopyStore extends ImageStore {
  /**
   * Makes the file of an image whose bytes are still missing, and its directories. The caller has written the map
   * before, for without a map an image counts as complete.
   *
   * @throws {DeviceError} ENOSPC if there is no room, EEXIST if there is such a file.
   */
  create(path: string, sizeBytes: number, options: CreateOptions): Promise<void>;
  /** Opens a file to read and write, alone. */
  openForWriting(path: string): Promise<BlockDevice>;
  /** Puts a small file in place, of an older one too, and makes its directories: after a crash it is the old one or the new. */
  writeSmall(path: string, bytes: Uint8Array): Promise<void>;
  /** Removes a file; that there is none is no error. */
  remove(path: string): Promise<void>;
  /** Of the file system that it is on, in bytes. */
  space(): Promise<Space>;
}

export interface Space {
  readonly totalBytes: number;
  /** For users without privileges. */
  readonly freeBytes: number;
}
