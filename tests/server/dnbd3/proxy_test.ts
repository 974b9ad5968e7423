/** The rows of a proxy, each over origins, proxies and clients in memory, with a clock that goes on by itself. */
import { assert, assertEquals } from "@std/assert";
import { CacheMap } from "../../../src/wire/dnbd3/cache_map.ts";
import { DeviceError } from "../../../src/device/device_error.ts";
import { HASH_BLOCK_BYTES, Hops, SelectFlag } from "../../../src/wire/dnbd3/constants.ts";
import type { SimulatedServer } from "../../testing/image_world.ts";
import { RawImageClient } from "../../testing/raw_image_client.ts";
import * as vectors from "../../wire/dnbd3/vectors.ts";
import { patternDisk } from "./memory_store.ts";
import { patternChecksums, ProxyWorld } from "./proxy_world.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
const FULL = { backgroundReplication: "full", bgrWindowSize: 20 } as const;

function fileOf(server: SimulatedServer, path: string): Uint8Array {
  const { disk } = server.store.files.get(path)!;
  const bytes = new Uint8Array(disk.sizeBytes);
  disk.read(0, bytes);
  return bytes;
}

/** What is in the file is the well-known content. */
function assertPattern(bytes: Uint8Array, sizeBytes: number, fileBytes?: number): void {
  const wanted = vectors.patternBytes(0, sizeBytes, fileBytes);
  const wrong = bytes.findIndex((byte, index) => byte !== wanted[index]);
  assertEquals([bytes.length, wrong], [sizeBytes, -1]);
}

function mapOf(server: SimulatedServer, sizeBytes: number): CacheMap {
  return new CacheMap(sizeBytes, fileOf(server, "x.r1.map"));
}

Deno.test("V15, P1: a copy has the image's virtual size, its checksums, and the map of the blocks that were read", async () => {
  await using world = new ProxyWorld();
  const sizeBytes = 64 * MIB;
  world.origin("10.0.0.1", sizeBytes);
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"], { settings: { maxPrefetch: 256 * KIB } });
  const client = await world.client(proxy);
  // What the recorded proxy was asked for.
  for (
    const [offset, length] of [[0, 4096], [40 * MIB, 4096], [50 * MIB + 4096, 8192], [30 * MIB + 100, 1000]]
  ) await world.read(client, offset, length);
  await world.pass(31_000, 500);
  const map = fileOf(proxy, "x.r1.map");
  const expected = new Uint8Array(2048);
  [expected[0], expected[960], expected[1280], expected[1600], expected[1601]] = [
    0x0f,
    0x01,
    0x0f,
    0xfe,
    0x01,
  ];
  assertEquals(map, expected);
  assertEquals(fileOf(proxy, "x.r1.crc"), patternChecksums(sizeBytes));
  assertEquals(proxy.store.files.get("x.r1")!.disk.sizeBytes, sizeBytes);
});

Deno.test("P1: an image whose size is no multiple of anything is copied to its virtual end", async () => {
  await using world = new ProxyWorld();
  const fileBytes = HASH_BLOCK_BYTES + 5 * KIB + 123;
  const origin = world.add("10.0.0.1");
  origin.store.put("x.r1", patternDisk(fileBytes));
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"], { settings: FULL });
  const client = await world.client(proxy);
  await world.pass(3000);
  const sizeBytes = HASH_BLOCK_BYTES + 8 * KIB;
  assertPattern(fileOf(proxy, "x.r1"), sizeBytes, fileBytes);
  const end = await world.until(client.block(fileBytes - 10, 20));
  assertEquals(end, vectors.patternBytes(fileBytes - 10, 20, fileBytes));
});

Deno.test("K3: name, revision and size are the same at a server, at proxies, and after a reconnect", async () => {
  await using world = new ProxyWorld();
  const origin = world.add("10.0.0.1");
  origin.store.put("sub/odd.r2", patternDisk(8192));
  origin.store.put("sub/odd.r3", patternDisk(vectors.ODD_FILE_BYTES));
  const first = world.addProxy("10.0.0.2", ["10.0.0.1"]);
  const second = world.addProxy("10.0.0.3", ["10.0.0.2"]);
  const expected = { version: 3, name: "sub/odd", revision: 3, sizeBytes: vectors.ODD_BYTES };
  for (const server of [second, first, origin, second, first, origin]) {
    for (const revision of [0, 3]) {
      const client = new RawImageClient(server.connect());
      assertEquals(await world.until(client.select("sub/odd", revision)), expected);
      client.connection.close();
      await world.settle();
    }
  }
});

