import { AccessList } from "../access/acl.ts";
import { narrower } from "../access/key_list.ts";
import type { AdjustableLog } from "../base/log.ts";
import { serverHandlers } from "../control/handlers.ts";
import { ControlServer } from "../control/server.ts";
import { describeServer } from "../control/server_status.ts";
import type { BlockDevice } from "../device/device.ts";
import { openFileDisk } from "../device/open_file_disk.ts";
import { DEFAULT_STATE_DIRECTORY } from "../device/state_directory.ts";
import { activatedDescriptors, listenDescriptor } from "../net/activation.ts";
import type { Peer } from "../net/connection.ts";
import { type Listener, listenTcp, listenUnix } from "../net/listener.ts";
import { systemClock } from "../os/clock.ts";
import { Notifier, notifySettings } from "../os/notify.ts";
import { type Export, ExportTable, ExportTraffic } from "../server/export_table.ts";
import { NbdServer, type Verdict } from "../server/nbd/server.ts";
import { DEFAULT_PORT } from "../wire/nbd/constants.ts";
import { channelOptions, type OpenedEntrance, openEntrance } from "./channel_options.ts";
import { command, type Invocation } from "./command.ts";
import { checkDescription, checkExportName, type ExportOption, parseExportOption } from "./export_option.ts";
import type { OptionTable, OptionValues } from "./options.ts";
import { StopSignals } from "./stop_signals.ts";
import { UsageError } from "./usage_error.ts";
import { VERSION } from "./version.ts";

/** As flexnbd's: a request that takes longer costs its client the connection. */
const KILLSWITCH_MS = 120_000;
/** Old clients know sectors only. */
const SECTOR_BYTES = 512;

const OPTIONS = {
  addr: { type: "address", short: "l", help: "Address to listen on; 0 for all (127.0.0.1)" },
  port: { type: "port", short: "p", help: `TCP port to listen on; 0 for any (${DEFAULT_PORT})` },
  unix: { type: "string", short: "U", valueName: "SOCK", help: "Unix socket to listen on" },
  file: { type: "string", short: "f", valueName: "FILE", help: "Image or block device to serve" },
  name: { type: "string", short: "n", valueName: "NAME", help: "Name under which FILE is served (none)" },
  description: {
    type: "string",
    valueName: "TEXT",
    help: "Description of FILE for clients that list exports",
  },
  readOnly: { type: "flag", short: "r", help: "Serve FILE read-only" },
  export: {
    type: "string",
    short: "e",
    valueName: "NAME=DISK",
    repeat: true,
    help: "Another export: NAME=DISK[,readonly][,default][,description=TEXT]",
  },
  ...channelOptions,
  sock: { type: "string", short: "s", valueName: "SOCK", help: "Control socket to open" },
  defaultDeny: { type: "flag", short: "d", help: "Let nobody in while the access list is empty" },
  killswitch: {
    type: "flag",
    short: "k",
    ignoresValue: true,
    help: "Disconnect a client whose request takes longer than two minutes",
  },
  oldstyle: {
    type: "flag",
    help: "Greet as flexnbd does: one export, whole sectors, no negotiation",
  },
  discard: {
    type: "enum",
    values: ["unmap", "ignore"],
    help: "What TRIM does: give storage back, or nothing (unmap for sparse images)",
  },
  stateDir: {
    type: "string",
    valueName: "DIR",
    default: DEFAULT_STATE_DIRECTORY,
    help: "Where the identities of disks are kept",
  },
  maxConnections: {
    type: "integer",
    min: 1,
    max: 100_000,
    default: 4096,
    help: "Connections at the same time",
  },
  handshakeTimeout: {
    type: "duration",
    default: 10_000,
    help: "How long a client may take to say what it wants; 0 for ever",
  },
  drainTimeout: {
    type: "duration",
    default: 10_000,
    help: "How long clients may take to finish when the server stops",
  },
} as const satisfies OptionTable;

type ServeOptions = OptionValues<typeof OPTIONS>;

