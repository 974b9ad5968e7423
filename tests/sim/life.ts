/**
 * One life in a simulated world: a user reads, writes and flushes while things go wrong, and a ledger holds what it
 * sees against what it was promised. Everything that happens follows from the seed.
 */
import { type Log, silentLog } from "../../src/base/log.ts";
import type { BlockDevice } from "../../src/device/device.ts";
import { DeviceError } from "../../src/device/device_error.ts";
import type { Connection } from "../../src/net/connection.ts";
import { delay } from "../../src/os/clock.ts";
import { RefusedError } from "../../src/wire/nbd/refused_error.ts";
import { randomFrom } from "../testing/random.ts";
import { SECTOR_BYTES } from "./disk.ts";
import { ANYTHING, BrokenPromise, type Change, contentBytes, Ledger, ZERO } from "./ledger.ts";
import { openLocal, openRemote, ProxyMachine, ServerMachine, type Tampering } from "./machines.ts";
import { DEAD_AFTER_MS, type Host, Network, type Surroundings } from "./network.ts";
import { Trace } from "./trace.ts";
import { VirtualTime } from "./virtual_time.ts";
import { keepsAll, type Trouble, type World } from "./world.ts";

const SECTORS = 24;
const STEPS = 60;
/** With all troubles over everything that was asked for ends within this time. */
const HANG_MS = 200_000;
/** How long an end of a dead connection hears nothing of it, unless it asks. */
const VANISHED_MS = 100_000;
/** After these nothing is in doubt with a denbd server. */
const HARMLESS: readonly Trouble[] = ["cut", "stall", "vanish", "slow"];

export interface LifeOptions {
  readonly tampering?: Tampering;
  /** Takes a line for each event. */
  readonly print?: (line: string) => void;
}

/** How a life went. */
export interface LifeReport {
  /** What was broken; `null` if nothing was. */
  readonly broken: string | null;
  /** Follows from everything that happened. */
  readonly hash: number;
  readonly events: number;
  readonly requests: number;
  /** Requests that failed, as they may in this world. */
  readonly failures: number;
  readonly reconnects: number;
  /** How often somebody else was let in to write. */
  readonly rivals: number;
}

/** Why connections may end here, and what may be said of it. Whatever else is said was not to happen. */
const EXPECTED = [
  "the connection was closed",
  "the server closed the connection",
  "the connection is closed",
  "connection refused",
  "no answer for ",
  "no sign of life for ",
  "the server restarted meanwhile",
  "the connection was lost again at once",
  "the peer closed the connection ",
  "shutting down",
  "this proxy was killed",
  "could not be repeated",
  "it is reserved for ",
  "reconnected to ",
];

/** Lives a life to its end. Never throws. */
export async function live(world: World, seed: number, options: LifeOptions = {}): Promise<LifeReport> {
  return await new Life(world, seed, options).run();
}

/** Reads as a server does that passes on what comes. */
function readShown(disk: BlockDevice, offset: number, into: Uint8Array): void | Promise<void> {
  if (disk.show === undefined) return disk.read(offset, into);
  return new Promise((resolve, reject) => {
    disk.show!(offset, into.length, (bytes, error) => {
      if (bytes === null) return reject(error);
      into.set(bytes as Uint8Array);
      resolve();
    });
  });
}

/** The way to a host, which may be closed for a while. */
class Path implements Host {
  closedUntilMs = 0;
  readonly #host: Host;
  readonly #time: VirtualTime;

  constructor(host: Host, time: VirtualTime) {
    this.#host = host;
    this.#time = time;
  }

  get state(): Host["state"] {
    return this.closedUntilMs > this.#time.now() ? "dark" : this.#host.state;
  }

  accept(connection: Connection): void {
    this.#host.accept(connection);
  }
}

