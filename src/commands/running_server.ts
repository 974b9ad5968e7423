/**
 * What the commands that serve have in common: sockets to listen on, who is let in, the control socket, signals, word
 * to systemd, and an orderly end.
 */
import { AccessList } from "../access/acl.ts";
import { narrower } from "../access/key_list.ts";
import { counted } from "../base/counted.ts";
import type { Endpoint } from "../base/endpoint.ts";
import { isLoopback } from "../base/ip_address.ts";
import type { AdjustableLog } from "../base/log.ts";
import { printable } from "../base/printable.ts";
import { serverHandlers } from "../control/handlers.ts";
import { Migrations } from "../control/migrations.ts";
import { ControlServer } from "../control/server.ts";
import { describeAccess, describeServer, type ServerParts } from "../control/server_status.ts";
import { StateWatch } from "../control/state_watch.ts";
import type { ProcessStatus } from "../control/status.ts";
import { StatusHttp } from "../control/status_http.ts";
import type { BlockDevice } from "../device/device.ts";
import { DISK_THREADS_DEFAULT, diskThreads } from "../device/disk_threads.ts";
import { activatedDescriptors, listenDescriptor } from "../net/activation.ts";
import type { Receiver } from "../migrate/receiver.ts";
import type { Peer } from "../net/connection.ts";
import { listenTcp, listenUnix } from "../net/listener.ts";
import { publicPlace } from "../open_disk.ts";
import { systemClock } from "../os/clock.ts";
import { Notifier, notifySettings } from "../os/notify.ts";
import { type Export, ExportTable } from "../server/export_table.ts";
import type { Verdict } from "../server/nbd/judge.ts";
import { type NbdLimits, NbdServer } from "../server/nbd/server.ts";
import type { Moved } from "../wire/nbd/migration_message.ts";
import { DEFAULT_PORT } from "../wire/nbd/constants.ts";
import { type OpenedEntrance, openEntrance } from "./channel_options.ts";
import { closeDisk } from "./close_disk.ts";
import type { Invocation } from "./command.ts";
import { Doors } from "./doors.ts";
import { openDestination, silenceLimit } from "./migration_destination.ts";
import type { ReloadableServer, ServerRole } from "./server_role.ts";
import { limitsOf, type ServerSettings, statusPlace } from "./serving_options.ts";
import { StopSignals } from "./stop_signals.ts";
import { type OpenedTls, openTls } from "./tls_options.ts";
import { UsageError } from "./usage_error.ts";
import { VERSION } from "./version.ts";

const LOOPBACK = "127.0.0.1";
/** For clients that follow a disk which has moved to come back and ask where it is. */
const FOLLOW_MS_MAX = 10_000;
/** Old clients know sectors only. */
const SECTOR_BYTES = 512;

