/**
 * Which line of our source called: `src/server/nbd.ts:120`.
 *
 * The runtime maps positions back through source maps, also inside a bundle if its map is inline
 * (`deno bundle --sourcemap=inline`), so the answer is the same there.
 */

/** A frame of a stack, as V8 hands it to `Error.prepareStackTrace`. */
interface CallSite {
  getFileName(): string | null;
  getLineNumber(): number | null;
}

const errors = Error as unknown as { prepareStackTrace?: (error: unknown, sites: CallSite[]) => unknown };

/**
 * Finds the source position of a caller.
 *
 * About 10 µs, a fifth of what a stack trace as text costs: for lines that are written, not for those that are
 * left out.
 *
 * @param depth 0 is the function that calls this one, 1 its caller, and so on.
 * @returns The path from `src/` on (or the file's name, outside of it), a colon, and the line.
 */
export function callerPosition(depth: number): string {
  const { stackTraceLimit } = Error;
  const { prepareStackTrace } = errors;
  Error.stackTraceLimit = depth + 2;
  errors.prepareStackTrace = (_error, sites) => sites[depth + 1];
  const site = new Error().stack as unknown as CallSite | undefined;
  errors.prepareStackTrace = prepareStackTrace;
  Error.stackTraceLimit = stackTraceLimit;
  return formatPosition(site?.getFileName() ?? "?", site?.getLineNumber() ?? 0);
}

/** `/x/src/server/nbd.ts` and 7 → `src/server/nbd.ts:7`. */
export function formatPosition(path: string, line: number): string {
  const start = path.lastIndexOf("/src/");
  return `${path.slice(start >= 0 ? start + 1 : path.lastIndexOf("/") + 1)}:${line}`;
}
