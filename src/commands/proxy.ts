import { type DiskLocator, formatDiskLocator, type NbdLocator } from "../base/uri.ts";
import { bytewise } from "../device/bytewise.ts";
import { openCacheFile } from "../device/block_cache_file.ts";
import { CacheDisk } from "../device/cache.ts";
import { MemoryStore } from "../device/cache_memory.ts";
import type { BlockDevice } from "../device/device.ts";
import { openDisk, type OpenDiskOptions, OpenError, openNbdLocator } from "../open_disk.ts";
import { KeptSession } from "../remote/kept_session.ts";
import type { OpenedNbd } from "../remote/open_nbd.ts";
import { STALL_MS } from "../remote/survival_options.ts";
import type { SurvivingLink } from "../remote/surviving_link.ts";
import { systemClock } from "../os/clock.ts";
import { type ExportTable, ExportTraffic } from "../server/export_table.ts";
import { parseAddressOption } from "../base/ip_address.ts";
import { OptionReply } from "../wire/nbd/constants.ts";
import { RefusedError } from "../wire/nbd/refused_error.ts";
import { type CacheWish, parseCacheWish } from "./cache_option.ts";
import { command, type Invocation } from "./command.ts";
import { bindOption, deadlineOption, diskNamed, forEver, soleWriterOption } from "./disk_options.ts";
import { checkExportName } from "./export_option.ts";
import type { OptionTable, OptionValues } from "./options.ts";
import { RunningServer, servedBytes } from "./running_server.ts";
import type { ServerRole } from "./server_role.ts";
import { servingOptions } from "./serving_options.ts";
import { writableStateDirectory } from "./state_directory_option.ts";
import { UsageError } from "./usage_error.ts";

/** Between attempts to reach a server that is not there at the start; as flexnbd-proxy has it. */
const RETRY_MS = 3000;
/** Of one block of the cache in memory: the size of most requests. */
const CACHE_BLOCK_BYTES = 4096;

const OPTIONS = {
  addr: {
    type: "string",
    short: "l",
    valueName: "ADDR",
    help: "Address to listen on, or the path of a Unix socket, which starts with / (127.0.0.1)",
  },
  connAddr: { type: "address", short: "C", help: "Address of the server, instead of DISK" },
  connPort: { type: "port", short: "P", help: "Port of the server" },
  bind: bindOption,
  wait: { type: "flag", help: "Wait for a server that is not there at the start, rather than fail" },
  name: { type: "string", short: "n", valueName: "NAME", help: "Name under which the disk is served (none)" },
  readOnly: { type: "flag", short: "r", help: "Serve the disk read-only" },
  deadline: { ...deadlineOption, default: 0 },
  soleWriter: soleWriterOption,
  strict: {
    type: "flag",
    help:
      "Fail rather than repeat a write on a server that may still execute it, because it knows no sessions",
  },
  follow: {
    type: "string",
    valueName: "URI",
    repeat: true,
    help: "Where the disk may move to; without it only a server with TLS or a channel is believed",
  },
  stall: {
    type: "duration",
    default: STALL_MS,
    help: "How long a denbd server may give no sign of life before it is reconnected to",
  },
  cache: {
    type: "string",
    short: "c",
    valueName: "SIZE",
    implied: "64M",
    help:
      "Keep in memory what was read, and read ahead (64M); SIZE,shared-unsafe does so although others may write",
  },
  cacheDir: {
    type: "string",
    valueName: "DIR",
    help: "Keep what was read in a file there, which the next start finds again",
  },
  stateDir: {
    type: "string",
    valueName: "DIR",
    help: "Where is kept who this proxy is, for when it is killed and starts again (--cache-dir)",
  },
  ...servingOptions,
} as const satisfies OptionTable;

type ProxyOptions = OptionValues<typeof OPTIONS>;

