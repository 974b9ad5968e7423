/** A server with one disk, spoken to over memory. */
import { silentLog } from "../../../src/base/log.ts";
import type { BlockDevice } from "../../../src/device/device.ts";
import { systemClock } from "../../../src/os/clock.ts";
import { ExportTable, ExportTraffic } from "../../../src/server/export_table.ts";
import { type Judge, NbdServer, type NbdServerOptions } from "../../../src/server/nbd/server.ts";
import type { ClientWishes } from "../../../src/wire/nbd/handshake_client.ts";
import { connectionPair } from "../../testing/connection_pair.ts";
import { RawClient } from "../../testing/raw_client.ts";

export const ALLOW: Judge = () => ({ rights: "write", reason: "test" });

export interface ServedOptions extends Partial<NbdServerOptions> {
  readonly readOnly?: boolean;
  /** Delivers the client's bytes in pieces of at most this size. */
  readonly bytesPerRead?: number;
}

/** A running server; disposing it aborts every client and waits for them. */
export class Served implements AsyncDisposable {
  readonly exports = new ExportTable();
  readonly server: NbdServer;
  readonly #bytesPerRead: number;

  constructor(readonly device: BlockDevice, options: ServedOptions = {}) {
    this.exports.add({
      name: "disk",
      description: "a disk",
      device,
      sizeBytes: device.sizeBytes,
      readOnly: options.readOnly ?? false,
      traffic: new ExportTraffic(),
      source: "memory",
    });
    this.server = new NbdServer({
      exports: this.exports,
      judge: ALLOW,
      log: silentLog,
      clock: systemClock,
      ...options,
    });
    this.#bytesPerRead = options.bytesPerRead ?? Infinity;
  }

  /** A client in transmission. */
  async client(wishes: Partial<ClientWishes> = {}): Promise<RawClient> {
    const [ours, theirs] = connectionPair(this.#bytesPerRead);
    this.server.handle(theirs);
    return await RawClient.open(ours, wishes);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.server.abort();
    await this.server.drain(1000);
  }
}
