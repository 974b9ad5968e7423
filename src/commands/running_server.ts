/**
 * What the commands that serve have in common: sockets to listen on, who is let in, the control socket, signals, word
 * to systemd, and an orderly end.
 */
import { AccessList } from "../access/acl.ts";
import { narrower } from "../access/key_list.ts";
import type { Endpoint } from "../base/endpoint.ts";
import type { AdjustableLog } from "../base/log.ts";
import { parseStatusPlace } from "../base/status_place.ts";
import { serverHandlers } from "../control/handlers.ts";
import { Migrations } from "../control/migrations.ts";
import { ControlServer } from "../control/server.ts";
import { describeServer } from "../control/server_status.ts";
import { StateWatch } from "../control/state_watch.ts";
import type { ProcessStatus } from "../control/status.ts";
import { StatusHttp } from "../control/status_http.ts";
import type { BlockDevice } from "../device/device.ts";
import { activatedDescriptors, listenDescriptor } from "../net/activation.ts";
import type { Receiver } from "../migrate/receiver.ts";
import type { Peer } from "../net/connection.ts";
import { type Listener, listenTcp, listenUnix } from "../net/listener.ts";
import { systemClock } from "../os/clock.ts";
import { Notifier, notifySettings } from "../os/notify.ts";
import { type Export, ExportTable } from "../server/export_table.ts";
import { type NbdLimits, NbdServer, type NbdServerOptions, type Verdict } from "../server/nbd/server.ts";
import { DEFAULT_PORT } from "../wire/nbd/constants.ts";
import { channelOptions, type OpenedEntrance, openEntrance } from "./channel_options.ts";
import type { Invocation } from "./command.ts";
import { openDestination, silenceLimit } from "./migration_destination.ts";
import type { OptionTable, OptionValues } from "./options.ts";
import { StopSignals } from "./stop_signals.ts";
import { type OpenedTls, openTls, tlsOptions } from "./tls_options.ts";
import { UsageError } from "./usage_error.ts";
import { VERSION } from "./version.ts";

/** As flexnbd's: a request that takes longer costs its client the connection. */
const KILLSWITCH_MS = 120_000;
/** Old clients know sectors only. */
const SECTOR_BYTES = 512;

