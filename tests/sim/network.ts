/**
 * A network: connections whose bytes take their time, come in pieces, stop coming, or are cut.
 *
 * Each direction of a connection keeps its order; connections overtake one another. A connection on which nothing
 * gets through dies at both ends after a while, as TCP's keepalive and TCP_USER_TIMEOUT would have it.
 */
import type { Connection, Peer } from "../../src/net/connection.ts";
import type { randomFrom } from "../testing/random.ts";
import type { Trace } from "./trace.ts";
import type { VirtualTime } from "./virtual_time.ts";

export type Random = ReturnType<typeof randomFrom>;

/** How long TCP takes to give up on a peer that does not answer. */
export const DEAD_AFTER_MS = 15_000;

export interface Surroundings {
  readonly time: VirtualTime;
  readonly random: Random;
  readonly trace: Trace;
}

/** Where connections can be made to. */
export interface Host {
  /** `refusing`: nobody listens. `dark`: nobody answers. */
  readonly state: "up" | "refusing" | "dark";
  accept(connection: Connection): void;
}

interface Weather {
  /** How long bytes take at least, and how much longer they may. */
  readonly latencyMs: number;
  readonly jitterMs: number;
  /** Bytes sometimes come in pieces, and a sender sometimes waits for room. */
  readonly rough: boolean;
}

const CALM: Weather = { latencyMs: 0, jitterMs: 0, rough: false };

export class Network {
  readonly surroundings: Surroundings;
  readonly #links = new Set<Link>();
  #count = 0;
  /** Nothing gets through before this moment. */
  #stalledUntilMs = 0;
  /** Bytes that were on the way when their sender gave up arrive when the network lets them. */
  lateArrivals = false;

  constructor(surroundings: Surroundings) {
    this.surroundings = surroundings;
  }

  get stalledUntilMs(): number {
    return this.#stalledUntilMs;
  }

  /** Connections that may break. */
  get links(): ReadonlySet<Link> {
    return this.#links;
  }

  /** A connection on one machine: nothing happens to it but what its ends do. */
  pair(): [Connection, Connection] {
    const link = new Link(this, ++this.#count, CALM);
    return [link.client, link.server];
  }

  /** A connection to a host, as a client makes one. Rejects with the signal's reason. */
  async dial(host: Host, signal: AbortSignal | undefined): Promise<Connection> {
    const { random, trace } = this.surroundings;
    const latencyMs = 0.05 + random.below(random.chance(0.1) ? 100 : 5);
    await this.#pause(latencyMs, signal);
    while (this.#stalledUntilMs > this.surroundings.time.now() || host.state === "dark") {
      await this.#pause(100, signal);
    }
    if (host.state === "refusing") throw new Error("connection refused");
    const link = new Link(this, ++this.#count, { latencyMs, jitterMs: latencyMs / 4, rough: true });
    this.#links.add(link);
    trace.note("connect", link.number);
    host.accept(link.server);
    await this.#pause(latencyMs, signal).catch((error) => {
      link.client.close();
      throw error;
    });
    return link.client;
  }

