/**
 * Servers of images on a simulated network: they can be slow, die, come back, or hang with their connections open.
 * Nothing happens but when the clock goes on.
 */
import type { TcpEndpoint } from "../../src/base/endpoint.ts";
import { parseIpAddress } from "../../src/base/ip_address.ts";
import { silentLog } from "../../src/base/log.ts";
import type { Connection } from "../../src/net/connection.ts";
import type { AltServer } from "../../src/server/dnbd3/alt_server.ts";
import { ImageTable } from "../../src/server/dnbd3/image_table.ts";
import { LocalImages } from "../../src/server/dnbd3/local_images.ts";
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
    this.#servers.set(host, server);
    return server;
  }

  endpoints(...hosts: string[]): TcpEndpoint[] {
    return hosts.map((host) => ({ transport: "tcp", host, port: 5003 }));
  }

  /** Connects to a server of this world, as far as it lets one. */
  readonly dial = ({ host }: TcpEndpoint, signal: AbortSignal): Promise<Connection> => {
    const server = this.#servers.get(host);
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

export class SimulatedServer {
  readonly store = new MemoryStore();
  /** `hanging`: what it says is held back, and connections come to be but stay silent. */
  state: "up" | "down" | "unreachable" | "hanging" = "up";
  /** How long everything it says is on its way. */
  delayMs = 0;
  /** Connections made to it so far. */
  connects = 0;
  readonly #clock: ManualClock;
  readonly #server: ImageServer;
  readonly #table: ImageTable;
  readonly #ends = new Set<Connection>();
  #held: (() => void)[] = [];

  constructor(clock: ManualClock, readonly host: string) {
    this.#clock = clock;
    const settings = { vmdkLegacyMode: false, removeMissingImages: true, maxImages: 100 };
    this.#table = new ImageTable(this.store, settings, silentLog);
    const images = new LocalImages(this.#table);
    this.#server = new ImageServer({
      finder: images,
      source: images,
      settings: SETTINGS,
      altServers: [],
      clock,
      log: silentLog,
    });
  }

  /** Clients are told of these. */
  tellOf(...hosts: string[]): void {
    this.#server.altServers = hosts.map((host): AltServer => {
      const address = parseIpAddress(host)!;
      return { address, port: 5003, isPrivate: false, isClientOnly: false, comment: "", namespaces: [] };
    });
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
    const peer = { transport: "tcp", address: "127.0.0.1", text: "127.0.0.1:1" } as const;
    const say = (what: () => void) => {
      if (this.state === "hanging") this.#held.push(what);
      else this.after(what);
    };
    this.#server.handle({
      peer,
      read: (into) => end.read(into),
      write: (bytes) => {
        const copy = bytes.slice();
        say(() => {
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
      peer: { transport: "tcp", address: host, text: `${host}:5003` },
      read: (into) => client.read(into),
      write: (bytes) => client.write(bytes),
      close: () => client.close(),
    };
  }

  async close(): Promise<void> {
    this.kill();
    await this.#server.close();
    await this.#table.close();
  }
}