export const proxy = command({
  name: "proxy",
  summary: "Serves a remote disk to local clients",
  usage: [
    "proxy [--port PORT] [--unix SOCK] [--cache[=SIZE]] [--wait] [--sock SOCK] DISK [ACL_ENTRY]...",
    "proxy --addr ADDR --port PORT --conn-addr ADDR --conn-port PORT [--bind ADDR] [--cache[=SIZE]] [ACL_ENTRY]...",
  ],
  description:
    `DISK is a URI such as nbd://host/export, or any disk. Any number of clients may use it at once. What the server answers, errors included, reaches the client that asked; a flush is answered when the server has answered it.

When the connection is lost, unanswered requests are sent again on a new one, for as long as --deadline allows. What a server that crashed may have lost is written again if a denbd server has reserved the disk for this proxy (serve --writers one-session), or with --sole-writer; otherwise the next flush fails.

A proxy that was killed and starts again has its own reservation at once, if it is told where to keep who it is (--state-dir or --cache-dir); otherwise it waits, like anybody else, until that has ended.

When a denbd server says that it has moved the disk to another one, the proxy goes on there, and its clients see a pause. The new place has to prove that the disk came to it. It is believed to be told only by a server with TLS or a channel, or if it is one of --follow or of the servers of DISK.

A server that is slow is waited for. A denbd server is asked for a sign of life, and left when it owes one for --stall; others when the network no longer hears of their machine, or, if the environment variable FLEXNBD_UPSTREAM_TIMEOUT has a number of seconds, when they owe an answer and are silent for so long.

A cache forgets what is written through this proxy, and knows nothing of other writers. So it is used only where the disk is read-only (for everybody, if the server is denbd), where a denbd server has reserved it for this proxy, or with --sole-writer, unless shared-unsafe says that old data do no harm. Under a reservation reads wait for the server, as if there were no cache, while there is no connection to it, or none of them has answered for so long that the reservation may have ended (--reservation-timeout there, but a minute at most). It is emptied when the connection comes back to a server that does not prove to have the same content, which none but denbd can.

DISK may name several servers of the same disk, nbd://host,host/export: the next is tried when one is away. If the disk is to be written they must be denbd and tell the same identity.

Listening, access entries and signals are as for serve.`,
  options: OPTIONS,
  positional: { name: "DISK ACL_ENTRY", help: "The disk to serve; then who may use it, as for serve" },
  examples: [
    {
      text: "A remote export on a Unix socket",
      command: "denbd proxy nbd://10.0.0.7/disk --unix /run/disk.sock",
    },
    {
      text: "As flexnbd-proxy had it",
      command: "denbd proxy --addr 127.0.0.1 --port 4777 --conn-addr 10.0.0.7 --conn-port 4777",
    },
  ],
  run({ options, args, log, env }) {
    const { upstream, entries } = split(args, options);
    const role = new Upstream(upstream, options, { log, env });
    const { addr, unix } = options;
    const socket = addr?.startsWith("/") ? addr : undefined;
    if (socket !== undefined && unix !== undefined) {
      throw new UsageError("--addr and --unix both name a socket");
    }
    const settings = {
      ...options,
      unix: socket ?? unix,
      addr: addr === undefined || socket !== undefined ? undefined : checkedAddress(addr),
    };
    return new RunningServer(settings, entries, role, { log, env }).run();
  },
});

/** Which words name what. */
function split(
  args: readonly string[],
  { connAddr, connPort }: ProxyOptions,
): { upstream: DiskLocator; entries: readonly string[] } {
  if (connAddr === undefined && connPort === undefined) {
    const [disk, ...entries] = args;
    if (disk === undefined) {
      throw new UsageError("DISK is missing, or both --conn-addr and --conn-port are required.");
    }
    return { upstream: diskNamed(disk), entries };
  }
  if (connAddr === undefined || connPort === undefined) {
    throw new UsageError("both --conn-addr and --conn-port are required.");
  }
  if (connPort === 0) throw new UsageError("--conn-port: 0 is no port to connect to");
  const server = { transport: "tcp", host: connAddr, port: connPort } as const;
  return { upstream: { kind: "nbd", server, exportName: "" }, entries: args };
}

/** @throws {UsageError} If it is no NBD server with an address. */
function placeToFollow(text: string): NbdLocator {
  const locator = diskNamed(text);
  if (locator.kind !== "nbd" || locator.server.transport !== "tcp") {
    throw new UsageError(`--follow: "${text}" is no NBD server at an address`);
  }
  return locator;
}

function checkedAddress(text: string): string {
  const address = parseAddressOption(text);
  if (address === null) {
    throw new UsageError(`--addr: "${text}" is not an IP address, nor a path that starts with /`);
  }
  return address;
}

/** The disk behind the proxy. */
class Upstream implements ServerRole {
  /** A server that is away must not hold up the end. */
  readonly #locator: DiskLocator;
  readonly #options: ProxyOptions;
  readonly #source: string;
  readonly #name: string;
  readonly #follow: readonly NbdLocator[];
  readonly #cache: CacheWish | null;
  #link: SurvivingLink | null = null;
  /** For as long as the program runs. */
  #session: KeptSession | null = null;
  /** The last is asked first. */
  readonly #caches: CacheDisk[] = [];
  readonly #log: Invocation["log"];
  readonly #env: Invocation["env"];

  constructor(locator: DiskLocator, options: ProxyOptions, { log, env }: Pick<Invocation, "log" | "env">) {
    this.#locator = locator;
    this.#options = options;
    this.#source = formatDiskLocator(locator);
    this.#follow = options.follow.map(placeToFollow);
    this.#name = checkExportName(options.name ?? "");
    this.#cache = options.cache === undefined ? null : parseCacheWish(options.cache);
    this.#log = log;
    this.#env = env;
  }

  lastFlushMs(): number {
    return this.#options.drainTimeout;
  }

