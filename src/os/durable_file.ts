/** Files that appear whole, under their names, or not at all. */

export interface DurableFileOptions {
  /** Where the file is made before it gets its name, on the same file system. What is there already is lost. */
  readonly draft?: string;
  /** Permissions. */
  readonly mode?: number;
}

/**
 * Makes a file, in the place of one that may be there. It is written aside, synced and renamed, and its directory is
 * synced: after a crash the old content is there, or the new.
 *
 * @param fill Writes the content, into a file that is empty.
 * @throws What the file system or `fill` throws; the draft is removed then.
 */
export async function makeDurably(
  path: string,
  fill: (file: Deno.FsFile) => Promise<void>,
  { draft = `${path}.new`, mode = 0o600 }: DurableFileOptions = {},
): Promise<void> {
  // Made anew rather than opened: a link that somebody put there is not followed.
  await removeIfThere(draft);
  const file = await Deno.open(draft, { write: true, createNew: true, mode });
  try {
    try {
      await fill(file);
      await file.sync();
    } finally {
      file.close();
    }
    await Deno.rename(draft, path);
  } catch (error) {
    await Deno.remove(draft).catch(() => {});
    throw error;
  }
  await syncDirectory(folderOf(path));
}

/** As {@linkcode makeDurably}, of bytes or text. */
export async function writeDurably(
  path: string,
  content: Uint8Array | string,
  options?: DurableFileOptions,
): Promise<void> {
  let rest = typeof content === "string" ? new TextEncoder().encode(content) : content;
  await makeDurably(path, async (file) => {
    while (rest.length > 0) rest = rest.subarray(await file.write(rest));
  }, options);
}

/** Makes it last what names a directory has. */
export async function syncDirectory(path: string): Promise<void> {
  using directory = await Deno.open(path);
  await directory.sync();
}

async function removeIfThere(path: string): Promise<void> {
  try {
    await Deno.remove(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

function folderOf(path: string): string {
  const slash = path.lastIndexOf("/");
  return slash < 0 ? "." : path.slice(0, slash + 1);
}
