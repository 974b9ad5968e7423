/** Whether every byte is zero; stops soon after the first that is not. True for no bytes at all. */
export function isAllZero(bytes: Uint8Array): boolean {
  const length = bytes.length;
  let at = 0;
  while (at < length && ((bytes.byteOffset + at) & 3) !== 0) if (bytes[at++] !== 0) return false;
  if (at === length) return true;
  const words = new Int32Array(bytes.buffer, bytes.byteOffset + at, (length - at) >> 2);
  const whole = words.length & ~7;
  let i = 0;
  for (; i < whole; i += 8) {
    const any = words[i] | words[i + 1] | words[i + 2] | words[i + 3] |
      words[i + 4] | words[i + 5] | words[i + 6] | words[i + 7];
    if (any !== 0) return false;
  }
  for (; i < words.length; i++) if (words[i] !== 0) return false;
  for (at += 4 * words.length; at < length; at++) if (bytes[at] !== 0) return false;
  return true;
}
