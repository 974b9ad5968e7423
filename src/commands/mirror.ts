import { bracketed } from "../base/endpoint.ts";
import { parseSize } from "../base/size_text.ts";
import { formatDiskLocator } from "../base/uri.ts";
import { command } from "./command.ts";
import { request, SOCK_OPTION } from "./control_request.ts";
import { bindOption, namedDisk, serverOptions } from "./disk_options.ts";
import { UsageError } from "./usage_error.ts";

/** Which disk of the server is meant. */
const EXPORT_OPTION = {
  type: "string",
  short: "n",
  valueName: "NAME",
  help: "Export that moves, of a server with several",
} as const;

export const mirror = command({
  name: "mirror",
  summary: "Moves a disk to another host while it is in use",
  usage: [
    "mirror --addr ADDR --port PORT --sock SOCK [--unlink] [--bind ADDR]",
    "mirror --sock SOCK [--name NAME] [--max-speed SPEED] [--downtime TIME] [--slow-writers] DESTINATION",
  ],
  description: `
    Tells the server with the control socket SOCK to move a disk to another one, where denbd listen (or flexnbd's)
    waits for it. It returns as soon as the destination has been reached and takes the disk; denbd status --watch shows
    how far it is, denbd break ends it, denbd mirror-speed sets how fast it goes.

    Clients go on meanwhile. At the end they are held for a moment, by default 200 ms at most, in which the rest is
    copied; then the disk belongs to the destination, clients are disconnected here, and when no disk is left the
    server exits with 0. Whatever fails before leaves clients as they are, and is tried again every second.

    With --unlink the image is deleted just before the destination is told to take over, so that there is never any
    doubt which of the two is the disk.
  `,
  positional: { name: "DESTINATION", help: "URI of the export to move to", max: 1 },
  options: {
    ...serverOptions,
    sock: SOCK_OPTION,
    unlink: {
      type: "flag",
      short: "u",
      ignoresValue: true,
      help: "Delete the image here when it has been copied",
    },
    bind: bindOption,
    name: EXPORT_OPTION,
    maxSpeed: { type: "size", short: "m", valueName: "SPEED", help: "Bytes per second" },
    downtime: { type: "duration", min: 1, max: 3_600_000, help: "How long clients may be held (200ms)" },
    slowWriters: {
      type: "flag",
      help: "Slow clients down that write faster than the disk can be moved",
    },
  },
  examples: [
    {
      text: "Move the disk of a server",
      command: "denbd mirror --addr 192.0.2.7 --port 4779 --sock /run/disk.sock",
    },
    {
      text: "One of several, encrypted, at most 20 MiB/s",
      command: "denbd mirror --sock /run/disk.sock --name root --max-speed 20M nbd+noise://192.0.2.7/root",
    },
  ],
  async run({ options, args, stdout }) {
    const { sock, bind, unlink, name, maxSpeed, downtime, slowWriters } = options;
    const to = namedDisk(args, options);
    if (to.kind !== "nbd") throw new UsageError("DESTINATION is an NBD server: nbd://host/export");
    const after = unlink ? "unlink" : "exit";
    const ours = args.length > 0 || name !== undefined || maxSpeed !== undefined ||
      downtime !== undefined || slowWriters;
    if (ours) {
      const uri = args.length > 0
        ? formatDiskLocator(to)
        : `nbd://${bracketed(options.addr!)}:${options.port!}/`;
      const words = [`to=${uri}`, `after=${after}`];
      if (bind !== undefined) words.push(`bind=${bind}`);
      if (name !== undefined) words.push(`export=${name}`);
      if (maxSpeed !== undefined) words.push(`max_bps=${maxSpeed}`);
      if (downtime !== undefined) words.push(`downtime_ms=${Math.ceil(downtime)}`);
      if (slowWriters) words.push("slow_writers=true");
      await request(sock, "migrate", words);
    } else {
      // flexnbd's servers understand this, too.
      const bound = bind === undefined ? [] : [bind];
      await request(sock, "mirror", [options.addr!, String(options.port!), after, ...bound]);
    }
    await stdout.write("Migration started\n");
  },
});

export const breakCommand = command({
  name: "break",
  summary: "Stops a running migration",
  usage: ["break --sock SOCK [--name NAME]"],
  description: `
    The disk stays where it is, and clients notice nothing. It can be moved again at once. Fails if no migration is
    under way, or if it was completed in this very moment.
  `,
  options: { sock: SOCK_OPTION, name: EXPORT_OPTION },
  positional: { name: "WORD", help: "Ignored, as flexnbd has it" },
  examples: [{ text: "Not now", command: "denbd break --sock /run/disk.sock" }],
  async run({ options: { sock, name }, stdout }) {
    const { text } = await request(sock, "break", exportWords(name));
    await stdout.write(`${text}\n`);
  },
});

export const mirrorSpeed = command({
  name: "mirror-speed",
  summary: "Sets how fast a running migration goes",
  usage: ["mirror-speed --sock SOCK --max-speed SPEED [--name NAME]"],
  description: `
    The limit holds for what is sent from now on. It may be so low that clients write faster than the disk can be moved:
    the status tells.
  `,
  options: {
    sock: SOCK_OPTION,
    maxSpeed: {
      type: "string",
      short: "m",
      valueName: "SPEED",
      required: "--max-speed is required.",
      help: "Bytes per second, such as 20M; -1 for as fast as it goes",
    },
    name: EXPORT_OPTION,
  },
  examples: [{
    text: "At most 20 MiB/s",
    command: "denbd mirror-speed --sock /run/disk.sock --max-speed 20M",
  }],
  async run({ options: { sock, maxSpeed, name }, stdout }) {
    const { text } = await request(sock, "mirror_max_bps", [speedWord(maxSpeed), ...exportWords(name)]);
    await stdout.write(`${text}\n`);
  },
});

function exportWords(name: string | undefined): string[] {
  return name === undefined ? [] : [`export=${name}`];
}

/** Whole numbers go as they are: flexnbd has some beyond our sizes, and negative ones. */
function speedWord(text: string): string {
  if (/^-?\d+$/.test(text)) return text;
  try {
    return String(parseSize(text));
  } catch (error) {
    throw new UsageError(`--max-speed: ${(error as Error).message}`);
  }
}
