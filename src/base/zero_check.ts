/**
 * Whether the bytes from `from` to `to` are all zero.
 *
 * Data mostly says no at the first byte looked at: a few are tried, spread over the range, before all are.
 */
export function isZero(bytes: Uint8Array, from = 0, to = bytes.length): boolean {
  const step = Math.max(1, (to - from) >> 3);
  for (let at = from; at < to; at += step) {
    if (bytes[at] !== 0) return false;
  }
  // Four bytes at a time, from the first aligned address on.
  const start = bytes.byteOffset + from;
  const wordsFrom = Math.min(to, from + (-start & 3));
  const wordCount = (to - wordsFrom) >> 2;
  for (let at = from; at < wordsFrom; at++) {
    if (bytes[at] !== 0) return false;
  }
  if (wordCount > 0) {
    const words = new Uint32Array(bytes.buffer, bytes.byteOffset + wordsFrom, wordCount);
    for (let at = 0; at < wordCount; at++) {
      if (words[at] !== 0) return false;
    }
  }
  for (let at = wordsFrom + wordCount * 4; at < to; at++) {
    if (bytes[at] !== 0) return false;
  }
  return true;
}
