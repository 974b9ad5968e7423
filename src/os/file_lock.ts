/**
 * Locks on image files, by the same bytes and meanings as QEMU, so that we and its programs refuse each other.
 *
 * A user of an image holds a shared lock on byte 100 + n for every right it uses, and on byte 200 + n for every
 * right it leaves to nobody else. Whoever comes takes its own locks first, then looks whether others hold the
 * opposite ones; of two that come at once both may lose, never win. The locks belong to the open file (OFD), not to
 * the process: they go when it is closed, and a second open file of ours meets them as well.
 *
 * @see QEMU block/file-posix.c, RAW_LOCK_PERM_BASE and RAW_LOCK_SHARED_BASE
 */

import type { OpenFile } from "./file_calls.ts";
import { cString, lastError, type Libc } from "./libc.ts";
import { errnoName, OsError } from "./os_error.ts";

const F_OFD_GETLK = 36;
const F_OFD_SETLK = 37;
const F_RDLCK = 0;
const F_WRLCK = 1;
const F_UNLCK = 2;
const USED_BASE = 100;
const KEPT_BASE = 200;
const RIGHTS_END = 4;
/** Rights by their number. */
const READ = 0;
const WRITE = 1;
const WRITE_UNCHANGED = 2;
const RESIZE = 3;

const writer = { uses: [READ, WRITE], keeps: [READ, WRITE, WRITE_UNCHANGED, RESIZE] };
const reader = { uses: [READ], keeps: [WRITE, RESIZE] };

/** Who keeps an image from us, as far as can be seen. */
export interface LockHolder {
  readonly pid: number;
  /** The program's name. */
  readonly program: string;
}

/** Somebody else uses the image. */
export class ImageInUse extends Error {
  override readonly name = "ImageInUse";

  /** @param holder `null` where it is not visible to us: another user's, or another machine's. */
  constructor(readonly holder: LockHolder | null) {
    super(
      holder === null ? "in use by another process" : `in use by ${holder.program}, process ${holder.pid}`,
    );
  }
}

/**
 * Locks an open image until it is closed: a writer alone, readers among themselves.
 *
 * @throws {ImageInUse} If others use it. The caller then closes the file.
 * @throws {OsError} If the file system knows no locks.
 */
export function lockImage(
  lib: Libc,
  file: OpenFile,
  { readOnly = false }: { readOnly?: boolean } = {},
): void {
  const { uses, keeps } = readOnly ? reader : writer;
  const taken = [...uses.map((right) => USED_BASE + right), ...keeps.map((right) => KEPT_BASE + right)];
  const opposed = [...uses.map((right) => KEPT_BASE + right), ...keeps.map((right) => USED_BASE + right)];
  for (const byte of taken) {
    if (lib.fcntl(file.fd, F_OFD_SETLK, encodeLock(F_RDLCK, byte)) === 0) continue;
    const code = errnoName(lib.errno[0]);
    if (code === "EAGAIN" || code === "EACCES") throw new ImageInUse(findHolder(lib, file));
    throw new OsError(code, "fcntl F_OFD_SETLK");
  }
  for (const byte of opposed) {
    const lock = encodeLock(F_WRLCK, byte);
    if (lib.fcntl(file.fd, F_OFD_GETLK, lock) !== 0) throw lastError(lib, "fcntl F_OFD_GETLK");
    if (lock[0] !== F_UNLCK) throw new ImageInUse(findHolder(lib, file));
  }
}

/** `struct flock`: type i16, whence i16, start i64 at 8, length i64 at 16, pid i32 at 24. */
function encodeLock(type: number, byte: number): Int32Array<ArrayBuffer> {
  const lock = new Int32Array(8);
  lock[0] = type; // whence 0: from the start
  lock[2] = byte;
  lock[4] = 1;
  return lock;
}

/** The kernel does not say whose an OFD lock is; the files that each process has open do. */
function findHolder(lib: Libc, file: OpenFile): LockHolder | null {
  const { inode } = file.status;
  for (const pid of listDirectory(lib, "/proc")) {
    if (!/^\d+$/.test(pid)) continue;
    for (const fd of listDirectory(lib, `/proc/${pid}/fdinfo`)) {
      if (Number(pid) === Deno.pid && Number(fd) === file.fd) continue;
      if (!holdsImageLock(readText(lib, `/proc/${pid}/fdinfo/${fd}`), inode)) continue;
      return { pid: Number(pid), program: readText(lib, `/proc/${pid}/comm`).trim() };
    }
  }
  return null;
}

/** Looks for lines like `lock: 1: OFDLCK ADVISORY READ -1 fe:00:2146642 100 101`. */
function holdsImageLock(fdinfo: string, inode: bigint): boolean {
  for (const [, found, from] of fdinfo.matchAll(/^lock:.*[0-9a-f]+:[0-9a-f]+:(\d+) (\d+) \S+$/gm)) {
    if (found === String(inode) && Number(from) < KEPT_BASE + RIGHTS_END) return true;
  }
  return false;
}

/** Names in a directory; none if it cannot be read. Deno itself does not look into /proc without all permissions. */
function listDirectory(lib: Libc, path: string): string[] {
  const names: string[] = [];
  withFile(lib, path, (fd) => {
    const bytes = new Uint8Array(32 * 1024);
    const view = new DataView(bytes.buffer);
    for (let length; (length = lib.getdents64(fd, bytes, bytes.length)) > 0;) {
      // struct dirent64: inode u64, offset i64, length of the entry u16, type u8, name ended by a zero.
      for (let at = 0; at < length; at += view.getUint16(at + 16, true)) {
        names.push(decoder.decode(bytes.subarray(at + 19, bytes.indexOf(0, at + 19))));
      }
    }
  });
  return names.filter((name) => name !== "." && name !== "..");
}

/** The beginning of a small file; empty if it cannot be read. */
function readText(lib: Libc, path: string): string {
  let text = "";
  withFile(lib, path, (fd) => {
    const bytes = new Uint8Array(8192);
    text = decoder.decode(bytes.subarray(0, Math.max(0, lib.pread(fd, bytes, bytes.length, 0))));
  });
  return text;
}

const decoder = new TextDecoder();
const O_RDONLY_CLOEXEC = 0o2000000;

function withFile(lib: Libc, path: string, use: (fd: number) => void): void {
  const fd = lib.open(cString(path), O_RDONLY_CLOEXEC, 0);
  if (fd < 0) return;
  try {
    use(fd);
  } finally {
    lib.close(fd);
  }
}
