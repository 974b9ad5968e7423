/**
 * What `serve` does with a configuration directory: its exports, who may have them, its images of dnbd3, and all of
 * that anew when the directory is read again.
 */
import { KeyList } from "../access/key_list.ts";
import { PeerRules } from "../access/peer_rules.ts";
import { counted } from "../base/counted.ts";
import type { AdjustableLog } from "../base/log.ts";
import { printable } from "../base/printable.ts";
import { formatDiskLocator } from "../base/uri.ts";
import { ConfigError } from "../config/config_error.ts";
import type { ExportSettings } from "../config/exports_conf.ts";
import type { ControlHandlers } from "../control/handlers.ts";
import type { ImageStatus } from "../control/status.ts";
import { bytewise } from "../device/bytewise.ts";
import type { BlockDevice } from "../device/device.ts";
import { activatedDescriptors } from "../net/activation.ts";
import { openDisk, openNbdLocator } from "../open_disk.ts";
import { systemClock } from "../os/clock.ts";
import { type Export, type ExportTable, ExportTraffic } from "../server/export_table.ts";
import type { NbdServer } from "../server/nbd/server.ts";
import type { StrangerCounts } from "../server/strangers.ts";
import { closeDisk } from "./close_disk.ts";
import { type Configuration, readConfiguration } from "./configuration.ts";
import { describePeers, keysOf, refuseOptions, settingsOf } from "./configured_settings.ts";
import type { ServedOwnership } from "./disk_ownership.ts";
import { type ConfiguredExport, type ExportChanges, planChanges } from "./export_changes.ts";
import { ImageServing } from "./image_serving.ts";
import type { AccessRules, ReloadableServer, ServerRole } from "./server_role.ts";
import { openServedImage, whyNotServed } from "./served_image.ts";
import type { ServerSettings } from "./serving_options.ts";

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

/** A disk that is about to be served. */
interface OpenedExport {
  readonly settings: ExportSettings;
  readonly device: BlockDevice;
  readonly ownership?: ServedOwnership;
  /** See {@linkcode Export}. */
  readonly writtenElsewhere?: () => boolean;
}

/** What a reload has found good, and is about to put in force. */
interface NextConfiguration {
  readonly configuration: Configuration;
  readonly changes: ExportChanges;
  readonly opened: readonly OpenedExport[];
  readonly applyImages: (() => Promise<void>) | undefined;
}

