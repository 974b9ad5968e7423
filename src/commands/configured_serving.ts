/**
 * What `serve` does with a configuration directory: its exports, who may have them, its images of dnbd3, and all of
 * that anew when the directory is read again.
 */
import { KeyList } from "../access/key_list.ts";
import { PeerRules } from "../access/peer_rules.ts";
import type { AdjustableLog } from "../base/log.ts";
import { printable } from "../base/printable.ts";
import { formatDiskLocator, NBD_PORT } from "../base/uri.ts";
import { ConfigError } from "../config/config_error.ts";
import type { ExportSettings } from "../config/exports_conf.ts";
import type { PeerSettings } from "../config/peers_conf.ts";
import type { ControlHandlers } from "../control/handlers.ts";
import type { AccessStatus, ImageStatus } from "../control/status.ts";
import type { BlockDevice } from "../device/device.ts";
import { openFileDisk } from "../device/open_file_disk.ts";
import { openDisk } from "../open_disk.ts";
import { systemClock } from "../os/clock.ts";
import { type Export, type ExportTable, ExportTraffic } from "../server/export_table.ts";
import type { NbdServer } from "../server/nbd/server.ts";
import { closeDisk } from "./close_disk.ts";
import { type Configuration, readConfiguration } from "./configuration.ts";
import { type ConfiguredExport, type ExportChanges, planChanges } from "./export_changes.ts";
import { ImageServing } from "./image_serving.ts";
import type { AccessRules, ReloadableServer, ServerRole, ServerSettings } from "./running_server.ts";
import { UsageError } from "./usage_error.ts";

/** How long clients of an export that goes may take to be answered what they have asked for. */
const DISMISSAL_MS = 5000;
/** How long a disk may take to close, or to make durable what was written, before a reload goes on without it. */
const CLOSING_MS = 5000;

export interface ConfiguredServingOptions {
  readonly directory: string;
  /** What the command line says besides. */
  readonly settings: ServerSettings;
  readonly stateDirectory: string;
  readonly reservations: ServerRole["reservations"];
  readonly log: AdjustableLog;
  readonly env: (name: string) => string | undefined;
}

export class ConfiguredServing implements ServerRole {
  /** For remote disks, which may never come back. */
  readonly lastFlushMs: number;
  readonly rules: AccessRules;
  readonly reservations: ServerRole["reservations"];
  readonly #options: ConfiguredServingOptions;
  readonly #log: AdjustableLog;
  readonly #exports = new Map<string, ConfiguredExport>();
  readonly #keys = new KeyList([]);
  /** Disks that are being closed. */
  readonly #closing = new Set<Promise<void>>();
  #configuration: Configuration;
  #peers: PeerRules;
  #images: ImageServing | null = null;

  /**
   * Reads the directory; nothing is opened.
   *
   * @throws {ConfigError} If something in it is wrong.
   * @throws {UsageError} If the command line says what the directory has to say.
   */
  static async read(options: ConfiguredServingOptions): Promise<ConfiguredServing> {
    refuseOptions(options.settings);
    return new ConfiguredServing(options, await readConfiguration(options.directory));
  }