Deno.test("P3: a miss is fetched once, in whole blocks, and is here from then on", async () => {
  await using world = new ProxyWorld();
  const origin = world.origin("10.0.0.1", 4 * MIB);
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"]);
  const client = await world.client(proxy);
  await world.read(client, MIB + 100, 1000);
  assertEquals(origin.asked, [{ offset: MIB, length: 4096, hops: 1 }]);
  await world.read(client, MIB, 4096);
  assertEquals(origin.asked.length, 1);
});

Deno.test("P3: whoever wants a block that is on its way waits for it; it is fetched once", async () => {
  await using world = new ProxyWorld();
  const origin = world.origin("10.0.0.1", 4 * MIB);
  origin.delayMs = 20;
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"]);
  const clients = await Promise.all(Array.from({ length: 20 }, () => world.client(proxy)));
  await Promise.all(clients.map((client, number) => world.read(client, number * 512, 64 * KIB)));
  // The later ones reach three blocks further.
  assertEquals(origin.asked.map(({ offset, length }) => [offset, length]), [
    [0, 64 * KIB],
    [64 * KIB, 4096],
    [68 * KIB, 4096],
    [72 * KIB, 4096],
  ]);
});

Deno.test("P3: of a request that is here in part only the missing runs are fetched", async () => {
  await using world = new ProxyWorld();
  const origin = world.origin("10.0.0.1", 4 * MIB);
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"]);
  const client = await world.client(proxy);
  await world.read(client, 8192, 4096);
  await world.read(client, 0, 5 * 4096);
  assertEquals(origin.asked.map(({ offset, length }) => [offset, length]), [[8192, 4096], [0, 8192], [
    12288,
    8192,
  ]]);
});

Deno.test("P3: what follows an aligned request is fetched ahead, marked so, three times as long and no more than allowed", async () => {
  await using world = new ProxyWorld();
  const origin = world.origin("10.0.0.1", 8 * MIB);
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"], { settings: { maxPrefetch: 256 * KIB } });
  const client = await world.client(proxy);
  const traceOf = async (offset: number, length: number, hops = 0) => {
    origin.asked.length = 0;
    await world.read(client, offset, length, hops);
    await world.settle();
    return origin.asked.map((each) => [each.offset, each.length, each.hops]);
  };
  assertEquals(await traceOf(MIB, 4096), [[MIB, 4096, 0x01], [MIB + 4096, 12288, 0x41]]);
  assertEquals(await traceOf(2 * MIB, 256 * KIB), [[2 * MIB, 256 * KIB, 1], [
    2 * MIB + 256 * KIB,
    256 * KIB,
    0x41,
  ]]);
  // Longer than maxPrefetch, an unaligned end, or nobody waiting: nothing ahead.
  assertEquals((await traceOf(4 * MIB, 260 * KIB)).length, 1);
  assertEquals((await traceOf(5 * MIB, 1000)).length, 1);
  assertEquals(await traceOf(6 * MIB, 4096, Hops.Prefetch | 1), [[6 * MIB, 4096, 0x42]]);
});

Deno.test("P3: minRequestSize makes a request longer, not beyond the image, and then nothing is fetched ahead", async () => {
  await using world = new ProxyWorld();
  const origin = world.origin("10.0.0.1", 4 * MIB);
  const settings = { minRequestSize: 128 * KIB, maxPrefetch: 256 * KIB };
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"], { settings });
  const client = await world.client(proxy);
  await world.read(client, 4096, 4096);
  await world.read(client, 4 * MIB - 8192, 4096);
  assertEquals(origin.asked.map(({ offset, length }) => [offset, length]), [[4096, 128 * KIB], [
    4 * MIB - 8192,
    8192,
  ]]);
});

Deno.test("P3: a request longer than maxPayload is asked for in parts", async () => {
  await using world = new ProxyWorld();
  const origin = world.origin("10.0.0.1", 4 * MIB);
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"], { settings: { maxPayload: 256 * KIB } });
  const client = await world.client(proxy);
  await world.read(client, 0, 2 * MIB);
  assertEquals(new Set(origin.asked.map(({ length }) => length)), new Set([256 * KIB]));
  assertEquals(origin.asked.length, 8);
});

