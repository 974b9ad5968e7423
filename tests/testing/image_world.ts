/**
 * Servers of images on a simulated network: they can be slow, die, come back, or hang with their connections open.
 * Nothing happens but when the clock goes on.
 */
import type { TcpEndpoint } from "../../src/base/endpoint.ts";
import { formatIpEndpoint, parseIpEndpoint } from "../../src/base/ip_endpoint.ts";
import { type Log, silentLog } from "../../src/base/log.ts";
import { ImageUpstream, type UpstreamSettings } from "../../src/commands/image_upstream.ts";
import type { Connection } from "../../src/net/connection.ts";
import type { Dial } from "../../src/remote/dnbd3/reach_server.ts";
import type { AltServer } from "../../src/server/dnbd3/alt_server.ts";
import { ImageTable } from "../../src/server/dnbd3/image_table.ts";
import { Integrity } from "../../src/server/dnbd3/integrity.ts";
import { LocalImages } from "../../src/server/dnbd3/local_images.ts";
import { ProxyImages } from "../../src/server/dnbd3/proxy_images.ts";
import type { ProxySettings } from "../../src/server/dnbd3/proxy_settings.ts";
import { ImageServer } from "../../src/server/dnbd3/server.ts";
import { MemoryStore } from "../server/dnbd3/memory_store.ts";
import { connectionPair } from "./connection_pair.ts";
import { ManualClock } from "./manual_clock.ts";

const SETTINGS = { clientTimeout: 15_000, serverPenalty: 0, clientPenalty: 0, maxClients: 1000 };

export class ImageWorld {
  readonly clock = new ManualClock();
  readonly #servers = new Map<string, SimulatedServer>();

  /** A new server at this address, without images. */
  add(host: string): SimulatedServer {
    const server = new SimulatedServer(this.clock, host);
    this.#servers.set(withPort(host), server);
    return server;
  }

  /** A new proxy at this address, with or without a port, which copies from others. */
  addProxy(host: string, from: readonly string[], options: ProxyOptions = {}): SimulatedServer {
    const server = new SimulatedServer(this.clock, host, { ...options, from, dial: this.dial });
    this.#servers.set(withPort(host), server);
    return server;
  }

  endpoints(...hosts: string[]): TcpEndpoint[] {
    return hosts.map((host) => ({ transport: "tcp", host, port: 5003 }));
  }

  /** Connects to a server of this world, as far as it lets one. */
  readonly dial = ({ host, port }: TcpEndpoint, signal: AbortSignal): Promise<Connection> => {
    const server = this.#servers.get(`${host}:${port}`);
    if (server === undefined || server.state === "down") {
      return Promise.reject(new Error("connection refused"));
    }
    if (server.state === "unreachable") {
      return new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
    }
    return new Promise((resolve) => server.after(() => resolve(server.connect())));
  };

  /** Lets time pass, in steps, with everything done that each step makes possible. */
  async pass(ms: number, stepMs = 5): Promise<void> {
    for (let passed = 0; passed < ms; passed += stepMs) {
      this.clock.advance(stepMs);
      await this.settle();
    }
  }

  /** Lets everybody do what can be done without time passing. */
  async settle(): Promise<void> {
    for (let turn = 0; turn < 60; turn++) await Promise.resolve();
  }

  /** Lets time pass until the promise is settled, but no longer than so much. */
  async until<T>(promise: Promise<T>, msMax = 60_000): Promise<T> {
    let settled = false;
    promise.then(() => settled = true, () => settled = true);
    await this.settle();
    for (let passed = 0; !settled; passed += 5) {
      if (passed >= msMax) throw new Error(`nothing came of it in ${msMax} ms`);
      await this.pass(5);
    }
    return await promise;
  }

  async close(): Promise<void> {
    for (const server of this.#servers.values()) await server.close();
  }
}

export interface ProxyOptions {
  readonly settings?: Partial<ProxySettings & UpstreamSettings>;
  /** Of the servers it copies from. */
  readonly alt?: Partial<AltServer>;
  readonly store?: MemoryStore;
  readonly log?: Log;
}

interface ProxySetup extends ProxyOptions {
  readonly from: readonly string[];
  readonly dial: Dial;
}

/** As in a `server.conf` that says nothing, but nothing is copied that nobody asks for. */
export const PROXY_SETTINGS: ProxySettings & UpstreamSettings = {
  backgroundReplication: "off",
  bgrMinClients: 0,
  bgrWindowSize: 1,
  lookupMissingForProxy: true,
  sparseFiles: false,
  ignoreAllocErrors: false,
  pretendClient: false,
  verifyBeforeRelay: false,
  proxyPrivateOnly: false,
  autoFreeDiskSpaceDelay: 36_000,
  maxPayload: 9_000_000,
  maxReplicationSize: 100_000_000_000,
  maxPrefetch: 0,
  minRequestSize: 0,
  uplinkTimeout: 5000,
};

/** A block that a server was asked for. */
interface Request {
  readonly offset: number;
  readonly length: number;
  readonly hops: number;
}

function withPort(host: string): string {
  return formatIpEndpoint(parseIpEndpoint(host, 5003)!);
}

function altServer(host: string): AltServer {
  return {
    ...parseIpEndpoint(host, 5003)!,
    isPrivate: false,
    isClientOnly: false,
    comment: "",
    namespaces: [],
  };
}

export class SimulatedServer {
  readonly store: MemoryStore;
  /** If it is one. */
  readonly proxy: ProxyImages | null = null;
  readonly upstream: ImageUpstream | null = null;
  /** `hanging`: what it says is held back, and connections come to be but stay silent. */
  state: "up" | "down" | "unreachable" | "hanging" = "up";
  /** How long everything it says is on its way. */
  delayMs = 0;
  /** How much of what it says goes out at a time, over all connections. */
  bytesPerMs = Infinity;
  #busyUntilMs = 0;
  /** By what it decides whom to let in. */
  random: () => number = () => 0;
  /** Connections made to it so far. */
  connects = 0;
  readonly #clock: ManualClock;
  readonly #server: ImageServer;
  readonly table: ImageTable;
  readonly integrity: Integrity;
  /** Changes what clients get of a block at this offset. */
  lie: ((offset: number, bytes: Uint8Array) => void) | null = null;
  /** Changes everything that it says. */
  garble: ((bytes: Uint8Array) => Uint8Array) | null = null;
  /** If set, takes down what clients say: the bytes of each connection, in the order of their beginning. */
  heard: number[][] | null = null;
  /** All blocks that it was asked for, in order. */
  readonly asked: Request[] = [];
  readonly #ends = new Set<Connection>();
  #held: (() => void)[] = [];