  private constructor(options: ConfiguredServingOptions, configuration: Configuration) {
    this.#options = options;
    this.#log = options.log;
    this.#configuration = configuration;
    this.#peers = new PeerRules(configuration.peers);
    this.#keys.replace(keysOf(configuration.peers));
    this.reservations = options.reservations;
    this.lastFlushMs = this.settings.drainTimeout;
    this.rules = {
      // Who has no rights is not to learn what there is.
      judge: (peer, exported) => ({ ...this.#peers.rightsFor(peer, exported.name), conceals: true }),
      keys: this.#keys,
      status: () => describePeers(this.#configuration.peers),
      source: `${options.directory}/peers.conf`,
    };
  }

  /** How the server is to run. */
  get settings(): ServerSettings {
    return settingsOf(this.#options.settings, this.#configuration);
  }

  async openExports(exports: ExportTable): Promise<void> {
    for (const settings of this.#configuration.exports) {
      this.#add(exports, settings, await this.#open(settings));
    }
    if (this.#configuration.hasImages) this.#images = await this.#openImages(exports);
    this.#advise(exports);
  }

  reopenLog(): void {
    this.#images?.reopenLog();
  }

  handlers(): ControlHandlers {
    return this.#images?.handlers() ?? new Map();
  }

  images(): ImageStatus[] {
    return this.#images?.status() ?? [];
  }

  listening(): string[] {
    return this.#images === null ? [] : [this.#images.listening];
  }

  async reload(server: ReloadableServer, force: boolean): Promise<string> {
    const { exports, nbd } = server;
    const configuration = await readConfiguration(this.#options.directory);
    const changes = planChanges([...this.#exports.values()], configuration.exports);
    this.#checkNames(exports, changes);
    this.#checkMigrations(server, changes);
    if (!force) this.#checkUse(nbd, changes);
    if ((this.#images !== null) !== configuration.hasImages) {
      const what = configuration.hasImages ? "come" : "go";
      throw new ConfigError(this.#file("server"), 0, `section [dnbd3] cannot ${what} while running`);
    }
    const applyImages = await this.#images?.prepare();
    const opened: [ExportSettings, BlockDevice][] = [];
    try {
      for (const settings of changes.arriving) opened.push([settings, await this.#open(settings)]);
      await server.apply(settingsOf(this.#options.settings, configuration));
    } catch (error) {
      for (const [, device] of opened) await device.close();
      throw error;
    }
    this.#sayWhatStays(configuration);
    this.#configuration = configuration;
    this.#peers = new PeerRules(configuration.peers);
    this.#keys.replace(keysOf(configuration.peers));
    const lost = await this.#change(server, changes, opened);
    await applyImages?.();
    this.#advise(exports);
    if (lost.length > 0) throw new Error(`all else is changed, but ${lost.join("; ")}`);
    const { arriving, waiting, leaving } = changes;
    const names = new Set(leaving.map(({ settings }) => settings.name));
    const anew = [...arriving, ...waiting].filter(({ name }) => names.has(name)).length;
    const added = arriving.length + waiting.length - anew;
    const images = this.#images === null ? "" : `${this.#images.table.list().length} images, `;
    return `${this.#options.directory} was read again: ${images}${this.#exports.size} exports, ${added} added, ` +
      `${anew} opened anew, ${leaving.length - anew} removed`;
  }

  async close(): Promise<void> {
    await this.#images?.close();
    await Promise.all(this.#closing);
  }

  /** Brings the exports to what is wanted. Returns what could not be opened, which is served no longer. */
  async #change(
    { exports, nbd }: ReloadableServer,
    { leaving, waiting, staying }: ExportChanges,
    opened: readonly [ExportSettings, BlockDevice][],
  ): Promise<string[]> {
    for (const { settings } of leaving) {
      exports.remove(settings.name);
      this.#exports.delete(settings.name);
    }
    exports.defaultName = null;
    for (const { present: { exported }, settings } of staying) {
      exported.description = settings.description;
      exported.writers = settings.writers;
      this.#exports.set(settings.name, { settings, exported });
      if (settings.isDefault) exports.defaultName = settings.name;
    }
    for (const [settings, device] of opened) this.#add(exports, settings, device);
    await Promise.all(leaving.map(({ exported }) => this.#dismiss(nbd, exported)));
    const lost: string[] = [];
    for (const settings of waiting) {
      try {
        this.#add(exports, settings, await this.#open(settings));
      } catch (error) {
        lost.push((error as Error).message);
      }
    }
    return lost;
  }

  /** Ends the clients of an export that is served no longer, and closes its disk. Does not wait for ever. */
  async #dismiss(nbd: NbdServer, exported: Export): Promise<void> {
    const { device, source } = exported;
    const closing: Promise<void> = nbd.dismiss(exported, "the export was removed", DISMISSAL_MS)
      .then(() => closeDisk(device, source, this.#log, this.lastFlushMs))
      .catch((error) => this.#log.error(`cannot close ${source}: ${(error as Error).message}`))
      .then(() => void this.#closing.delete(closing));
    this.#closing.add(closing);
    const { promise: late, resolve } = Promise.withResolvers<void>();
    using _timer = systemClock.timer(DISMISSAL_MS + CLOSING_MS, () => {
      this.#log.warn(`${source}: closing takes longer; going on without waiting for it`);
      resolve();
    });
    await Promise.race([closing, late]);
  }

  async #open(settings: ExportSettings): Promise<BlockDevice> {
    const { disk, readOnly, discard, name } = settings;
    const { stateDirectory, env } = this.#options;
    const log = this.#log;
    try {
      return disk.kind === "file"
        ? await openFileDisk(disk.path, { readOnly, discard, stateDirectory, log })
        : await openDisk(disk, { readOnly, deadlineMs: Infinity, log, env });
    } catch (error) {
      const reason = `cannot open export "${printable(name)}": ${(error as Error).message}`;
      throw new ConfigError(this.#file("exports"), settings.line, reason);
    }
  }

  #add(exports: ExportTable, settings: ExportSettings, device: BlockDevice): void {
    const { name, description, readOnly, isDefault, writers } = settings;
    const exported: Export = {
      name,
      description,
      device,
      sizeBytes: device.sizeBytes,
      readOnly,
      writers,
      traffic: new ExportTraffic(),
      source: formatDiskLocator(settings.disk),
    };
    exports.add(exported, { isDefault });
    this.#exports.set(name, { settings, exported });
  }

  #openImages(exports: ExportTable): Promise<ImageServing> {
    const { directory, settings: { addr } } = this.#options;
    return ImageServing.open({ directory, address: addr, exports, clock: systemClock, log: this.#log });
  }

  /** @throws {ConfigError} If an image has the name of an export that is to come. */
  #checkNames(exports: ExportTable, { arriving, waiting }: ExportChanges): void {
    for (const { name, line } of [...arriving, ...waiting]) {
      if (this.#exports.has(name) || exports.find(name) === undefined) continue;
      throw new ConfigError(this.#file("exports"), line, `there is an image "${printable(name)}" already`);
    }
  }

  /** @throws {ConfigError} If an export that is to go is on its way to another host. */
  #checkMigrations(server: ReloadableServer, { leaving }: ExportChanges): void {
    const moving = leaving.find(({ exported }) => server.isMigrating(exported));
    if (moving === undefined) return;
    const reason = `removes, or opens anew, "${
      printable(moving.settings.name)
    }", which is migrating: break it off`;
    throw new ConfigError(this.#file("exports"), 0, reason);
  }

  /** @throws {ConfigError} If somebody uses an export that is to go. */
  #checkUse(nbd: NbdServer, { leaving }: ExportChanges): void {
    const uses = leaving.map(({ exported }) => ({
      name: exported.name,
      count: nbd.clients().filter(({ session }) => session.exported === exported).length,
    })).filter(({ count }) => count > 0);
    if (uses.length === 0) return;
    const list = uses.map(({ name, count }) => `"${printable(name)}" (${count} clients)`).join(", ");
    const reason = `removes, or opens anew, what is in use: ${list}; denbd reload --force cuts them off`;
    throw new ConfigError(this.#file("exports"), 0, reason);
  }

  /** Tells what has changed in the files and cannot change while running. */
  #sayWhatStays({ serving }: Configuration): void {
    const { serving: present } = this.#configuration;
    for (const section of ["channel", "http"] as const) {
      if (JSON.stringify(serving[section]) === JSON.stringify(present[section])) continue;
      this.#log.warn(`${this.#file("server")}: [${section}] cannot change while running`);
    }
  }

  /** Tells of exports that nobody may have, and of rights to what there is not. */
  #advise(exports: ExportTable): void {
    for (const { name, line } of this.#configuration.exports) {
      if (this.#peers.speaksOf(name)) continue;
      const reason = `nobody may have export "${printable(name)}": no rule of peers.conf gives it to anyone`;
      this.#log.warn(new ConfigError(this.#file("exports"), line, reason).message);
    }
    for (const { rights } of this.#configuration.peers) {
      for (const { exports: pattern, line } of rights) {
        if (pattern.includes("*") || exports.list().some(({ name }) => name === pattern)) continue;
        const reason = `there is no export "${printable(pattern)}"`;
        this.#log.warn(new ConfigError(this.#file("peers"), line, reason).message);
      }
    }
  }

  #file(name: "server" | "exports" | "peers"): string {
    return `${this.#options.directory}/${name}.conf`;
  }
}

/** @throws {UsageError} About the first option that a configuration directory replaces. */
function refuseOptions(settings: ServerSettings): void {
  const { tls, tlsCertificates, tlsVerifyPeer, channelPort, key, authorizedPeers, psk, encryption, http } =
    settings;
  if (tlsVerifyPeer || (tls ?? tlsCertificates)) {
    throw new UsageError("with --config, TLS is said in [tls] of server.conf");
  }
  if (channelPort !== undefined || (key ?? authorizedPeers ?? psk ?? encryption)) {
    throw new UsageError(
      "with --config, channels are said in [channel] of server.conf, and keys in peers.conf",
    );
  }
  if (http !== undefined) throw new UsageError("with --config, HTTP is said in [http] of server.conf");
}

/** What the command line and the directory say together. Where to listen is said by the former, if it does. */
function settingsOf(given: ServerSettings, { serving, exports, peers }: Configuration): ServerSettings {
  const { nbd, tls, channel, http } = serving;
  const listen = [...nbd.listen];
  if (given.port !== undefined || given.unix !== undefined) {
    listen.length = 0;
    const host = given.addr ?? "127.0.0.1";
    if (given.unix !== undefined) listen.push({ transport: "unix", path: given.unix });
    if (given.port !== undefined) listen.push({ transport: "tcp", host, port: given.port });
  }
  // A directory of images alone is for dnbd3.
  if (listen.length === 0 && channel === null && exports.length + peers.length > 0) {
    listen.push({ transport: "tcp", host: "127.0.0.1", port: NBD_PORT });
  }
  return {
    ...given,
    listen,
    maxConnections: nbd.maxConnections ?? given.maxConnections,
    handshakeTimeout: nbd.handshakeTimeout ?? given.handshakeTimeout,
    requestTimeout: nbd.requestTimeout,
    drainTimeout: nbd.drainTimeout ?? given.drainTimeout,
    tls: tls.mode,
    tlsCertificates: tls.mode === "off" ? undefined : tls.certificates,
    tlsVerifyPeer: tls.verifyPeer,
    channelPort: channel?.listen.port,
    channelAddr: channel?.listen.host,
    key: channel?.key,
    psk: channel?.psk,
    encryption: channel?.encryption,
    http: http.listen,
  };
}

/** The keys that are let in: what each may do is said per export. */
function keysOf(peers: readonly PeerSettings[]) {
  return peers.flatMap(({ keys }) => keys).map((each) => ({ ...each, rights: "write" as const }));
}

function describePeers(peers: readonly PeerSettings[]): AccessStatus {
  const entries = peers.flatMap(({ name, rights }) =>
    rights.map(({ rights, exports }) => `[${printable(name)}] ${rights} = ${printable(exports)}`)
  );
  return { acl: entries.length === 0 ? "closed" : "list", entries, defaultDeny: true };
}
