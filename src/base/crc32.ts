/** CRC-32 as zlib has it. The runtime's zlib is loaded at the first use: few runs of the program need it. */

import { nodeModule } from "./node_module.ts";

type Crc32 = typeof import("node:zlib").crc32;

let native: Crc32 | undefined;

/**
 * The CRC-32 of bytes or of text as UTF-8.
 *
 * @param value The checksum of what came before, 0 at the beginning.
 */
export function crc32(data: Uint8Array | string, value = 0): number {
  native ??= nodeModule("node:zlib").crc32;
  return native(data, value);
}
