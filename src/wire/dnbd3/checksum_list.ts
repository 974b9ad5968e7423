/**
 * The checksums of an image: a CRC-32 for each 16 MiB, and one over these. A `.crc` file and the payload of a
 * GET_CRC32 reply hold the same bytes: master u32, then the checksum of each hash block, u32.
 *
 * The last hash block is summed up to the virtual size, so the zeroes that fill the last 4096 bytes count.
 */
import { crc32 } from "../../base/crc32.ts";
import { WireError } from "../wire_error.ts";
import { HASH_BLOCK_BYTES } from "./constants.ts";
import { hashBlockCount } from "./message.ts";

export class ChecksumList {
  /** @param checksums One for each hash block, in order. */
  constructor(readonly checksums: Uint32Array) {}

  /** The checksum over all checksums as they stand in the file. */
  get master(): number {
    return crc32(encodeChecksums(this.checksums));
  }

  equals(other: ChecksumList): boolean {
    return this.checksums.length === other.checksums.length &&
      this.checksums.every((checksum, index) => checksum === other.checksums[index]);
  }
}

/** How many bytes the list of an image takes. */
export function checksumListBytes(imageBytes: number): number {
  return 4 * (1 + hashBlockCount(imageBytes));
}

export function encodeChecksumList(list: ChecksumList): Uint8Array {
  const bytes = new Uint8Array(4 * (1 + list.checksums.length));
  bytes.set(encodeChecksums(list.checksums), 4);
  new DataView(bytes.buffer).setUint32(0, list.master, true);
  return bytes;
}

/**
 * Decodes a list. A longer file than the image needs is read as far as needed.
 *
 * @param bytes At least {@linkcode checksumListBytes} of the image; not kept.
 * @param imageBytes Virtual size of the image.
 * @throws {WireError} If the list is too short, or its master checksum does not fit it.
 */
export function decodeChecksumList(bytes: Uint8Array, imageBytes: number): ChecksumList {
  const wanted = checksumListBytes(imageBytes);
  if (bytes.length < wanted) {
    throw new WireError(`checksum list of ${bytes.length} bytes, ${wanted} are needed`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, wanted);
  const actual = crc32(bytes.subarray(4, wanted));
  if (actual !== view.getUint32(0, true)) {
    throw new WireError(
      `checksum list whose own checksum is ${hex(view.getUint32(0, true))}, not ${hex(actual)}`,
    );
  }
  return new ChecksumList(
    Uint32Array.from({ length: wanted / 4 - 1 }, (_, i) => view.getUint32(4 + 4 * i, true)),
  );
}

/** The bytes of the image that a checksum covers. */
export function hashBlockRange(index: number, imageBytes: number): { offset: number; length: number } {
  const offset = index * HASH_BLOCK_BYTES;
  return { offset, length: Math.min(HASH_BLOCK_BYTES, imageBytes - offset) };
}

/** The hash block that an offset lies in. */
export function hashBlockOf(offset: number): number {
  return Math.floor(offset / HASH_BLOCK_BYTES);
}

/** Where the hash block ends, in an image that goes on, that an offset lies in. */
export function hashBlockEnd(offset: number): number {
  return (hashBlockOf(offset) + 1) * HASH_BLOCK_BYTES;
}

function encodeChecksums(checksums: Uint32Array): Uint8Array {
  const bytes = new Uint8Array(4 * checksums.length);
  const view = new DataView(bytes.buffer);
  checksums.forEach((checksum, index) => view.setUint32(4 * index, checksum, true));
  return bytes;
}

function hex(value: number): string {
  return value.toString(16).padStart(8, "0");
}
