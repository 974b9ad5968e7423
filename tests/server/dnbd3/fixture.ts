/** A server over images in memory, with a clock that stands still, and clients connected to it. */
import { type Log, silentLog } from "../../../src/base/log.ts";
import { readAltServers } from "../../../src/config/alt_servers.ts";
import { ImageTable } from "../../../src/server/dnbd3/image_table.ts";
import { LocalImages } from "../../../src/server/dnbd3/local_images.ts";
import { ImageServer, type ImageServerOptions } from "../../../src/server/dnbd3/server.ts";
import { connectionPair } from "../../testing/connection_pair.ts";
import { ManualClock } from "../../testing/manual_clock.ts";
import { RawImageClient } from "../../testing/raw_image_client.ts";
import * as vectors from "../../wire/dnbd3/vectors.ts";
import { MemoryStore, patternDisk } from "./memory_store.ts";

export const SETTINGS = { clientTimeout: 1000, serverPenalty: 0, clientPenalty: 0, maxClients: 100 };

/** The configuration with which the vectors were recorded. */
const ALT_SERVERS = readAltServers(
  `[192.0.2.10]
comment=x
[192.0.2.20:5010]
for=client
[192.0.2.50]
for=replication
[198.51.100.3]
namespace=foobar/
[[2001:db8::17]:6000]
comment=v6
`,
  5003,
  { file: "alt-servers", warn: () => {} },
);

export class Fixture {
  readonly store = new MemoryStore();
  readonly clock = new ManualClock();
  readonly told: string[] = [];
  readonly table: ImageTable;
  readonly server: ImageServer;

  constructor(options: Partial<ImageServerOptions> = {}) {
    this.store.put("test.r1", patternDisk(vectors.TEST_BYTES));
    this.store.put("test.r1.crc", vectors.CHECKSUM_FILE_OF_TEST);
    this.store.put("sub/odd.r3", patternDisk(vectors.ODD_FILE_BYTES));
    this.store.put("multi.r2", patternDisk(8192));
    this.store.put("multi.r7", patternDisk(12288));
    const tell = (text: string) => void this.told.push(text);
    const log: Log = { ...silentLog, info: tell, warn: tell, error: tell, child: () => log };
    const table = { vmdkLegacyMode: false, removeMissingImages: true, maxImages: 100 };
    this.table = new ImageTable(this.store, table, log);
    const images = new LocalImages(this.table);
    this.server = new ImageServer({
      finder: images,
      source: images,
      settings: SETTINGS,
      altServers: ALT_SERVERS,
      clock: this.clock,
      log,
      ...options,
    });
  }

  /** A new client, as if from this address. */
  connect(bytesPerRead?: number, address = "127.0.0.1"): RawImageClient {
    const [client, server] = connectionPair(bytesPerRead);
    const peer = { transport: "tcp", address, text: `${address}:1` } as const;
    this.server.handle({
      peer,
      read: (into) => server.read(into),
      write: (bytes) => server.write(bytes),
      close: () => server.close(),
    });
    return new RawImageClient(client);
  }

  /** A new client that has selected an image. */
  async open(name = "test", revision = 1, flags = 0): Promise<RawImageClient> {
    const client = this.connect();
    if (await client.select(name, revision, flags) === null) throw new Error(`no image ${name}:${revision}`);
    return client;
  }

  /** Lets everybody do what can be done without time passing. */
  async settle(): Promise<void> {
    for (let turn = 0; turn < 50; turn++) await Promise.resolve();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = this.server.close();
    // Whoever sleeps a penalty is woken.
    this.clock.advance(60_000);
    await closed;
    await this.table.close();
  }
}
