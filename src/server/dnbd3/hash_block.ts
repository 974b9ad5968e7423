/** The checksum of a part of an image, as its `.crc` list has it. */
import { crc32 } from "../../base/crc32.ts";
import { hashBlockRange } from "../../wire/dnbd3/checksum_list.ts";

/** Read, and summed, in one go: short enough for others to be served in between. */
const SLICE_BYTES = 1024 * 1024;

/** Reads a range of the image; between the end of the file and the virtual size there are zeroes. */
export type ReadImage = (offset: number, into: Uint8Array) => void | Promise<void>;

/**
 * Sums one hash block, in slices between which everybody else gets a turn.
 *
 * @param imageBytes Virtual size of the image.
 * @param pause Lets others do something.
 */
export async function checksumOf(
  read: ReadImage,
  imageBytes: number,
  hashBlock: number,
  pause: () => Promise<void>,
): Promise<number> {
  const { offset, length } = hashBlockRange(hashBlock, imageBytes);
  const slice = new Uint8Array(Math.min(SLICE_BYTES, length));
  let checksum = 0;
  for (let done = 0; done < length; done += slice.length) {
    const into = slice.subarray(0, Math.min(slice.length, length - done));
    await read(offset + done, into);
    checksum = crc32(into, checksum);
    await pause();
  }
  return checksum;
}
