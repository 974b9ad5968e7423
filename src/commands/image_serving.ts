/**
 * The dnbd3 server of a configuration directory: `server.conf`, `alt-servers` and `rpc.acl` as dnbd3-server reads
 * them. Every image is also an export of NBD, under its name and revision: `lab/win10:3`.
 */
import { counted } from "../base/counted.ts";
import type { AdjustableLog, LogLevel } from "../base/log.ts";
import { type AppendedFile, LogFile } from "../base/log_file.ts";
import { printable } from "../base/printable.ts";
import { readAltServers } from "../config/alt_servers.ts";
import { ConfigError } from "../config/config_error.ts";
import { readRpcAcl, type RpcAcl } from "../config/rpc_acl.ts";
import {
  formatServerConf,
  type LoggingConf,
  type LogMask,
  readServerConf,
  type ServerConf,
  wantsDnbd3,
} from "../config/server_conf.ts";
import type { ControlHandlers } from "../control/handlers.ts";
import type { ImageStatus } from "../control/status.ts";
import { parseServerConf } from "../config/serving_conf.ts";
import { dial } from "../net/dial.ts";
import { type Listener, listenTcp } from "../net/listener.ts";
import type { Clock } from "../os/clock.ts";
import { reasonOf } from "../os/reason.ts";
import type { AltServer } from "../server/dnbd3/alt_server.ts";
import { CopyDirectory } from "../server/dnbd3/copy_directory.ts";
import { HttpRpc } from "../server/dnbd3/http_rpc.ts";
import { serverFacts } from "../server/dnbd3/server_facts.ts";
import { ExportedImage } from "../server/dnbd3/exported_image.ts";
import type { Image } from "../server/dnbd3/image.ts";
import { ImageTable } from "../server/dnbd3/image_table.ts";
import { Integrity } from "../server/dnbd3/integrity.ts";
import { LocalImages } from "../server/dnbd3/local_images.ts";
import { ProxyImages } from "../server/dnbd3/proxy_images.ts";
import { ImageServer } from "../server/dnbd3/server.ts";
import { type ExportTable, ExportTraffic } from "../server/export_table.ts";
import { DEFAULT_PORT } from "../wire/dnbd3/constants.ts";
import { readConfigurationFile } from "./configuration.ts";
import { ImageUpstream } from "./image_upstream.ts";
import { VERSION } from "./version.ts";

/** How often the maps of incomplete images are read again: another server may be completing them. */
const MAPS_MS = 20_000;

export interface ImageServingOptions {
  /** The configuration directory. */
  readonly directory: string;
  /** Where to listen. Default: everywhere, as dnbd3-server does. */
  readonly address?: string;
  /** Where images appear for NBD. */
  readonly exports: ExportTable;
  readonly clock: Clock;
  readonly log: AdjustableLog;
}

/** What the files of the directory say. */
interface Configuration {
  readonly conf: ServerConf;
  readonly altServers: readonly AltServer[];
  readonly acl: RpcAcl;
}

/** What a proxy has besides. */
interface Proxy {
  readonly images: ProxyImages;
  readonly upstream: ImageUpstream;
}

export class ImageServing {
  readonly server: ImageServer;
  readonly table: ImageTable;
  readonly integrity: Integrity;
  readonly #options: ImageServingOptions;
  readonly #log: AdjustableLog;
  readonly #logFile: LogFile | null;
  readonly #listener: Listener;
  readonly #serving: Promise<void>;
  readonly #images: LocalImages | ProxyImages;
  /** Of a proxy. */
  readonly #proxy: Proxy | null = null;
  #configuration: Configuration;
  #mapTimer: Disposable | null = null;
  #closed = false;

  /**
   * Reads the directory, looks at all images and listens.
   *
   * @throws {ConfigError} If a file makes no sense, or the base path cannot be read.
   */
  static async open(options: ImageServingOptions): Promise<ImageServing> {
    const configuration = await readDirectory(options);
    const { conf } = configuration;
    const store = new CopyDirectory(conf.basePath, options.log);
    const table = new ImageTable(store, conf, options.log);
    try {
      await table.scan();
    } catch (error) {
      const file = `${options.directory}/server.conf`;
      const reason = reasonOf(error, { ENOENT: "there is no such directory" });
      throw new ConfigError(file, 0, `cannot read the base path ${conf.basePath}: ${reason}`);
    }
    const logFile = openLogFile(conf.logging, options);
    const serving = new ImageServing(options, configuration, table, store, logFile);
    await serving.#proxy?.images.readAccessTimes();
    return serving;
  }