export const serve = command({
  name: "serve",
  summary: "Serves disks over NBD",
  usage: [
    "serve --file FILE [--addr ADDR] [--port PORT] [--sock SOCK] [--default-deny] [-k] [ACL_ENTRY]...",
    "serve --export NAME=DISK... [--unix SOCK] [ACL_ENTRY]...",
    "serve --file FILE --channel-port PORT --authorized-peers FILE [--key FILE] [ACL_ENTRY]...",
  ],
  description: `Serves image files and block devices to any NBD client until it is told to stop.

Without an address it listens on this machine only. Access entries are addresses or prefixes, each with =read, =write (the default) or =none behind it; the first that matches a client decides. Without any entry everybody who can connect may write, unless --default-deny is given.

With --channel-port it takes encrypted connections of other denbd programs, and no plain ones unless --port, --unix or socket activation asks for them. Who may come in this way is said by the public keys in the file of --authorized-peers, each with read, write (the default) or none in front; where there is an access list as well, both must agree. SIGHUP reads the file again.

SIGTERM, SIGINT and SIGQUIT let clients finish what they have asked for, then end the server; a second one ends it at once.`,
  options: OPTIONS,
  positional: { name: "ACL_ENTRY", help: "ADDRESS[/BITS][=read|=write|=none]" },
  examples: [
    { text: "Serve an image to this machine", command: "denbd serve --file disk.img" },
    {
      text: "Two exports on all addresses, the second read-only, for one network",
      command: "denbd serve --addr 0 -e root=root.img,default -e tools=tools.img,readonly 192.168.1.0/24",
    },
  ],
  run: (invocation) => new Serving(invocation).run(),
});

class Serving {
  readonly #options: ServeOptions;
  readonly #log: AdjustableLog;
  readonly #env: (name: string) => string | undefined;
  readonly #access: AccessList;
  readonly #exports = new ExportTable();
  readonly #nbd: NbdServer;
  readonly #listeners: Listener[] = [];
  readonly #serving: Promise<void>[] = [];
  readonly #startedAtMs = systemClock.now();
  readonly #wanted: readonly ExportOption[];
  #control: ControlServer | null = null;
  #door: OpenedEntrance | null = null;
  #channelListener: Listener | null = null;

