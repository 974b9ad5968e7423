import type { BlockDevice, DiskIdentity } from "../device/device.ts";
import { openFileDisk } from "../device/open_file_disk.ts";
import {
  type DiskRecord,
  FIRST_OWNERSHIP,
  identityOf,
  type RecordStore,
  whyNotOwned,
} from "../device/ownership.ts";
import { OwnershipDesk } from "../migrate/ownership_desk.ts";
import { Receiver } from "../migrate/receiver.ts";
import { systemClock } from "../os/clock.ts";
import { type ExportTable, ExportTraffic } from "../server/export_table.ts";
import { ACL_ENTRY_HELP } from "./acl.ts";
import { command, type Invocation } from "./command.ts";
import { CommandFailure } from "./command_failure.ts";
import { diskState, type OwnershipSurroundings, settleOwnership } from "./disk_ownership.ts";
import { checkExportName } from "./export_option.ts";
import type { OptionTable, OptionValues } from "./options.ts";
import { reservationOptions, reservationsIn } from "./reservation_options.ts";
import { RunningServer, servedBytes } from "./running_server.ts";
import type { ServerRole } from "./server_role.ts";
import { addressOption, servingOptions } from "./serving_options.ts";
import { stateDirOption, writableStateDirectory } from "./state_directory_option.ts";
import { UsageError } from "./usage_error.ts";

/** A source may take its time before it sends. */
const HANDSHAKE_MS = 60_000;

const { killswitch: _, ...receivingOptions } = servingOptions;

const OPTIONS = {
  addr: addressOption,
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
  stateDir: stateDirOption,
  ...reservationOptions,
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
    program exits with 0, or with --then-serve goes on and serves it to clients. A disk that had one writer at a time
    wants --writers one-session here, too; its writer comes after it and reserves it anew.

    Access entries say who may send. Without any only this machine may.
  `,
  options: OPTIONS,
  positional: { name: "ACL_ENTRY", help: ACL_ENTRY_HELP },
  examples: [
    {
      text: "Receive a disk from one host, then serve it",
      command: "denbd listen --file disk.img --addr 0 --port 4779 --then-serve 192.0.2.6",
    },
  ],
  async run({ options, args, log, env }) {
    if (options.writers !== undefined && !options.thenServe) {
      throw new UsageError("--writers belongs to --then-serve");
    }
    const role = await DiskReceiver.open(options, { log, env });
    const handshakeTimeout = Math.max(options.handshakeTimeout, HANDSHAKE_MS);
    const settings = { ...options, killswitch: false, handshakeTimeout };
    return await new RunningServer(settings, args, role, { log, env }).run();
  },
});

/** What has come belongs here; the source may have fallen before it could say that it knows. */
const ACKNOWLEDGE_MS_MAX = 10_000;
/** For the answer to the source's last word to go out. */
const FAREWELL_MS = 50;

class DiskReceiver implements ServerRole {
  readonly receiver: Receiver;
  readonly servesReceived: boolean;
  readonly reservations: ServerRole["reservations"];
  readonly #options: ListenOptions;
  readonly #log: Invocation["log"];
  readonly #ownership: RecordStore | undefined;
  readonly #desk: OwnershipDesk | undefined;
  #finishing: Disposable | undefined;

  /** @param known What is kept of the image. */
  private constructor(
    options: ListenOptions,
    disk: BlockDevice,
    ownership: RecordStore | null,
    known: DiskRecord | null,
    { stateDirectory, log }: OwnershipSurroundings,
  ) {
    const { file, oldstyle, thenServe, trustDisconnect } = options;
    this.#options = options;
    this.#log = log;
    this.servesReceived = thenServe;
    this.reservations = reservationsIn(stateDirectory, options);
    const sizeBytes = servedBytes(disk, file, oldstyle, log);
    const adopt = ownership === null ? undefined : () => adoptDisk(ownership, file, log);
    this.receiver = new Receiver(disk, {
      sizeBytes,
      log,
      trustsGoodbye: trustDisconnect,
      servesReceived: thenServe,
      adopt,
    });
    if (ownership === null) return;
    this.#ownership = ownership;
    this.#desk = new OwnershipDesk({
      store: ownership,
      known,
      device: disk,
      sizeBytes,
      log,
      receives: () => this.receiver.isWaiting,
      onOwner: (record) => this.#own(record),
      onAcknowledged: () => this.#finishIn(FAREWELL_MS),
    });
  }

  /** @throws {DeviceError} If the image cannot be used. */
  static async open(
    options: ListenOptions,
    { log, env }: Pick<Invocation, "log" | "env">,
  ): Promise<DiskReceiver> {
    const { file, discard } = options;
    const surroundings = { stateDirectory: await writableStateDirectory(options, env), log, env };
    const known = await settleOwnership(file, surroundings);
    if (known?.ownership.state === "in-doubt") {
      throw new CommandFailure(whyNotOwned(file, known.ownership)!);
    }
    const disk = await openFileDisk(file, { discard, log });
    const state = diskState(file, surroundings.stateDirectory);
    // For status, as long as nothing happens.
    await state?.read().catch(() => null);
    return new DiskReceiver(options, disk, state, known, surroundings);
  }

  openExports(exports: ExportTable): Promise<void> {
    const { name, file, oldstyle, writers } = this.#options;
    const { receiver } = this;
    exports.add({
      name: checkExportName(name),
      description: "",
      device: this.receiver,
      sizeBytes: servedBytes(this.receiver, file, oldstyle, this.#log),
      readOnly: false,
      traffic: new ExportTraffic(),
      source: file,
      ownership: this.#ownership,
      desk: this.#desk,
      whyClosed: () => receiver.whyClosed,
      // Its source is no writer that others would have to wait for.
      get writers() {
        return receiver.isWaiting ? "any" : writers;
      },
    }, { isDefault: true });
    return Promise.resolve();
  }

  close(): Promise<void> {
    this.#finishing?.[Symbol.dispose]();
    return Promise.resolve();
  }

  #own(record: DiskRecord): void {
    this.receiver.own(identityOf(record));
    if (this.servesReceived) return this.receiver.finish();
    this.#finishIn(ACKNOWLEDGE_MS_MAX);
  }

  #finishIn(delayMs: number): void {
    this.#finishing?.[Symbol.dispose]();
    this.#finishing = systemClock.timer(delayMs, () => this.receiver.finish());
  }
}

/** Writes down that an image which came without a change of ownership is a disk of its own, or still is. */
async function adoptDisk(
  ownership: RecordStore,
  file: string,
  log: Invocation["log"],
): Promise<DiskIdentity | undefined> {
  try {
    const known = await ownership.read();
    const { uuid, generation } = known?.ownership.state === "owner"
      ? { ...known, generation: known.generation + 1 }
      : { uuid: crypto.randomUUID(), generation: 1 };
    const isOwner = known?.ownership.state === "owner";
    await ownership.write({ uuid, generation, ownership: isOwner ? known.ownership : FIRST_OWNERSHIP });
    return { uuid, generation, durable: true };
  } catch (error) {
    log.warn(`${file}: its identity cannot be kept (${(error as Error).message})`);
    return undefined;
  }
}
