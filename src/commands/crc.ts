import { counted } from "../base/counted.ts";
import { openFileDisk } from "../device/open_file_disk.ts";
import { checksumOf } from "../server/dnbd3/hash_block.ts";
import { writeDurably } from "../os/durable_file.ts";
import { reasonOf } from "../os/reason.ts";
import {
  ChecksumList,
  checksumListBytes,
  decodeChecksumList,
  encodeChecksumList,
  hashBlockRange,
} from "../wire/dnbd3/checksum_list.ts";
import { hashBlockCount, virtualSize } from "../wire/dnbd3/message.ts";
import { command } from "./command.ts";
import { Progress } from "./progress.ts";
import { UsageError } from "./usage_error.ts";

export const crc = command({
  name: "crc",
  summary: "Makes or verifies the list of checksums of an image",
  usage: ["crc [--force] IMAGE", "crc --verify IMAGE"],
  description: `Writes IMAGE.crc, a CRC-32 for every 16 MiB of the image, as dnbd3-server --crc does. ` +
    `A list that is there already is kept, unless --force is given.\n\n` +
    `With --verify it compares the image with its list, names every part that differs, and ends with 1 if ` +
    `there is one.`,
  positional: { name: "IMAGE", help: "The file of the image", min: 1, max: 1 },
  options: {
    verify: { type: "flag", help: "Compare the image with its list" },
    force: { type: "flag", help: "Replace a list that is there" },
  },
  examples: [
    { text: "Make the list of an image", command: "denbd crc win10.r3" },
    { text: "See whether the image is still what it was", command: "denbd crc --verify win10.r3" },
  ],
  async run({ options, args, stdout, stderr }) {
    const [path] = args;
    if (options.verify && options.force) throw new UsageError("--verify and --force exclude each other");
    const list = `${path}.crc`;
    if (!options.verify && !options.force && exists(list)) {
      throw new Error(`cannot make ${list}: it is there already (--force replaces it)`);
    }
    const disk = await openFileDisk(path, { readOnly: true });
    try {
      if (disk.sizeBytes === 0) throw new Error(`cannot sum ${path}: it is empty`);
      const imageBytes = virtualSize(disk.sizeBytes);
      const read = (offset: number, into: Uint8Array) => {
        const fileLength = Math.max(0, Math.min(into.length, disk.sizeBytes - offset));
        into.fill(0, fileLength);
        return disk.read(offset, into.subarray(0, fileLength));
      };
      using progress = new Progress(stderr, imageBytes);
      const sum = async (hashBlock: number) => {
        const checksum = await checksumOf(read, imageBytes, hashBlock, () => Promise.resolve());
        progress.add(hashBlockRange(hashBlock, imageBytes).length);
        // What is in the page cache is read without waiting: who looks on would see nothing.
        if (stderr.isTerminal) await new Promise((resolve) => setTimeout(resolve));
        return checksum;
      };
      if (!options.verify) {
        const checksums = new Uint32Array(hashBlockCount(imageBytes));
        for (let index = 0; index < checksums.length; index++) checksums[index] = await sum(index);
        progress.hide();
        await writeList(list, encodeChecksumList(new ChecksumList(checksums)));
        await stdout.write(`${list}: ${counted(checksums.length, "checksum")}\n`);
        return 0;
      }
      const { checksums } = await readList(list, imageBytes);
      let differing = 0;
      for (let index = 0; index < checksums.length; index++) {
        const actual = await sum(index);
        if (actual === checksums[index]) continue;
        differing++;
        progress.hide();
        await stdout.write(
          `${path}: part ${index} (from ${index * 16} MiB) is ${hex(actual)}, not ${hex(checksums[index])}\n`,
        );
      }
      progress.hide();
      await stdout.write(
        `${path}: ${checksums.length - differing} of ${checksums.length} parts are in order\n`,
      );
      return differing === 0 ? 0 : 1;
    } finally {
      await disk.close();
    }
  },
});

async function readList(path: string, imageBytes: number): Promise<ChecksumList> {
  try {
    using file = await Deno.open(path);
    const bytes = new Uint8Array(checksumListBytes(imageBytes));
    let length = 0;
    while (length < bytes.length) {
      const count = await file.read(bytes.subarray(length));
      if (count === null) break;
      length += count;
    }
    return decodeChecksumList(bytes.subarray(0, length), imageBytes);
  } catch (error) {
    throw new Error(`cannot use ${path}: ${reasonOf(error, { ENOENT: "there is no such file" })}`);
  }
}

async function writeList(path: string, bytes: Uint8Array): Promise<void> {
  try {
    // Two may be at it at the same time.
    await writeDurably(path, bytes, { draft: `${path}.${Deno.pid}.new`, mode: 0o644 });
  } catch (error) {
    throw new Error(`cannot write ${path}: ${reasonOf(error, { ENOENT: "there is no such directory" })}`);
  }
}

/** What cannot be looked at will be told when it is written. */
function exists(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return true;
  } catch {
    return false;
  }
}

function hex(checksum: number): string {
  return checksum.toString(16).padStart(8, "0");
}
