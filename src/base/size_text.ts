/**
 * Sizes as people write them: `512`, `4k`, `64MiB`, `1G`.
 *
 * A letter alone, or with `iB`, is a power of 1024; `kB`, `MB`… are powers of 1000, as in coreutils.
 */

const LETTERS = "kmgtpe";

/**
 * Parses a size in bytes.
 *
 * @param text Digits, then optionally one of `k M G T P E` (any case), alone or followed by `iB` or `B`.
 * @returns Bytes, from 0 to `Number.MAX_SAFE_INTEGER`.
 * @throws {SyntaxError} If the text is no size, or negative.
 * @throws {RangeError} If it is above `Number.MAX_SAFE_INTEGER`.
 */
export function parseSize(text: string): number {
  const match = /^(\d+)(?:(b)|([kmgtpe])(ib|b)?)?$/i.exec(text);
  if (match === null) {
    if (/^-\d/.test(text)) throw new SyntaxError(`"${text}" is negative`);
    throw new SyntaxError(`"${text}" is not a size (a number of bytes, or one with k, M, G, T, P or E)`);
  }
  const [, digits, , letter, unit] = match;
  const power = letter === undefined ? 0 : LETTERS.indexOf(letter.toLowerCase()) + 1;
  const base = unit?.toLowerCase() === "b" ? 1000 : 1024;
  const bytes = Number(digits) * base ** power;
  if (bytes > Number.MAX_SAFE_INTEGER) {
    throw new RangeError(`"${text}" is too large (the limit is ${Number.MAX_SAFE_INTEGER} bytes)`);
  }
  return bytes;
}

/**
 * Formats bytes for people: `512 bytes`, `4 KiB`, `1.5 GiB`.
 *
 * @param bytes A whole number, not negative.
 * @returns At most one decimal; exact only where it has none.
 */
export function formatSize(bytes: number): string {
  if (bytes < 1024) return bytes === 1 ? "1 byte" : `${bytes} bytes`;
  const power = Math.min(Math.floor(Math.log2(bytes) / 10), LETTERS.length);
  const value = bytes / 1024 ** power;
  const rounded = Math.round(value * 10) / 10;
  return `${rounded} ${"KMGTPE"[power - 1]}iB`;
}
