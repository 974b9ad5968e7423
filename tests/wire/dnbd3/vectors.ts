/**
 * Bytes recorded between dnbd3-server 3.10 and its clients on a little-endian host. `client` goes to the server,
 * `server` comes back. The images: `test` revision 1 of 67108864 bytes and `sub/odd` revision 3 of 20972520 bytes,
 * whose 8 bytes at every offset divisible by 8 are that offset, little-endian; `multi` revisions 2 and 7.
 */

import { bytes as hex } from "../../testing/hex.ts";

/** A range of the images with the pattern, filled up with zeroes where the file ends. */
export function patternBytes(offset: number, length: number, fileBytes = Infinity): Uint8Array {
  const start = offset - offset % 8;
  const words = new Uint32Array(2 * Math.ceil((offset + length - start) / 8));
  for (let index = 0; index < words.length; index += 2) {
    const word = start + 4 * index;
    words[index] = word; // modulo 2^32
    words[index + 1] = word / 2 ** 32;
  }
  const bytes = new Uint8Array(words.buffer, offset - start, length);
  if (offset + length > fileBytes) bytes.fill(0, Math.max(0, fileBytes - offset));
  return bytes.slice();
}

export const TEST_BYTES = 67108864;
export const ODD_FILE_BYTES = 20972520;
export const ODD_BYTES = 20975616;

export const SELECT_TEST = {
  client: hex(`73 72 02 00 0a 00 00 00  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00
    03 00  74 65 73 74 00  01 00  00`),
  server: hex(`73 72 02 00 11 00 00 00  00 00 00 00 00 00 00 00
    03 00  74 65 73 74 00  01 00  00 00 00 04 00 00 00 00`),
};

export const SELECT_MULTI_NEWEST_VERSION_2 = {
  client: hex(`73 72 02 00 0b 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
    02 00 6d 75 6c 74 69 00 00 00 00`),
  server: hex(`73 72 02 00 12 00 00 00 00 00 00 00 00 00 00 00
    02 00 6d 75 6c 74 69 00 07 00 00 30 00 00 00 00 00 00`),
};

export const SELECT_ODD_NEWEST = {
  client: hex(`73 72 02 00 0d 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
    03 00 73 75 62 2f 6f 64 64 00 00 00 00`),
  server: hex(`73 72 02 00 14 00 00 00 00 00 00 00 00 00 00 00
    03 00 73 75 62 2f 6f 64 64 00 03 00 00 10 40 01 00 00 00 00`),
};

/** Offset 8192, 4096 bytes; the header of the reply only. */
export const BLOCK_ALIGNED = {
  client: hex(`73 72 01 00 00 10 00 00  00 20 00 00 00 00 00 00  11 22 33 44 55 66 77 88`),
  serverHeader: hex(`73 72 01 00 00 10 00 00  11 22 33 44 55 66 77 88`),
  payloadStart: hex(`00 20 00 00 00 00 00 00 08 20 00 00 00 00 00 00`),
  payloadCrc32: 0x954e2636,
};

/** Offset 12345, 20 bytes, hop byte 5. */
export const BLOCK_UNALIGNED = {
  client: hex(`73 72 01 00 14 00 00 00  39 30 00 00 00 00 00 05  a1 a2 a3 a4 a5 a6 a7 a8`),
  server: hex(`73 72 01 00 14 00 00 00  a1 a2 a3 a4 a5 a6 a7 a8
    30 00 00 00 00 00 00 40 30 00 00 00 00 00 00 48 30 00 00 00`),
};

export const BLOCK_AT_END = {
  client: hex(`73 72 01 00 00 10 00 00  00 00 00 04 00 00 00 00  aa 00 00 00 00 00 00 00`),
  server: hex(`73 72 04 00 00 00 00 00  aa 00 00 00 00 00 00 00`),
};

export const BLOCK_ACROSS_END = {
  client: hex(`73 72 01 00 00 20 00 00  00 f0 ff 03 00 00 00 00  bb 00 00 00 00 00 00 00`),
  server: hex(`73 72 04 00 00 00 00 00  bb 00 00 00 00 00 00 00`),
};

export const BLOCK_EMPTY = {
  client: hex(`73 72 01 00 00 00 00 00  00 10 00 00 00 00 00 00  cc 00 00 00 00 00 00 00`),
  server: hex(`73 72 01 00 00 00 00 00  cc 00 00 00 00 00 00 00`),
};

/** The last block of `sub/odd`, at 20971520: 1000 bytes of the file, then zeroes. */
export const ODD_LAST_BLOCK_CRC32 = 0x185e86c4;

/** Asked by 127.0.0.1; the handle is that of an earlier request, as the recorded server leaves it. */
export const SERVERS = {
  client: hex(`73 72 03 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00`),
  server: hex(`73 72 03 00 3c 00 00 00 a1 a2 a3 a4 a5 a6 a7 a8
    c0 00 02 0a 00 00 00 00 00 00 00 00 00 00 00 00  13 8b  02  00
    c0 00 02 14 00 00 00 00 00 00 00 00 00 00 00 00  13 92  02  00
    20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 17  17 70  0a  00`),
};

export const CHECKSUMS_OF_TEST = {
  client: hex(`73 72 08 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00`),
  server: hex(`73 72 08 00 14 00 00 00 a1 a2 a3 a4 a5 a6 a7 a8
    29 5e e5 20  c6 53 69 70  4c 76 44 10  d2 18 33 b0  58 3d 1e d0`),
};
export const CHECKSUM_FILE_OF_TEST = CHECKSUMS_OF_TEST.server.subarray(16);
export const CHECKSUM_FILE_OF_ODD = hex(`95 2a ae d9 c6 53 69 70 f1 86 06 e6`);

export const KEEPALIVE = {
  client: hex(`73 72 05 00 00 00 00 00 00 00 00 00 00 00 00 00 01 02 03 04 05 06 07 08`),
  server: hex(`73 72 05 00 00 00 00 00 a1 a2 a3 a4 a5 a6 a7 a8`),
};

/** A proxy that copies `test` in full, one request at a time, to the server it copies from. */
export const PROXY_START = {
  select: hex(`73 72 02 00 0a 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
    03 00 74 65 73 74 00 00 00 03`),
  checksums: hex(`73 72 08 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00`),
  firstUnit: hex(`73 72 01 00 00 80 00 00  00 00 00 00 00 00 00 81  02 00 00 00 00 00 00 00`),
  secondUnit: hex(`73 72 01 00 00 80 00 00  00 80 00 00 00 00 00 81  04 00 00 00 00 00 00 00`),
};

/** What dnbd3-fuse sends for `test`: at its start, and to measure a server. */
export const CLIENT_START = {
  selectNewest: hex(`73 72 02 00 0a 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
    03 00 74 65 73 74 00 00 00 00`),
  servers: hex(`73 72 03 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00`),
  keepalive: hex(`73 72 05 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00`),
  select: SELECT_TEST.client,
  block: hex(`73 72 01 00 00 10 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00`),
};