  private constructor(
    options: ImageServingOptions,
    configuration: Configuration,
    table: ImageTable,
    store: CopyDirectory,
    logFile: LogFile | null,
  ) {
    const { conf, altServers } = configuration;
    const { clock, exports } = options;
    this.#options = options;
    this.#log = options.log;
    this.#logFile = logFile;
    this.#configuration = configuration;
    this.table = table;
    this.integrity = new Integrity(clock, this.#log.child("integrity"), Math.random);
    const onFirstUse = (image: Image) => this.integrity.checkSome(image);
    if (conf.isProxy) {
      const log = this.#log.child("proxy");
      const upstream = new ImageUpstream({
        altServers,
        settings: conf,
        dial: (server, signal) => dial(server, { signal }),
        clock,
        log,
        random: Math.random,
      });
      const images = new ProxyImages({
        table,
        store,
        upstream,
        settings: conf,
        clock,
        log,
        wallMs: () => Date.now(),
        onFirstUse,
      });
      this.#proxy = { images, upstream };
      this.integrity.onMismatch = (image, hashBlock) => void images.repair(image, hashBlock);
    }
    const images = this.#images = this.#proxy?.images ?? new LocalImages(table, onFirstUse);
    this.server = new ImageServer({
      finder: images,
      source: images,
      settings: conf,
      altServers,
      clock,
      log: this.#log,
      http: (connection, head) => http.serve(connection, head, this.#configuration.conf.clientTimeout),
    });
    const sources = {
      server: this.server,
      table,
      version: VERSION,
      clock,
      startedAtMs: clock.now(),
      logText: () => logFile?.tail ?? null,
      configText: () => formatServerConf(this.#configuration.conf),
      space: () => store.space(),
      wallMs: () => Date.now(),
      proxy: this.#proxy === null ? undefined : factsOf(this.#proxy),
    };
    const http = new HttpRpc({
      permissionsOf: (address) => this.#configuration.acl.permissionsOf(address),
      facts: (group) => serverFacts(sources, group),
      runId: crypto.getRandomValues(new BigInt64Array(1))[0],
      mapOf: (id) => {
        const image = table.list().find((image) => image.id === id);
        return image === undefined ? null : image.map?.encode() ?? "complete";
      },
    }, clock);
    this.#listener = listen(options.address, conf.listenPort);
    for (const image of table.list()) this.#export(image);
    table.onAdded = (image) => this.#export(image);
    table.onRemoved = (image) => exports.remove(`${image}`);
    this.#serving = this.server.serve(this.#listener);
    this.#watchMaps();
  }

  /** Goes on in the file of the log that has the name now. */
  reopenLog(): void {
    try {
      this.#logFile?.reopen();
      this.#log.info(
        this.#logFile === null ? "SIGUSR2: there is no log file" : "SIGUSR2: log file opened anew",
      );
    } catch (error) {
      this.#log.error(`SIGUSR2: the log goes on in the old file: ${(error as Error).message}`);
    }
  }

  /** What can be asked of the images over the control socket. */
  handlers(): ControlHandlers {
    return new Map([["verify", () => {
      const images = this.table.list().filter(({ checksums }) => checksums !== null);
      for (const image of images) this.integrity.checkAll(image);
      return { code: 0, text: `${counted(images.length, "image is", "images are")} being checked` };
    }]]);
  }

  /** The images as the status shows them. */
  status(): ImageStatus[] {
    return this.table.list().map((image) => ({
      name: image.name,
      revision: image.revision,
      sizeBytes: image.sizeBytes,
      completePercent: image.map?.percent ?? 100,
      clients: image.users.size,
      sentBytes: image.sentBytes,
      unverified: image.checksums === null,
      quarantine: image.quarantine,
      badHashBlocks: [...image.badHashBlocks].sort((a, b) => a - b),
      copy: this.#proxy?.images.copyOf(image)?.status() ?? null,
    }));
  }

  get listening(): string {
    return this.#listener.text;
  }

  /**
   * Reads the directory again.
   *
   * @returns What puts it in force and looks at all images; clients of unchanged images notice nothing.
   * @throws {ConfigError} If it cannot be used.
   */
  async prepare(): Promise<() => Promise<void>> {
    const configuration = await readDirectory(this.#options, this.#configuration.conf);
    return async () => {
      this.#configuration = configuration;
      this.table.settings = this.server.settings = configuration.conf;
      this.server.altServers = configuration.altServers;
      this.#reloadProxy(configuration);
      await this.table.scan();
    };
  }

  #reloadProxy({ conf, altServers }: Configuration): void {
    if (conf.isProxy !== (this.#proxy !== null)) {
      this.#log.warn("isProxy cannot change while running: it takes effect at the next start");
    }
    if (this.#proxy === null) return;
    this.#proxy.images.settings = this.#proxy.upstream.settings = conf;
    this.#proxy.upstream.altServers = altServers;
  }

  /** Disconnects everybody. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#mapTimer?.[Symbol.dispose]();
    // Clients wait for what is being fetched, so that ends as well.
    await Promise.all([this.server.close(), this.#proxy?.images.close(), this.#serving]);
    await this.integrity.stop();
    await this.table.close();
    if (this.#logFile === null) return;
    this.#log.detach(this.#logFile);
    this.#logFile.close();
  }

  #export(image: Image): void {
    try {
      this.#options.exports.add({
        name: `${image}`,
        description: `dnbd3 image ${image.name}, revision ${image.revision}`,
        device: new ExportedImage(image, this.#images),
        sizeBytes: image.sizeBytes,
        readOnly: true,
        traffic: new ExportTraffic(),
        source: `${this.table.store.root}/${image.path}`,
      });
    } catch (error) {
      this.#log.warn(`image ${printable(`${image}`)} is not offered over NBD: ${(error as Error).message}`);
    }
  }

  #watchMaps(): void {
    if (this.#closed) return;
    this.#mapTimer = this.#options.clock.timer(MAPS_MS, () => {
      this.table.readMapsAgain()
        .catch((error) => this.#log.error(`cannot read maps: ${(error as Error).message}`))
        .finally(() => this.#watchMaps());
    }, { background: true });
  }
}

async function readDirectory(
  { directory, log }: ImageServingOptions,
  previous?: ServerConf,
): Promise<Configuration> {
  const warn = (problem: ConfigError) => log.warn(problem.message);
  const file = `${directory}/server.conf`;
  const text = await readConfigurationFile(file);
  if (text === null) throw new ConfigError(file, 0, "there is no such file");
  const sections = parseServerConf(text, { file, warn });
  if (!wantsDnbd3(sections)) throw new ConfigError(file, 0, "there is no section [dnbd3]");
  const conf = readServerConf(sections, { file, warn, previous });
  const altText = await readConfigurationFile(`${directory}/alt-servers`) ?? "";
  const aclText = await readConfigurationFile(`${directory}/rpc.acl`) ?? "";
  return {
    conf,
    altServers: readAltServers(altText, DEFAULT_PORT, { file: `${directory}/alt-servers`, warn }),
    acl: readRpcAcl(aclText, { file: `${directory}/rpc.acl`, warn }),
  };
}

const LEVEL_OF: Readonly<Record<LogMask, LogLevel>> = {
  ERROR: "E",
  WARNING: "W",
  MINOR: "I",
  INFO: "I",
  DEBUG1: "D",
  DEBUG2: "D",
};

/**
 * The log file that the configuration names, told everything from now on.
 *
 * @throws {ConfigError} If it cannot be opened.
 */
function openLogFile(
  { file, fileMask }: LoggingConf,
  { directory, log }: ImageServingOptions,
): LogFile | null {
  if (file === undefined || file === "") return null;
  const levels = new Set<LogLevel>(["F", ...fileMask.map((mask) => LEVEL_OF[mask])]);
  let logFile: LogFile;
  try {
    logFile = new LogFile(() => appendTo(file), levels);
  } catch (error) {
    throw new ConfigError(
      `${directory}/server.conf`,
      0,
      `cannot open the log file ${file}: ${reasonOf(error, { ENOENT: "there is no such directory" })}`,
    );
  }
  log.attach(logFile);
  return logFile;
}

function appendTo(path: string): AppendedFile {
  const file = Deno.openSync(path, { append: true, create: true, mode: 0o640 });
  return {
    write(bytes) {
      for (let rest = bytes; rest.length > 0;) rest = rest.subarray(file.writeSync(rest));
    },
    close: () => file.close(),
  };
}

function factsOf({ images, upstream }: Proxy) {
  return {
    get receivedBytes() {
      return images.receivedBytes;
    },
    copyOf: (image: Image) => images.copyOf(image),
    records: () => upstream.records(),
  };
}

/** On all addresses of both families where there are both. */
function listen(address: string | undefined, port: number): Listener {
  if (address !== undefined) return listenTcp(address, port);
  try {
    return listenTcp("::", port);
  } catch (error) {
    if ((error as Error).cause instanceof Deno.errors.AddrInUse) throw error;
    return listenTcp("0.0.0.0", port);
  }
}