  constructor({ options, args, log, env }: Invocation<ServeOptions>) {
    this.#options = options;
    this.#log = log;
    this.#env = env;
    this.#wanted = wantedExports(options);
    try {
      this.#access = new AccessList(args, { defaultDeny: options.defaultDeny });
    } catch (error) {
      throw new UsageError((error as Error).message);
    }
    this.#nbd = new NbdServer({
      exports: this.#exports,
      judge: (peer) => this.#judge(peer),
      log,
      clock: systemClock,
      oldstyle: options.oldstyle,
      limits: {
        handshakeMs: options.handshakeTimeout,
        connections: options.maxConnections,
        requestMs: options.killswitch ? KILLSWITCH_MS : 0,
      },
    });
  }

  async run(): Promise<number> {
    using signals = new StopSignals(() => void this.#reload());
    const notifier = new Notifier(notifySettings(this.#env, Deno.pid));
    try {
      this.#door = await openEntrance(this.#options, {
        env: this.#env,
        log: this.#log,
        clock: systemClock,
        handshakeMs: this.#options.handshakeTimeout,
      });
      for (const wanted of this.#wanted) this.#exports.add(await this.#open(wanted), wanted);
      await this.#listen();
      if (this.#options.sock !== undefined) await this.#listenForControl(this.#options.sock);
    } catch (error) {
      await this.#close();
      throw error;
    }
    const listening = this.#listeners.map(({ text }) => text).join(", ");
    this.#log.info(`serving ${this.#exports.list().length} exports on ${listening}`);
    notifier.ready(`serving on ${listening}`);
    const alive = notifier.aliveEveryMs === null ? undefined : setInterval(
      () => notifier.alive(),
      notifier.aliveEveryMs,
    );
    const signal = await signals.stop;
    clearInterval(alive);
    this.#log.info(`${signal}: stopping`);
    notifier.stopping();
    const atOnce = signals.stopAtOnce.then((signal) => {
      this.#log.warn(`${signal}: stopping at once`);
      this.#nbd.abort();
      return 1;
    });
    return await Promise.race([this.#stop(), atOnce]);
  }

  /** Lets clients finish, makes everything durable, and ends. Returns the exit code. */
  async #stop(): Promise<number> {
    const { drainTimeout } = this.#options;
    this.#closeDoor();
    const inTime = await this.#nbd.drain(drainTimeout);
    if (!inTime) this.#log.warn(`clients did not finish within ${drainTimeout / 1000} s and were cut off`);
    return await this.#close() ? 0 : 1;
  }

  /** By the address, and for clients of the channel by their key as well. */
  #judge({ address, key }: Peer): Verdict {
    const byAddress = this.#access.rightsFor(address);
    return key === undefined || this.#door === null
      ? byAddress
      : narrower(byAddress, this.#door.keys.rightsFor(key));
  }

  async #reload(): Promise<void> {
    if (this.#door === null) return this.#log.info("SIGHUP: there is no configuration to read again");
    try {
      await this.#door.reload();
      this.#nbd.reconsider();
      this.#log.info("SIGHUP: the authorised peers were read again");
    } catch (error) {
      this.#log.error(`SIGHUP: the authorised peers stay as they are: ${(error as Error).message}`);
    }
  }

  async #open(wanted: ExportOption): Promise<Export> {
    const { oldstyle, discard, stateDir } = this.#options;
    const device = await openFileDisk(wanted.disk, {
      readOnly: wanted.readOnly,
      discard,
      stateDirectory: this.#env("STATE_DIRECTORY") ?? stateDir,
      log: this.#log,
    });
    const sizeBytes = oldstyle ? device.sizeBytes - device.sizeBytes % SECTOR_BYTES : device.sizeBytes;
    if (sizeBytes < device.sizeBytes) {
      const lost = device.sizeBytes - sizeBytes;
      this.#log.warn(`${wanted.disk}: the last ${lost} bytes are no whole sector and are not served`);
    }
    return {
      name: wanted.name,
      description: wanted.description,
      device,
      sizeBytes,
      readOnly: wanted.readOnly,
      traffic: new ExportTraffic(),
      source: wanted.disk,
    };
  }

  async #listen(): Promise<void> {
    const { addr, port, unix } = this.#options;
    for (const descriptor of activatedDescriptors(this.#env, Deno.pid)) {
      this.#listeners.push(await listenDescriptor(descriptor));
    }
    if (unix !== undefined) this.#listeners.push(await listenUnix(unix));
    const address = addr ?? "127.0.0.1";
    const plain = this.#door === null && (addr !== undefined || this.#listeners.length === 0);
    if (port !== undefined || plain) this.#listeners.push(listenTcp(address, port ?? DEFAULT_PORT));
    if (
      this.#access.isOpen && !isLoopback(address) &&
      (port !== undefined || plain || this.#door?.takesUnencrypted)
    ) {
      this.#log.warn(`everybody who reaches ${address} may write: there is no access list`);
    }
    for (const listener of this.#listeners) this.#serving.push(this.#nbd.serve(listener));
    if (this.#door === null) return;
    this.#channelListener = listenTcp(address, this.#door.port);
    this.#listeners.push(this.#channelListener);
    this.#serving.push(
      this.#door.entrance.serve(this.#channelListener, (connection) => this.#nbd.handle(connection)),
    );
  }

  #closeDoor(): void {
    this.#channelListener?.close();
    this.#door?.entrance.abort();
  }

  async #listenForControl(path: string): Promise<void> {
    const listener = await listenUnix(path);
    const handlers = serverHandlers({
      status: () =>
        describeServer({
          version: VERSION,
          instance: INSTANCE,
          exports: this.#exports,
          nbd: this.#nbd,
          access: this.#access,
          listening: () => this.#listeners.map(({ text }) => text),
          nowMs: () => systemClock.now(),
          startedAtMs: this.#startedAtMs,
        }),
      replaceAccessList: (entries) => {
        this.#access.replace(entries);
        this.#nbd.reconsider();
      },
    }, this.#log);
    this.#control = new ControlServer(listener, handlers, this.#log.child("control"));
  }

  /** Ends everything that was begun. Returns whether all that was written is durable. */
  async #close(): Promise<boolean> {
    this.#closeDoor();
    for (const listener of this.#listeners) listener.close();
    await Promise.all(this.#serving);
    await this.#control?.close();
    let durable = true;
    for (const { device, source } of this.#exports.list()) {
      durable = await this.#closeDisk(device, source) && durable;
    }
    return durable;
  }

  async #closeDisk(device: BlockDevice, source: string): Promise<boolean> {
    try {
      if (device.can.write && device.can.flush) await device.flush();
      return true;
    } catch (error) {
      this.#log.error(`${source}: what was written last may be lost: ${(error as Error).message}`);
      return false;
    } finally {
      await device.close();
    }
  }
}

/** Tells this run of the server from others. */
const INSTANCE = crypto.randomUUID();

function wantedExports(options: ServeOptions): ExportOption[] {
  const { file, name = "", description = "", readOnly, export: texts, oldstyle } = options;
  const wanted = texts.map(parseExportOption);
  if (file !== undefined) {
    wanted.unshift({
      name: checkExportName(name),
      disk: file,
      readOnly,
      isDefault: !wanted.some((each) => each.isDefault),
      description: checkDescription(description),
    });
  } else if (options.name !== undefined || options.description !== undefined || readOnly) {
    throw new UsageError("--name, --description and --read-only belong to --file");
  }
  if (wanted.length === 0) throw new UsageError("--file is required");
  if (oldstyle && wanted.length > 1) throw new UsageError("--oldstyle serves one export only");
  return wanted;
}

function isLoopback(address: string): boolean {
  return address === "::1" || address.startsWith("127.");
}