Deno.test("P2, P4: all of an image is copied in the background, checked, and then needs no map", async () => {
  await using world = new ProxyWorld();
  const sizeBytes = HASH_BLOCK_BYTES + 40_960;
  const origin = world.origin("10.0.0.1", sizeBytes);
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"], { settings: { ...FULL, bgrWindowSize: 1 } });
  const client = await world.client(proxy);
  assertEquals(origin.asked.slice(0, 2), [
    { offset: 0, length: 32 * KIB, hops: 0x81 },
    { offset: 32 * KIB, length: 32 * KIB, hops: 0x81 },
  ]);
  await world.pass(3000);
  assert(!proxy.store.files.has("x.r1.map"), "there is a map still");
  assertPattern(fileOf(proxy, "x.r1"), sizeBytes);
  const askedBefore = origin.asked.length;
  await world.read(client, 0, 100);
  assertEquals(origin.asked.length, askedBefore);
  assertEquals(origin.sessions.length, 0, "the uplink is closed");
});

// Where the recorded proxy has the handles 2 and 4 we have 1 and 2: they mean nothing to a server. Of our own is the
// keepalive, by which a server that hangs is noticed.
Deno.test("V13, P1: a proxy's first words to the server it copies from are the recorded ones", async () => {
  await using world = new ProxyWorld();
  const origin = world.add("10.0.0.1");
  origin.store.put("test.r1", patternDisk(vectors.TEST_BYTES));
  origin.heard = [];
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"], { settings: { ...FULL, bgrWindowSize: 1 } });
  await world.client(proxy, "test");
  await world.pass(20);
  const { select, checksums, firstUnit, secondUnit } = vectors.PROXY_START;
  const [first, second] = [firstUnit.slice(), secondUnit.slice()];
  [first[16], second[16]] = [1, 2];
  const expected = [...select, ...checksums, ...vectors.CLIENT_START.keepalive, ...first, ...second];
  assertEquals(origin.heard[0].slice(0, expected.length), expected);
});

Deno.test("P3: a read of which a part fails ends when nobody writes into its buffer any more", async () => {
  await using world = new ProxyWorld();
  const origin = world.origin("10.0.0.1", 2 * HASH_BLOCK_BYTES);
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"]);
  await world.client(proxy);
  const image = proxy.table.known("x", 1)!;
  image.markBad(1);
  origin.state = "hanging";
  const into = new Uint8Array(8192);
  let ended: unknown = null;
  const reading = Promise.resolve(
    proxy.proxy!.readBlock(image, HASH_BLOCK_BYTES - 4096, into, 0, null),
  ).catch((error) => ended = error);
  await world.pass(100);
  assertEquals(ended, null);
  origin.revive();
  await world.until(reading);
  assert(`${ended}`.includes("does not fit its checksum"), `${ended}`);
  into.fill(0);
  await world.pass(1000);
  assertEquals(into, new Uint8Array(8192));
});

Deno.test("P9: nothing is copied in the background that cannot be kept, and a minute later it is tried again", async () => {
  await using world = new ProxyWorld();
  const origin = world.origin("10.0.0.1", 4 * MIB);
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"], { settings: FULL });
  const { store } = proxy;
  let isFull = true;
  const makeDisk = store.makeDisk.bind(store);
  store.makeDisk = (path, sizeBytes) => {
    const disk = makeDisk(path, sizeBytes);
    const write = disk.write.bind(disk);
    disk.write = (offset, data) => {
      if (isFull) throw new DeviceError("ENOSPC", "write", offset, data.length);
      return write(offset, data);
    };
    return disk;
  };
  const client = await world.client(proxy);
  await world.pass(20_000, 50);
  assert(origin.asked.length < 2 * FULL.bgrWindowSize, `${origin.asked.length} requests`);
  // Clients are served all the same.
  await world.read(client, MIB, 4096);
  isFull = false;
  await world.pass(70_000, 50);
  assertPattern(fileOf(proxy, "x.r1"), 4 * MIB);
  assertEquals(proxy.table.known("x", 1)!.map, null);
});

Deno.test("rule 19: another file in the place of a copy that is being made ends its use", async () => {
  await using world = new ProxyWorld();
  world.origin("10.0.0.1", 4 * MIB);
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"]);
  const client = await world.client(proxy);
  await world.read(client, 0, 4096);
  proxy.store.put("x.r1", new Uint8Array(4 * MIB).fill(7));
  assertEquals(await world.until(client.block(MIB, 4096)), null);
  assertEquals(proxy.table.known("x", 1)!.quarantine, "another file stands in its place");
});

Deno.test("P4: no more is asked for at once than the window, and nothing without enough users", async () => {
  await using world = new ProxyWorld();
  const origin = world.origin("10.0.0.1", 4 * MIB);
  origin.delayMs = 50;
  const settings = { ...FULL, bgrWindowSize: 5, bgrMinClients: 2 };
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"], { settings });
  await world.client(proxy);
  await world.pass(3000);
  assertEquals(origin.asked.length, 0);
  await world.client(proxy);
  for (let waited = 0; origin.asked.length === 0 && waited < 2000; waited += 5) await world.pass(5);
  await world.pass(40);
  assertEquals(origin.asked.length, 5);
});

