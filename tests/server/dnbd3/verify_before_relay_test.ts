/** `verifyBeforeRelay`: a proxy gives nothing of a hash block before all of it is here and fits its checksum. */
import { assert, assertEquals } from "@std/assert";
import { HASH_BLOCK_BYTES } from "../../../src/wire/dnbd3/constants.ts";
import { virtualSize } from "../../../src/wire/dnbd3/message.ts";
import type { SimulatedServer } from "../../testing/image_world.ts";
import { randomFrom } from "../../testing/random.ts";
import type { RawImageClient } from "../../testing/raw_image_client.ts";
import { patternBytes } from "../../wire/dnbd3/vectors.ts";
import { patternChecksums, ProxyWorld } from "./proxy_world.ts";

const MIB = 1 << 20;
/** No multiple of 16 MiB, nor of 4096. */
const FILE_BYTES = 2 * HASH_BLOCK_BYTES + 3 * MIB + 1234;
const SIZE = virtualSize(FILE_BYTES);
const STRICT = { verifyBeforeRelay: true } as const;

function assertRight(bytes: Uint8Array, offset: number): void {
  const wanted = patternBytes(offset, bytes.length, FILE_BYTES);
  assertEquals(bytes.findIndex((byte, index) => byte !== wanted[index]), -1, `the block at ${offset}`);
}

/** Reads, and compares with what is to be there. @returns Whether the block came. */
async function read(
  world: ProxyWorld,
  client: RawImageClient,
  offset: number,
  length: number,
): Promise<boolean> {
  const bytes = await world.until(client.block(offset, length));
  if (bytes === null) return false;
  assertEquals(bytes.length, length);
  assertRight(bytes, offset);
  return true;
}

/** Every block that counts as present is the right one. */
function assertKeptRight(proxy: SimulatedServer): void {
  const image = proxy.table.known("x", 1)!;
  const bytes = new Uint8Array(SIZE);
  proxy.store.files.get("x.r1")!.disk.read(0, bytes);
  for (let at = 0; at < SIZE; at += 4096) {
    if (image.map === null || image.map.has(at, 4096)) assertRight(bytes.subarray(at, at + 4096), at);
  }
}

/** Changes one byte of what a server sends of this place. */
function flip(server: SimulatedServer, place: number): void {
  server.lie = (offset, bytes) => {
    if (offset <= place && place < offset + bytes.length) bytes[place - offset] ^= 0x10;
  };
}

const copyOf = (proxy: SimulatedServer) => proxy.proxy!.copyOf(proxy.table.known("x", 1)!)!;

for (const order of ["at random", "in order"]) {
  Deno.test(`a byte that a server flips is not delivered, nor kept, when a client reads ${order}`, async () => {
    const random = randomFrom();
    await using world = new ProxyWorld();
    const [liar, honest] = ["10.0.0.1", "10.0.0.2"].map((host) => world.origin(host, FILE_BYTES));
    honest.delayMs = 3;
    flip(liar, 5 * MIB + 17);
    const proxy = world.addProxy("10.0.0.3", [liar.host, honest.host], { settings: STRICT });
    const client = await world.client(proxy);
    for (let count = 0; count < 40; count++) {
      const length = order === "in order" ? SIZE / 40 : 1 + random.below(65536);
      const offset = order === "in order" ? Math.floor(count * length) : random.below(SIZE - length);
      assert(await read(world, client, offset, Math.floor(length)), `seed ${random.seed}: dropped`);
    }
    assert(await read(world, client, 5 * MIB, 4096));
    assertKeptRight(proxy);
    assert(world.told.some((text) => text.includes("10.0.0.1:5003 sends what is not in the image")));
    const { mismatches, servers } = copyOf(proxy)?.status() ?? { mismatches: 1, servers: [] };
    assertEquals(mismatches, 1);
    const lies = servers.map(({ server, lies }) => [server, lies]);
    assertEquals(lies, servers.length === 0 ? [] : [["10.0.0.1:5003", 1], ["10.0.0.2:5003", 0]]);
  });
}

