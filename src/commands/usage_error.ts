/** The command line was misused: what is wrong with it, in one line (or several, each a fault of its own). */
export class UsageError extends Error {
  override readonly name = "UsageError";
}
