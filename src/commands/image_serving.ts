/**
 * The dnbd3 server of a configuration directory: `server.conf`, `alt-servers` and `rpc.acl` as dnbd3-server reads
 * them. Every image is also an export of NBD, under its name and revision: `lab/win10:3`.
 */
import { statfs } from "node:fs/promises";
import type { Log } from "../base/log.ts";
import { printable } from "../base/printable.ts";
import { readAltServers } from "../config/alt_servers.ts";
import { ConfigError } from "../config/config_error.ts";
import { parse } from "../config/ini.ts";
import { readRpcAcl, type RpcAcl } from "../config/rpc_acl.ts";
import { formatServerConf, readServerConf, type ServerConf, wantsDnbd3 } from "../config/server_conf.ts";
import { type Listener, listenTcp } from "../net/listener.ts";
import type { Clock } from "../os/clock.ts";
import type { AltServer } from "../server/dnbd3/alt_server.ts";
import { DirectoryStore } from "../server/dnbd3/directory_store.ts";
import { HttpRpc } from "../server/dnbd3/http_rpc.ts";
import { serverFacts } from "../server/dnbd3/server_facts.ts";
import { ExportedImage } from "../server/dnbd3/exported_image.ts";
import type { Image } from "../server/dnbd3/image.ts";
import { ImageTable } from "../server/dnbd3/image_table.ts";
import { Integrity } from "../server/dnbd3/integrity.ts";
import { LocalImages } from "../server/dnbd3/local_images.ts";
import { ImageServer } from "../server/dnbd3/server.ts";
import { type ExportTable, ExportTraffic } from "../server/export_table.ts";
import { DEFAULT_PORT } from "../wire/dnbd3/constants.ts";
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
  readonly log: Log;
}

/** What the files of the directory say. */
interface Configuration {
  readonly conf: ServerConf;
  readonly altServers: readonly AltServer[];
  readonly acl: RpcAcl;
}

export class ImageServing {
  readonly server: ImageServer;
  readonly table: ImageTable;
  readonly integrity: Integrity;
  readonly #options: ImageServingOptions;
  readonly #log: Log;
  readonly #listener: Listener;
  readonly #serving: Promise<void>;
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
    const table = new ImageTable(new DirectoryStore(conf.basePath), conf, options.log);
    try {
      await table.scan();
    } catch (error) {
      const file = `${options.directory}/server.conf`;
      const reason = error instanceof Deno.errors.NotFound
        ? "there is no such directory"
        : (error as Error).message;
      throw new ConfigError(file, 0, `cannot read the base path ${conf.basePath}: ${reason}`);
    }
    return new ImageServing(options, configuration, table);
  }

  private constructor(options: ImageServingOptions, configuration: Configuration, table: ImageTable) {
    const { conf, altServers } = configuration;
    const { clock, exports } = options;
    this.#options = options;
    this.#log = options.log;
    this.#configuration = configuration;
    this.table = table;
    this.integrity = new Integrity(clock, this.#log.child("integrity"), Math.random);
    const images = new LocalImages(table, (image) => this.integrity.checkSome(image));
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
      configText: () => formatServerConf(this.#configuration.conf),
      space: () => spaceOf(conf.basePath),
      wallMs: () => Date.now(),
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

  get listening(): string {
    return this.#listener.text;
  }

  /**
   * Reads the directory again and looks at all images. What cannot be used leaves everything as it is; clients of
   * unchanged images notice nothing.
   */
  async reload(): Promise<void> {
    try {
      const configuration = await readDirectory(this.#options, this.#configuration.conf);
      this.#configuration = configuration;
      this.table.settings = this.server.settings = configuration.conf;
      this.server.altServers = configuration.altServers;
      await this.table.scan();
      this.#log.info(`${this.#options.directory} was read again: ${this.table.list().length} images`);
    } catch (error) {
      this.#log.error(`the configuration stays as it is: ${(error as Error).message}`);
    }
  }

  /** Disconnects everybody. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#mapTimer?.[Symbol.dispose]();
    await this.server.close();
    await this.#serving;
    await this.integrity.stop();
    await this.table.close();
  }

  #export(image: Image): void {
    try {
      this.#options.exports.add({
        name: `${image}`,
        description: `dnbd3 image ${image.name}, revision ${image.revision}`,
        device: new ExportedImage(image),
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
  const text = await readText(file);
  if (text === null) throw new ConfigError(file, 0, "there is no such file");
  const sections = parse(text, { file, onMalformed: warn });
  if (!wantsDnbd3(sections)) throw new ConfigError(file, 0, "there is no section [dnbd3]");
  const conf = readServerConf(sections, { file, warn, previous });
  if (conf.isProxy) {
    const reason =
      "isProxy: only images that are here are served; copying from other servers is not part of this version";
    warn(new ConfigError(file, 0, reason));
  }
  const altText = await readText(`${directory}/alt-servers`) ?? "";
  const aclText = await readText(`${directory}/rpc.acl`) ?? "";
  return {
    conf,
    altServers: readAltServers(altText, DEFAULT_PORT, { file: `${directory}/alt-servers`, warn }),
    acl: readRpcAcl(aclText, { file: `${directory}/rpc.acl`, warn }),
  };
}

async function readText(path: string): Promise<string | null> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw new ConfigError(path, 0, (error as Error).message);
  }
}

async function spaceOf(path: string): Promise<{ totalBytes: number; freeBytes: number }> {
  const { bsize, blocks, bavail } = await statfs(path);
  return { totalBytes: bsize * blocks, freeBytes: bsize * bavail };
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
