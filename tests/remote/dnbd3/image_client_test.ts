import { assert, assertEquals, assertMatch, assertRejects, assertStringIncludes } from "@std/assert";
import { crc32 } from "../../../src/base/crc32.ts";
import { silentLog } from "../../../src/base/log.ts";
import { copyDisk } from "../../../src/device/copy_disk.ts";
import { DeviceError } from "../../../src/device/device_error.ts";
import { MemoryDisk } from "../../../src/device/memory.ts";
import { ImageClient, type ImageClientOptions } from "../../../src/remote/dnbd3/image_client.ts";
import { ImageDisk } from "../../../src/remote/dnbd3/image_disk.ts";
import { ChecksumList, encodeChecksumList } from "../../../src/wire/dnbd3/checksum_list.ts";
import { patternDisk } from "../../server/dnbd3/memory_store.ts";
import { patternChecksums } from "../../server/dnbd3/proxy_world.ts";
import { ImageWorld, type SimulatedServer } from "../../testing/image_world.ts";
import * as vectors from "../../wire/dnbd3/vectors.ts";

const SIZE = 4 << 20;

/** A world whose servers at 10.0.0.1, 10.0.0.2 … all have image `x` revisions 1 and 2. */
class Surroundings extends ImageWorld {
  readonly servers: SimulatedServer[];
  readonly clients: ImageClient[] = [];
  readonly told: string[] = [];

  constructor(count: number) {
    super();
    this.servers = Array.from({ length: count }, (_, index) => {
      const server = this.add(`10.0.0.${index + 1}`);
      server.store.put("x.r1", patternDisk(4096));
      server.store.put("x.r2", patternDisk(SIZE));
      return server;
    });
  }

  async open(options: Partial<ImageClientOptions> = {}): Promise<ImageClient> {
    const tell = (text: string) => void this.told.push(text);
    const client = await this.until(ImageClient.open({
      name: "x",
      revision: 0,
      servers: this.endpoints(...this.servers.map(({ host }) => host)),
      dial: this.dial,
      clock: this.clock,
      log: { ...silentLog, info: tell, warn: tell, error: tell },
      random: () => 0.5,
      ...options,
    }));
    this.clients.push(client);
    return client;
  }

  async read(client: ImageClient, offset: number, length: number, msMax?: number): Promise<void> {
    const into = new Uint8Array(length);
    await this.until(client.fetch(offset, into), msMax);
    assertEquals(into, vectors.patternBytes(offset, length));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.clients) await client.close();
    await this.close();
    // What was never opened or has ended leaves no timer behind.
    await this.pass(60_000, 10_000);
    assertEquals(this.clock.timers, 0);
  }
}

Deno.test("F1: the newest revision is opened and pinned, and its blocks are right", async () => {
  await using world = new Surroundings(1);
  const client = await world.open();
  assertEquals(client.image, { version: 3, name: "x", revision: 2, sizeBytes: SIZE });
  await world.read(client, 12345, 100_000);
  world.servers[0].store.put("x.r3", patternDisk(8192));
  world.servers[0].kill();
  world.servers[0].revive();
  await world.read(client, 0, 10, 5000);
  assertEquals(client.image.revision, 2);
});

Deno.test("F2: servers are tried 200 ms apart and the first that offers the image is taken", async () => {
  await using world = new Surroundings(3);
  world.servers[0].state = "unreachable";
  world.servers[1].delayMs = 500;
  const opening = world.open();
  await world.pass(150);
  assertEquals(world.servers.map(({ connects }) => connects), [0, 0, 0]);
  const client = await opening;
  // The second server was begun first, but the third was through with everything sooner.
  assertEquals(client.status().server, "10.0.0.3:5003");
});

Deno.test("F2: nobody is asked any more once somebody offers the image", async () => {
  await using world = new Surroundings(3);
  await world.open();
  assertEquals(world.servers.map(({ connects }) => connects), [1, 0, 0]);
});

Deno.test("F2: when no server offers the image, every one is named with its reason", async () => {
  await using world = new Surroundings(3);
  world.servers[0].state = "down";
  world.servers[1].state = "unreachable";
  world.servers[2].store.files.clear();
  const error = await assertRejects(() => world.open(), AggregateError);
  assert(error.message.includes("10.0.0.1:5003: connection refused"), error.message);
  assert(error.message.includes("10.0.0.2:5003: no connection for 1.5 s"), error.message);
  assert(error.message.includes("10.0.0.3:5003: it has no such image"), error.message);
});

