/** Servers that lie to a proxy, or contradict each other: nothing wrong is delivered or kept. */
import { assert, assertEquals } from "@std/assert";
import { ChecksumList, encodeChecksumList } from "../../../src/wire/dnbd3/checksum_list.ts";
import { HASH_BLOCK_BYTES } from "../../../src/wire/dnbd3/constants.ts";
import type { SimulatedServer } from "../../testing/image_world.ts";
import { randomFrom } from "../../testing/random.ts";
import { patternBytes } from "../../wire/dnbd3/vectors.ts";
import { patternDisk } from "./memory_store.ts";
import { ProxyWorld } from "./proxy_world.ts";

const MIB = 1 << 20;
const SIZE = HASH_BLOCK_BYTES + 2 * MIB;
const FULL = { backgroundReplication: "full", bgrWindowSize: 20 } as const;

/** Every block that counts as present is the right one. */
function assertKeptRight(proxy: SimulatedServer, complete: boolean): void {
  const image = proxy.table.known("x", 1)!;
  const bytes = new Uint8Array(SIZE);
  proxy.store.files.get("x.r1")!.disk.read(0, bytes);
  const wanted = patternBytes(0, SIZE);
  for (let at = 0; at < SIZE; at += 4096) {
    if (image.map !== null && !image.map.has(at, 4096)) continue;
    const wrong = bytes.subarray(at, at + 4096).findIndex((byte, index) => byte !== wanted[at + index]);
    assertEquals(wrong, -1, `the block at ${at} is wrong and counts as present`);
  }
  assertEquals(image.map === null, complete, "complete");
}

Deno.test("a server that flips a byte in a block now and then: the copy is right in the end", async () => {
  const random = randomFrom();
  await using world = new ProxyWorld();
  const [liar, honest] = ["10.0.0.1", "10.0.0.2"].map((host) => world.origin(host, SIZE));
  honest.delayMs = 5;
  liar.lie = (_, bytes) => {
    if (random.chance(0.02)) bytes[random.below(bytes.length)] ^= 1 << random.below(8);
  };
  const proxy = world.addProxy("10.0.0.3", [liar.host, honest.host], { settings: FULL });
  await world.client(proxy);
  await world.pass(60_000, 20);
  assertKeptRight(proxy, true);
});

Deno.test("a server with another size under the same revision is not used", async () => {
  await using world = new ProxyWorld();
  const honest = world.origin("10.0.0.1", SIZE);
  const liar = world.origin("10.0.0.2", SIZE + 4096);
  const proxy = world.addProxy("10.0.0.3", [honest.host, liar.host]);
  const client = await world.client(proxy);
  honest.kill();
  const reading = client.block(0, 4096);
  await world.pass(10_000, 20);
  assertEquals(liar.asked.length, 0);
  honest.revive();
  assertEquals(await world.until(reading), patternBytes(0, 4096));
});

Deno.test("a server with another list of checksums under the same revision is not used: never a mixed read", async () => {
  await using world = new ProxyWorld();
  const one = world.origin("10.0.0.1", SIZE);
  const other = world.add("10.0.0.2");
  other.store.put("x.r1", new Uint8Array(SIZE).fill(7));
  other.store.put("x.r1.crc", encodeChecksumList(new ChecksumList(Uint32Array.of(1, 2))));
  const proxy = world.addProxy("10.0.0.3", [one.host, other.host]);
  const client = await world.client(proxy);
  await world.read(client, 0, MIB);
  one.kill();
  const reading = client.block(MIB, 4096);
  await world.pass(20_000, 20);
  one.revive();
  assertEquals(await world.until(reading), patternBytes(MIB, 4096));
});

Deno.test("a proxy whose own list differs from a server's copies nothing from it, after a restart either", async () => {
  await using world = new ProxyWorld();
  const origin = world.origin("10.0.0.1", SIZE);
  const before = world.addProxy("10.0.0.2", [origin.host]);
  await world.read(await world.client(before), 0, MIB);
  await world.until(before.close());
  // Somebody made another image of it at the origin.
  origin.store.put("x.r1", new Uint8Array(SIZE).fill(7));
  origin.store.put("x.r1.crc", encodeChecksumList(new ChecksumList(Uint32Array.of(1, 2))));
  await world.until(origin.table.scan());
  const after = world.addProxy("10.0.0.2", [origin.host], { store: before.store });
  const client = await world.client(after, "x", 1);
  await world.read(client, 0, MIB);
  origin.asked.length = 0;
  const reading = client.block(8 * MIB, 4096);
  let answered = false;
  reading.then(() => answered = true);
  await world.pass(20_000, 20);
  assertEquals([answered, origin.asked.filter(({ offset }) => offset > 0).length > 0], [false, true]);
  assert(world.told.some((text) => text.includes("other checksums for the same revision")));
});

