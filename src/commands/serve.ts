import { quote } from "../base/printable.ts";
import { type Export, type ExportTable, ExportTraffic } from "../server/export_table.ts";
import { ACL_ENTRY_HELP } from "./acl.ts";
import { command, type Invocation } from "./command.ts";
import { readableStateDirectory, stateDirOption, writableStateDirectory } from "./state_directory_option.ts";
import { ConfiguredServing } from "./configured_serving.ts";
import { checkDescription, checkExportName, type ExportOption, parseExportOption } from "./export_option.ts";
import type { OptionTable, OptionValues } from "./options.ts";
import { reservationOptions, reservationsIn } from "./reservation_options.ts";
import { RunningServer, servedBytes } from "./running_server.ts";
import type { ServerRole } from "./server_role.ts";
import { addressOption, servingOptions } from "./serving_options.ts";
import { openServedImage } from "./served_image.ts";
import { UsageError } from "./usage_error.ts";

const OPTIONS = {
  addr: addressOption,
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
  config: {
    type: "string",
    valueName: "DIR",
    help: "Serve what exports.conf, peers.conf and server.conf in DIR say",
  },
  ...servingOptions,
  discard: {
    type: "enum",
    values: ["unmap", "ignore"],
    help: "What TRIM does: give storage back, or nothing (unmap for sparse images)",
  },
  stateDir: stateDirOption,
  ...reservationOptions,
} as const satisfies OptionTable;

type ServeOptions = OptionValues<typeof OPTIONS>;

export const serve = command({
  name: "serve",
  summary: "Serves disks over NBD",
  usage: [
    "serve --file FILE [--addr ADDR] [--port PORT] [--sock SOCK] [--default-deny] [-k] [ACL_ENTRY]...",
    "serve --export NAME=DISK... [--unix SOCK] [ACL_ENTRY]...",
    "serve --file FILE --channel-port PORT --authorized-peers FILE [--key FILE] [ACL_ENTRY]...",
    "serve --config DIR [--addr ADDR] [--port PORT] [--unix SOCK] [--sock SOCK]",
  ],
  description: `Serves image files and block devices to any NBD client until it is told to stop.

Without an address it listens on this machine only. Access entries are addresses or prefixes, each with =read, =write (the default) or =none behind it; the first that matches a client decides. Without any entry everybody who can connect may write, unless --default-deny is given.

With --channel-port it takes encrypted connections of other denbd programs, and no plain ones unless --port, --unix or socket activation asks for them. Who may come in this way is said by the public keys in the file of --authorized-peers, each with read, write (the default) or none in front; where there is an access list as well, both must agree. SIGHUP reads the file again. Web Crypto encrypts what goes through a channel; with the environment variable DENBD_CRYPTO=openssl the system's libcrypto does, which is faster. Each end chooses for itself.

With --tls=prefer clients may ask for TLS, with --tls=require they must, unless they come through an encrypted channel. SIGHUP reads the certificate again, and the authorities of --tls-verify-peer: clients whose certificate has expired, or is signed by none of them any more, are ended.

With --writers one-session an export has one writer at a time. A denbd client reserves it when it comes, for as long as it has the disk open: through lost connections, and restarts of client connections and server. Other clients reserve it by their first write, until they disconnect. Meanwhile further denbd clients that want to write are refused, others are served read-only. When a denbd client has been away for longer than --reservation-timeout the next writer takes its place; the command unreserve ends a reservation at once.

With --config the files of a directory say what is served how to whom; no more than --addr, --port or --unix in the place of what they say of listening may be given beside it. exports.conf has a section for each export: disk = PATH or URI, and readonly, default, description, discard, writers (one-session unless it says any). peers.conf has a section for each peer, known by address, key or certificate (all of those that are given), with read, write and none = EXPORT; a * stands for any characters. The first line that speaks of the peer and the export decides; where there is none, the peer does not even learn that the export exists. server.conf may have [nbd] (listen, maxConnections, handshakeTimeout, requestTimeout, drainTimeout, diskThreads), [tls] (mode, certificates, verifyPeer), [channel] (listen, key, psk, encryption) and [http] (listen). With a section [dnbd3] it also serves the images of an existing dnbd3-server as it did, to everybody and on all addresses unless --addr names one; each is a read-only export NAME:REVISION of NBD as well.

SIGHUP and the command reload read the directory again. A mistake is told with file and line, and then nothing changes.

SIGTERM, SIGINT and SIGQUIT let clients finish what they have asked for, then end the server; a second one ends it at once.`,
  options: OPTIONS,
  positional: { name: "ACL_ENTRY", help: ACL_ENTRY_HELP },
  examples: [
    { text: "Serve an image to this machine", command: "denbd serve --file disk.img" },
    {
      text: "Two exports on all addresses, the second read-only, for one network",
      command: "denbd serve --addr 0 -e root=root.img,default -e tools=tools.img,readonly 192.168.1.0/24",
    },
    {
      text: "What the files of a directory say",
      command: "denbd serve --config /etc/denbd --sock /run/denbd.sock",
    },
  ],
  async run({ options, args, log, env }) {
    if (options.config === undefined) {
      const role = await FileExports.make(options, { log, env });
      return await new RunningServer(options, args, role, { log, env }).run();
    }
    checkConfigured(options, args);
    const directory = await writableStateDirectory(options, env);
    const role = await ConfiguredServing.read({
      directory: options.config.replace(/(?<=.)\/+$/, ""),
      settings: options,
      stateDirectory: directory,
      reservations: reservationsIn(directory, options),
      log,
      env,
    });
    return await new RunningServer(role.settings, [], role, { log, env }).run();
  },
});

