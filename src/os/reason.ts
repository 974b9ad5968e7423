/** What errors of the system mean, by their names. */
const MEANINGS: Readonly<Record<string, string>> = {
  EACCES: "permission denied",
  EADDRINUSE: "the address is in use already",
  EADDRNOTAVAIL: "it is no address of this machine",
  ECONNREFUSED: "connection refused",
  EEXIST: "it exists already",
  EISDIR: "it is a directory",
  ENOENT: "there is no such file or directory",
  ENOSPC: "there is no space left",
  ENOTDIR: "part of the path is not a directory",
  EPERM: "permission denied",
  EROFS: "it is on a read-only file system",
};

/**
 * Why something failed, in plain words without the runtime's decoration: no number, no path (the caller names it), no
 * advice about the runtime's flags.
 *
 * @param meanings What errors mean where this one happened, by their names: `{ ENOENT: "there is no such socket" }`.
 */
export function reasonOf(error: unknown, meanings: Readonly<Record<string, string>> = {}): string {
  if (!(error instanceof Error)) return String(error);
  // Some special files are for programs that have all permissions of the runtime.
  if (error instanceof Deno.errors.NotCapable) return "the runtime keeps denbd from special files there";
  const { code } = error as { code?: unknown };
  const meaning = typeof code === "string" ? meanings[code] ?? MEANINGS[code] : undefined;
  return meaning ?? error.message.replace(/ \(os error \d+\)(: \w+ '.*')?$/s, "");
}
