/**
 * Which line of our source called: `src/server/nbd.ts:120`.
 *
 * The runtime maps stack positions back through source maps, also inside a bundle if its map is inline
 * (`deno bundle --sourcemap=inline`), so the answer is the same there.
 */

/**
 * Finds the source position of a caller.
 *
 * Costs a few microseconds: only for lines that are written.
 *
 * @param depth 0 is the function that calls this one, 1 its caller, and so on.
 * @returns The path from `src/` on (or the file's name, outside of it), a colon, and the line.
 */
export function callerPosition(depth: number): string {
  const limit = Error.stackTraceLimit;
  Error.stackTraceLimit = depth + 2;
  const stack = new Error().stack ?? "";
  Error.stackTraceLimit = limit;
  return positionIn(stack.split("\n")[depth + 2] ?? "");
}

/** The position in one line of a stack trace: `    at f (file:///x/src/a.ts:7:15)` → `src/a.ts:7`. */
export function positionIn(stackLine: string): string {
  const match = /([^\s(]+):(\d+):\d+\)?$/.exec(stackLine);
  if (match === null) return "?:0";
  const [, path, line] = match;
  const start = path.lastIndexOf("/src/");
  return `${path.slice(start >= 0 ? start + 1 : path.lastIndexOf("/") + 1)}:${line}`;
}
