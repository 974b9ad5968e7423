import { formatDiskLocator } from "../base/uri.ts";
import { counted } from "../base/counted.ts";
import { openDisk } from "../open_disk.ts";
import { parseSize } from "../base/size_text.ts";
import { command } from "./command.ts";
import {
  forEver,
  fromOption,
  namedRange,
  reachOptions,
  roomBehind,
  soleWriterOption,
} from "./disk_options.ts";
import { isWatched, Progress } from "./progress.ts";
import { flushIfPossible, namingDisk, receiveRange } from "./transfer.ts";
import { UsageError } from "./usage_error.ts";

export const write = command({
  name: "write",
  summary: "Copies standard input to a range of a disk",
  usage: [
    "write [--from OFFSET] [--size SIZE] DISK",
    "write --addr ADDR --port PORT --from OFFSET --size SIZE [--bind ADDR]",
  ],
  description:
    `DISK is a file, a block device or a URI such as nbd://host/export. Without --from the range begins ` +
    `at the first byte, without --size it is as long as the input. Input that ends before --size is an error; ` +
    `what follows behind it is left alone. The data are durable when the command has succeeded.`,
  positional: { name: "DISK", help: "The disk to write", max: 1 },
  options: {
    from: fromOption,
    // Parsed here, because flexnbd took the name of a file as well.
    size: { type: "string", short: "S", aliases: ["length"], valueName: "SIZE", help: "Bytes to write" },
    ...reachOptions,
    soleWriter: soleWriterOption,
  },
  examples: [
    { text: "A file to the start of an export", command: "denbd write nbd://127.0.0.1/disk < boot.img" },
    {
      text: "As flexnbd had it",
      command: "denbd write --addr 127.0.0.1 --port 4777 --from 1024 --size 1024 < block",
    },
  ],
  async run({ options, args, stdin, stderr, log }) {
    const { from = 0 } = options;
    const size = options.size === undefined ? undefined : sizeOption(options.size);
    const locator = namedRange(args, options, size);
    const name = formatDiskLocator(locator);
    const disk = await openDisk(locator, {
      bind: options.bind,
      deadlineMs: forEver(options.deadline),
      soleWriter: options.soleWriter,
      log,
    });
    try {
      const room = roomBehind(from, size, "write", disk, name);
      if (!disk.can.write) throw new Error(`cannot write to ${name}: it is read-only`);
      using progress = new Progress(stderr, size ?? null, { show: isWatched(stderr, stdin) });
      const written = await receiveRange(disk, from, size ?? room, stdin, progress.add);
      await flushIfPossible(disk, name, log);
      if (size !== undefined && written < size) {
        throw new Error(
          `standard input ended after ${written} of ${counted(size, "byte")}, which were written to ${name}`,
        );
      }
      if (size === undefined && written === room && await stdin.read(new Uint8Array(1)) !== null) {
        throw new Error(
          `standard input is longer than the ${
            counted(room, "byte")
          } up to the end of ${name}, which are written`,
        );
      }
    } catch (error) {
      throw namingDisk(error, name);
    } finally {
      await disk.close();
    }
  },
});

function sizeOption(text: string): number {
  try {
    return parseSize(text);
  } catch (error) {
    const hint = /^-?\d/.test(text) ? "" : "; to write a file, give it as standard input";
    throw new UsageError(`--size: ${(error as Error).message}${hint}`);
  }
}