// Recorded of the original: select revision 0, servers, keepalive; on a connection of its own: select revision 1, a
// block with handle 0; and again 2 s later. We differ on purpose in three things. Both times we also ask for the
// checksums, by which content that differs under one name is found out. The block has the hop byte 1 where that of
// the original is 0: of all that measure, proxies included, it is the same. And the first measurement comes 2 s after
// the start, not with it: it would compete with the first blocks.
Deno.test("V17: a client starts, learns and measures as the recorded one does", async () => {
  await using world = new Surroundings(2);
  for (const server of world.servers) {
    server.store.put("test.r1", patternDisk(vectors.TEST_BYTES));
    server.heard = [];
  }
  const [{ heard: first }, { heard: second }] = world.servers;
  await world.open({ name: "test" });
  await world.settle();
  // Two measurements, one after the other, without time passing.
  const pass = async (ms: number) => {
    await world.pass(ms);
    for (let turn = 0; turn < 5; turn++) await world.settle();
  };
  const { selectNewest, servers, keepalive, select, block } = vectors.CLIENT_START;
  const checksums = vectors.CHECKSUMS_OF_TEST.client;
  const opening = [...selectNewest, ...checksums, ...servers, ...keepalive];
  assertEquals([first, second], [[opening], []]);

  const ourBlock = block.slice();
  ourBlock[15] = 1;
  const measurement = [...select, ...ourBlock, ...checksums];
  await pass(1995);
  assertEquals([first, second], [[opening], []]);
  await pass(5);
  assertEquals([first, second], [[opening, measurement], [measurement]]);
  await pass(1995);
  assertEquals([first?.length, second?.length], [2, 1]);
  await pass(5);
  assertEquals([first, second], [[opening, measurement, measurement], [measurement, measurement]]);
  // Only the connection that is in use stays.
  assertEquals(world.servers.map(({ sessions }) => sessions.length), [1, 0]);
});

Deno.test("F3: servers are learned from the one in use, and turned to when it dies", async () => {
  await using world = new Surroundings(3);
  world.servers[0].tellOf("10.0.0.3", "10.0.0.2");
  const client = await world.open({ servers: world.endpoints("10.0.0.1") });
  await world.settle();
  assertEquals(client.status().servers.map(({ server }) => server), [
    "10.0.0.1:5003",
    "10.0.0.3:5003",
    "10.0.0.2:5003",
  ]);
  world.servers[0].kill();
  await world.read(client, 0, 4096, 1000);
});

Deno.test("F3: a client that is not to learn asks nobody", async () => {
  await using world = new Surroundings(2);
  world.servers[0].tellOf("10.0.0.2");
  const client = await world.open({ servers: world.endpoints("10.0.0.1"), learn: false });
  await world.pass(5000);
  assertEquals(client.status().servers.length, 1);
});

Deno.test("F4: a much faster server is changed to, without a request lost", async () => {
  await using world = new Surroundings(2);
  const [slow, fast] = world.servers;
  slow.delayMs = 100;
  slow.tellOf(fast.host);
  const client = await world.open({ servers: world.endpoints(slow.host) });
  const reads: Promise<void>[] = [];
  for (let index = 0; index < 20; index++) {
    reads.push(world.read(client, index * 10_000, 5000));
    await world.pass(1000, 20);
  }
  await Promise.all(reads);
  assertEquals(client.status().server, "10.0.0.2:5003");
  assertEquals(client.status().changes, 1);
});

Deno.test("F4: a server that is a little faster is no reason to change", async () => {
  await using world = new Surroundings(2);
  world.servers[0].delayMs = 25;
  world.servers[1].delayMs = 20;
  const client = await world.open({ servers: world.endpoints("10.0.0.1", "10.0.0.2") });
  const first = client.status().server;
  await world.pass(120_000, 50);
  assertEquals([client.status().server, client.status().changes], [first, 0]);
});

Deno.test("F4: servers are measured every 2 s at first and every 45 s later", async () => {
  await using world = new Surroundings(2);
  await world.open();
  await world.pass(12_500, 50);
  const often = world.servers[1].connects;
  assert(often >= 5 && often <= 7, `${often} connects in the first 12 s`);
  await world.pass(90_000, 50);
  assertEquals(world.servers[1].connects - often, 2);
});

Deno.test("F4: one late answer moves nobody", async () => {
  await using world = new Surroundings(2);
  const client = await world.open();
  await world.pass(9000, 20);
  world.servers[0].delayMs = 200;
  await world.pass(2100, 20);
  world.servers[0].delayMs = 0;
  await world.pass(60_000, 50);
  assertEquals(client.status().changes, 0);
});

Deno.test("F5: requests under way when the server dies are answered by another, within 2 s", async () => {
  await using world = new Surroundings(2);
  const client = await world.open();
  world.servers[0].state = "hanging";
  const reads = Array.from({ length: 200 }, (_, index) => world.read(client, index * 4096, 4096, 2000));
  await world.settle();
  assertEquals(client.status().waiting, 200);
  world.servers[0].kill();
  await Promise.all(reads);
  assertEquals(client.status().server, "10.0.0.2:5003");
});