Deno.test("P4: copying makes way for a client, and comes back slowly", async () => {
  await using world = new ProxyWorld();
  const origin = world.origin("10.0.0.1", 64 * MIB, { checksums: false });
  origin.delayMs = 10;
  const settings = { ...FULL, bgrWindowSize: 3 };
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"], { settings });
  const client = await world.client(proxy);
  await world.pass(100);
  await world.read(client, 60 * MIB, 4096);
  await world.pass(50);
  const countIn = async (ms: number) => {
    const before = origin.asked.length;
    await world.pass(ms);
    return origin.asked.length - before;
  };
  assertEquals(await countIn(800), 0);
  const one = await countIn(1900) / 1900;
  await world.pass(2000);
  const three = await countIn(1000) / 1000;
  assert(one > 0 && three > 1.5 * one, `${one} a ms, later ${three}`);
});

Deno.test("P4: in the mode hashblock only what was begun is completed", async () => {
  await using world = new ProxyWorld();
  const sizeBytes = 3 * HASH_BLOCK_BYTES;
  const origin = world.origin("10.0.0.1", sizeBytes);
  const settings = { backgroundReplication: "hashblock", bgrWindowSize: 50 } as const;
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"], { settings });
  const client = await world.client(proxy);
  await world.read(client, HASH_BLOCK_BYTES + MIB, 4096);
  await world.pass(60_000, 50);
  const map = mapOf(proxy, sizeBytes);
  assertEquals([0, 1, 2].map((index) => map.hashBlockState(index)), ["empty", "complete", "empty"]);
  assert(origin.asked.every(({ hops }) => (hops & Hops.Replication) === 0));
});

Deno.test("P4: pretendClient hides that it is a proxy, and that it copies", async () => {
  await using world = new ProxyWorld();
  const origin = world.origin("10.0.0.1", MIB);
  origin.delayMs = 20;
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"], { settings: { ...FULL, pretendClient: true } });
  await world.client(proxy);
  await world.pass(20);
  assertEquals(origin.sessions.map(({ isServer }) => isServer), [false]);
  assertEquals(origin.asked[0].hops, 0x41);
});

Deno.test("V14, P5: each proxy on the way counts itself, and keeps the flags", async () => {
  await using world = new ProxyWorld();
  const origin = world.origin("10.0.0.1", 16 * MIB);
  const first = world.addProxy("10.0.0.2", ["10.0.0.1"], { settings: { maxPrefetch: 256 * KIB } });
  const second = world.addProxy("10.0.0.3", ["10.0.0.2"], { settings: { maxPrefetch: 256 * KIB } });
  const client = await world.client(second);
  await world.read(client, 8 * MIB, 4096);
  await world.settle();
  const trace = (server: SimulatedServer) =>
    server.asked.map(({ offset, length, hops }) => [offset, length, hops]);
  assertEquals(trace(first), [[8 * MIB, 4096, 0x01], [8 * MIB + 4096, 12288, 0x41]]);
  assertEquals(trace(origin), [[8 * MIB, 4096, 0x02], [8 * MIB + 4096, 12288, 0x42]]);
});

Deno.test("P5: a request that passed 60 proxies is relayed, one that passed more ends the connection", async () => {
  await using world = new ProxyWorld();
  const origin = world.origin("10.0.0.1", MIB);
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"]);
  const client = await world.client(proxy);
  await world.read(client, 0, 4096, 60);
  assertEquals(origin.asked[0].hops, 61);
  assertEquals(await world.until(client.block(8192, 4096, 61)), null);
  const other = await world.client(proxy);
  await world.read(other, 0, 4096, 61);
});

Deno.test("P5: a proxy that does not copy all fetches nothing for the copies of others, but gives what is here", async () => {
  await using world = new ProxyWorld();
  world.origin("10.0.0.1", MIB);
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"]);
  const client = await world.client(proxy);
  await world.read(client, 0, 4096);
  await world.read(client, 0, 4096, Hops.Replication | 1);
  assertEquals(await world.until(client.block(8192, 4096, Hops.Replication | 1)), null);
});