Deno.test("a list that is left over from another image keeps a new copy from being made", async () => {
  await using world = new ProxyWorld();
  world.origin("10.0.0.1", SIZE);
  const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"]);
  proxy.store.put("x.r1.crc", encodeChecksumList(new ChecksumList(Uint32Array.of(1, 2))));
  assertEquals(await world.offers(proxy, "x"), false);
  assert(world.told.some((text) => text.includes("x.r1.crc is not the list that 10.0.0.1:5003 has")));
});

Deno.test("a server with a wrong list of its own image: no hash block of it ever counts", async () => {
  await using world = new ProxyWorld();
  const liar = world.origin("10.0.0.1", SIZE);
  liar.store.put("x.r1.crc", encodeChecksumList(new ChecksumList(Uint32Array.of(1, 2))));
  const proxy = world.addProxy("10.0.0.3", [liar.host], { settings: FULL });
  await world.client(proxy);
  await world.pass(20_000, 20);
  const { map } = proxy.table.known("x", 1)!;
  assertEquals([0, 1].map((index) => map!.hashBlockState(index)), ["empty", "empty"]);
  const client = await world.client(proxy, "x", 1);
  assertEquals(await world.until(client.block(0, 4096)), null);
});

Deno.test("a list that turns up later is used to check what is here already", async () => {
  await using world = new ProxyWorld();
  const liar = world.origin("10.0.0.1", SIZE, { checksums: false });
  liar.lie = (offset, bytes) => {
    if (offset <= MIB && offset + bytes.length > MIB) bytes[MIB - offset] ^= 1;
  };
  const proxy = world.addProxy("10.0.0.3", [liar.host, "10.0.0.2"]);
  const client = await world.client(proxy);
  for (let at = 0; at < HASH_BLOCK_BYTES; at += MIB) await world.until(client.block(at, MIB));
  world.origin("10.0.0.2", SIZE);
  liar.kill();
  await world.read(client, HASH_BLOCK_BYTES, MIB);
  await world.pass(10_000, 20);
  await world.read(await world.client(proxy), MIB, 4096);
  assert(proxy.store.files.has("x.r1.crc"), "the list is not kept");
});

Deno.test("a server that answers with garbage, or is silent for ever, costs a pause and nothing else", async () => {
  for (const trouble of ["garbage", "silence"] as const) {
    const random = randomFrom(7);
    await using world = new ProxyWorld();
    const [liar, honest] = ["10.0.0.1", "10.0.0.2"].map((host) => world.origin(host, SIZE));
    honest.delayMs = 3;
    const proxy = world.addProxy("10.0.0.3", [liar.host, honest.host]);
    const client = await world.client(proxy);
    await world.read(client, 0, 4096);
    if (trouble === "garbage") liar.garble = (bytes) => random.bytes(bytes.length);
    else liar.state = "hanging";
    for (let at = MIB; at < 8 * MIB; at += MIB) await world.read(client, at, 65536);
    await world.pass(1000);
    assertKeptRight(proxy, false);
  }
});

Deno.test("garbage as the answer to the first question: there is no such image, and nothing is left of it", async () => {
  const random = randomFrom(8);
  await using world = new ProxyWorld();
  const liar = world.origin("10.0.0.1", SIZE);
  liar.garble = (bytes) => random.bytes(bytes.length);
  const proxy = world.addProxy("10.0.0.3", [liar.host]);
  assertEquals(await world.offers(proxy, "x"), false);
  assertEquals([...proxy.store.files.keys()], []);
});

Deno.test("impossible sizes and foreign names are not copied", async () => {
  await using world = new ProxyWorld();
  const liar = world.add("10.0.0.1");
  liar.store.put("x.r1", patternDisk(2 ** 52));
  const proxy = world.addProxy("10.0.0.3", [liar.host]);
  assertEquals(await world.offers(proxy, "x"), false);
  assertEquals([...proxy.store.files.keys()], []);
});
