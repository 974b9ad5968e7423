import { formatDiskLocator } from "../base/uri.ts";
import { openDisk } from "../open_disk.ts";
import { command } from "./command.ts";
import { forEver, fromOption, namedRange, reachOptions, roomBehind } from "./disk_options.ts";
import { isWatched, Progress } from "./progress.ts";
import { namingDisk, sendRange } from "./transfer.ts";

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
    from: fromOption,
    size: { type: "size", short: "S", aliases: ["length"], help: "Bytes to read" },
    ...reachOptions,
  },
  examples: [
    { text: "The first sector of an export", command: "denbd read --size 512 nbd://127.0.0.1/disk | xxd" },
    {
      text: "As flexnbd had it",
      command: "denbd read --addr 127.0.0.1 --port 4777 --from 1024 --size 1024 > block",
    },
  ],
  async run({ options, args, stdout, stderr, log }) {
    const { from = 0, size } = options;
    const locator = namedRange(args, options, size);
    const name = formatDiskLocator(locator);
    const disk = await openDisk(locator, {
      readOnly: true,
      bind: options.bind,
      deadlineMs: forEver(options.deadline),
      verify: "always",
      log,
    });
    try {
      const room = roomBehind(from, size, "read", disk, name);
      const length = size ?? room;
      using progress = new Progress(stderr, length, { show: isWatched(stderr, stdout) });
      await sendRange(disk, from, length, stdout, progress.add);
    } catch (error) {
      throw namingDisk(error, name);
    } finally {
      await disk.close();
    }
  },
});
