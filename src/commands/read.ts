import { formatDiskLocator } from "../base/uri.ts";
import { openDisk } from "../open_disk.ts";
import { command } from "./command.ts";
import { bindOption, deadlineOption, forEver, namedDisk, serverOptions } from "./disk_options.ts";
import { sendRange } from "./transfer.ts";
import { UsageError } from "./usage_error.ts";

export const read = command({
  name: "read",
  summary: "Copies a range of a disk to standard output",
  usage: [
    "read [--from OFFSET] [--size SIZE] DISK",
    "read --addr ADDR --port PORT --from OFFSET --size SIZE [--bind ADDR]",
  ],
  description:
    `DISK is a file, a block device or a URI such as nbd://host/export. Without --from the range begins ` +
    `at the first byte, without --size it ends with the last.`,
  positional: { name: "DISK", help: "The disk to read", max: 1 },
  options: {
    from: {
      type: "size",
      short: "F",
      aliases: ["offset"],
      valueName: "OFFSET",
      help: "First byte of the range",
    },
    size: { type: "size", short: "S", aliases: ["length"], help: "Bytes to read" },
    ...serverOptions,
    bind: bindOption,
    deadline: deadlineOption,
  },
  examples: [
    { text: "The first sector of an export", command: "denbd read --size 512 nbd://127.0.0.1/disk | xxd" },
    {
      text: "As flexnbd had it",
      command: "denbd read --addr 127.0.0.1 --port 4777 --from 1024 --size 1024 > block",
    },
  ],
  async run({ options, args, stdout, log }) {
    const locator = namedDisk(args, options);
    if (args.length === 0 && (options.from === undefined || options.size === undefined)) {
      throw new UsageError("both --from and --size are required.");
    }
    const disk = await openDisk(locator, {
      readOnly: true,
      bind: options.bind,
      deadlineMs: forEver(options.deadline),
      verify: "always",
      log,
    });
    try {
      const { from = 0, size = Math.max(0, disk.sizeBytes - from) } = options;
      if (from > disk.sizeBytes || size > disk.sizeBytes - from) {
        const name = formatDiskLocator(locator);
        throw new Error(`cannot read ${size} bytes at ${from} of ${name}: it has ${disk.sizeBytes} bytes`);
      }
      await sendRange(disk, from, size, stdout);
    } finally {
      await disk.close();
    }
  },
});