  /** Cuts all connections, or some. */
  cut(which: (link: Link) => boolean = () => true): void {
    for (const link of [...this.#links]) if (which(link)) link.cut();
  }

  /** What is sent on the connections that there are goes nowhere, and nobody is told for so long. */
  vanish(forMs: number): void {
    for (const link of [...this.#links]) link.vanish(forMs);
  }

  /** Lets nothing through for a while. */
  stall(durationMs: number): void {
    const { time, trace } = this.surroundings;
    trace.note("stall", durationMs);
    this.#stalledUntilMs = Math.max(this.#stalledUntilMs, time.now() + durationMs);
    for (const link of this.#links) link.stall(durationMs);
  }

  /** Lets everything through again. */
  heal(): void {
    this.#stalledUntilMs = 0;
    for (const link of [...this.#links]) link.thaw();
  }

  /** The machine at the server's end of all connections is gone; who asks it hears so when it is back. */
  serverGone(backInMs: number): void {
    for (const link of [...this.#links]) link.serverGone(backInMs);
  }

  forget(link: Link): void {
    this.#links.delete(link);
  }

  #pause(delayMs: number, signal: AbortSignal | undefined): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    if (signal?.aborted) return Promise.reject(signal.reason);
    const abort = () => reject(signal!.reason);
    signal?.addEventListener("abort", abort, { once: true });
    this.surroundings.time.timer(delayMs, () => {
      signal?.removeEventListener("abort", abort);
      resolve();
    });
    return promise;
  }
}

/** The bytes of one write on their way, or the end. */
interface Packet {
  readonly bytes: Uint8Array | null;
  readonly atMs: number;
}

/** One connection. */
export class Link {
  readonly number: number;
  readonly network: Network;
  readonly client: End;
  readonly server: End;
  #stalledUntilMs = 0;
  readonly #rough: boolean;

  constructor(network: Network, number: number, weather: Weather) {
    this.network = network;
    this.number = number;
    this.#rough = weather.rough;
    const peer: Peer = { transport: "memory", address: "memory", text: `link-${number}` };
    this.client = new End(this, "client", peer, weather);
    this.server = new End(this, "server", peer, weather);
    this.client.other = this.server;
    this.server.other = this.client;
    if (weather.rough && network.stalledUntilMs > 0) this.#stalledUntilMs = network.stalledUntilMs;
  }

  get stalledUntilMs(): number {
    return this.#stalledUntilMs;
  }

  /** What has been sent arrives, or some of it; then both ends hear of the end. */
  cut(): void {
    const { random, trace } = this.network.surroundings;
    trace.note("cut", this.number);
    for (const end of [this.client, this.server]) {
      end.breakIncoming(random.below(4));
      end.hearEnd(random.below(20));
    }
  }

  stall(durationMs: number): void {
    const { time, random } = this.network.surroundings;
    const stalledFor = Math.max(this.#stalledUntilMs, time.now() + durationMs) - time.now();
    this.#stalledUntilMs = time.now() + stalledFor;
    for (const end of [this.client, this.server]) {
      const deadAfterMs = DEAD_AFTER_MS + random.below(3000);
      if (stalledFor > deadAfterMs) end.dieIfStalled(deadAfterMs);
    }
  }

  thaw(): void {
    this.#stalledUntilMs = 0;
    this.client.arrivals();
    this.server.arrivals();
  }

  /** Nothing gets through any more, and neither end hears of it for so long. */
  vanish(forMs: number): void {
    const { random, trace } = this.network.surroundings;
    trace.note("vanish", this.number);
    for (const end of [this.client, this.server]) {
      end.breakIncoming(0);
      end.hearEnd(forMs + random.below(3000));
    }
  }

  serverGone(backInMs: number): void {
    const { random } = this.network.surroundings;
    this.client.breakIncoming(random.below(4));
    this.server.breakIncoming(0);
    this.server.vanish();
    this.client.hearEnd(Math.min(backInMs, DEAD_AFTER_MS) + random.below(3000));
  }

  endClosed(): void {
    if (this.client.closed && this.server.closed) this.network.forget(this);
  }

  get rough(): boolean {
    return this.#rough;
  }
}

interface Unsent {
  readonly bytes: Uint8Array;
  readonly sent: PromiseWithResolvers<void>;
}

export class End implements Connection {
  readonly peer: Peer;
  other!: End;
  closed = false;
  readonly #link: Link;
  readonly #name: string;
  readonly #weather: Weather;
  /** On the way to here. */
  #incoming: Packet[] = [];
  #timer: Disposable | null = null;
  /** There, and not read yet. */
  #inbox: Uint8Array[] = [];
  #ended = false;
  #wake: (() => void) | null = null;
  /** What is sent from now on is lost. */
  #deaf = false;
  /** It has given up on the other end, which does not know. */
  #dead = false;
  #unsent: Unsent[] = [];
  #lastArrivalMs = 0;

  constructor(link: Link, name: string, peer: Peer, weather: Weather) {
    this.#link = link;
    this.#name = name;
    this.peer = peer;
    this.#weather = weather;
  }

  read(into: Uint8Array): number | null | Promise<number | null> {
    const count = this.#take(into);
    if (count !== undefined) return count;
    return new Promise((resolve) => {
      this.#wake = () => {
        this.#wake = null;
        resolve(this.#take(into)!);
      };
    });
  }

  #take(into: Uint8Array): number | null | undefined {
    if (this.closed) return null;
    if (this.#inbox.length === 0) return this.#ended ? null : undefined;
    const bytes = this.#inbox[0];
    const count = Math.min(bytes.length, into.length);
    into.set(count === bytes.length ? bytes : bytes.subarray(0, count));
    if (count === bytes.length) this.#inbox.shift();
    else this.#inbox[0] = bytes.subarray(count);
    return count;
  }

  write(bytes: Uint8Array): void | Promise<void> {
    if (this.closed) throw new Error("the connection is closed");
    const { random, time } = this.#link.network.surroundings;
    if (this.#unsent.length === 0 && !(this.#weather.rough && random.chance(0.05))) {
      this.#send(bytes.slice());
      return;
    }
    // There is no room now. The bytes are the sender's until there is.
    const sent = Promise.withResolvers<void>();
    this.#unsent.push({ bytes, sent });
    if (this.#unsent.length === 1) time.timer(random.below(20), () => this.#sendUnsent());
    return sent.promise;
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.#timer?.[Symbol.dispose]();
    this.#incoming = [];
    this.#inbox = [];
    this.#failUnsent();
    this.#wake?.();
    // A client that gives up may go on by another connection, which overtakes what is on the way.
    if (this.#link.rough && this === this.#link.client && !this.#link.network.lateArrivals) {
      this.other.#incoming = [];
    }
    if (!this.#deaf) this.other.#arrive(null, 0);
    this.#link.endClosed();
  }

  /** The first `packets` of what is on the way arrive at once; everything else is lost. */
  breakIncoming(packets: number): void {
    const { random } = this.#link.network.surroundings;
    const arrived = this.#incoming.slice(0, packets);
    const torn = this.#incoming[packets]?.bytes;
    this.#incoming = [];
    this.#timer?.[Symbol.dispose]();
    this.#timer = null;
    for (const { bytes } of arrived) this.#deliver(bytes);
    if (torn !== undefined && torn !== null && random.chance(0.5)) {
      this.#deliver(torn.subarray(0, random.below(torn.length)));
    }
    this.other.#deaf = true;
  }

  /** Hears of the end after a while, if it has not ended before. */
  hearEnd(afterMs: number): void {
    this.#link.network.surroundings.time.timer(afterMs, () => this.#deliver(null));
  }

  /** Nothing gets through: gives up on the other end, unless something gets through again. */
  dieIfStalled(afterMs: number): void {
    const { time } = this.#link.network.surroundings;
    time.timer(afterMs, () => {
      if (this.#link.stalledUntilMs <= time.now()) {
        // What is sent to an end that has given up is answered with a reset.
        if (this.other.#dead) this.#deliver(null);
        return;
      }
      this.#dead = true;
      this.#deaf = true;
      this.#incoming = [];
      this.#deliver(null);
    });
  }

  /** Ends without a word. */
  vanish(): void {
    this.#deaf = true;
    this.close();
  }

  /** Takes in what has come by now. */
  arrivals(): void {
    this.#timer?.[Symbol.dispose]();
    this.#timer = null;
    const { time, random, trace } = this.#link.network.surroundings;
    const freeAtMs = this.#link.stalledUntilMs;
    while (this.#incoming.length > 0 && !this.closed) {
      const [{ bytes, atMs }] = this.#incoming;
      const dueMs = Math.max(atMs, freeAtMs);
      if (dueMs > time.now()) {
        this.#timer = time.timer(dueMs - time.now(), () => this.arrivals());
        return;
      }
      this.#incoming.shift();
      if (bytes !== null && bytes.length > 1 && this.#link.rough && random.chance(0.08)) {
        const cut = 1 + random.below(bytes.length - 1);
        trace.note(`${this.#name} gets a part`, this.#link.number, cut);
        this.#deliver(bytes.subarray(0, cut));
        this.#incoming.unshift({ bytes: bytes.subarray(cut), atMs: time.now() + 1 + random.below(50) });
        continue;
      }
      this.#deliver(bytes);
    }
  }

  #send(bytes: Uint8Array): void {
    const { random } = this.#link.network.surroundings;
    const { latencyMs, jitterMs } = this.#weather;
    if (!this.#deaf) this.other.#arrive(bytes, latencyMs + random.below(1000) / 1000 * jitterMs);
  }

  #sendUnsent(): void {
    for (const { bytes, sent } of this.#unsent.splice(0)) {
      this.#send(bytes.slice());
      // Whoever uses its buffer too early is found out.
      sent.resolve();
    }
  }

  #failUnsent(): void {
    for (const { sent } of this.#unsent.splice(0)) sent.reject(new Error("the connection is closed"));
  }

  #arrive(bytes: Uint8Array | null, afterMs: number): void {
    if (this.closed) return;
    const { time } = this.#link.network.surroundings;
    const atMs = this.#lastArrivalMs = Math.max(this.#lastArrivalMs, time.now() + afterMs);
    this.#incoming.push({ bytes, atMs });
    if (this.#timer === null) this.#timer = time.timer(atMs - time.now(), () => this.arrivals());
  }

  #deliver(bytes: Uint8Array | null): void {
    if (this.closed || this.#ended) return;
    const { trace } = this.#link.network.surroundings;
    trace.note(`${this.#name} gets`, this.#link.number, bytes?.length ?? -1);
    if (bytes === null) {
      this.#ended = true;
      this.#failUnsent();
    } else if (bytes.length > 0) {
      this.#inbox.push(bytes);
    } else {
      return;
    }
    this.#wake?.();
  }
}
