/** CRC-32 of one piece of data behind another, from the checksums of both. */

/** The polynomial, its highest power left out, the lowest in the highest bit; so are all factors. */
const POLYNOMIAL = 0xedb88320;
const ONE = 0x80000000;
const ONE_BYTE = ONE >>> 8;

/**
 * The checksum of the bytes behind `first` followed by those behind `second`.
 *
 * To append `n` bytes multiplies the first checksum by x^8n, modulo the polynomial, before the second is added.
 *
 * @param secondBytes How many bytes `second` covers; from 0 to 2^53.
 */
export function joinCrc32(first: number, second: number, secondBytes: number): number {
  let factor = ONE;
  let power = ONE_BYTE;
  for (let left = secondBytes; left > 0; left = Math.floor(left / 2)) {
    if (left % 2 === 1) factor = multiply(factor, power);
    power = multiply(power, power);
  }
  return (multiply(first, factor) ^ second) >>> 0;
}

function multiply(one: number, other: number): number {
  let product = 0;
  let shifted = other;
  for (let bit = ONE; bit !== 0; bit >>>= 1) {
    if ((one & bit) !== 0) product ^= shifted;
    shifted = (shifted & 1) === 0 ? shifted >>> 1 : (shifted >>> 1) ^ POLYNOMIAL;
  }
  return product >>> 0;
}