  async openExports(exports: ExportTable, stopped: AbortSignal): Promise<void> {
    const { readOnly, oldstyle } = this.#options;
    const device = await this.#cached(await this.#open(stopped));
    exports.add({
      name: this.#name,
      description: "",
      device,
      sizeBytes: servedBytes(device, this.#source, oldstyle, this.#log),
      readOnly,
      writtenElsewhere: () => this.#link !== null && !this.#link.isAlone,
      traffic: new ExportTraffic(),
      source: this.#source,
    }, { isDefault: true });
  }

  async #open(stopped: AbortSignal): Promise<BlockDevice> {
    const { readOnly, bind, wait, deadline, soleWriter, strict, stall, stateDir, cacheDir } = this.#options;
    const options = {
      readOnly,
      bind,
      signal: stopped,
      deadlineMs: forEver(deadline),
      soleWriter,
      strict,
      follow: this.#follow,
      stallMs: forEver(stall),
      silenceMs: silenceLimit(this.#env),
      contentMayHaveChanged: () => this.#forget(),
      log: this.#log,
      env: this.#env,
    };
    if (stateDir !== undefined) await writableStateDirectory({ stateDir }, this.#env);
    const directory = stateDir ?? cacheDir;
    if (this.#locator.kind === "nbd" && !readOnly && directory !== undefined) {
      this.#session = await KeptSession.open(directory, this.#source);
    }
    while (true) {
      try {
        if (this.#locator.kind !== "nbd") return await openDisk(this.#locator, options);
        const { disk, link } = await this.#openNbd(this.#locator, options);
        this.#link = link;
        return bytewise(disk);
      } catch (error) {
        if (!wait || !(error instanceof OpenError)) throw error;
        this.#log.warn(`${error.message}; trying again`);
        await pause(RETRY_MS, stopped);
      }
    }
  }

  async #openNbd(locator: NbdLocator, options: OpenDiskOptions): Promise<OpenedNbd> {
    const kept = this.#session;
    if (kept === null) return await openNbdLocator(locator, options);
    try {
      return await openNbdLocator(locator, { ...options, session: await kept.begin() });
    } catch (error) {
      const { cause } = error as Error;
      if (!(cause instanceof RefusedError) || cause.reply !== OptionReply.ERR_POLICY) throw error;
      // The operator may have broken the reservation of the proxy that was here before. This one is another.
      return await openNbdLocator(locator, { ...options, session: await kept.begin(true) });
    }
  }

  /** Nothing of what is kept is known to be what the disk has now. */
  #forget(): void {
    if (this.#caches.length === 0) return;
    this.#log.info(`${this.#source}: the cache is emptied, because the disk may have changed`);
    for (const cache of this.#caches) {
      const clearing = cache.clear();
      // It has given itself up, and says so; what is written next hears of it.
      if (clearing instanceof Promise) clearing.catch(() => {});
    }
  }

  /** The disk with the caches that were asked for and are safe. Closes it if that fails. */
  async #cached(disk: BlockDevice): Promise<BlockDevice> {
    const { cacheDir, soleWriter } = this.#options;
    if (this.#cache === null && cacheDir === undefined) return disk;
    const link = this.#link;
    const alone = link === null ? !disk.can.write || soleWriter : link.isAlone;
    if (!alone && this.#cache?.sharedUnsafe !== true) {
      this.#log.warn(
        `${this.#source}: the cache is off, because others may write to the disk ` +
          `(if not: serve --writers one-session, or --sole-writer here; if that does not matter: --cache=shared-unsafe)`,
      );
      return disk;
    }
    // Elsewhere nobody writes, or it does not matter.
    const asksLink = link !== null && this.#cache?.sharedUnsafe !== true;
    const isAlone = asksLink ? () => link.isAlone : undefined;
    let cached = disk;
    if (cacheDir !== undefined) {
      try {
        // While this proxy was away the disk may have been reserved for somebody else.
        const isTrusted = soleWriter || !disk.can.write || !this.#link?.status.reserved;
        const store = await openCacheFile(cacheDir, disk, this.#source, { log: this.#log, isTrusted });
        // Who keeps blocks in memory as well reads ahead into it.
        cached = this.#known(
          new CacheDisk(disk, store, { isAlone, ...this.#cache !== null && { prefetchBytes: 0 } }),
        );
      } catch (error) {
        await disk.close();
        throw error;
      }
    }
    if (this.#cache === null) return cached;
    const blockBytes = Math.max(CACHE_BLOCK_BYTES, disk.blockSizes.minimum);
    const store = new MemoryStore(this.#cache.sizeBytes, blockBytes);
    return this.#known(new CacheDisk(cached, store, { isAlone }));
  }

  #known(cache: CacheDisk): CacheDisk {
    this.#caches.push(cache);
    return cache;
  }

  about(): ReturnType<NonNullable<ServerRole["about"]>> {
    return {
      upstream: this.#link?.status,
      caches: this.#caches.map(({ counts, keptBytes }) => ({ ...counts, keptBytes })),
    };
  }
}

/** As flexnbd-proxy has it: whole seconds above 0; anything else counts as nothing. */
function silenceLimit(env: Invocation["env"]): number | undefined {
  const text = env("FLEXNBD_UPSTREAM_TIMEOUT") ?? "";
  return /^[1-9]\d{0,8}$/.test(text) ? Number(text) * 1000 : undefined;
}

/** @throws The signal's reason. */
async function pause(durationMs: number, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const abort = () => reject(signal.reason);
  signal.addEventListener("abort", abort);
  using _timer = systemClock.timer(durationMs, resolve);
  try {
    await promise;
  } finally {
    signal.removeEventListener("abort", abort);
  }
}
