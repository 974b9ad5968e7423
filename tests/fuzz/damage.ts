/** Ways to make bad bytes. */
import { concat } from "@std/bytes";
import type { Random } from "./fuzzer.ts";

/** One of a list. */
export function pick<T>(random: Random, list: readonly T[]): T {
  return list[random.below(list.length)];
}

/** A number of up to 32 bits, mostly near a power of two, where off-by-one errors live. */
export function awkwardU32(random: Random): number {
  if (random.chance(0.2)) return random.below(2 ** 32);
  return Math.min(2 ** 32 - 1, Math.max(0, 2 ** random.below(33) + random.below(5) - 2));
}

/** A number of up to 53 bits, mostly near a power of two. */
export function awkwardU53(random: Random): number {
  return Math.min(Number.MAX_SAFE_INTEGER, Math.max(0, 2 ** random.below(54) + random.below(5) - 2));
}

/**
 * Damages bytes here and there: flips bits, overwrites fields with awkward numbers, removes, repeats or inserts
 * runs, cuts the end off. Sometimes nothing at all.
 *
 * @returns A copy.
 */
export function damaged(bytes: Uint8Array, random: Random): Uint8Array<ArrayBuffer> {
  let result = bytes.slice();
  for (let count = random.below(4); count > 0; count--) {
    const at = random.below(result.length + 1);
    const length = Math.min(random.below(random.chance(0.9) ? 16 : 4096), result.length - at);
    switch (random.below(6)) {
      case 0:
        if (at < result.length) result[at] ^= 1 << random.below(8);
        break;
      case 1: {
        if (result.length < 4) break;
        const view = new DataView(result.buffer, result.byteOffset, result.byteLength);
        view.setUint32(random.below(result.length - 3), awkwardU32(random));
        break;
      }
      case 2:
        result = concat([result.subarray(0, at), result.subarray(at + length)]);
        break;
      case 3:
        result = concat([result.subarray(0, at + length), result.subarray(at)]);
        break;
      case 4:
        result = concat([result.subarray(0, at), random.bytes(random.below(16)), result.subarray(at)]);
        break;
      case 5:
        result = result.slice(0, at);
        break;
    }
  }
  return result;
}

/** Runs `decode`; tells whether it accepted. Only the errors in `allowed` may come out. */
export function accepts(
  decode: () => void,
  // deno-lint-ignore no-explicit-any
  ...allowed: (abstract new (...args: any[]) => Error)[]
): boolean {
  try {
    decode();
    return true;
  } catch (error) {
    if (allowed.some((each) => error instanceof each)) return false;
    throw error;
  }
}
