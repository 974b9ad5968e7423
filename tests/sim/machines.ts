/** The machines of a simulated world: a server, and a proxy between it and the user. */
import type { Log } from "../../src/base/log.ts";
import { FileStore } from "../../src/device/block_cache.ts";
import { cacheFileBytes } from "../../src/device/block_cache_map.ts";
import { CacheDisk } from "../../src/device/cache.ts";
import { MemoryStore } from "../../src/device/cache_memory.ts";
import type { BlockDevice, DiskIdentity } from "../../src/device/device.ts";
import { StickySync } from "../../src/device/sticky_sync.ts";
import type { Connection } from "../../src/net/connection.ts";
import { type OpenedNbd, openNbd } from "../../src/remote/open_nbd.ts";
import { delay } from "../../src/os/clock.ts";
import { ExportTable, ExportTraffic, type Writers } from "../../src/server/export_table.ts";
import { NbdServer, type NbdServerOptions } from "../../src/server/nbd/server.ts";
import type { ReservationState, ReservationStore } from "../../src/server/reservation_store.ts";
import type { SessionName } from "../../src/wire/nbd/denbd_context.ts";
import { Medium, SECTOR_BYTES } from "./disk.ts";
import type { Host, Network, Surroundings } from "./network.ts";
import type { World } from "./world.ts";

/** What a sole writer keeps, so little that it is often full. */
const REPLAY_BYTES_MAX = 8192;
/** Sectors are so small that these are joined as large READs are elsewhere. */
const JOINING = {
  partBytesMin: SECTOR_BYTES,
  joinedBytesMax: 8 * SECTOR_BYTES,
  busyBytes: 2 * SECTOR_BYTES,
  heldBytesMax: 4 * SECTOR_BYTES,
};
const DRAIN_MS = 3000;
/** How long a reservation is kept for who is away: less than the longest troubles last. */
const AWAY_MS = 10_000;
const EXPORT_NAME = "disk";

/** Where planted bugs are put in. */
export interface Tampering {
  /** Between the server and its disk. */
  readonly disk?: (disk: BlockDevice, surroundings: Surroundings) => BlockDevice;
  /** Between the client and the network. */
  readonly connection?: (connection: Connection, surroundings: Surroundings) => Connection;
  /** Every start of the server has the same instance. */
  readonly constantInstance?: boolean;
  /** The client writes again what may be lost, whoever else may have written. */
  readonly alwaysReplays?: boolean;
  /** The cache file of a proxy is trusted although others may have written since. */
  readonly trustsCacheFile?: boolean;
  /** A proxy answers from its cache whoever may write meanwhile. */
  readonly trustsCache?: boolean;
  /** A proxy tells of a flush that has failed only who asked for it. */
  readonly tellsOneOnly?: boolean;
  /** The client does not say that its connections belong together. */
  readonly withoutSession?: boolean;
}

/** A UUID that follows from the seed. */
function uuidFrom({ random }: Surroundings): string {
  const hex = random.bytes(16).toHex();
  return [[0, 8], [8, 12], [12, 16], [16, 20], [20, 32]].map(([from, to]) => hex.slice(from, to)).join("-");
}

export class ServerMachine implements Host {
  readonly medium: Medium;
  readonly #surroundings: Surroundings;
  readonly #network: Network;
  readonly #log: Log;
  readonly #denbd: boolean;
  readonly #writers: Writers;
  /** On the medium of its state directory. */
  #reservation: ReservationState = { reservation: null, barred: [] };
  readonly #tampering: Tampering;
  readonly #uuid: string;
  #instance: string;
  #generation = 0;
  #lives = 0;
  #server: NbdServer | null = null;
  state: Host["state"] = "refusing";

