/** A disk served by our own server over connections in memory. */
import { listenTcp } from "../../src/net/listener.ts";
import { silentLog } from "../../src/base/log.ts";
import type { BlockDevice } from "../../src/device/device.ts";
import { systemClock } from "../../src/os/clock.ts";
import type { Dial } from "../../src/remote/open_connection.ts";
import { type Export, ExportTable, ExportTraffic } from "../../src/server/export_table.ts";
import type { MigrationDesk } from "../../src/server/migration_desk.ts";
import { NbdServer, type NbdServerOptions } from "../../src/server/nbd/server.ts";
import type { ClientWishes } from "../../src/wire/nbd/handshake_client.ts";
import { connectionPair } from "./connection_pair.ts";
import { RawClient } from "./raw_client.ts";

export interface ServedDisk extends AsyncDisposable {
  readonly server: NbdServer;
  readonly exported: Export;
  readonly dial: Dial;
  /** A client in transmission, which says what it is told to. */
  client(wishes?: Partial<ClientWishes>): Promise<RawClient>;
}

export interface ServedDiskOptions extends Partial<NbdServerOptions> {
  /** Default `disk`, which also answers to the empty name. */
  readonly exportName?: string;
  readonly readOnly?: boolean;
  readonly desk?: MigrationDesk;
  readonly whyClosed?: () => string | null;
  /** The most that one read of a connection delivers. Default: anything. */
  readonly bytesPerRead?: number;
}

/** Serves a disk to whoever dials; the disk stays the caller's. */
export function serveDisk(device: BlockDevice, options: ServedDiskOptions = {}): ServedDisk {
  const { exportName = "disk", readOnly = false, bytesPerRead, desk, whyClosed } = options;
  const exports = new ExportTable();
  const exported: Export = {
    name: exportName,
    description: "a test",
    device,
    sizeBytes: device.sizeBytes,
    readOnly,
    traffic: new ExportTraffic(),
    source: "test",
    desk,
    whyClosed,
  };
  exports.add(exported, { isDefault: exportName !== "" });
  const server = new NbdServer({
    exports,
    judge: () => ({ rights: "write", reason: "a test" }),
    log: silentLog,
    clock: systemClock,
    ...options,
  });
  const dial = () => {
    const [here, there] = connectionPair(bytesPerRead);
    server.handle(there);
    return here;
  };
  return {
    server,
    exported,
    dial: () => Promise.resolve(dial()),
    client: (wishes) => RawClient.open(dial(), wishes),
    async [Symbol.asyncDispose]() {
      await server.drain(10_000);
    },
  };
}

/** Serves a disk on a port of 127.0.0.1. */
export function listenDisk(device: BlockDevice, options: ServedDiskOptions = {}): ListeningDisk {
  const served = serveDisk(device, options);
  const listener = listenTcp("127.0.0.1", 0);
  const serving = served.server.serve(listener);
  const port = listener.port!;
  return {
    ...served,
    port,
    uri: `nbd://127.0.0.1:${port}/${options.exportName ?? "disk"}`,
    async [Symbol.asyncDispose]() {
      listener.close();
      await served[Symbol.asyncDispose]();
      await serving;
    },
  };
}

export interface ListeningDisk extends ServedDisk {
  readonly port: number;
  readonly uri: string;
}
