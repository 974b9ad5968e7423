/** Files that hold a secret: nobody but their owner may read them. */
import { reasonOf } from "./reason.ts";

/** Group and others. */
const MODE_OTHERS = 0o077;
/** More is no key. */
const SECRET_FILE_BYTES_MAX = 4096;

/**
 * Reads a file that holds a secret.
 *
 * @param remedy What makes such a file, for when there is none.
 * @throws {Error} If others may read or change it, if it is no plain file of a sensible size, or if it cannot be
 *   read. The message names the file and says what to do.
 */
export async function readSecretFile(path: string, remedy: string): Promise<string> {
  let file: Deno.FsFile;
  try {
    // Opening a pipe would wait for its other end.
    if (!(await Deno.stat(path)).isFile) throw new Error("it is no key file");
    file = await Deno.open(path);
  } catch (error) {
    const why = reasonOf(error, { ENOENT: `it does not exist; ${remedy} makes one` });
    throw new Error(`cannot read ${path}: ${why}`);
  }
  using opened = file;
  const { mode, isFile, size } = await opened.stat();
  if (!isFile || size > SECRET_FILE_BYTES_MAX) throw new Error(`cannot read ${path}: it is no key file`);
  if (mode !== null && (mode & MODE_OTHERS) !== 0) {
    const octal = (mode & 0o777).toString(8).padStart(4, "0");
    throw new Error(`cannot use ${path}: others may read it (mode ${octal}); run chmod 600 on it`);
  }
  const bytes = new Uint8Array(SECRET_FILE_BYTES_MAX);
  let length = 0;
  for (let count; (count = await opened.read(bytes.subarray(length))) !== null && count > 0;) length += count;
  return new TextDecoder().decode(bytes.subarray(0, length));
}

/**
 * Makes a new file, durably.
 *
 * @param mode `0o600` for a secret.
 * @throws {Error} If it exists already or cannot be made; nothing is left behind then.
 */
export async function createFile(path: string, text: string, mode: number): Promise<void> {
  let file: Deno.FsFile;
  try {
    file = await Deno.open(path, { write: true, createNew: true, mode });
  } catch (error) {
    throw new Error(`cannot create ${path}: ${reasonOf(error, { ENOENT: "there is no such directory" })}`);
  }
  using opened = file;
  try {
    let bytes = new TextEncoder().encode(text);
    while (bytes.length > 0) bytes = bytes.subarray(await opened.write(bytes));
    await opened.sync();
  } catch (error) {
    await Deno.remove(path);
    throw new Error(`cannot write ${path}: ${reasonOf(error)}`);
  }
}