/** Two proxies that know an origin and each other, at one address or two. */
async function meetInACircle(one: string, other: string): Promise<void> {
  await using world = new ProxyWorld();
  const origin = world.origin("10.0.0.1", 4 * MIB);
  const first = world.addProxy(one, ["10.0.0.1", other]);
  const second = world.addProxy(other, ["10.0.0.1", one]);
  origin.delayMs = 100;
  let here = await world.client(first);
  let there = await world.client(second);
  await world.read(here, 0, 4096);
  await world.read(there, 0, 4096);
  // The block that is measured is here on both, so each finds the other much faster than the origin.
  await world.pass(60_000, 50);
  const withPort = (host: string) => host.includes(":") ? host : `${host}:5003`;
  const uplinkOf = (server: SimulatedServer) =>
    server.proxy!.copyOf(server.table.known("x", 1)!)!.uplink!.status().server;
  assertEquals([uplinkOf(first), uplinkOf(second)], [withPort(other), withPort(one)], "no circle came to be");
  here = await world.client(first);
  const startedMs = world.clock.now();
  await world.read(here, MIB, 4096);
  assert(world.clock.now() - startedMs < 5000, `it took ${world.clock.now() - startedMs} ms`);
  assert(world.told.some((text) => text.includes("what it is asked for comes back to us")), "not seen");
  // And they do not fall into it again at once.
  await world.pass(100_000, 50);
  [here, there] = [await world.client(first), await world.client(second)];
  await world.read(here, 2 * MIB, 4096);
  await world.read(there, 3 * MIB, 4096);
}

Deno.test("P5: two proxies that ask each other find out, and go on with the origin", async () => {
  await meetInACircle("10.0.0.2", "10.0.0.3");
});

Deno.test("P5: two proxies at one address that ask each other find out as well", async () => {
  await meetInACircle("10.0.0.2:6001", "10.0.0.2:6002");
});

Deno.test("P6: what is here is served without any other server, what is not waits and comes in the end", async () => {
  await using world = new ProxyWorld();
  const origin = world.origin("10.0.0.1", 4 * MIB);
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"]);
  const client = await world.client(proxy);
  await world.read(client, 0, 4096);
  origin.kill();
  await world.read(client, 0, 4096);
  const waiting = client.block(MIB, 4096);
  await world.pass(60_000, 50);
  assertEquals(proxy.proxy!.copyOf(proxy.table.known("x", 1)!)!.waiting, 1);
  const newcomer = await world.client(proxy);
  await world.read(newcomer, 0, 4096);
  origin.revive();
  assertEquals(await world.until(waiting), vectors.patternBytes(MIB, 4096));
});

Deno.test("P6: the next server takes over when one dies, hangs, or refuses a block", async () => {
  for (const trouble of ["down", "hanging", "unreachable"] as const) {
    await using world = new ProxyWorld();
    const [one, other] = ["10.0.0.1", "10.0.0.2"].map((host) => world.origin(host, 4 * MIB));
    const proxy = world.addProxy("10.0.0.3", [one.host, other.host]);
    const client = await world.client(proxy);
    await world.read(client, 0, 4096);
    if (trouble === "hanging") one.state = "hanging";
    else one.kill();
    one.state = trouble;
    const startedMs = world.clock.now();
    await world.read(client, MIB, 64 * KIB);
    const tookMs = world.clock.now() - startedMs;
    assert(tookMs <= 2000, `${trouble}: it took ${tookMs} ms`);
  }
});

Deno.test("P6: uplinkTimeout: a server that is silent for so long is given up, at first and later", async () => {
  for (const uplinkTimeout of [1250, 5000]) {
    await using world = new ProxyWorld();
    const origin = world.origin("10.0.0.1", 4 * MIB);
    const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"], { settings: { uplinkTimeout } });
    origin.state = "hanging";
    const startedMs = world.clock.now();
    assertEquals(await world.offers(proxy, "x"), false);
    assertEquals(Math.round((world.clock.now() - startedMs) / 50) * 50, uplinkTimeout);
    origin.revive();
    // That nobody had it is remembered for a while.
    await world.pass(121_000, 1000);

    const client = await world.client(proxy);
    await world.read(client, 0, 4096);
    const uplink = proxy.proxy!.copyOf(proxy.table.known("x", 1)!)!.uplink!;
    origin.state = "hanging";
    await client.ask(MIB, 4096, 1n);
    await world.pass(uplinkTimeout - 50, 50);
    assertEquals(uplink.status().server, "10.0.0.1:5003");
    // Looked at twice a second.
    await world.pass(600, 50);
    assertEquals(uplink.status().server, null);
    origin.revive();
    const reply = await world.until(client.reply());
    assertEquals(reply?.payload, vectors.patternBytes(MIB, 4096));
  }
});