export class ConfiguredServing implements ServerRole {
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
    return this.#settingsFor(this.#configuration);
  }

  #settingsFor(configuration: Configuration): ServerSettings {
    const { settings, env } = this.#options;
    return settingsOf(settings, configuration, activatedDescriptors(env, Deno.pid).length > 0);
  }

  async openExports(exports: ExportTable, stopped: AbortSignal): Promise<void> {
    for (const settings of this.#configuration.exports) {
      const opened = await this.#open(settings, stopped);
      if (opened !== null) this.#add(exports, opened);
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

  strangers(): StrangerCounts | null {
    return this.#images?.server.strangers ?? null;
  }

  listening(): string[] {
    return this.#images === null ? [] : [this.#images.listening];
  }

  lastFlushMs({ name }: Export): number | undefined {
    const settings = this.#exports.get(name)?.settings;
    return settings === undefined ? undefined : this.#flushLimitMs(settings);
  }

  /** Remote disks may never come back. */
  #flushLimitMs({ disk }: ExportSettings): number | undefined {
    return disk.kind === "file" ? undefined : this.settings.drainTimeout;
  }

  async reload(server: ReloadableServer, force: boolean): Promise<string> {
    let next: NextConfiguration;
    try {
      next = await this.#prepare(server, force);
    } catch (error) {
      throw new Error(`kept the configuration: ${(error as Error).message}`, { cause: error });
    }
    this.#sayWhatStays(next.configuration);
    const { configuration, changes } = next;
    this.#configuration = configuration;
    this.#peers = new PeerRules(configuration.peers);
    this.#keys.replace(keysOf(configuration.peers));
    // At once, for some of what follows takes its time.
    server.nbd.reconsider();
    const failed = await this.#change(server, changes, next.opened);
    await next.applyImages?.().catch((error) => failed.push((error as Error).message));
    this.#advise(server.exports);
    const done = `${this.#options.directory} was read again`;
    if (failed.length > 0) throw new Error(`${done}, but ${failed.join("; ")}`);
    const { arriving, waiting, leaving } = changes;
    const names = new Set(leaving.map(({ settings }) => settings.name));
    const anew = [...arriving, ...waiting].filter(({ name }) => names.has(name)).length;
    const added = arriving.length + waiting.length - anew;
    const images = this.#images === null ? "" : `${counted(this.#images.table.list().length, "image")}, `;
    return `${done}: ${images}${
      counted(this.#exports.size, "export")
    }, ${added} added, ${anew} opened anew, ` +
      `${leaving.length - anew} removed`;
  }

  /**
   * Reads the directory again, and opens what can be opened beforehand. Settings of the server are in force
   * afterwards.
   *
   * @throws If anything is wrong; then nothing has changed.
   */
  async #prepare(server: ReloadableServer, force: boolean): Promise<NextConfiguration> {
    const { exports, nbd } = server;
    const configuration = await readConfiguration(this.#options.directory);
    // What has moved to another host is ours no longer.
    for (const [name, { exported }] of this.#exports) {
      if (exports.find(name) !== exported) this.#exports.delete(name);
    }
    const changes = planChanges([...this.#exports.values()], configuration.exports);
    this.#checkNames(exports, changes);
    this.#checkMigrations(server, changes);
    if (!force) this.#checkUse(nbd, changes);
    if ((this.#images !== null) !== configuration.hasImages) {
      const what = configuration.hasImages ? "come" : "go";
      throw new ConfigError(this.#file("server"), 0, `section [dnbd3] cannot ${what} while running`);
    }
    const applyImages = await this.#images?.prepare();
    const opened: OpenedExport[] = [];
    try {
      for (const settings of changes.arriving) {
        const each = await this.#open(settings);
        if (each !== null) opened.push(each);
      }
      await server.apply(this.#settingsFor(configuration));
    } catch (error) {
      for (const each of opened) await closeOpened(each);
      throw error;
    }
    return { configuration, changes, opened, applyImages };
  }

  async close(): Promise<void> {
    await Promise.all([...this.#exports.values()].map(({ ownership }) => ownership?.[Symbol.asyncDispose]()));
    await this.#images?.close();
    await Promise.all(this.#closing);
  }

  /** Brings the exports to what is wanted. Returns what could not be opened, which is served no longer. */
  async #change(
    { exports, nbd }: ReloadableServer,
    { leaving, waiting, staying }: ExportChanges,
    opened: readonly OpenedExport[],
  ): Promise<string[]> {
    for (const { settings } of leaving) {
      exports.remove(settings.name);
      this.#exports.delete(settings.name);
    }
    exports.defaultName = null;
    for (const { present, settings } of staying) {
      const { exported } = present;
      exported.description = settings.description;
      exported.writers = settings.writers;
      this.#exports.set(settings.name, { ...present, settings });
      if (settings.isDefault) exports.defaultName = settings.name;
    }
    // Whoever comes back must not take them for disks that have lost nothing, nor for the same.
    for (const each of opened) this.#add(exports, each, crypto.randomUUID());
    const durable = new Map<string, ConfiguredExport>();
    await Promise.all(leaving.map(async (each) => {
      if (await this.#dismiss(nbd, each)) durable.set(each.settings.name, each);
    }));
    const lost: string[] = [];
    for (const settings of waiting) {
      try {
        const each = await this.#open(settings);
        const before = durable.get(settings.name);
        const instance = before !== undefined && isUnchanged(before.settings, settings)
          ? before.exported.instance
          : crypto.randomUUID();
        if (each !== null) this.#add(exports, each, instance);
      } catch (error) {
        lost.push((error as Error).message);
      }
    }
    return lost;
  }

  /**
   * Ends the clients of an export that is served no longer, and closes its disk. Does not wait for ever.
   *
   * @returns Whether all that was written is durable, as far as is known by then.
   */
  async #dismiss(nbd: NbdServer, { settings, exported, ownership }: ConfiguredExport): Promise<boolean> {
    const { device, source } = exported;
    let isDurable = false;
    const closing: Promise<void> = nbd.dismiss(exported, "the export was removed", DISMISSAL_MS)
      .then(() => ownership?.[Symbol.asyncDispose]())
      .then(() => closeDisk(device, source, this.#log, this.#flushLimitMs(settings)))
      .then((is) => void (isDurable = is))
      .catch((error) => this.#log.error(`cannot close ${source}: ${(error as Error).message}`))
      .then(() => void this.#closing.delete(closing));
    this.#closing.add(closing);
    const { promise: late, resolve } = Promise.withResolvers<void>();
    using _timer = systemClock.timer(DISMISSAL_MS + CLOSING_MS, () => {
      this.#log.warn(`${source}: closing takes longer; going on without waiting for it`);
      resolve();
    });
    await Promise.race([closing, late]);
    return isDurable;
  }

  /**
   * Opens the disk of an export.
   *
   * @returns `null` if the disk has moved to another host, or may have: the others are served all the same.
   * @throws {ConfigError} If it cannot be opened.
   * @throws The signal's reason.
   */
  async #open(settings: ExportSettings, signal?: AbortSignal): Promise<OpenedExport | null> {
    const { disk, readOnly, discard, name, line } = settings;
    const { stateDirectory, env } = this.#options;
    const log = this.#log;
    const file = this.#file("exports");
    try {
      const far = { readOnly, deadlineMs: Infinity, signal, log, env };
      if (disk.kind === "nbd") {
        const { disk: blocks, link } = await openNbdLocator(disk, far);
        return { settings, device: bytewise(blocks), writtenElsewhere: () => link?.isAlone !== true };
      }
      if (disk.kind !== "file") return { settings, device: await openDisk(disk, far) };
      const surroundings = { stateDirectory, env, log };
      const why = await whyNotServed(disk.path, surroundings);
      if (why === null) {
        const opened = await openServedImage(disk.path, { readOnly, discard }, surroundings);
        try {
          this.#checkReservation(opened.device);
        } catch (error) {
          await closeOpened(opened);
          throw error;
        }
        return { settings, ...opened };
      }
      log.error(new ConfigError(file, line, `export "${printable(name)}" is not served: ${why}`).message);
      return null;
    } catch (error) {
      signal?.throwIfAborted();
      throw new ConfigError(
        file,
        line,
        `cannot open export "${printable(name)}": ${(error as Error).message}`,
      );
    }
  }

  /** @throws {DeviceError} If what is kept of a reservation cannot be understood: while running it would be too late. */
  #checkReservation({ identity }: BlockDevice): void {
    if (identity?.durable === true) this.reservations?.reservationStore?.(identity.uuid).load();
  }

  /** @param instance See {@linkcode Export}. */
  #add(
    exports: ExportTable,
    { settings, device, ownership, writtenElsewhere }: OpenedExport,
    instance?: string,
  ): void {
    const { name, description, readOnly, isDefault, writers } = settings;
    const exported: Export = {
      name,
      description,
      device,
      sizeBytes: device.sizeBytes,
      readOnly,
      writers,
      writtenElsewhere,
      traffic: new ExportTraffic(),
      instance,
      source: formatDiskLocator(settings.disk),
      ownership,
      desk: ownership?.desk,
    };
    exports.add(exported, { isDefault });
    this.#exports.set(name, { settings, exported, ownership });
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
    if (exports.list().length === 0 && this.#images === null) {
      this.#log.warn(`${this.#options.directory}: there is nothing to serve`);
    }
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

/** Whether nobody but its clients can have changed a disk that is opened anew: who may not write cannot tell. */
function isUnchanged(before: ExportSettings, now: ExportSettings): boolean {
  return formatDiskLocator(before.disk) === formatDiskLocator(now.disk) && !before.readOnly && !now.readOnly;
}

async function closeOpened({ device, ownership }: Omit<OpenedExport, "settings">): Promise<void> {
  await ownership?.[Symbol.asyncDispose]();
  await device.close();
}