/** The options of every command that serves. */
export const servingOptions = {
  port: { type: "port", short: "p", help: `TCP port to listen on; 0 for any (${DEFAULT_PORT})` },
  unix: { type: "string", short: "U", valueName: "SOCK", help: "Unix socket to listen on" },
  ...tlsOptions,
  ...channelOptions,
  sock: { type: "string", short: "s", valueName: "SOCK", help: "Control socket to open" },
  http: {
    type: "string",
    valueName: "PLACE",
    help: "Tell /metrics and /healthz over HTTP at PLACE: a port of loopback, or unix:SOCK",
  },
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
  maxConnections: {
    type: "integer",
    min: 1,
    max: 100_000,
    default: 4096,
    help: "Connections at the same time",
  },
  maxPerAddress: {
    type: "integer",
    min: 1,
    max: 100_000,
    default: 1024,
    help: "The same from one IP address",
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

export interface ServerSettings extends OptionValues<typeof servingOptions> {
  /** Address to listen on; TCP. */
  readonly addr?: string;
}

/** What a command adds to that. */
export interface ServerRole {
  /**
   * Adds what is served.
   *
   * @param stopped Fires when the program is to stop before that is done.
   */
  openExports(exports: ExportTable, stopped: AbortSignal): Promise<void>;
  /** Where reservations outlive the program; none do by default. */
  readonly reservations?: Pick<NbdServerOptions, "reservationStore" | "reservationAwayMs">;
  /** How long the last flush may take, in milliseconds; for disks that may never come back. Default: any time. */
  readonly lastFlushMs?: number;
  /** What is served is for NBD only where the access list lets somebody in. */
  readonly isClosed?: boolean;
  /** Where it listens besides, for other protocols. */
  listening?(): readonly string[];
  /** Takes a disk in, until it has come. */
  readonly receiver?: Receiver;
  /** What has come is served, rather than that the program ends. */
  readonly servesReceived?: boolean;
  /** Reads its configuration again. Never throws. Returns whether it has one. */
  reload?(): Promise<boolean>;
  /** Ends what it serves besides. */
  close?(): Promise<void>;
}

export class RunningServer {
  readonly #options: ServerSettings;
  readonly #role: ServerRole;
  readonly #log: AdjustableLog;
  readonly #env: (name: string) => string | undefined;
  readonly #access: AccessList;
  readonly #exports = new ExportTable();
  readonly #nbd: NbdServer;
  readonly #listeners: Listener[] = [];
  readonly #serving: Promise<void>[] = [];
  readonly #startedAtMs = systemClock.now();
  readonly #tls: OpenedTls | null;
  readonly #httpPlace: Endpoint | null;
  readonly #watch = new StateWatch(() => this.#status(), systemClock);
  readonly #limits: Partial<NbdLimits>;
  readonly #migrations: Migrations;
  /** Resolves with the exit code when the last disk has moved away. */
  readonly #moved = Promise.withResolvers<number>();
  #control: ControlServer | null = null;
  #http: StatusHttp | null = null;
  #door: OpenedEntrance | null = null;
  #channelListener: Listener | null = null;

  /**
   * @param entries The access list.
   * @throws {UsageError} If an entry is none, or options do not fit together.
   * @throws {Error} If the certificate for TLS cannot be used.
   */
  constructor(
    options: ServerSettings,
    entries: readonly string[],
    role: ServerRole,
    { log, env }: Pick<Invocation, "log" | "env">,
  ) {
    this.#options = options;
    this.#role = role;
    this.#log = log;
    this.#env = env;
    try {
      this.#access = new AccessList(entries, { defaultDeny: options.defaultDeny });
    } catch (error) {
      throw new UsageError((error as Error).message);
    }
    this.#httpPlace = options.http === undefined ? null : statusPlace(options.http);
    this.#tls = openTls(options);
    if (options.oldstyle && this.#tls?.server.required) throw new UsageError("--oldstyle has no TLS");
    this.#limits = {
      handshakeMs: options.handshakeTimeout,
      connections: options.maxConnections,
      connectionsPerAddress: options.maxPerAddress,
      requestMs: options.killswitch ? KILLSWITCH_MS : 0,
    };
    this.#nbd = new NbdServer({
      exports: this.#exports,
      judge: (peer) => this.#judge(peer),
      log,
      clock: systemClock,
      oldstyle: options.oldstyle,
      instance: INSTANCE,
      changed: this.#watch.look,
      tls: this.#tls?.server,
      ...role.reservations,
      // One source at a time, which in newstyle may also ask questions beside.
      limits: this.#receives && options.oldstyle ? { ...this.#limits, connections: 1 } : this.#limits,
      onLeft: ({ session }) => role.receiver?.left(session.saidGoodbye),
    });
    this.#migrations = new Migrations({
      exports: this.#exports,
      clock: systemClock,
      log,
      silenceMsMax: silenceLimit(env),
      destination: (request, exported) => openDestination(request, exported, INSTANCE, { log, env }),
      unlink: (exported) => Deno.remove(exported.source),
      moved: (exported, certain, refuse) => this.#letGo(exported, certain, refuse),
    });
  }

  /** Serves until a signal asks it to stop, or until nothing is left to serve. Returns the exit code. */
  async run(): Promise<number> {
    using signals = new StopSignals(() => void this.#reload());
    const notifier = new Notifier(notifySettings(this.#env, Deno.pid));
    const stopped = new AbortController();
    void signals.stop.then((signal) => stopped.abort(new Stopped(signal)));
    try {
      this.#door = await openEntrance(this.#options, {
        env: this.#env,
        log: this.#log,
        clock: systemClock,
        handshakeMs: this.#options.handshakeTimeout,
      });
      await this.#role.openExports(this.#exports, stopped.signal);
      await this.#listen();
      if (this.#options.sock !== undefined) await this.#listenForControl(this.#options.sock);
      if (this.#httpPlace !== null) await this.#listenForHttp(this.#httpPlace);
    } catch (error) {
      await this.#close();
      if (!(error instanceof Stopped)) throw error;
      this.#log.info(`${error.message}: stopping before anything was served`);
      return 0;
    }
    const { receiver } = this.#role;
    if (receiver !== undefined) void this.#receive(receiver);
    const listening = this.#listening().join(", ");
    this.#log.info(`serving ${this.#exports.list().length} exports on ${listening}`);
    notifier.ready(`serving on ${listening}`);
    const alive = notifier.aliveEveryMs === null ? undefined : setInterval(
      () => notifier.alive(),
      notifier.aliveEveryMs,
    );
    const cause = await Promise.race([signals.stop, this.#moved.promise]);
    clearInterval(alive);
    if (typeof cause === "string") this.#log.info(`${cause}: stopping`);
    notifier.stopping();
    const atOnce = signals.stopAtOnce.then((signal) => {
      this.#log.warn(`${signal}: stopping at once`);
      this.#nbd.abort();
      return 1;
    });
    const exitCode = typeof cause === "string" ? await this.#abandonMigrations() : cause;
    return await Promise.race([this.#stop().then((stopped) => Math.max(stopped, exitCode)), atOnce]);
  }

  /** As with flexnbd, whoever stops a server that migrates learns that it had not finished. */
  async #abandonMigrations(): Promise<number> {
    return await this.#migrations.stop() || this.#receives ? 1 : 0;
  }

  /** Lets clients finish, makes everything durable, and ends. Returns the exit code. */
  async #stop(): Promise<number> {
    const { drainTimeout } = this.#options;
    this.#closeDoor();
    const inTime = await this.#nbd.drain(drainTimeout);
    if (!inTime) this.#log.warn(`clients did not finish within ${drainTimeout / 1000} s and were cut off`);
    return await this.#close() ? 0 : 1;
  }

  get #receives(): boolean {
    return this.#role.receiver?.isWaiting === true;
  }

  async #receive(receiver: Receiver): Promise<void> {
    const whole = await receiver.received;
    if (!whole) return this.#moved.resolve(1);
    if (this.#role.servesReceived !== true) return this.#moved.resolve(0);
    this.#nbd.limits = this.#limits;
    this.#log.info("the disk has been received and is served from now on");
  }

  /** A disk is another host's now, or may be. */
  async #letGo(exported: Export, certain: boolean, refuse: () => void): Promise<void> {
    this.#exports.remove(exported.name);
    for (const { session } of this.#nbd.clients()) {
      if (session.exported === exported) session.abort("the disk has moved");
    }
    const gone = this.#nbd.dismiss(exported, "the disk has moved", 0);
    refuse();
    await gone;
    await exported.device.close();
    if (!certain) {
      this.#log.error(`${exported.source}: nobody knows whether it has moved; it is served no longer`);
    }
    const exitCode = certain ? 0 : 1;
    if (this.#exports.list().length === 0) this.#moved.resolve(exitCode);
  }

  /** By the address, and for clients of the channel by their key as well. */
  #judge({ address, key, transport }: Peer): Verdict {
    if (this.#receives && this.#access.isOpen && transport === "tcp" && !isLoopback(address)) {
      return { rights: "none", reason: "only this machine may send a disk while there is no access list" };
    }
    const byAddress = this.#access.rightsFor(address);
    return key === undefined || this.#door === null
      ? byAddress
      : narrower(byAddress, this.#door.keys.rightsFor(key));
  }

  /** Where clients find the server. */
  #listening(): string[] {
    return [...this.#listeners.map(({ text }) => text), ...this.#role.listening?.() ?? []];
  }

  /** Reads again what can be read again; what is wrong stays as it was. */
  async #reload(): Promise<void> {
    const hasConfiguration = await this.#role.reload?.() ?? false;
    const parts = [
      { part: this.#door, what: "the authorised peers" },
      { part: this.#tls, what: "the certificate" },
    ].filter(({ part }) => part !== null);
    if (parts.length === 0 && !hasConfiguration) {
      this.#log.info("SIGHUP: there is no configuration to read again");
    }
    for (const { part, what } of parts) {
      try {
        await part!.reload();
        this.#log.info(`SIGHUP: read ${what} again`);
      } catch (error) {
        this.#log.error(`SIGHUP: kept ${what}: ${(error as Error).message}`);
      }
    }
    this.#nbd.reconsider();
  }

  async #listen(): Promise<void> {
    const { addr, port, unix } = this.#options;
    for (const descriptor of activatedDescriptors(this.#env, Deno.pid)) {
      this.#listeners.push(await listenDescriptor(descriptor));
    }
    if (unix !== undefined) this.#listeners.push(await listenUnix(unix));
    const address = addr ?? "127.0.0.1";
    const wanted = this.#door === null && (addr !== undefined || this.#listeners.length === 0);
    const plain = wanted && !(this.#role.isClosed === true && this.#access.entries.length === 0);
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

  #status(): ProcessStatus {
    return describeServer({
      version: VERSION,
      instance: INSTANCE,
      exports: this.#exports,
      nbd: this.#nbd,
      access: this.#access,
      listening: () => this.#listening(),
      nowMs: () => systemClock.now(),
      startedAtMs: this.#startedAtMs,
      hasControl: !this.#receives,
      migrationOf: (exported) => this.#migrations.progressOf(exported),
    });
  }

  async #listenForControl(path: string): Promise<void> {
    const listener = await listenUnix(path);
    const handlers = serverHandlers(
      {
        status: () => this.#status(),
        replaceAccessList: (entries) => {
          this.#access.replace(entries);
          this.#nbd.reconsider();
        },
        unreserve: (name) => this.#unreserve(name),
      },
      { watch: this.#watch, trace: this.#nbd.trace },
      this.#log,
    );
    for (const [name, handler] of this.#migrations.handlers()) {
      handlers.set(name, (args) => {
        if (this.#receives) throw new Error("the disk has not been received yet");
        return handler(args);
      });
    }
    this.#control = new ControlServer(listener, handlers, this.#log.child("control"));
  }

  async #listenForHttp(place: Endpoint): Promise<void> {
    const listener = place.transport === "unix"
      ? await listenUnix(place.path)
      : listenTcp(place.host, place.port);
    this.#http = new StatusHttp(listener, () => this.#status(), systemClock, this.#log.child("http"));
    this.#log.info(`status at http://${listener.text}/metrics`);
  }

  /** Returns for whom the export was reserved, or `null`. */
  async #unreserve(name: string): Promise<string | null> {
    const exported = this.#exports.find(name);
    if (exported === undefined) {
      throw new Error(name === "" ? "there is no default export" : `no export "${name}"`);
    }
    return await this.#nbd.writersOf(exported).unreserve();
  }

  /** Ends everything that was begun. Returns whether all that was written is durable. */
  async #close(): Promise<boolean> {
    this.#closeDoor();
    for (const listener of this.#listeners) listener.close();
    await Promise.all(this.#serving);
    await this.#role.close?.();
    await this.#control?.close();
    await this.#http?.close();
    let durable = true;
    for (const { device, source } of this.#exports.list()) {
      durable = await this.#closeDisk(device, source) && durable;
    }
    return durable;
  }

  async #lastFlush(device: BlockDevice): Promise<void> {
    const { lastFlushMs } = this.#role;
    if (lastFlushMs === undefined) return await device.flush();
    const flushing = Promise.resolve(device.flush());
    const { promise: late, reject } = Promise.withResolvers<never>();
    using _timer = systemClock.timer(
      lastFlushMs,
      () => reject(new Error(`no answer for ${lastFlushMs / 1000} s`)),
    );
    // It fails when the disk is closed.
    flushing.catch(() => {});
    await Promise.race([flushing, late]);
  }

  async #closeDisk(device: BlockDevice, source: string): Promise<boolean> {
    try {
      if (device.can.write && device.can.flush) await this.#lastFlush(device);
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

/** A signal that came before there was anything to stop. */
class Stopped extends Error {}

function statusPlace(text: string): Endpoint {
  try {
    return parseStatusPlace(text);
  } catch (error) {
    throw new UsageError(`--http: ${(error as Error).message}`);
  }
}

/** What of a disk is served: of an oldstyle server whole sectors. */
export function servedBytes(
  device: BlockDevice,
  source: string,
  oldstyle: boolean,
  log: AdjustableLog,
): number {
  const lost = oldstyle ? device.sizeBytes % SECTOR_BYTES : 0;
  if (lost > 0) log.warn(`${source}: the last ${lost} bytes are no whole sector and are not served`);
  return device.sizeBytes - lost;
}

function isLoopback(text: string): boolean {
  const address = text.replace(/^::ffff:/, "");
  return address === "::1" || address.startsWith("127.");
}
