import { openFileDisk } from "../device/open_file_disk.ts";
import { DEFAULT_STATE_DIRECTORY } from "../device/state_directory.ts";
import { Receiver } from "../migrate/receiver.ts";
import { type ExportTable, ExportTraffic } from "../server/export_table.ts";
import { command, type Invocation } from "./command.ts";
import { checkExportName } from "./export_option.ts";
import type { OptionTable, OptionValues } from "./options.ts";
import { RunningServer, servedBytes, type ServerRole, servingOptions } from "./running_server.ts";

/** A source may take its time before it sends. */
const HANDSHAKE_MS = 60_000;

const { killswitch: _, ...receivingOptions } = servingOptions;

const OPTIONS = {
  addr: { type: "address", short: "l", help: "Address to listen on; 0 for all (127.0.0.1)" },
  file: {
    type: "string",
    short: "f",
    valueName: "FILE",
    required: "--file is required",
    help: "Image or block device to write the disk to; as large as the disk, exactly",
  },
  name: { type: "string", short: "n", valueName: "NAME", default: "", help: "Name of the export (none)" },
  thenServe: { type: "flag", help: "Serve the disk when it has come, rather than exit" },
  trustDisconnect: {
    type: "flag",
    help: "Take any client's goodbye for the end, as flexnbd does, even if not every byte was written",
  },
  ...receivingOptions,
  discard: {
    type: "enum",
    values: ["unmap", "ignore"],
    help: "What zeroes do: give storage back, or nothing (unmap for sparse images)",
  },
  stateDir: {
    type: "string",
    valueName: "DIR",
    default: DEFAULT_STATE_DIRECTORY,
    help: "Where the identities of disks are kept",
  },
} as const satisfies OptionTable;

type ListenOptions = OptionValues<typeof OPTIONS>;

export const listen = command({
  name: "listen",
  summary: "Receives one disk from another host, then exits with 0",
  usage: [
    "listen --file FILE --addr ADDR --port PORT [--sock SOCK] [--then-serve] [--default-deny] [ACL_ENTRY]...",
  ],
  description: `
    Waits for denbd mirror (or flexnbd's) on another host to send a disk into FILE, which must be there already. One
    source at a time is let in; if it breaks off, the next one starts over. When the disk is whole and durable the
    program exits with 0, or with --then-serve goes on and serves it to clients.

    Access entries say who may send. Without any only this machine may.
  `,
  options: OPTIONS,
  positional: { name: "ACL_ENTRY", help: "ADDRESS[/BITS][=read|=write|=none]" },
  examples: [
    {
      text: "Receive a disk from one host, then serve it",
      command: "denbd listen --file disk.img --addr 0 --port 4779 --then-serve 192.0.2.6",
    },
  ],
  async run({ options, args, log, env }) {
    const role = new DiskReceiver(options, await openReceiver(options, { log, env }), { log });
    const handshakeTimeout = Math.max(options.handshakeTimeout, HANDSHAKE_MS);
    const settings = { ...options, killswitch: false, handshakeTimeout };
    return await new RunningServer(settings, args, role, { log, env }).run();
  },
});

async function openReceiver(
  { file, discard, stateDir, oldstyle, trustDisconnect }: ListenOptions,
  { log, env }: Pick<Invocation, "log" | "env">,
): Promise<Receiver> {
  const stateDirectory = env("STATE_DIRECTORY") ?? stateDir;
  const disk = await openFileDisk(file, { discard, stateDirectory, log });
  const sizeBytes = servedBytes(disk, file, oldstyle, log);
  return new Receiver(disk, { sizeBytes, log, trustsGoodbye: trustDisconnect });
}

class DiskReceiver implements ServerRole {
  readonly receiver: Receiver;
  readonly servesReceived: boolean;
  readonly #options: ListenOptions;
  readonly #log: Invocation["log"];

  constructor(options: ListenOptions, receiver: Receiver, { log }: Pick<Invocation, "log">) {
    this.#options = options;
    this.receiver = receiver;
    this.servesReceived = options.thenServe;
    this.#log = log;
  }

  openExports(exports: ExportTable): Promise<void> {
    const { name, file, oldstyle } = this.#options;
    exports.add({
      name: checkExportName(name),
      description: "",
      device: this.receiver,
      sizeBytes: servedBytes(this.receiver, file, oldstyle, this.#log),
      readOnly: false,
      traffic: new ExportTraffic(),
      source: file,
    }, { isDefault: true });
    return Promise.resolve();
  }
}