class Life {
  readonly #world: World;
  readonly #random;
  readonly #time = new VirtualTime();
  readonly #trace: Trace;
  readonly #surroundings: Surroundings;
  readonly #network: Network;
  readonly #server: ServerMachine;
  readonly #proxy: ProxyMachine | null;
  readonly #tampering: Tampering;
  readonly #ledger: Ledger;
  readonly #log: Log;
  #disk: BlockDevice | null = null;
  /** What another client of the proxy has. */
  #neighbours: BlockDevice | null = null;
  #broken: string | null = null;
  #under = 0;
  #failures = 0;
  #reconnects = 0;
  /** Things happened after which a flush may fail without sole writer. */
  #doubtful = false;
  #stopped = false;
  #rivals = 0;
  #rivalsLetIn = 0;
  /** The server, as far as the user can reach it. */
  readonly #path: Path;
  /** Somebody else was let in instead of the user. */
  #supplanted = false;

  constructor(world: World, seed: number, { tampering = {}, print }: LifeOptions) {
    this.#world = world;
    this.#random = randomFrom(seed);
    this.#trace = new Trace(() => this.#time.now(), print ?? null);
    this.#surroundings = { time: this.#time, random: this.#random, trace: this.#trace };
    this.#network = new Network(this.#surroundings);
    this.#network.lateArrivals = world.late ?? world.server === "denbd";
    this.#tampering = tampering;
    this.#ledger = new Ledger(SECTORS, keepsAll(world));
    this.#log = this.#listener((message) => EXPECTED.some((text) => message.includes(text)));
    const serverLog = this.#listener((message) => !message.includes("protocol error"));
    this.#server = new ServerMachine(SECTORS * SECTOR_BYTES, world, this.#network, serverLog, tampering);
    this.#path = new Path(this.#server, this.#time);
    const logs = { client: this.#log, server: serverLog };
    this.#proxy = world.proxy === undefined
      ? null
      : new ProxyMachine(world, this.#network, this.#server, this.#path, logs, tampering);
  }

  async run(): Promise<LifeReport> {
    try {
      await this.#live();
    } catch (error) {
      this.#breaks(error);
    }
    const { requests } = this.#ledger;
    const { hash, events } = this.#trace;
    return {
      broken: this.#broken,
      hash,
      events,
      requests,
      failures: this.#failures,
      reconnects: this.#reconnects,
      rivals: this.#rivalsLetIn,
    };
  }

  async #live(): Promise<void> {
    this.#server.start();
    void this.#connect();
    await this.#until(() => this.#disk !== null, HANG_MS, "the disk could not be opened");
    let steps = 0;
    const step = () => {
      if (this.#broken !== null) return;
      this.#act();
      if (++steps < STEPS) this.#time.timer(this.#gap(), step);
    };
    step();
    await this.#until(() => steps === STEPS, Infinity, "time stood still");
    await this.#settle();
  }

  /** All troubles end, and everything that was asked for has to. */
  async #settle(): Promise<void> {
    this.#trace.note("settling");
    this.#stopped = true;
    this.#network.heal();
    this.#path.closedUntilMs = 0;
    const { medium } = this.#server;
    medium.faultChance = 0;
    medium.slowMs = 10;
    this.#repair();
    if (this.#disk === null) {
      const lost = "the disk did not come back";
      // A flush that was begun before may fail yet.
      await this.#until(() => this.#disk !== null || medium.faults > 0, HANG_MS, lost);
      this.#repair();
      await this.#until(() => this.#disk !== null, HANG_MS, lost);
    }
    await this.#until(() => this.#rivals === 0, HANG_MS, "the other writer never ended");
    await this.#until(() => this.#under === 0, HANG_MS, () => `${this.#under} requests never ended`);
    this.#repair();
    // The first two may tell what is in doubt: from before, and since a crash that is not noticed yet.
    for (let turn = 0; turn < 3; turn++) {
      this.#flush();
      await this.#until(() => this.#under === 0, HANG_MS, "a flush never ended");
      if (turn === 1) this.#doubtful = false;
    }
    const { ended, requests } = this.#ledger;
    if (ended !== requests) throw new BrokenPromise(`${requests} requests ended ${ended} times`);
    for (let at = 0; at < SECTORS; at += 6) this.#read(at, 6);
    await this.#until(() => this.#under === 0, HANG_MS, "a read never ended");
    let closed = false;
    void this.#disk!.close().then(() => closed = true);
    await this.#until(() => closed, HANG_MS, "the disk was never closed");
    this.#server.losePower(1000);
    this.#ledger.audit(medium.stored);
  }

  /** A disk whose sync failed has to be opened anew. */
  #repair(): void {
    if (this.#server.medium.faults > 0 && this.#server.isUp) {
      this.#doubtful = true;
      this.#server.kill();
    }
    if (!this.#server.isUp) this.#server.start();
  }

  async #until(done: () => boolean, withinMs: number, otherwise: string | (() => string)): Promise<void> {
    const untilMs = this.#time.now() + withinMs;
    const came = await this.#time.pass(() => this.#broken !== null || done(), untilMs);
    if (this.#broken !== null) throw new BrokenPromise(this.#broken);
    if (!came) throw new BrokenPromise(typeof otherwise === "string" ? otherwise : otherwise());
  }

  #breaks(error: unknown): void {
    if (this.#broken !== null) return;
    this.#broken = error instanceof BrokenPromise ? error.message : `${(error as Error).stack ?? error}`;
    this.#trace.note(`BROKEN: ${error instanceof BrokenPromise ? this.#broken : "it threw"}`);
  }

  async #connect(): Promise<void> {
    try {
      if (this.#proxy !== null) {
        await this.#proxy.start();
        if (this.#world.neighbour === true) {
          this.#neighbours = await openLocal(this.#network, this.#proxy, this.#surroundings);
        }
        this.#disk = await openLocal(this.#network, this.#proxy, this.#surroundings);
        return;
      }
      const dial = async (signal: AbortSignal | undefined) => {
        const connection = await this.#network.dial(this.#path, signal);
        return this.#tampering.connection?.(connection, this.#surroundings) ?? connection;
      };
      const { disk } = await openRemote(
        dial,
        this.#world,
        this.#surroundings,
        this.#log,
        undefined,
        undefined,
        undefined,
        this.#tampering,
      );
      this.#disk = disk;
    } catch (error) {
      if (this.#proxy === null || this.#proxy.state === "up") this.#breaks(error);
    }
  }

  // --- What the user does ---

  #gap(): number {
    const { below, chance } = this.#random;
    if (chance(0.5)) return 0;
    return below(chance(0.05) ? 8000 : this.#world.restMs ?? 300);
  }

  #act(): void {
    const { below, chance } = this.#random;
    const { troubles } = this.#world;
    if (chance(0.12)) return this.#trouble(troubles[below(troubles.length)]);
    const first = below(SECTORS);
    const count = Math.min(SECTORS - first, 1 + below(4));
    const kind = below(100);
    if (kind < 50) this.#write(first, count);
    else if (kind < 56) this.#empty(first, count);
    else if (kind < 80) this.#readEach(first, count);
    else if (kind < 84) this.#ask(first, count);
    else this.#flush();
  }

