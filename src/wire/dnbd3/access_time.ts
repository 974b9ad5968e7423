/**
 * The `.meta` file beside an image: when somebody last used it, in seconds since 1970. It is the text of an INI file
 * with a section `[main]` and a key `atime`.
 */

/** So much of the file is looked at. */
export const META_BYTES_MAX = 199;

export function encodeAccessTime(unixSeconds: number): Uint8Array {
  return new TextEncoder().encode(`[main]\natime=${Math.floor(unixSeconds)}\n`);
}

/**
 * @param bytes The beginning of the file.
 * @returns Seconds since 1970, or null if it does not say.
 */
export function decodeAccessTime(bytes: Uint8Array): number | null {
  const text = new TextDecoder().decode(bytes.subarray(0, META_BYTES_MAX));
  const match = /atime=\s*(\d{1,12})/.exec(text);
  return match === null ? null : Number(match[1]);
}