Deno.test("by default the same byte is delivered, but not kept: a miss is relayed at once", async () => {
  await using world = new ProxyWorld();
  const liar = world.origin("10.0.0.1", FILE_BYTES);
  flip(liar, 17);
  const proxy = world.addProxy("10.0.0.3", [liar.host]);
  const client = await world.client(proxy);
  const bytes = await world.until(client.block(0, 4096));
  assertEquals(bytes![17], patternBytes(17, 1)[0] ^ 0x10);
  assertEquals(liar.asked.filter(({ offset }) => offset > 4096), []);
});

Deno.test("with nobody but the liar its hash block is refused, and the others are given", async () => {
  await using world = new ProxyWorld();
  const liar = world.origin("10.0.0.1", FILE_BYTES);
  flip(liar, 17);
  const proxy = world.addProxy("10.0.0.3", [liar.host], { settings: STRICT });
  const [client, other] = [await world.client(proxy), await world.client(proxy)];
  // Before anybody knows that it lies.
  assert(await read(world, other, HASH_BLOCK_BYTES, 4096));
  // There are no words for it: the client is dropped, and turns to another server.
  assertEquals(await read(world, client, MIB, 4096), false);
  assert(await read(world, other, HASH_BLOCK_BYTES + 5, 4096));
  assertKeptRight(proxy);
  // It is asked again later, and then it says what is in the image.
  liar.lie = null;
  await world.pass(200_000, 500);
  assert(await read(world, await world.client(proxy), MIB, 4096));
});

Deno.test("many who wait for one hash block wait for the same one, and it is fetched once", async () => {
  await using world = new ProxyWorld();
  const origin = world.origin("10.0.0.1", FILE_BYTES);
  origin.delayMs = 20;
  const proxy = world.addProxy("10.0.0.3", [origin.host], { settings: STRICT });
  const clients = await Promise.all(
    Array.from({ length: 10 }, () => world.stranger(proxy)).map((each) => world.until(each)),
  );
  origin.asked.length = 0;
  const reads = clients.map((client, index) => client.block(index * MIB + 3, 4096));
  for (const [index, bytes] of (await world.until(Promise.all(reads))).entries()) {
    assertRight(bytes!, index * MIB + 3);
  }
  const asked = origin.asked.filter(({ hops }) => hops === 1).map(({ offset, length }) => [offset, length]);
  assertEquals(
    asked.sort(([one], [other]) => one - other),
    Array.from({ length: 16 }, (_, i) => [i * MIB, MIB]),
  );
});

Deno.test("no more than four hash blocks are fetched at once, whatever clients ask for", async () => {
  await using world = new ProxyWorld();
  const sizeBytes = 10 * HASH_BLOCK_BYTES;
  const origin = world.origin("10.0.0.1", sizeBytes);
  const proxy = world.addProxy("10.0.0.3", [origin.host], { settings: STRICT });
  const client = await world.client(proxy);
  origin.asked.length = 0;
  origin.state = "hanging";
  for (let index = 0; index < 10; index++) await client.ask(index * HASH_BLOCK_BYTES, 4096, BigInt(index));
  await world.settle();
  const asked = new Set(origin.asked.map(({ offset }) => Math.floor(offset / HASH_BLOCK_BYTES)));
  assertEquals([...asked].sort(), [0, 1, 2, 3]);
  origin.revive();
  const handles = new Set<bigint>();
  while (handles.size < 10) {
    const reply = await world.until(client.reply());
    assertEquals(reply!.payload, patternBytes(Number(reply!.handle) * HASH_BLOCK_BYTES, 4096));
    handles.add(reply!.handle);
  }
});

Deno.test("what a proxy that relayed at once has kept in part is completed and checked before it is given", async () => {
  await using world = new ProxyWorld();
  const [liar, honest] = ["10.0.0.1", "10.0.0.2"].map((host) => world.origin(host, FILE_BYTES));
  flip(liar, 17);
  const before = world.addProxy("10.0.0.3", [liar.host]);
  await world.until((await world.client(before)).block(0, MIB));
  await world.until(before.close());
  liar.lie = null;
  const after = world.addProxy("10.0.0.3", [honest.host], { store: before.store, settings: STRICT });
  const client = await world.client(after, "x", 1);
  assert(await read(world, client, 0, 4096));
  assertKeptRight(after);
  assertEquals(copyOf(after).mismatches, 1);
});

