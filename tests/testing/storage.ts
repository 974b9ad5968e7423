/** Real storage with real troubles, for tests that run as root: loop devices and file systems that are soon full. */

import { OpenFile } from "../../src/os/file_calls.ts";
import { libc } from "../../src/os/libc.ts";
import { run, type TemporaryDirectory, temporaryDirectory } from "./process.ts";

/** Registers a test that needs loop devices and mounts; skipped, saying so, where they cannot be had. */
export function storageTest(name: string, test: () => Promise<void>): void {
  if (canHaveStorage()) Deno.test(name, test);
  else Deno.test.ignore(`${name} (skipped: needs root, mount and loop devices)`, test);
}

let known: boolean | undefined;

/** Whether this process may mount and make loop devices. Tried out: a container's root mostly may not. */
export function canHaveStorage(): boolean {
  return known ??= Deno.uid() === 0 && succeeds("losetup", ["-f"]) && mayMount();
}

function mayMount(): boolean {
  using directory = temporaryDirectory();
  return succeeds("mount", ["-t", "tmpfs", "tmpfs", directory.path]) && succeeds("umount", [directory.path]);
}

function succeeds(program: string, args: string[]): boolean {
  try {
    return new Deno.Command(program, { args, stdin: "null", stdout: "null", stderr: "null" }).outputSync()
      .success;
  } catch {
    return false;
  }
}

/** A block device over an image file. */
export async function loopDevice(image: string, options: string[] = []) {
  const { stdout } = await run("losetup", ["--find", "--show", ...options, image]);
  const path = stdout.trim();
  return { path, [Symbol.asyncDispose]: async () => void await run("losetup", ["-d", path]) };
}

/** A file system in memory that holds so many bytes. */
export async function smallFileSystem(sizeBytes: number): Promise<TemporaryDirectory & AsyncDisposable> {
  const directory = temporaryDirectory();
  await run("mount", ["-t", "tmpfs", "-o", `size=${sizeBytes}`, "tmpfs", directory.path]);
  return {
    ...directory,
    async [Symbol.asyncDispose]() {
      // A file that is just being closed keeps a mount busy.
      await run("umount", ["--lazy", directory.path]);
      directory[Symbol.dispose]();
    },
  };
}

const DROP = ["oflag=nocache", "conv=notrunc,fdatasync", "count=0"];

/** Takes a file out of the page cache, once it is on disk. */
export async function makeCold(path: string): Promise<void> {
  await run("dd", ["if=/dev/null", `of=${path}`, ...DROP]);
}

/** Registers a test that needs reads which are not answered from memory; skipped, saying so, where all are. */
export function coldTest(name: string, test: () => Promise<void>): void {
  if (canMakeCold()) Deno.test(name, test);
  else Deno.test.ignore(`${name} (skipped: the temporary directory cannot be taken out of memory)`, test);
}

let knownCold: boolean | undefined;

function canMakeCold(): boolean {
  return knownCold ??= (() => {
    using directory = temporaryDirectory();
    const path = directory.file("trial");
    Deno.writeFileSync(path, new Uint8Array(65536).fill(1));
    const dropped = succeeds("dd", ["if=/dev/null", `of=${path}`, ...DROP]);
    const file = OpenFile.open(libc()!, path);
    const count = file.readCached(0, new Uint8Array(65536));
    file.close();
    return dropped && count < 65536;
  })();
}

/** Makes a file of zeroes with no storage behind it. */
export function makeSparse(path: string, sizeBytes: number): void {
  Deno.writeFileSync(path, new Uint8Array());
  Deno.truncateSync(path, sizeBytes);
}

/** Bytes of storage behind a file. */
export function allocatedBytes(path: string): number {
  return Deno.statSync(path).blocks! * 512;
}