  constructor(clock: ManualClock, readonly host: string, setup?: ProxySetup) {
    this.#clock = clock;
    this.store = setup?.store ?? new MemoryStore();
    const log = setup?.log ?? silentLog;
    const tableSettings = { vmdkLegacyMode: false, removeMissingImages: true, maxImages: 100 };
    this.table = new ImageTable(this.store, tableSettings, log);
    this.integrity = new Integrity(clock, log, () => 0.5);
    if (setup !== undefined) {
      const settings = { ...PROXY_SETTINGS, ...setup.settings };
      const altServers = setup.from.map((host) => ({ ...altServer(host), ...setup.alt }));
      const { dial } = setup;
      this.upstream = new ImageUpstream({ altServers, settings, dial, clock, log, random: () => 0.5 });
      const { table, store, upstream } = this;
      this.proxy = new ProxyImages({
        table,
        store,
        upstream,
        settings,
        clock,
        log,
        wallMs: () => clock.now(),
        onFirstUse: (image) => this.integrity.checkSome(image),
      });
      this.integrity.onMismatch = (image, hashBlock) => void this.proxy!.repair(image, hashBlock);
    }
    const images = this.proxy ?? new LocalImages(this.table);
    this.#server = new ImageServer({
      finder: images,
      source: {
        readBlock: (image, offset, into, hops, user) => {
          this.asked.push({ offset, length: into.length, hops });
          const reading = images.readBlock(image, offset, into, hops, user);
          if (this.lie === null) return reading;
          const { lie } = this;
          return Promise.resolve(reading).then(() => lie(offset, into));
        },
      },
      settings: SETTINGS,
      altServers: [],
      clock,
      log: silentLog,
      random: () => this.random(),
    });
  }

  /** Clients are told of these. */
  tellOf(...hosts: string[]): void {
    this.#server.altServers = hosts.map(altServer);
  }

  get sessions() {
    return this.#server.sessions();
  }

  /** Ends all connections and takes no more. */
  kill(): void {
    this.state = "down";
    for (const end of this.#ends) end.close();
    this.#ends.clear();
  }

  /** Says what was held back, too. */
  revive(): void {
    this.state = "up";
    for (const say of this.#held.splice(0)) say();
  }

  /** Does something when what this server says arrives. */
  after(what: () => void): void {
    if (this.delayMs === 0) what();
    else this.#clock.timer(this.delayMs, what);
  }

  connect(): Connection {
    this.connects++;
    const [client, end] = connectionPair();
    this.#ends.add(end);
    const heard: number[] = [];
    this.heard?.push(heard);
    const read = async (into: Uint8Array) => {
      const count = await end.read(into);
      if (count !== null) heard.push(...into.subarray(0, count));
      return count;
    };
    const peer = { transport: "tcp", address: "127.0.0.1", text: "127.0.0.1:1" } as const;
    const say = (byteCount: number, what: () => void) => {
      if (this.state === "hanging") this.#held.push(what);
      else if (this.bytesPerMs === Infinity) this.after(what);
      else {
        const nowMs = this.#clock.now();
        this.#busyUntilMs = Math.max(this.#busyUntilMs, nowMs) + byteCount / this.bytesPerMs;
        this.#clock.timer(this.#busyUntilMs - nowMs + this.delayMs, what);
      }
    };
    this.#server.handle({
      peer,
      read: this.heard === null ? (into) => end.read(into) : read,
      write: (bytes) => {
        const copy = this.garble?.(bytes) ?? bytes.slice();
        say(copy.length, () => {
          try {
            end.write(copy);
          } catch {
            // The client has left meanwhile.
          }
        });
      },
      close: () => {
        this.#ends.delete(end);
        end.close();
      },
    });
    const { host } = this;
    return {
      peer: { transport: "tcp", address: host, text: withPort(host) },
      read: (into) => client.read(into),
      write: (bytes) => client.write(bytes),
      close: () => client.close(),
    };
  }

  async close(): Promise<void> {
    this.kill();
    await Promise.all([this.#server.close(), this.proxy?.close()]);
    await this.table.close();
  }
}