Deno.test("a hash block that was here before the start is compared before it is given", async () => {
  await using world = new ProxyWorld();
  const origin = world.origin("10.0.0.1", FILE_BYTES);
  const before = world.addProxy("10.0.0.3", [origin.host], { settings: STRICT });
  assert(await read(world, await world.client(before), 0, 4096));
  await world.until(before.close());
  await before.store.overwrite("x.r1", 100, Uint8Array.of(1, 2, 3));
  const after = world.addProxy("10.0.0.3", [origin.host], { store: before.store, settings: STRICT });
  assert(await read(world, await world.client(after, "x", 1), 0, 4096));
  assertEquals(copyOf(after).mismatches, 1);
});

Deno.test("checksums that become known with the first block count for that block already", async () => {
  await using world = new ProxyWorld();
  const [liar, honest] = ["10.0.0.1", "10.0.0.2"].map((host) => world.origin(host, FILE_BYTES));
  liar.store.delete("x.r1.crc");
  await world.until(liar.table.scan());
  const before = world.addProxy("10.0.0.3", [liar.host]);
  await world.client(before);
  await world.until(before.close());
  // Nothing is known at the start, and the servers have a list now.
  liar.store.put("x.r1.crc", patternChecksums(FILE_BYTES));
  await world.until(liar.table.scan());
  flip(liar, 17);
  honest.delayMs = 3;
  const from = [liar.host, honest.host];
  const after = world.addProxy("10.0.0.3", from, { store: before.store, settings: STRICT });
  const client = await world.client(after, "x", 1);
  assert(await read(world, client, 0, 4096));
  assert(after.store.files.has("x.r1.crc"), "the list is not kept");
});

Deno.test("where nothing can be kept, what is given is checked in memory", async () => {
  await using world = new ProxyWorld();
  const [liar, honest] = ["10.0.0.1", "10.0.0.2"].map((host) => world.origin(host, FILE_BYTES));
  honest.delayMs = 3;
  flip(liar, HASH_BLOCK_BYTES + 17);
  const proxy = world.addProxy("10.0.0.3", [liar.host, honest.host], { settings: STRICT });
  const client = await world.client(proxy);
  const { disk } = proxy.store.files.get("x.r1")!;
  disk.write = () => {
    throw new Error("the disk is broken");
  };
  for (const offset of [0, HASH_BLOCK_BYTES, 2 * HASH_BLOCK_BYTES + MIB, SIZE - 5000, 17]) {
    assert(await read(world, client, offset, 5000), `dropped at ${offset}`);
  }
  assertEquals(copyOf(proxy).status().writeProblem, "the disk is broken");
  assertEquals(proxy.table.known("x", 1)!.map!.missingBlocks, SIZE / 4096);
});

Deno.test("two proxies that verify and ask each other find out, and go on with the origin", async () => {
  await using world = new ProxyWorld();
  const origin = world.origin("10.0.0.1", FILE_BYTES);
  const [one, other] = [["10.0.0.2", "10.0.0.3"], ["10.0.0.3", "10.0.0.2"]].map(([host, peer]) =>
    world.addProxy(host, [origin.host, peer], { settings: STRICT })
  );
  origin.delayMs = 100;
  const [here, there] = [await world.client(one), await world.client(other)];
  assert(await read(world, here, 0, 4096));
  assert(await read(world, there, 0, 4096));
  await world.pass(60_000, 50);
  const uplinks = [one, other].map((proxy) => copyOf(proxy).uplink!.status().server);
  assertEquals(uplinks, ["10.0.0.3:5003", "10.0.0.2:5003"], "no circle came to be");
  const client = await world.client(one);
  assert(await read(world, client, HASH_BLOCK_BYTES, 4096));
  assert(world.told.some((text) => text.includes("what it is asked for comes back to us")), "not seen");
});

Deno.test("an image without checksums is relayed at once: there is nothing to compare it with", async () => {
  await using world = new ProxyWorld();
  const origin = world.origin("10.0.0.1", FILE_BYTES, { checksums: false });
  const proxy = world.addProxy("10.0.0.3", [origin.host], { settings: STRICT });
  const client = await world.client(proxy);
  origin.asked.length = 0;
  assert(await read(world, client, MIB, 4096));
  assertEquals(origin.asked.map(({ offset, length }) => [offset, length]), [[MIB, 4096]]);
});