  constructor(
    sizeBytes: number,
    world: World,
    network: Network,
    log: Log,
    tampering: Tampering,
  ) {
    this.#surroundings = network.surroundings;
    this.#network = network;
    this.#log = log;
    this.#denbd = world.server === "denbd";
    this.#writers = world.writer === "reserved" ? "one-session" : "any";
    this.#tampering = tampering;
    this.medium = new Medium(sizeBytes, this.#surroundings);
    this.#uuid = uuidFrom(this.#surroundings);
    this.#instance = uuidFrom(this.#surroundings);
  }

  get isUp(): boolean {
    return this.state === "up";
  }

  start(): void {
    // One that is still ending is killed.
    this.medium.kill();
    this.#end();
    this.#surroundings.trace.note("server starts");
    if (this.#tampering.constantInstance !== true) this.#instance = uuidFrom(this.#surroundings);
    const identity: DiskIdentity | undefined = this.#denbd
      ? { uuid: this.#uuid, generation: ++this.#generation, durable: true }
      : undefined;
    const opened = this.medium.open(identity);
    const disk = new StickySync(this.#tampering.disk?.(opened, this.#surroundings) ?? opened);
    this.#server = serverOf(disk, this.#surroundings, this.#log, {
      instance: this.#denbd || this.#tampering.constantInstance ? this.#instance : undefined,
      writers: this.#writers,
      reservationStore: () => this.#reservationStore(),
      reservationAwayMs: AWAY_MS,
    });
    this.state = "up";
  }

  #reservationStore(): ReservationStore {
    const { time, random } = this.#surroundings;
    const life = ++this.#lives;
    return {
      load: () => this.#reservation,
      save: async (state) => {
        await delay(time, random.below(20));
        if (life === this.#lives) this.#reservation = state;
      },
    };
  }

  accept(connection: Connection): void {
    if (this.#server === null) connection.close();
    else this.#server.handle(connection);
  }

  /** Ends politely. */
  async restart(awayMs: number): Promise<void> {
    const server = this.#server!;
    this.#surroundings.trace.note("server ends");
    this.state = "refusing";
    await server.drain(DRAIN_MS);
    if (this.#server !== server) return;
    this.#server = null;
    this.medium.kill();
    this.#surroundings.time.timer(awayMs, () => {
      if (this.#server === null) this.start();
    });
  }

  kill(): void {
    this.#surroundings.trace.note("server is killed");
    this.state = "refusing";
    this.medium.kill();
    this.#network.cut();
    this.#end();
  }

  losePower(awayMs: number): void {
    this.#surroundings.trace.note("server loses power", awayMs);
    this.state = "dark";
    this.medium.losePower();
    this.#network.serverGone(awayMs);
    this.#end();
  }

  #end(): void {
    this.#lives++;
    const server = this.#server;
    this.#server = null;
    server?.abort();
  }
}

export class ProxyMachine implements Host {
  readonly #world: World;
  readonly #surroundings: Surroundings;
  readonly #network: Network;
  readonly #upstream: Host;
  readonly #logs: { readonly client: Log; readonly server: Log };
  readonly #tampering: Tampering;
  /** Of the cache file. */
  readonly #medium: Medium | null;
  /** Grows when the proxy is killed: what belongs to an earlier life reaches nothing any more. */
  #life = 0;
  #connections: Connection[] = [];
  #server: NbdServer | null = null;
  #disk: BlockDevice | null = null;
  #cache: CacheDisk | null = null;
  #starts = 0;
  /** What `KeptSession` keeps. */
  #session: SessionName | null = null;
  state: Host["state"] = "refusing";

  constructor(
    world: World,
    network: Network,
    server: ServerMachine,
    upstream: Host,
    logs: { readonly client: Log; readonly server: Log },
    tampering: Tampering,
  ) {
    this.#world = world;
    this.#network = network;
    this.#surroundings = network.surroundings;
    this.#upstream = upstream;
    this.#logs = logs;
    this.#tampering = tampering;
    const { sizeBytes } = server.medium;
    this.#medium = world.proxy === "file"
      ? new Medium(cacheFileBytes(subject(sizeBytes, undefined)), this.#surroundings)
      : null;
  }

  /** Starts, as soon as the server can be reached. */
  async start(): Promise<void> {
    const life = this.#life;
    const { time, trace } = this.#surroundings;
    const mine: Connection[] = [];
    const dial = async (signal: AbortSignal | undefined): Promise<Connection> => {
      if (life !== this.#life) throw new Error("this proxy was killed");
      const connection = await this.#network.dial(this.#upstream, signal);
      if (life !== this.#life) {
        connection.close();
        throw new Error("this proxy was killed");
      }
      mine.push(connection);
      return this.#tampering.connection?.(connection, this.#surroundings) ?? connection;
    };
    while (life === this.#life) {
      const late = new AbortController();
      using _timer = time.timer(15_000, () => late.abort(new Error("no answer for 15 s")));
      try {
        const { random } = this.#surroundings;
        const session = this.#world.keepsSession === true ? this.#beginSession() : undefined;
        const { disk: opened, link } = await openRemote(
          dial,
          this.#world,
          this.#surroundings,
          this.#logs.client,
          late.signal,
          () => this.#forget(),
          session,
          this.#tampering,
        );
        if (life !== this.#life) return void opened.close();
        const disk = await this.#cached(opened, () => link!.isAlone).catch((error) => {
          void opened.close();
          throw error;
        });
        if (life !== this.#life) return void disk.close();
        trace.note("proxy starts", random.below(100));
        this.#disk = disk;
        this.#connections = mine;
        const traffic = this.#tampering.tellsOneOnly === true ? forgetfulTraffic() : undefined;
        this.#server = serverOf(disk, this.#surroundings, this.#logs.server, { traffic });
        this.state = "up";
        return;
      } catch (error) {
        trace.remark(() => `the proxy cannot start: ${(error as Error).message}`);
        await new Promise<void>((resolve) => void time.timer(500, resolve));
      }
    }
  }

  #beginSession(): SessionName {
    const { id, generation } = this.#session ?? { id: uuidFrom(this.#surroundings), generation: 0 };
    return this.#session = { id, generation: generation + 2 ** 32 };
  }

  async #cached(disk: BlockDevice, alone: () => boolean): Promise<BlockDevice> {
    const { proxy } = this.#world;
    if (proxy === "plain") return disk;
    const isAlone = this.#tampering.trustsCache ? undefined : alone;
    const options = { prefetchBytes: 4 * SECTOR_BYTES, isAlone };
    if (proxy === "memory") {
      return this.#cache = new CacheDisk(disk, new MemoryStore(8 * SECTOR_BYTES, SECTOR_BYTES), options);
    }
    // As openCacheFile() does.
    await disk.flush();
    const file = this.#medium!.open();
    const { time } = this.#surroundings;
    // As the proxy does: what nobody vouches for is not trusted by the next start.
    const trusted = this.#world.writer === "sole" || this.#tampering.trustsCacheFile;
    const identity = trusted ? disk.identity : undefined;
    const store = await FileStore.open(file, subject(disk.sizeBytes, identity, ++this.#starts), {
      clock: time,
    });
    return this.#cache = new CacheDisk(disk, store, options);
  }

  /** The disk may be another: nothing of what is kept is known to be what it has. */
  #forget(): void {
    void Promise.resolve(this.#cache?.clear()).catch(() => {});
  }

  accept(connection: Connection): void {
    if (this.#server === null) connection.close();
    else this.#server.handle(connection);
  }

  kill(power: boolean): void {
    this.#surroundings.trace.note(power ? "proxy loses power" : "proxy is killed");
    this.#life++;
    this.state = "refusing";
    if (power) this.#medium?.losePower();
    else this.#medium?.kill();
    for (const connection of this.#connections) connection.close();
    this.#connections = [];
    this.#server?.abort();
    this.#server = null;
    void this.#disk?.close();
    this.#disk = null;
    this.#cache = null;
  }
}

function subject(sizeBytes: number, identity: DiskIdentity | undefined, start = 0) {
  const text = identity === undefined
    ? `unknown ${start}`
    : `uuid ${identity.uuid} generation ${identity.generation}`;
  return { sizeBytes, blockBytes: 2 * SECTOR_BYTES, identity: text };
}

/** The disk of a server, as its clients see it. */
export async function openRemote(
  dial: (signal: AbortSignal | undefined) => Promise<Connection>,
  { server, writer, connections, deadlineMs }: World,
  { time, random }: Surroundings,
  log: Log,
  signal?: AbortSignal,
  contentMayHaveChanged?: () => void,
  session?: SessionName,
  { alwaysReplays = false, withoutSession = false }: Tampering = {},
): Promise<OpenedNbd> {
  return await openNbd({
    dial,
    exportName: EXPORT_NAME,
    connections,
    signal,
    // Without a session: other servers know nothing of them.
    readOnly: server === "stock" || withoutSession,
    session,
    survival: {
      soleWriter: writer === "sole" || alwaysReplays,
      deadlineMs,
      replayBytesMax: REPLAY_BYTES_MAX,
      joining: JOINING,
      contentMayHaveChanged,
      random: () => random.below(1000) / 1000,
    },
    log,
    clock: time,
  });
}

/** A disk behind a proxy: whoever uses it does not come back by itself. */
export async function openLocal(
  network: Network,
  proxy: ProxyMachine,
  { time }: Surroundings,
): Promise<BlockDevice> {
  const dial = () => {
    const [here, there] = network.pair();
    proxy.accept(there);
    return Promise.resolve(here);
  };
  return (await openNbd({ dial, exportName: EXPORT_NAME, clock: time })).disk;
}

/** Knows of no flush that has failed. */
function forgetfulTraffic(): ExportTraffic {
  return Object.defineProperty(new ExportTraffic(), "failedFlushes", { get: () => 0, set: () => {} });
}

function serverOf(
  device: BlockDevice,
  { time }: Surroundings,
  log: Log,
  { writers, traffic = new ExportTraffic(), ...options }:
    & Pick<NbdServerOptions, "instance" | "reservationStore" | "reservationAwayMs">
    & { writers?: Writers; traffic?: ExportTraffic },
): NbdServer {
  const exports = new ExportTable();
  exports.add({
    name: EXPORT_NAME,
    description: "",
    device,
    sizeBytes: device.sizeBytes,
    readOnly: false,
    traffic,
    source: "simulation",
    writers,
  });
  const judge = () => ({ rights: "write" as const, reason: "a simulation" });
  return new NbdServer({ exports, judge, log, clock: time, ...options });
}
