import { parseSize } from "../base/size_text.ts";
import { UsageError } from "./usage_error.ts";

/** What `--cache` asks for. */
export interface CacheWish {
  /** Memory to use. */
  readonly sizeBytes: number;
  /** Also where others may write to the disk. */
  readonly sharedUnsafe: boolean;
}

/** Given without a size. */
const SIZE_BYTES_DEFAULT = 64 * 1024 * 1024;
/** flexnbd-proxy's default was 4096, and its users say so: less than this is no cache. */
const SIZE_BYTES_MIN = 1024 * 1024;
const SIZE_BYTES_MAX = 2 ** 36;

/**
 * Parses the value of `--cache`: a size, `shared-unsafe`, or both with a comma between them.
 *
 * @returns `null` for none: 0, or a negative number as flexnbd-proxy has it.
 * @throws {UsageError} If it is something else, or above 64 GiB.
 */
export function parseCacheWish(text: string): CacheWish | null {
  let sizeBytes = SIZE_BYTES_DEFAULT;
  let sharedUnsafe = false;
  for (const word of text.split(",")) {
    if (word === "shared-unsafe") {
      sharedUnsafe = true;
      continue;
    }
    if (/^-\d+$/.test(word)) return null;
    try {
      sizeBytes = parseSize(word);
    } catch (error) {
      throw new UsageError(`--cache: ${(error as Error).message}`);
    }
  }
  if (sizeBytes === 0) return null;
  if (sizeBytes > SIZE_BYTES_MAX) throw new UsageError(`--cache: "${text}" is too large (at most 64G)`);
  return { sizeBytes: Math.max(sizeBytes, SIZE_BYTES_MIN), sharedUnsafe };
}
