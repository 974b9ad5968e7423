/** Proxies of dnbd3 images as real programs, with origins and proxies that are killed. */
import { assert, assertEquals } from "@std/assert";
import { crc32 } from "../../src/base/crc32.ts";
import { dial } from "../../src/net/dial.ts";
import { CacheMap } from "../../src/wire/dnbd3/cache_map.ts";
import { virtualSize } from "../../src/wire/dnbd3/message.ts";
import { Relay } from "../testing/relay.ts";
import { freePort, type TemporaryDirectory, temporaryDirectory } from "../testing/process.ts";
import { randomFrom } from "../testing/random.ts";
import { RawImageClient } from "../testing/raw_image_client.ts";
import * as vectors from "../wire/dnbd3/vectors.ts";
import { denbd, type RunningProgram, start } from "./program.ts";

const BLOCK_BYTES = 65536;

/** A server's configuration and images, which outlive the program. */
class Site {
  readonly port = freePort();
  readonly images: string;
  readonly #config: string;

  constructor(
    directory: TemporaryDirectory,
    name: string,
    { from, more = "" }: { from?: { readonly port: number }[]; more?: string } = {},
  ) {
    this.images = directory.file(`${name}-images`);
    this.#config = directory.file(name);
    Deno.mkdirSync(this.images);
    Deno.mkdirSync(this.#config);
    Deno.writeTextFileSync(
      `${this.#config}/server.conf`,
      `[dnbd3]\nlistenPort=${this.port}\nbasePath=${this.images}\nisProxy=${from !== undefined}\n${more}`,
    );
    const sections = from?.map(({ port }) => `[127.0.0.1:${port}]\ncomment=origin\n`) ?? [];
    Deno.writeTextFileSync(`${this.#config}/alt-servers`, sections.join(""));
  }

  write(file: string, text: string): void {
    Deno.writeTextFileSync(`${this.#config}/${file}`, text);
  }

  async start(...words: string[]): Promise<RunningProgram> {
    const program = await start([
      "serve",
      "--verbose",
      "--config",
      this.#config,
      "--addr",
      "127.0.0.1",
      ...words,
    ]);
    await program.logged(/: serving \d+ exports? on /);
    return program;
  }

  async query(): Promise<Record<string, unknown>> {
    const answer = await fetch(`http://127.0.0.1:${this.port}/query?q=images`);
    return (await answer.json()).images[0];
  }

  async client(name: string): Promise<RawImageClient> {
    const connection = await dial({ transport: "tcp", host: "127.0.0.1", port: this.port });
    const client = new RawImageClient(connection);
    if (await client.select(name) === null) throw new Error(`no image ${name}`);
    return client;
  }
}

function sameBytes(one: Uint8Array, other: Uint8Array): boolean {
  return one.length === other.length && crc32(one) === crc32(other);
}

Deno.test("an origin is killed while 20 clients read through a proxy: no read fails, all bytes are right", async () => {
  using directory = temporaryDirectory();
  const sizeBytes = 80 * BLOCK_BYTES * 20;
  const origins = ["one", "two"].map((name) => new Site(directory, name));
  for (const { images } of origins) Deno.writeFileSync(`${images}/pc.r1`, vectors.patternBytes(0, sizeBytes));
  await denbd(["crc", `${origins[0].images}/pc.r1`]);
  Deno.copyFileSync(`${origins[0].images}/pc.r1.crc`, `${origins[1].images}/pc.r1.crc`);
  const site = new Site(directory, "proxy", {
    from: origins,
    more: "backgroundReplication=false\n[limits]\nmaxPrefetch=0\n",
  });
  await using first = await origins[0].start();
  await using second = await origins[1].start();
  await using proxy = await site.start();

  const clients = await Promise.all(Array.from({ length: 20 }, () => site.client("pc")));
  let blocks = 0;
  const halfway = Promise.withResolvers<void>();
  const reading = clients.map(async (client, number) => {
    for (let block = 0; block < 80; block++) {
      // Each has a part of its own, and now and then looks at what is here already.
      const offset = (block % 8 === 7 ? block - 7 : number * 80 + block) * BLOCK_BYTES;
      const bytes = await client.block(offset, BLOCK_BYTES);
      if (bytes === null) throw new Error(`client ${number} was dropped at ${offset}`);
      assert(
        sameBytes(bytes, vectors.patternBytes(offset, BLOCK_BYTES)),
        `client ${number}: wrong at ${offset}`,
      );
      if (++blocks === 600) halfway.resolve();
    }
    client.connection.close();
  });
  await Promise.race([halfway.promise, Promise.all(reading)]);
  const { uplinkServer } = await site.query();
  const [killed, other] = uplinkServer === `127.0.0.1:${origins[0].port}` ? [first, second] : [second, first];
  await killed.stop("SIGKILL");
  await Promise.all(reading);
  await proxy.logged(/lost 127\.0\.0\.1/);

  // What is here needs nobody.
  await other.stop("SIGKILL");
  const late = await site.client("pc");
  assert(sameBytes((await late.block(0, 4 * BLOCK_BYTES))!, vectors.patternBytes(0, 4 * BLOCK_BYTES)));
  late.connection.close();
  assertEquals(await proxy.stop(), 0);
});

Deno.test("a proxy is killed with -9 while it copies: the map never claims a block that is not there", async () => {
  const random = randomFrom();
  using directory = temporaryDirectory();
  const fileBytes = 40 * 1024 * 1024 + 1234;
  const origin = new Site(directory, "origin");
  Deno.writeFileSync(`${origin.images}/pc.r1`, vectors.patternBytes(0, fileBytes));
  await denbd(["crc", `${origin.images}/pc.r1`]);
  const site = new Site(directory, "proxy", { from: [origin] });
  await using _origin = await origin.start();
  const path = `${site.images}/pc.r1`;
  const sizeBytes = virtualSize(fileBytes);
  const right = vectors.patternBytes(0, sizeBytes, fileBytes);
  let complete = false;
  for (let life = 0; life < 6 && !complete; life++) {
    await using proxy = await site.start();
    const client = await site.client("pc").catch(() => null);
    const wanted = random.below(sizeBytes / 4096) * 4096;
    const asked = client?.block(wanted, 4096);
    const copied = random.below(sizeBytes / 2);
    while (((await site.query()).bytesReceived as number ?? Infinity) < copied);
    // An orderly end makes durable what is here, so that the next life has something to lose.
    await proxy.stop(life % 2 === 0 ? "SIGTERM" : "SIGKILL");
    await asked?.catch(() => {});
    client?.connection.close();

    const bytes = Deno.readFileSync(path);
    assertEquals(bytes.length, sizeBytes);
    const text = await Deno.readFile(`${path}.map`).catch(() => null);
    complete = text === null;
    const map = new CacheMap(sizeBytes, text ?? new Uint8Array(sizeBytes).fill(0xff));
    for (let at = 0; at < sizeBytes; at += 4096) {
      if (!map.has(at, 4096)) continue;
      const same = sameBytes(bytes.subarray(at, at + 4096), right.subarray(at, at + 4096));
      assert(same, `seed ${random.seed}, life ${life}: the block at ${at} is claimed, and is not there`);
    }
  }
  await using proxy = await site.start();
  const { bytes } = await denbd(["read", `dnbd3://127.0.0.1:${site.port}/pc`]);
  assert(sameBytes(bytes, right), "the image is not equal");
  assertEquals(await proxy.stop(), 0);
});

Deno.test("an image that is being copied is a read-only NBD export as well, and what is missing comes", async () => {
  using directory = temporaryDirectory();
  const origin = new Site(directory, "origin");
  const fileBytes = 3 * 1024 * 1024 + 17;
  Deno.writeFileSync(`${origin.images}/pc.r4`, vectors.patternBytes(0, fileBytes));
  const site = new Site(directory, "proxy", { from: [origin], more: "backgroundReplication=false\n" });
  await using _origin = await origin.start();
  const nbdPort = freePort();
  site.write("peers.conf", "[here]\naddress = 127.0.0.1\nread = *\n");
  await using proxy = await site.start("--port", String(nbdPort));
  const client = await site.client("pc");
  await client.block(0, 4096);
  const { bytes } = await denbd(["read", `nbd://127.0.0.1:${nbdPort}/pc%3A4`]);
  assert(sameBytes(bytes, vectors.patternBytes(0, virtualSize(fileBytes), fileBytes)), "not equal");
  client.connection.close();
  assertEquals(await proxy.stop(), 0);
});

/** Changes one byte of an image of the well-known content on its way from a server. @returns How often it did. */
function flipOnTheWay(relay: Relay, place: number): () => number {
  let count = 0;
  const wanted = vectors.patternBytes(place, 8);
  relay.look = (direction, _text, bytes) => {
    if (direction === "there") return "pass";
    for (let at = bytes.indexOf(wanted[0]); at >= 0; at = bytes.indexOf(wanted[0], at + 1)) {
      if (!wanted.every((byte, index) => bytes[at + index] === byte)) continue;
      bytes[at + 1] ^= 0xff;
      count++;
      break;
    }
    return "pass";
  };
  return () => count;
}

Deno.test("a byte that changes on the way from one of two servers reaches nobody: not a proxy that verifies, nor its clients, nor a disk", async () => {
  using directory = temporaryDirectory();
  // No multiple of 16 MiB, nor of 4096.
  const fileBytes = 2 * 16 * 1024 * 1024 + 5_000_017;
  const place = 3 * 1024 * 1024 + 8 * 1001;
  const origins = ["one", "two"].map((name) => new Site(directory, name));
  for (const { images } of origins) Deno.writeFileSync(`${images}/pc.r1`, vectors.patternBytes(0, fileBytes));
  await denbd(["crc", `${origins[0].images}/pc.r1`]);
  Deno.copyFileSync(`${origins[0].images}/pc.r1.crc`, `${origins[1].images}/pc.r1.crc`);
  await using _first = await origins[0].start();
  await using _second = await origins[1].start();
  using relay = new Relay(origins[0].port);
  const flipped = flipOnTheWay(relay, place);
  const sizeBytes = virtualSize(fileBytes);
  const right = vectors.patternBytes(0, sizeBytes, fileBytes);

  // A disk over both servers.
  const servers = `127.0.0.1:${relay.port},127.0.0.1:${origins[1].port}`;
  const copy = directory.file("copy");
  const copied = await denbd(["copy", `dnbd3://${servers}/pc`, copy]);
  assertEquals([copied.code, sameBytes(Deno.readFileSync(copy), right)], [0, true], copied.stderr);
  const part = await denbd(["read", "--from", String(place - 5), "--size", "100", `dnbd3://${servers}/pc`]);
  assertEquals(part.bytes, right.slice(place - 5, place + 95));
  const lone = `dnbd3://127.0.0.1:${relay.port}/pc`;
  assertEquals((await denbd(["read", "--from", "0", "--size", "1", lone], { code: 1 })).bytes.length, 0);
  assert(flipped() >= 3, `changed ${flipped()} times`);

  // A proxy over both.
  const site = new Site(directory, "proxy", {
    from: [relay, origins[1]],
    more: "backgroundReplication=false\nverifyBeforeRelay=true\n",
  });
  await using proxy = await site.start();
  const before = flipped();
  const client = await site.client("pc");
  for (let block = 0; block * BLOCK_BYTES < sizeBytes; block++) {
    const offset = (block * 37 * BLOCK_BYTES) % (sizeBytes - sizeBytes % BLOCK_BYTES);
    const length = Math.min(BLOCK_BYTES, sizeBytes - offset);
    const bytes = await client.block(offset, length);
    if (bytes === null) throw new Error(`dropped at ${offset}`);
    assert(sameBytes(bytes, right.subarray(offset, offset + length)), `wrong at ${offset}`);
  }
  client.connection.close();
  assert(flipped() > before, "the proxy has not been lied to");
  await proxy.logged(/sends what is not in the image; it is left alone/);
  const last = sizeBytes - 10;
  const tail = await denbd([
    "read",
    "--from",
    String(last),
    `dnbd3://127.0.0.1:${site.port}/pc?verify=complete`,
  ]);
  assertEquals(tail.bytes, right.slice(last));
  assert(sameBytes(Deno.readFileSync(`${site.images}/pc.r1`), right), "something wrong is kept");
  assertEquals(await proxy.stop(), 0);
});