Deno.test("F5: a server that hangs with its connection open is left within 3 s", async () => {
  await using world = new Surroundings(2);
  const client = await world.open();
  await world.pass(30_000, 100);
  world.servers[0].state = "hanging";
  await world.read(client, 8192, 4096, 3000);
  assertEquals(client.status().server, "10.0.0.2:5003");
});

Deno.test("F5: a server that answers others but not one request is left for it", async () => {
  await using world = new Surroundings(2);
  const disk = patternDisk(SIZE);
  const read = disk.read.bind(disk);
  const stall = Promise.withResolvers<void>();
  disk.read = (offset, into) => offset === 65536 ? stall.promise : read(offset, into);
  world.servers[0].store.put("x.r2", disk);
  const client = await world.open();
  const stuck = world.read(client, 65536, 4096, 15_000);
  for (let index = 0; index < 20; index++) await world.read(client, 4096 * index, 100);
  await stuck;
  stall.resolve();
});

Deno.test("F5: a server that is quick to be measured and never done with a block is not changed back to at once", async () => {
  await using world = new Surroundings(2);
  const [slow, good] = world.servers;
  good.delayMs = 20;
  const disk = patternDisk(SIZE);
  const read = disk.read.bind(disk);
  const stall = Promise.withResolvers<void>();
  disk.read = (offset, into) => offset > 0 ? stall.promise : read(offset, into);
  slow.store.put("x.r2", disk);
  const client = await world.open();
  assertEquals(client.status().server, "10.0.0.1:5003");
  await world.read(client, 65536, 4096, 15_000);
  for (let second = 0; second < 40; second++) {
    await world.read(client, 4096 * (1 + second), 4096, 100);
    await world.pass(1000, 20);
  }
  assertEquals([client.status().server, client.status().changes], ["10.0.0.2:5003", 1]);
  stall.resolve();
});

Deno.test("F5: with all servers down requests wait, and resume by themselves", async () => {
  await using world = new Surroundings(2);
  const client = await world.open();
  for (const server of world.servers) server.kill();
  const read = world.read(client, 4096, 4096, 400_000);
  await world.pass(300_000, 500);
  assertEquals([client.status().server, client.status().waiting], [null, 1]);
  world.servers[1].revive();
  const since = world.clock.now();
  await read;
  assert(world.clock.now() - since <= 2600, `${world.clock.now() - since} ms`);
});

Deno.test("F5: with which server a client goes on is told as loudly as which it has lost", async () => {
  await using world = new Surroundings(2);
  const warnings: string[] = [];
  const warn = (message: string) => void warnings.push(message);
  const client = await world.open({ log: { ...silentLog, warn } });
  await world.read(client, 0, 100);
  assertEquals(warnings, []);
  const [lost, other] = client.status().server!.startsWith("10.0.0.1")
    ? world.servers
    : world.servers.toReversed();
  lost.kill();
  await world.read(client, 4096, 100, 5000);
  assertMatch(warnings[0], new RegExp(`lost ${lost.host}:`));
  assertMatch(warnings.at(-1)!, new RegExp(`goes on with ${other.host}:`));
});

Deno.test("F5: a server that refuses a block is left, and if all do the read fails", async () => {
  await using world = new Surroundings(2);
  const client = await world.open();
  const [first, second] = world.servers;
  // Beyond the end every server refuses; a disk never asks for that.
  const beyond = world.until(client.fetch(SIZE, new Uint8Array(10)), 30_000);
  await assertRejects(() => beyond, DeviceError, "every server refuses it");
  await world.read(client, 0, 100, 5000);
  assert(first.connects + second.connects > 2);
});

Deno.test("F5: a request with a deadline fails when that has passed", async () => {
  await using world = new Surroundings(1);
  const client = await world.open({ deadlineMs: 5000 });
  world.servers[0].state = "hanging";
  const error = await assertRejects(
    () => world.until(client.fetch(0, new Uint8Array(10)), 7000),
    DeviceError,
  );
  assertEquals(error.errno, "ETIMEDOUT");
});

Deno.test("F5: closing fails what is still asked for", async () => {
  await using world = new Surroundings(1);
  const client = await world.open();
  world.servers[0].state = "hanging";
  const read = client.fetch(0, new Uint8Array(10));
  const failure = assertRejects(() => read, DeviceError, "ESHUTDOWN");
  await client.close();
  await failure;
  await assertRejects(() => client.fetch(0, new Uint8Array(10)), DeviceError, "ESHUTDOWN");
});

Deno.test("F6: an idle client stays connected for minutes, by keepalives", async () => {
  await using world = new Surroundings(1);
  const client = await world.open();
  await world.pass(300_000, 500);
  assertEquals(world.servers[0].connects, 1);
  await world.read(client, 0, 4096, 100);
});