Deno.test("P6: a proxy changes to a server that is much faster", async () => {
  await using world = new ProxyWorld();
  const slow = world.origin("10.0.0.1", 4 * MIB);
  const fast = world.origin("10.0.0.2", 4 * MIB);
  slow.delayMs = 30;
  fast.delayMs = 100;
  const proxy = world.addProxy("10.0.0.3", [slow.host, fast.host]);
  await world.read(await world.client(proxy), 0, 4096);
  fast.delayMs = 5;
  await world.pass(100_000, 20);
  const client = await world.client(proxy);
  await world.read(client, MIB, 4096);
  assertEquals(fast.asked.at(-1), { offset: MIB, length: 4096, hops: 1 });
});

Deno.test("P7: a partial copy is continued after a restart, and no server is asked before something is missing", async () => {
  await using world = new ProxyWorld();
  const origin = world.origin("10.0.0.1", 64 * MIB);
  const before = world.addProxy("10.0.0.2", ["10.0.0.1"]);
  const client = await world.client(before);
  await world.read(client, 5 * MIB, MIB);
  await world.until(before.close());
  const connectsBefore = origin.connects;
  const after = world.addProxy("10.0.0.2", ["10.0.0.1"], { store: before.store });
  const again = await world.client(after, "x", 1);
  await world.read(again, 5 * MIB, MIB);
  assertEquals(origin.connects, connectsBefore);
  origin.asked.length = 0;
  await world.read(again, 5 * MIB - 4096, 8192);
  assertEquals(origin.asked.at(-1), { offset: 5 * MIB - 4096, length: 4096, hops: 1 });
});

Deno.test("P7: an idle connection to other servers ends, and comes back when something is missing", async () => {
  await using world = new ProxyWorld();
  const origin = world.origin("10.0.0.1", 4 * MIB);
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"]);
  let client = await world.client(proxy);
  await world.read(client, 0, 4096);
  await world.pass(1_790_000, 1000);
  assertEquals(origin.sessions.length, 1);
  await world.pass(20_000, 1000);
  assertEquals(origin.sessions.length, 0);
  client = await world.client(proxy);
  await world.read(client, MIB, 4096);
});

Deno.test("P8: a hash block that does not fit its checksum is fetched anew before its last block is handed out", async () => {
  await using world = new ProxyWorld();
  const sizeBytes = HASH_BLOCK_BYTES + MIB;
  const [liar, honest] = ["10.0.0.1", "10.0.0.2"].map((host) => world.origin(host, sizeBytes));
  honest.delayMs = 3;
  // It damages one byte of one block.
  liar.lie = (offset, bytes) => {
    if (offset <= 5 * MIB && offset + bytes.length > 5 * MIB) bytes[5 * MIB - offset] ^= 1;
  };
  const proxy = world.addProxy("10.0.0.3", [liar.host, honest.host]);
  const client = await world.client(proxy);
  for (let at = 0; at < HASH_BLOCK_BYTES - MIB; at += MIB) await world.until(client.block(at, MIB));
  await world.read(client, HASH_BLOCK_BYTES - MIB, MIB);
  // From now on the damaged block is right, for everybody.
  await world.read(client, 5 * MIB, 4096);
  const copy = proxy.proxy!.copyOf(proxy.table.known("x", 1)!)!;
  assertEquals(copy.mismatches, 1);
  assert(world.told.some((text) => text.includes("10.0.0.1:5003 sends what is not in the image")));
  assertEquals(copy.uplink!.status().server, "10.0.0.2:5003");
});

Deno.test("P8: without another server a bad hash block is refused, never counted, and tried again later", async () => {
  await using world = new ProxyWorld();
  const liar = world.origin("10.0.0.1", HASH_BLOCK_BYTES + MIB);
  liar.lie = (offset, bytes) => {
    if (offset <= MIB && offset + bytes.length > MIB) bytes[MIB - offset] ^= 0x80;
  };
  const proxy = world.addProxy("10.0.0.3", [liar.host], { settings: FULL });
  await world.client(proxy);
  await world.pass(5000);
  const client = await world.client(proxy);
  assertEquals(await world.until(client.block(MIB, 4096)), null);
  const map = proxy.table.known("x", 1)!.map!;
  assertEquals(map.hashBlockState(0), "empty");
  liar.lie = null;
  await world.pass(200_000, 100);
  const later = await world.client(proxy);
  await world.read(later, MIB, 4096);
  await world.pass(3000);
  assertPattern(fileOf(proxy, "x.r1"), HASH_BLOCK_BYTES + MIB);
});

