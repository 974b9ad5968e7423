/** A world of origins, proxies and clients that look at what they are sent. */
import { assertEquals } from "@std/assert";
import { crc32 } from "../../../src/base/crc32.ts";
import { type Log, silentLog } from "../../../src/base/log.ts";
import { ChecksumList, encodeChecksumList } from "../../../src/wire/dnbd3/checksum_list.ts";
import { HASH_BLOCK_BYTES } from "../../../src/wire/dnbd3/constants.ts";
import { virtualSize } from "../../../src/wire/dnbd3/message.ts";
import { ImageWorld, type ProxyOptions, type SimulatedServer } from "../../testing/image_world.ts";
import { RawImageClient } from "../../testing/raw_image_client.ts";
import { patternBytes } from "../../wire/dnbd3/vectors.ts";
import { patternDisk } from "./memory_store.ts";

export class ProxyWorld extends ImageWorld {
  readonly told: string[] = [];
  readonly log: Log;

  constructor() {
    super();
    const tell = (text: string) => void this.told.push(text);
    const log: Log = { ...silentLog, info: tell, warn: tell, error: tell, child: () => log };
    this.log = log;
  }

  /** A server that has image `x` revision 1, of the well-known content, with its checksums if asked for. */
  origin(host: string, sizeBytes: number, { checksums = true } = {}): SimulatedServer {
    const server = this.add(host);
    server.store.put("x.r1", patternDisk(sizeBytes));
    if (checksums) server.store.put("x.r1.crc", patternChecksums(sizeBytes));
    return server;
  }

  override addProxy(host: string, from: readonly string[], options: ProxyOptions = {}): SimulatedServer {
    return super.addProxy(host, from, { log: this.log, ...options });
  }

  /** A client that has selected an image. */
  async client(server: SimulatedServer, name = "x", revision = 0, flags = 0): Promise<RawImageClient> {
    const client = new RawImageClient(server.connect());
    const image = await this.until(client.select(name, revision, flags));
    if (image === null) throw new Error(`${server.host} has no ${name}:${revision}`);
    return client;
  }

  /** The same, while somebody else lets time pass. */
  async stranger(server: SimulatedServer): Promise<RawImageClient> {
    const client = new RawImageClient(server.connect());
    if (await client.select("x") === null) throw new Error(`${server.host} refuses`);
    return client;
  }

  /** Whether a server gives a client the image. */
  async offers(server: SimulatedServer, name: string, revision = 0, flags = 0): Promise<boolean> {
    const client = new RawImageClient(server.connect());
    const image = await this.until(client.select(name, revision, flags));
    client.connection.close();
    return image !== null;
  }

  /** Reads, and compares with what is to be there. */
  async read(client: RawImageClient, offset: number, length: number, hops = 0): Promise<void> {
    const bytes = await this.until(client.block(offset, length, hops));
    if (bytes === null) throw new Error(`the connection ended instead of a block at ${offset}`);
    const wanted = patternBytes(offset, length);
    const wrong = bytes.findIndex((byte, index) => byte !== wanted[index]);
    assertEquals([bytes.length, wrong], [length, -1], `a block at ${offset}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closing = this.close();
    await this.until(closing);
    await this.pass(120_000, 30_000);
    assertEquals(this.clock.timers, 0, "timers are left");
  }
}

/** What is in the `.crc` file of an image with the well-known content, of so many bytes in its file. */
export function patternChecksums(fileBytes: number): Uint8Array {
  const sizeBytes = virtualSize(fileBytes);
  const checksums: number[] = [];
  for (let at = 0; at < sizeBytes; at += HASH_BLOCK_BYTES) {
    checksums.push(crc32(patternBytes(at, Math.min(HASH_BLOCK_BYTES, sizeBytes - at), fileBytes)));
  }
  return encodeChecksumList(new ChecksumList(Uint32Array.from(checksums)));
}