Deno.test("F6: an idle client notices a server that hangs, and finds it when it is back", async () => {
  await using world = new Surroundings(1);
  const client = await world.open();
  world.servers[0].state = "hanging";
  await world.pass(60_000, 500);
  assertEquals(client.status().server, null);
  world.servers[0].revive();
  await world.read(client, 0, 4096, 5000);
});

for (
  const [what, spoil] of [
    ["another size", (server: SimulatedServer) => server.store.put("x.r2", patternDisk(SIZE + 4096))],
    ["no such revision", (server: SimulatedServer) => server.store.delete("x.r2")],
    [
      "other checksums",
      (server: SimulatedServer) =>
        server.store.put("x.r2.crc", encodeChecksumList(new ChecksumList(Uint32Array.of(2)))),
    ],
  ] as const
) {
  Deno.test(`rule 19: a server with ${what} under the same name is never used`, async () => {
    await using world = new Surroundings(2);
    const [good, bad] = world.servers;
    good.store.put("x.r2.crc", encodeChecksumList(new ChecksumList(Uint32Array.of(1))));
    spoil(bad);
    const client = await world.open();
    assertEquals(client.status().verified, true);
    good.kill();
    const read = world.read(client, 0, 4096, 60_000);
    await world.pass(20_000, 50);
    assertEquals(client.status().waiting, 1);
    good.revive();
    await read;
    assertEquals(client.status().server, "10.0.0.1:5003");
  });
}

/** A world whose first server changes a byte of what it sends now and then, and all of whose servers have a list. */
function liarWorld(servers: number): Surroundings {
  const world = new Surroundings(servers);
  for (const { store } of world.servers) store.put("x.r2.crc", patternChecksums(SIZE));
  world.servers[0].lie = (offset, bytes) => {
    if (offset <= SIZE / 2 && SIZE / 2 < offset + bytes.length) bytes[SIZE / 2 - offset] ^= 1;
  };
  return world;
}

Deno.test("a copy from a server that changes a byte fails, and says where and who", async () => {
  await using world = liarWorld(1);
  const disk = new ImageDisk(await world.open());
  const { clock } = world;
  const copying = world.until(copyDisk(disk, new MemoryDisk(SIZE), { requestBytes: 20_480, clock }));
  const error = await assertRejects(() => copying, DeviceError, "EIO");
  assertStringIncludes(
    error.message,
    "the 16 MiB at 0 do not fit their checksum; they came from 10.0.0.1:5003",
  );
  await assertRejects(
    () => world.until(Promise.resolve(disk.read(0, new Uint8Array(1)))),
    DeviceError,
    "EIO",
  );
});

Deno.test("who read what a server had changed goes on with another server", async () => {
  await using world = liarWorld(2);
  const disk = new ImageDisk(await world.open());
  await assertRejects(() => world.until(disk.read(0, new Uint8Array(SIZE))), DeviceError, "do not fit");
  const copy = new MemoryDisk(SIZE);
  await world.until(copyDisk(disk, copy, { clock: world.clock }));
  const into = new Uint8Array(SIZE);
  copy.read(0, into);
  assertEquals(into, vectors.patternBytes(0, SIZE));
  assertEquals(disk.client.status().server, "10.0.0.2:5003");
});

Deno.test("a copy of an image with a list, from servers that say what is in it, is right", async () => {
  await using world = new Surroundings(1);
  const sizeBytes = 20 * 1024 * 1024 + 4096;
  world.servers[0].store.put("y.r1", patternDisk(sizeBytes));
  world.servers[0].store.put("y.r1.crc", patternChecksums(sizeBytes));
  const copy = new MemoryDisk(sizeBytes);
  const disk = new ImageDisk(await world.open({ name: "y" }));
  await world.until(copyDisk(disk, copy, { requestBytes: 61_440, clock: world.clock }));
  const into = new Uint8Array(sizeBytes);
  copy.read(0, into);
  assert(crc32(into) === crc32(vectors.patternBytes(0, sizeBytes)), "the copy differs");
});

Deno.test("a disk over an image reads ranges of any size and refuses to write", async () => {
  await using world = new Surroundings(1);
  const disk = new ImageDisk(await world.open());
  const into = new Uint8Array(3_000_001);
  await world.until(disk.read(17, into));
  assertEquals(into, vectors.patternBytes(17, 3_000_001));
  for (
    const write of [
      () => disk.write(0, new Uint8Array(1)),
      () => disk.trim(0, 1),
      () => disk.zero(0, 1),
    ]
  ) {
    await assertRejects(() => Promise.try(write), DeviceError, "EROFS");
  }
  assertEquals(disk.extents(0, 10), [{ length: 10, kind: "data" }]);
});
