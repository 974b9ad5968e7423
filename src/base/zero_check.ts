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
    const words = new Int32Array(bytes.buffer, bytes.byteOffset + wordsFrom, wordCount);
    let at = 0;
    for (; at + 8 <= wordCount; at += 8) {
      const some = words[at] | words[at + 1] | words[at + 2] | words[at + 3] |
        words[at + 4] | words[at + 5] | words[at + 6] | words[at + 7];
      if (some !== 0) return false;
    }
    for (; at < wordCount; at++) {
      if (words[at] !== 0) return false;
    }
  }
  for (let at = wordsFrom + wordCount * 4; at < to; at++) {
    if (bytes[at] !== 0) return false;
  }
  return true;
}