export class RunningServer {
  #options: ServerSettings;
  readonly #role: ServerRole;
  readonly #log: AdjustableLog;
  readonly #env: (name: string) => string | undefined;
  readonly #access: AccessList;
  readonly #exports = new ExportTable();
  readonly #nbd: NbdServer;
  readonly #doors = new Doors((listener) => this.#nbd.serve(listener));
  readonly #startedAtMs = systemClock.now();
  #tls: OpenedTls | null;
  readonly #httpPlace: Endpoint | null;
  readonly #watch = new StateWatch(() => this.#status(), systemClock);
  readonly #limits: Partial<NbdLimits>;
  readonly #migrations: Migrations;
  /** Resolves with the exit code when the last disk has moved away. */
  readonly #moved = Promise.withResolvers<number>();
  #control: ControlServer | null = null;
  #http: StatusHttp | null = null;
  #door: OpenedEntrance | null = null;
  #channelDoor: Doors | null = null;
  readonly #started = Promise.withResolvers<void>();
  /** When the last reload is over; the first one waits for the start. */
  #reloaded: Promise<unknown> = this.#started.promise;
  #stopping = false;

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
    this.#limits = limitsOf(options);
    if (options.diskThreads !== undefined) diskThreads.count = options.diskThreads;
    this.#nbd = new NbdServer({
      exports: this.#exports,
      judge: role.rules?.judge ?? ((peer) => this.#judge(peer)),
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
      destination: (request, exported) => openDestination(request, exported, this.#isOurs, { log, env }),
      unlink: (exported) => Deno.remove(exported.source),
      moved: (exported, certain, refuse) => this.#letGo(exported, certain, refuse),
    });
  }

  readonly #isOurs = (instance: string) =>
    instance === INSTANCE || this.#exports.list().some((exported) => exported.instance === instance);

  /** Serves until a signal asks it to stop, or until nothing is left to serve. Returns the exit code. */
  async run(): Promise<number> {
    using signals = new StopSignals({
      hangup: () => void this.#hangup(),
      reopenLog: () => this.#role.reopenLog?.(),
    });
    const notifier = new Notifier(notifySettings(this.#env, Deno.pid), this.#log);
    const stopped = new AbortController();
    void signals.stop.then((signal) => stopped.abort(new Stopped(signal)));
    try {
      this.#door = await openEntrance(this.#options, {
        env: this.#env,
        log: this.#log,
        clock: systemClock,
        handshakeMs: this.#options.handshakeTimeout,
        keys: this.#role.rules?.keys,
      });
      await this.#role.openExports(this.#exports, stopped.signal);
      // A reservation that cannot be understood is told now, rather than to the first client.
      for (const exported of this.#exports.list()) this.#nbd.writersOf(exported);
      await this.#listen();
      if (this.#options.sock !== undefined) await this.#listenForControl(this.#options.sock);
      if (this.#httpPlace !== null) await this.#listenForHttp(this.#httpPlace);
    } catch (error) {
      this.#stopping = true;
      this.#started.resolve();
      await this.#close();
      if (!(error instanceof Stopped)) throw error;
      this.#log.info(`${error.message}: stopping before anything was served`);
      return 0;
    }
    this.#started.resolve();
    const { receiver } = this.#role;
    if (receiver !== undefined) void this.#receive(receiver);
    const listening = this.#listening().join(", ");
    this.#log.info(`serving ${counted(this.#exports.list().length, "export")} on ${listening}`);
    notifier.ready(`serving on ${listening}`);
    const alive = notifier.aliveEveryMs === null ? undefined : setInterval(
      () => notifier.alive(),
      notifier.aliveEveryMs,
    );
    const cause = await Promise.race([signals.stop, this.#moved.promise]);
    clearInterval(alive);
    this.#stopping = true;
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
    const moved = certain ? await whereTo(exported, this.#env) : null;
    this.#exports.remove(exported.name);
    const followed = moved === null ? Promise.resolve() : this.#nbd.depart(exported, moved, FOLLOW_MS_MAX);
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
    await followed;
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
    return [...this.#doors.texts, ...this.#channelDoor?.texts ?? [], ...this.#role.listening?.() ?? []];
  }

  async #hangup(): Promise<void> {
    try {
      this.#log.info(`SIGHUP: ${await this.#reload(false)}`);
    } catch (error) {
      this.#log.error(`SIGHUP: ${(error as Error).message}`);
    }
  }

  /**
   * Reads again what can be read again; what is wrong stays as it was. One reload waits for the other.
   *
   * @returns What has changed.
   * @throws {Error} If something could not be used; the message says what stays as it was, and why.
   */
  #reload(force: boolean): Promise<string> {
    const reloading = this.#reloaded.then(() => this.#reloadNow(force));
    this.#reloaded = reloading.catch(() => {});
    return reloading;
  }

  async #reloadNow(force: boolean): Promise<string> {
    if (this.#stopping) throw new Error("the server is stopping");
    try {
      return await (this.#role.reload?.(this.#reloadable(), force) ?? this.#reloadFiles());
    } finally {
      this.#nbd.reconsider();
    }
  }

  /** Reads the files again that the command line names. */
  async #reloadFiles(): Promise<string> {
    const parts = [
      { what: "the authorised peers", reload: this.#door?.reload },
      { what: "the certificate", reload: this.#tls?.reload },
    ].filter(({ reload }) => reload !== undefined);
    if (parts.length === 0) return "there is no configuration to read again";
    const done: string[] = [];
    const failed: string[] = [];
    for (const { what, reload } of parts) {
      try {
        await reload!();
        done.push(`read ${what} again`);
      } catch (error) {
        failed.push(`kept ${what}: ${(error as Error).message}`);
      }
    }
    if (failed.length > 0) throw new Error([...failed, ...done].join("; "));
    return done.join("; ");
  }

  #reloadable(): ReloadableServer {
    return {
      exports: this.#exports,
      nbd: this.#nbd,
      isMigrating: (exported) => this.#migrations.progressOf(exported) !== null,
      apply: async (settings) => {
        const tls = openTls(settings);
        if (settings.listen !== undefined) await this.#doors.set(settings.listen);
        this.#options = settings;
        this.#tls = tls;
        this.#nbd.tls = tls?.server;
        this.#nbd.limits = limitsOf(settings);
        diskThreads.count = settings.diskThreads ?? DISK_THREADS_DEFAULT;
      },
    };
  }

  async #listen(): Promise<void> {
    for (const descriptor of activatedDescriptors(this.#env, Deno.pid)) {
      this.#doors.adopt(await listenDescriptor(descriptor));
    }
    const endpoints = this.#options.listen ?? this.#endpoints();
    await this.#doors.set(endpoints);
    this.#warnIfOpen(endpoints);
    if (this.#door === null) return;
    const { entrance, port } = this.#door;
    this.#channelDoor = new Doors((listener) =>
      entrance.serve(listener, (connection) => this.#nbd.handle(connection))
    );
    const host = this.#options.channelAddr ?? this.#options.addr ?? LOOPBACK;
    await this.#channelDoor.set([{ transport: "tcp", host, port }]);
  }

  #warnIfOpen(endpoints: readonly Endpoint[]): void {
    const host = this.#options.addr ?? LOOPBACK;
    const plain = endpoints.some(({ transport }) => transport === "tcp");
    if (this.#role.rules !== undefined || !this.#access.isOpen || isLoopback(host)) return;
    if (!plain && !this.#door?.takesUnencrypted) return;
    this.#log.warn(`everybody who reaches ${host} may write: there is no access list`);
  }

  /** Where the options say that it listens. */
  #endpoints(): Endpoint[] {
    const { addr, port, unix } = this.#options;
    const endpoints: Endpoint[] = [];
    if (unix !== undefined) endpoints.push({ transport: "unix", path: unix });
    const host = addr ?? LOOPBACK;
    const alone = endpoints.length === 0 && this.#doors.texts.length === 0;
    const plain = port !== undefined || this.#door === null && (addr !== undefined || alone);
    if (plain) endpoints.push({ transport: "tcp", host, port: port ?? DEFAULT_PORT });
    return endpoints;
  }

  #closeDoor(): void {
    void this.#channelDoor?.close();
    this.#door?.entrance.abort();
  }

  #status(): ProcessStatus {
    return describeServer({
      version: VERSION,
      instance: INSTANCE,
      exports: this.#exports,
      nbd: this.#nbd,
      access: this.#role.rules?.status() ?? describeAccess(this.#access),
      listening: () => this.#listening(),
      nowMs: () => systemClock.now(),
      startedAtMs: this.#startedAtMs,
      hasControl: !this.#receives,
      images: this.#role.images?.(),
      otherDoors: this.#otherDoors(),
      migrationOf: (exported) => this.#migrations.progressOf(exported),
      about: (exported) => this.#role.about?.(exported) ?? {},
    });
  }

  #otherDoors(): ServerParts["otherDoors"] {
    const atImages = this.#role.strangers?.() ?? null;
    return [
      ...this.#door === null ? [] : [{ door: "channel" as const, strangers: this.#door.entrance.strangers }],
      ...atImages === null ? [] : [{ door: "dnbd3" as const, strangers: atImages }],
    ];
  }

  async #listenForControl(path: string): Promise<void> {
    const listener = await listenUnix(path);
    const handlers = serverHandlers(
      {
        status: () => this.#status(),
        reload: (force) => this.#reload(force),
        replaceAccessList: (entries) => {
          const { rules } = this.#role;
          if (rules !== undefined) {
            throw new Error(`${rules.source} says who may do what: change it and reload`);
          }
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
    handlers.set("verify", () => ({ code: 1, text: "no images of dnbd3 are served" }));
    for (const [name, handler] of this.#role.handlers?.() ?? []) handlers.set(name, handler);
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
      throw new Error(name === "" ? "there is no default export" : `there is no export "${printable(name)}"`);
    }
    return await this.#nbd.writersOf(exported).unreserve();
  }

  /** Ends everything that was begun. Returns whether all that was written is durable. */
  async #close(): Promise<boolean> {
    this.#closeDoor();
    await this.#doors.close();
    await this.#channelDoor?.close();
    await this.#reloaded;
    await this.#role.close?.();
    await this.#control?.close();
    await this.#http?.close();
    let durable = true;
    for (const exported of this.#exports.list()) {
      const { device, source } = exported;
      const limitMs = this.#role.lastFlushMs?.(exported);
      durable = await closeDisk(device, source, this.#log, limitMs) && durable;
    }
    return durable;
  }
}

/** Where a disk that was moved between two denbd is now; `null` if nobody knows. */
async function whereTo(
  { ownership }: Export,
  env: (name: string) => string | undefined,
): Promise<Moved | null> {
  const record = await ownership?.read().catch(() => null) ?? null;
  const { state, migration } = record?.ownership ?? {};
  if (state !== "moved" || migration === undefined) return null;
  const { uuid, id, epoch, peer } = migration;
  const to = await publicPlace(peer, env);
  return to === null ? null : { uuid, id, epoch, to };
}

/** Tells this run of the server from others. */
const INSTANCE = crypto.randomUUID();

/** A signal that came before there was anything to stop. */
class Stopped extends Error {}

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