Deno.test("P8: a complete copy that is damaged on its disk is repaired from another server", async () => {
  await using world = new ProxyWorld();
  const sizeBytes = HASH_BLOCK_BYTES + MIB;
  world.origin("10.0.0.1", sizeBytes);
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"]);
  const bytes = vectors.patternBytes(0, sizeBytes);
  bytes[777] ^= 1;
  proxy.store.put("x.r1", bytes);
  proxy.store.put("x.r1.crc", patternChecksums(sizeBytes));
  await world.client(proxy, "x", 1);
  await world.pass(3000);
  assertPattern(fileOf(proxy, "x.r1"), sizeBytes);
  const client = await world.client(proxy, "x", 1);
  await world.read(client, 0, 4096);
  assert(!proxy.store.files.has("x.r1.map"), "there is a map still");
});

Deno.test("P9: a copy of which nothing can be kept any more is served from other servers, to one client in four", async () => {
  await using world = new ProxyWorld();
  world.origin("10.0.0.1", 4 * MIB);
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"]);
  const client = await world.client(proxy);
  proxy.store.files.get("x.r1")!.disk.write = () => {
    throw new DeviceError("EIO", "write");
  };
  await world.read(client, 0, 4096);
  await world.read(client, MIB, 4096);
  await world.read(client, 0, 4096);
  assertEquals(proxy.table.known("x", 1)!.map!.missingBlocks, 1024);
  proxy.random = () => 0.25;
  assertEquals(await world.offers(proxy, "x"), false);
  proxy.random = () => 0.24;
  const startedMs = world.clock.now();
  assertEquals(await world.offers(proxy, "x"), true);
  assert(world.clock.now() - startedMs >= 100, `${world.clock.now() - startedMs} ms`);
});

Deno.test("P9: an image that is larger than maxReplicationSize, or than the disk, is not copied", async () => {
  await using world = new ProxyWorld();
  const origin = world.origin("10.0.0.1", 4 * MIB);
  origin.store.put("big.r1", patternDisk(200 * MIB));
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"], { settings: { maxReplicationSize: 100 * MIB } });
  assertEquals(await world.offers(proxy, "big"), false);
  const small = world.addProxy("10.0.0.3", ["10.0.0.1"]);
  small.store.capacityBytes = 12 * MIB;
  assertEquals(await world.offers(small, "x"), false);
  assertEquals(small.store.files.size, 0, "it leaves files behind");
  const enough = world.addProxy("10.0.0.4", ["10.0.0.1"]);
  enough.store.capacityBytes = 15 * MIB;
  assertEquals(await world.offers(enough, "x"), true);
});

Deno.test("P9: an old copy that nobody uses makes room, but not too early and not if it was used of late", async () => {
  const day = 24 * 3600 * 1000;
  for (
    const [uptimeMs, ageMs, delay, isMade] of [
      [day, 2 * day, 36_000, true],
      [3_600_000, 2 * day, 36_000, false],
      [day, 1000, 36_000, false],
      [day, 2 * day, -1, false],
    ] as const
  ) {
    await using world = new ProxyWorld();
    const origin = world.origin("10.0.0.1", 4 * MIB);
    origin.store.put("y.r1", patternDisk(4 * MIB));
    const settings = { autoFreeDiskSpaceDelay: delay };
    const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"], { settings });
    proxy.store.capacityBytes = 16 * MIB;
    assertEquals(await world.offers(proxy, "y"), true);
    await world.pass(uptimeMs, uptimeMs / 10);
    proxy.table.known("y", 1)!.accessedAtMs = world.clock.now() - ageMs;
    assertEquals(await world.offers(proxy, "x"), isMade, `${uptimeMs} ${ageMs} ${delay}`);
    assertEquals(proxy.store.files.has("y.r1"), !isMade);
  }
});

Deno.test("P9: when a copy was last used outlives a restart", async () => {
  await using world = new ProxyWorld();
  world.origin("10.0.0.1", 4 * MIB);
  await world.pass(1_000_000, 100_000);
  const before = world.addProxy("10.0.0.2", ["10.0.0.1"]);
  await world.client(before);
  before.table.known("x", 1)!.accessedAtMs = 777_000;
  await world.pass(310_000, 1000);
  assertEquals(new TextDecoder().decode(fileOf(before, "x.r1.meta")), "[main]\natime=777\n");
  await world.until(before.close());
  const after = world.addProxy("10.0.0.2", ["10.0.0.1"], { store: before.store });
  await world.until(after.table.scan());
  await world.until(after.proxy!.readAccessTimes());
  assertEquals(after.table.known("x", 1)!.accessedAtMs, 777_000);
});