/** @throws {UsageError} If the command line says what a configuration directory has to say. */
function checkConfigured(options: ServeOptions, entries: readonly string[]): void {
  const { file, name, description, discard, writers, oldstyle, defaultDeny } = options;
  const speaksOfExports = [file, name, description, discard, writers].some((each) => each !== undefined);
  if (speaksOfExports || options.readOnly || options.export.length > 0) {
    throw new UsageError("with --config, exports are said in exports.conf");
  }
  if (entries.length > 0 || defaultDeny) {
    throw new UsageError("with --config, peers.conf says who may do what");
  }
  if (oldstyle) throw new UsageError("--oldstyle and --config exclude each other");
}

/** Image files and block devices that the command line names. */
class FileExports implements ServerRole {
  readonly #options: ServeOptions;
  readonly #wanted: readonly ExportOption[];
  readonly #log: Invocation["log"];
  readonly #stateDirectory: string;
  readonly #env: Invocation["env"];
  readonly #ownerships = new AsyncDisposableStack();
  readonly reservations: ServerRole["reservations"];

  private constructor(
    options: ServeOptions,
    wanted: readonly ExportOption[],
    stateDirectory: string,
    { log, env }: Pick<Invocation, "log" | "env">,
  ) {
    this.#options = options;
    this.#wanted = wanted;
    this.#log = log;
    this.#env = env;
    this.#stateDirectory = stateDirectory;
    this.reservations = reservationsIn(stateDirectory, options);
  }

  /** @throws {UsageError | CommandFailure} If the options contradict each other, or nothing can be kept where they say. */
  static async make(options: ServeOptions, around: Pick<Invocation, "log" | "env">): Promise<FileExports> {
    const wanted = wantedExports(options);
    const directory = wanted.every(({ readOnly }) => readOnly)
      ? await readableStateDirectory(options, around.env)
      : await writableStateDirectory(options, around.env);
    return new FileExports(options, wanted, directory, around);
  }

  async openExports(exports: ExportTable): Promise<void> {
    for (const wanted of this.#wanted) exports.add(await this.#open(wanted), wanted);
  }

  async close(): Promise<void> {
    await this.#ownerships.disposeAsync();
  }

  async #open(wanted: ExportOption): Promise<Export> {
    const { oldstyle, discard } = this.#options;
    const surroundings = { stateDirectory: this.#stateDirectory, log: this.#log, env: this.#env };
    const options = { readOnly: wanted.readOnly, discard };
    const { device, ownership } = await openServedImage(wanted.disk, options, surroundings);
    if (ownership !== undefined) this.#ownerships.use(ownership);
    return {
      name: wanted.name,
      description: wanted.description,
      device,
      sizeBytes: servedBytes(device, wanted.disk, oldstyle, this.#log),
      readOnly: wanted.readOnly,
      traffic: new ExportTraffic(),
      source: wanted.disk,
      writers: this.#options.writers,
      ownership,
      desk: ownership?.desk,
    };
  }
}

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
  const names = wanted.map(({ name }) => name);
  const again = names.find((name, index) => names.indexOf(name) < index);
  if (again !== undefined) throw new UsageError(`two exports have the name ${quote(again)}`);
  const defaults = wanted.filter(({ isDefault }) => isDefault);
  if (defaults.length > 1) {
    throw new UsageError(
      `${quote(defaults[0].name)} and ${quote(defaults[1].name)} cannot both be the default`,
    );
  }
  if (oldstyle && wanted.length > 1) throw new UsageError("--oldstyle serves one export only");
  return wanted;
}