  #write(first: number, count: number): void {
    const fua = this.#random.chance(0.1);
    const change = this.#ledger.ask(first, count);
    const data = contentBytes(change.content, count);
    this.#request("write", first, count, async (disk) => {
      await disk.write(first * SECTOR_BYTES, data, { fua });
      this.#ledger.acknowledged(change, fua);
      // The bytes are ours again.
      data.fill(0xee);
    }, () => this.#ledger.failed(change));
  }

  #empty(first: number, count: number): void {
    const zero = this.#random.chance(0.6);
    const fua = this.#random.chance(0.1);
    const change = this.#ledger.ask(first, count, zero ? ZERO : ANYTHING);
    const offset = first * SECTOR_BYTES;
    const length = count * SECTOR_BYTES;
    this.#request(zero ? "zero" : "trim", first, count, async (disk) => {
      if (zero) await disk.zero(offset, length, { fua });
      else await disk.trim(offset, length, { fua });
      this.#ledger.acknowledged(change, fua);
    }, () => this.#ledger.failed(change));
  }

  /** Reads a range at once, or its sectors one by one, as somebody does who asks for the next before he has the last. */
  #readEach(first: number, count: number): void {
    if (this.#ledger.requests % 2 === 0) return this.#read(first, count);
    for (let each = 0; each < 2 * count && first + each < SECTORS; each++) this.#read(first + each, 1);
  }

  #read(first: number, count: number): void {
    const data = new Uint8Array(count * SECTOR_BYTES).fill(0xdd);
    const check = this.#ledger.askRead(first, count);
    this.#request("read", first, count, async (disk) => {
      await readShown(disk, first * SECTOR_BYTES, data);
      check(data);
    });
  }

  #ask(first: number, count: number): void {
    this.#request("extents", first, count, async (disk) => {
      const extents = await disk.extents(first * SECTOR_BYTES, count * SECTOR_BYTES);
      let at = first;
      for (const { length, kind } of extents) {
        const end = at + length / SECTOR_BYTES;
        for (; at < end; at++) {
          if (kind !== "data" && !this.#ledger.mayBeZero(at)) {
            throw new BrokenPromise(`sector ${at} is said to be a ${kind}`);
          }
        }
      }
      if (at <= first || at > first + count) throw new BrokenPromise(`extents end at sector ${at}`);
    });
  }

  #flush(): void {
    // What it hears is not what the user has heard.
    if (this.#ledger.requests % 3 === 0) void this.#neighbours?.flush()?.catch(() => {});
    const claim = this.#ledger.askFlush();
    this.#request("flush", -1, 0, async (disk) => {
      await disk.flush();
      this.#ledger.flushed(claim, this.#server.medium.stored);
    }, () => this.#ledger.flushFailed());
  }

  /** Asks for something that has to end, once. */
  #request(
    what: string,
    first: number,
    count: number,
    perform: (disk: BlockDevice) => Promise<void>,
    failed: () => void = () => {},
  ): void {
    const disk = this.#disk;
    this.#ledger.requests++;
    const number = this.#ledger.requests;
    this.#trace.note(`user: ${what}`, number, first, count);
    if (disk === null) {
      // There is no disk to ask: nothing has happened.
      this.#ledger.ended++;
      return failed();
    }
    this.#under++;
    perform(disk).then(() => {
      this.#trace.note(`user: ${what} done`, number);
    }, (error) => {
      this.#failures++;
      this.#trace.note(`user: ${what} failed`, number);
      this.#trace.remark(() => `${error}`);
      if (error instanceof DeviceError && this.#mayFail(what, error, disk)) failed();
      else this.#breaks(error instanceof BrokenPromise ? error : new BrokenPromise(`${what}: ${error}`));
    }).catch((error) => this.#breaks(error)).finally(() => {
      this.#under--;
      this.#ledger.ended++;
    });
  }

  #mayFail(what: string, { errno }: DeviceError, disk: BlockDevice): boolean {
    const { deadlineMs } = this.#world;
    // The proxy was killed, and the connection to it with it.
    if (disk !== this.#disk) return true;
    if (this.#server.medium.faults > 0) return true;
    if (deadlineMs !== undefined && errno === "ETIMEDOUT") return true;
    return what === "flush" && (!keepsAll(this.#world) || this.#supplanted) && this.#doubtful;
  }

  // --- What goes wrong ---

  #trouble(kind: Trouble): void {
    const { below, chance } = this.#random;
    const { medium } = this.#server;
    const awayMs = below(chance(0.2) ? 40_000 : 3000);
    if (this.#world.server === "stock" || !HARMLESS.includes(kind)) {
      this.#doubtful = true;
    }
    switch (kind) {
      case "cut": {
        const all = chance(0.7);
        return this.#network.cut((link) => all || link.number % 2 === 0);
      }
      case "stall":
        return this.#network.stall(awayMs);
      case "vanish":
        // A denbd server is asked for signs of life; of others the system has to notice.
        return this.#network.vanish(this.#world.server === "denbd" ? VANISHED_MS : DEAD_AFTER_MS);
      case "restart":
        if (this.#server.isUp) void this.#server.restart(awayMs);
        return;
      case "kill":
        if (!this.#server.isUp) return;
        this.#server.kill();
        return this.#startServer(awayMs);
      case "power":
        if (!this.#server.isUp) return;
        this.#server.losePower(awayMs);
        this.#ledger.powerLost();
        return this.#startServer(awayMs);
      case "fault":
        this.#trace.note("the disk fails");
        medium.faultChance = 0.3;
        this.#time.timer(awayMs / 4, () => medium.faultChance = 0);
        return;
      case "slow":
        this.#trace.note("the disk is slow");
        medium.slowMs = 1000 + below(8000);
        this.#time.timer(awayMs, () => medium.slowMs = 10);
        return;
      case "rival":
        return void this.#rival();
      case "proxy-kill":
      case "proxy-power": {
        const proxy = this.#proxy!;
        if (proxy.state !== "up") return;
        this.#disk = this.#neighbours = null;
        proxy.kill(kind === "proxy-power");
        this.#ledger.clientLost();
        this.#time.timer(500 + awayMs / 4, () => void this.#connect());
        return;
      }
    }
  }

  /** Somebody else writes a few sectors, flushes, and leaves; or is refused. */
  async #rival(): Promise<void> {
    if (this.#rivals > 0) return;
    this.#rivals++;
    const { below, chance } = this.#random;
    const { time } = this.#surroundings;
    const patience = new AbortController();
    using _timer = time.timer(below(90_000), () => patience.abort(new Error("the rival lost its patience")));
    if (chance(0.5)) {
      // The user is cut off meanwhile, and nobody else is.
      const awayMs = below(40_000);
      this.#trace.note("the user is cut off", awayMs);
      this.#path.closedUntilMs = time.now() + awayMs;
      this.#network.cut();
    }
    let reached = false;
    const dial = async (signal: AbortSignal | undefined) => {
      reached = false;
      const connection = await this.#network.dial(this.#server, signal);
      reached = true;
      return connection;
    };
    const log = { ...silentLog, child: () => silentLog };
    let disk: BlockDevice | null = null;
    while (disk === null && !patience.signal.aborted && !this.#stopped) {
      try {
        const world: World = { ...this.#world, writer: "reserved", connections: 1, deadlineMs: 30_000 };
        ({ disk } = await openRemote(dial, world, this.#surroundings, log, patience.signal));
      } catch (error) {
        this.#trace.remark(() => `the rival is refused: ${(error as Error).message}`);
        // The server may have let it in, and not been heard any more.
        if (reached && !(error instanceof RefusedError)) this.#supplant();
        await delay(time, 1000);
      }
    }
    if (disk !== null) {
      this.#trace.note("the rival is there");
      this.#rivalsLetIn++;
      this.#supplant();
      const changes: Change[] = [];
      for (let left = 1 + below(3); left > 0; left--) {
        const first = below(SECTORS);
        const count = Math.min(SECTORS - first, 1 + below(4));
        const change = this.#ledger.ask(first, count, undefined, true);
        this.#trace.note("rival: write", change.number, first, count);
        try {
          await disk.write(first * SECTOR_BYTES, contentBytes(change.content, count));
          this.#ledger.acknowledged(change, false);
          changes.push(change);
        } catch {
          this.#ledger.failed(change);
        }
        if (chance(0.5)) await delay(time, below(500));
      }
      try {
        await disk.flush();
        this.#trace.note("rival: flush done");
        this.#ledger.rivalFlushed(changes, this.#server.medium.stored);
      } catch (error) {
        if (error instanceof BrokenPromise) this.#breaks(error);
      }
      await disk.close();
      this.#trace.note("the rival is gone");
    }
    this.#rivals--;
  }

  /** Somebody else has, or may have, the reservation: what was not flushed is not kept. */
  #supplant(): void {
    if (this.#world.writer !== "reserved") return;
    this.#supplanted = true;
    this.#ledger.supplanted();
  }

  #startServer(afterMs: number): void {
    this.#time.timer(afterMs, () => {
      if (!this.#server.isUp && !this.#stopped) this.#server.start();
    });
  }

  /** Hears what is logged: a client loses only connections that were lost, a server understands its clients. */
  #listener(isExpected: (message: string) => boolean): Log {
    const hear = (message: string) => {
      this.#trace.remark(() => `log: ${message}`);
      if (message.startsWith("reconnected to ")) this.#reconnects++;
      if (message.startsWith("writes that ")) this.#ledger.repeatFailed();
    };
    const complain = (message: string) => {
      hear(message);
      if (!isExpected(message)) this.#breaks(new BrokenPromise(`unexpected: ${message}`));
    };
    const log: Log = {
      ...silentLog,
      info: hear,
      warn: complain,
      error: complain,
      child: () => log,
    };
    return log;
  }
}