Deno.test("P9: an image in use is never deleted to make room", async () => {
  await using world = new ProxyWorld();
  const origin = world.origin("10.0.0.1", 4 * MIB);
  origin.store.put("y.r1", patternDisk(4 * MIB));
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"], { settings: { autoFreeDiskSpaceDelay: 0 } });
  proxy.store.capacityBytes = 16 * MIB;
  await world.client(proxy, "y");
  proxy.table.known("y", 1)!.accessedAtMs = -1e9;
  assertEquals(await world.offers(proxy, "x"), false);
});

Deno.test("P9: sparseFiles and ignoreAllocErrors say how the file of a copy is made", async () => {
  for (const how of [{ sparseFiles: true }, { ignoreAllocErrors: true }]) {
    await using world = new ProxyWorld();
    world.origin("10.0.0.1", 4 * MIB);
    const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"], { settings: how });
    await world.client(proxy);
    assertEquals(proxy.store.created.get("x.r1"), {
      sparse: "sparseFiles" in how,
      ignoreAllocErrors: "ignoreAllocErrors" in how,
    });
  }
});

Deno.test("P10: what other servers were asked for is not asked again for two minutes", async () => {
  await using world = new ProxyWorld();
  const origin = world.origin("10.0.0.1", MIB);
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"]);
  assertEquals(await world.offers(proxy, "new"), false);
  origin.store.put("new.r1", patternDisk(4096));
  await world.pass(110_000, 1000);
  const { connects } = origin;
  assertEquals(await world.offers(proxy, "new"), false);
  assertEquals(origin.connects, connects);
  await world.pass(11_000, 1000);
  assertEquals(await world.offers(proxy, "new"), true);
});

Deno.test("P10: the newest revision anywhere is had, and the best one here when nobody answers", async () => {
  await using world = new ProxyWorld();
  const origin = world.origin("10.0.0.1", MIB);
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"]);
  await world.client(proxy);
  origin.store.put("x.r2", patternDisk(2 * MIB));
  await world.pass(121_000, 1000);
  const client = await world.client(proxy, "x", 0);
  await world.read(client, MIB, 4096);
  origin.kill();
  await world.pass(121_000, 1000);
  const later = await world.client(proxy, "x", 0);
  await world.read(later, MIB, 4096);
  assertEquals(proxy.table.list().map(String), ["x:1", "x:2"]);
});

Deno.test("P10: lookupMissingForProxy=false gives other proxies only what is here", async () => {
  await using world = new ProxyWorld();
  world.origin("10.0.0.1", MIB);
  const settings = { lookupMissingForProxy: false };
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"], { settings });
  assertEquals(await world.offers(proxy, "x", 0, SelectFlag.Server), false);
  assertEquals(await world.offers(proxy, "x"), true);
  assertEquals(await world.offers(proxy, "x", 0, SelectFlag.Server), true);
});

Deno.test("P10: whoever copies all in the background gets only complete images from a proxy that does not", async () => {
  await using world = new ProxyWorld();
  world.origin("10.0.0.1", MIB);
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"]);
  const client = await world.client(proxy);
  const flags = SelectFlag.Server | SelectFlag.Replication;
  assertEquals(await world.offers(proxy, "x", 1, flags), false);
  await world.read(client, 0, MIB);
  await world.pass(1000);
  assertEquals(await world.offers(proxy, "x", 1, flags), true);
  const full = world.addProxy("10.0.0.3", ["10.0.0.1"], { settings: FULL });
  assertEquals(await world.offers(full, "x", 1, flags), true);
});

Deno.test("P10: proxyPrivateOnly copies only from servers that are for copying, nobody from those for clients", async () => {
  for (
    const [alt, proxyPrivateOnly, expected] of [
      [{}, true, false],
      [{ isPrivate: true }, true, true],
      [{ isClientOnly: true }, false, false],
      [{ namespaces: ["lab/"] }, false, false],
      [{ namespaces: ["lab/", "x"] }, false, true],
    ] as const
  ) {
    await using world = new ProxyWorld();
    world.origin("10.0.0.1", MIB);
    const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"], { alt, settings: { proxyPrivateOnly } });
    assertEquals(await world.offers(proxy, "x"), expected, JSON.stringify(alt));
  }
});

Deno.test("P10: many clients that want a new image at once have it looked for once", async () => {
  await using world = new ProxyWorld();
  const origin = world.origin("10.0.0.1", MIB);
  origin.delayMs = 10;
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"]);
  await Promise.all(Array.from({ length: 10 }, () => world.client(proxy)));
  assertEquals(origin.connects, 1);
});
