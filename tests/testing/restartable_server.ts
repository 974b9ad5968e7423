/** A server that crashes and comes back, over connections in memory. */
import { silentLog } from "../../src/base/log.ts";
import type { BlockDevice, DiskIdentity } from "../../src/device/device.ts";
import { MemoryDisk } from "../../src/device/memory.ts";
import { VolatileDisk } from "./volatile_disk.ts";
import type { Connection } from "../../src/net/connection.ts";
import { type Clock, systemClock } from "../../src/os/clock.ts";
import type { Dial } from "../../src/remote/open_connection.ts";
import { ExportTable, ExportTraffic, type Writers } from "../../src/server/export_table.ts";
import type { ReservationState } from "../../src/server/reservation_store.ts";
import { NbdServer } from "../../src/server/nbd/server.ts";
import { connectionPair } from "./connection_pair.ts";

export class RestartableServer {
  /** What is on the medium: what a crash leaves. */
  medium: MemoryDisk;
  /** Connections that were asked for, refused ones included. */
  dialled = 0;
  readOnly = false;
  writers: Writers = "any";
  /** What is kept of a reservation, as in a state directory. */
  reservation: ReservationState = { reservation: null, barred: [] };
  clock: Clock = systemClock;
  /** Whether it tells its instance and the identity of the disk, as denbd servers do. */
  identity: DiskIdentity | undefined;
  /** Wraps the disk each time the server starts. */
  wrap: (disk: BlockDevice) => BlockDevice = (disk) => disk;
  exports = new ExportTable();
  #disk: VolatileDisk | null = null;
  #server: NbdServer | null = null;
  #connections: Connection[] = [];
  #links: BreakableConnection[] = [];

  constructor(sizeBytes: number) {
    this.medium = new MemoryDisk(sizeBytes);
  }

  readonly dial: Dial = () => {
    this.dialled++;
    if (this.#server === null) return Promise.reject(new Error("connection refused"));
    const [here, there] = connectionPair();
    this.#connections.push(there);
    this.#server.handle(there);
    const link = new BreakableConnection(here);
    this.#links.push(link);
    return Promise.resolve(link);
  };

  start(): void {
    this.#disk = new VolatileDisk(this.medium);
    const disk = this.wrap(this.#disk);
    const device = this.identity === undefined ? disk : identified(disk, this.identity);
    const { sizeBytes } = device;
    const exports = new ExportTable();
    exports.add({
      name: "disk",
      description: "",
      device,
      sizeBytes,
      readOnly: this.readOnly,
      traffic: new ExportTraffic(),
      source: "test",
      writers: this.writers,
    });
    this.exports = exports;
    this.#server = new NbdServer({
      exports,
      judge: () => ({ rights: "write", reason: "a test" }),
      log: silentLog,
      clock: this.clock,
      reservationStore: () => ({
        load: () => this.reservation,
        save: (state) => {
          this.reservation = state;
          return Promise.resolve();
        },
      }),
      instance: this.identity === undefined ? undefined : crypto.randomUUID(),
    });
  }

  /** Ends the reservation, at the operator's word. */
  async unreserve(): Promise<void> {
    await this.#server!.writersOf(this.exports.find("disk")!).unreserve();
  }

  /** Cuts all connections; the server goes on. */
  cut(): void {
    for (const connection of this.#connections.splice(0)) connection.close();
  }

  /** The clients' ends of all connections break; the server hears nothing of it. */
  cutSilently(): void {
    for (const link of this.#links.splice(0)) link.break();
  }

  /** Nothing arrives any more on what is connected now, in either direction, and nobody is told. */
  hang(): void {
    for (const link of this.#links.splice(0)) link.hang();
  }

  /** Power is lost: what was not flushed is gone, but for what `keeps` picks. */
  crash(keeps?: (change: number) => boolean): void {
    this.medium = this.#disk!.crash(keeps);
    this.#server!.abort();
    this.#server = null;
    this.cut();
  }

  /** What is on the medium at a place. */
  stored(offset: number, length: number): Uint8Array {
    const content = new Uint8Array(length);
    this.medium.read(offset, content);
    return content;
  }
}

/** The client's end of a connection, which can break without the server's noticing. */
class BreakableConnection implements Connection {
  readonly peer;
  readonly #connection: Connection;
  readonly #broken = Promise.withResolvers<null>();
  #isBroken = false;
  #hangs = false;

  constructor(connection: Connection) {
    this.#connection = connection;
    this.peer = connection.peer;
  }

  read(into: Uint8Array): number | null | Promise<number | null> {
    if (this.#isBroken) return null;
    if (this.#hangs) return this.#broken.promise;
    const reading = this.#connection.read(into);
    if (!(reading instanceof Promise)) return reading;
    const heard = reading.then((count) => this.#hangs ? this.#broken.promise : count);
    return Promise.race([heard, this.#broken.promise]);
  }

  write(bytes: Uint8Array): void | Promise<void> {
    if (this.#isBroken) throw new Error("the link is broken");
    if (this.#hangs) return;
    return this.#connection.write(bytes);
  }

  close(): void {
    if (this.#isBroken) return;
    this.#isBroken = true;
    this.#broken.resolve(null);
    if (!this.#hangs) this.#connection.close();
  }

  hang(): void {
    this.#hangs = true;
  }

  break(): void {
    this.#isBroken = true;
    this.#broken.resolve(null);
  }
}

/** The same disk with an identity. */
function identified(disk: BlockDevice, identity: DiskIdentity): BlockDevice {
  return new Proxy(disk, {
    get(target, key) {
      if (key === "identity") return identity;
      const value = Reflect.get(target, key);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}
