const UNIT_MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, min: 60_000, h: 3_600_000 };

/** The longest duration: 24 days, what a timer can wait (2^31 - 1 ms). */
const DURATION_MS_MAX = 2 ** 31 - 1;

/**
 * Parses a duration: `500ms`, `30s`, `1.5m`, `2h`; a number alone is seconds.
 *
 * @returns Whole milliseconds, at most {@linkcode DURATION_MS_MAX}.
 * @throws {SyntaxError} If the text is no duration.
 * @throws {RangeError} If it is too long.
 */
export function parseDuration(text: string): number {
  const match = /^(\d+(?:\.\d+)?)(ms|s|min|m|h)?$/.exec(text);
  if (match === null) {
    throw new SyntaxError(`"${text}" is not a duration (such as 500ms, 30s, 2m, 1h, or a number of seconds)`);
  }
  const durationMs = Math.round(Number(match[1]) * UNIT_MS[match[2] ?? "s"]);
  if (durationMs > DURATION_MS_MAX) throw new RangeError(`"${text}" is too long (the limit is 24 days)`);
  return durationMs;
}
