import { assert, assertEquals } from "@std/assert";
import { crc32 } from "node:zlib";
import { silentLog } from "../../../src/base/log.ts";
import { MemoryDisk } from "../../../src/device/memory.ts";
import { ImageTable } from "../../../src/server/dnbd3/image_table.ts";
import { Integrity } from "../../../src/server/dnbd3/integrity.ts";
import { ChecksumList, encodeChecksumList } from "../../../src/wire/dnbd3/checksum_list.ts";
import { ManualClock } from "../../testing/manual_clock.ts";
import { MemoryStore } from "./memory_store.ts";

const HASH_BLOCK = 16 << 20;

/** An image of zeroes with three hash blocks, and a checker over it. */
async function setUp(map?: Uint8Array) {
  const store = new MemoryStore();
  const disk = new MemoryDisk(2 * HASH_BLOCK + 5000);
  store.put("x.r1", disk);
  const whole = crc32(new Uint8Array(HASH_BLOCK));
  const list = new ChecksumList(Uint32Array.of(whole, whole, crc32(new Uint8Array(8192))));
  store.put("x.r1.crc", encodeChecksumList(list));
  if (map !== undefined) store.put("x.r1.map", map);
  const told: string[] = [];
  const log = {
    ...silentLog,
    error: (text: string) => void told.push(text),
    warn: (text: string) => void told.push(text),
  };
  const settings = { vmdkLegacyMode: false, removeMissingImages: true, maxImages: 100 };
  const table = new ImageTable(store, settings, silentLog);
  const image = (await table.find("x", 1))!;
  const clock = new ManualClock();
  const integrity = new Integrity(clock, log, () => 0.5);
  const finish = async () => {
    let idle = false;
    integrity.idle().then(() => idle = true);
    while (!idle) {
      clock.advance(1);
      for (let turn = 0; turn < 20; turn++) await Promise.resolve();
    }
  };
  return { store, disk, image, integrity, told, finish, clock };
}

Deno.test("S8: an image that fits its checksums is served, and checked at its ends and once between", async () => {
  const { image, integrity, finish } = await setUp();
  integrity.checkSome(image);
  await finish();
  assertEquals([integrity.checked, integrity.mismatches, image.badHashBlocks.size], [3, 0, 0]);
});

Deno.test("S8: a hash block that does not fit is refused, all others are checked and served", async () => {
  const { disk, image, integrity, told, finish } = await setUp();
  disk.write(HASH_BLOCK + 77, Uint8Array.of(1));
  integrity.check(image, 1);
  await finish();
  assertEquals(
    [integrity.checked, integrity.mismatches],
    [4, 2],
    "the bad one a second time, with all others",
  );
  assertEquals([...image.badHashBlocks], [1]);
  assertEquals([image.has(0, 100), image.has(HASH_BLOCK, 1), image.has(2 * HASH_BLOCK, 5000)], [
    true,
    false,
    true,
  ]);
  assertEquals(told, ["image x:1: hash block 1 does not fit its checksum; it is refused"]);
});

Deno.test("S8: a hash block that fits again is served again", async () => {
  const { disk, image, integrity, finish } = await setUp();
  disk.write(5, Uint8Array.of(1));
  integrity.checkAll(image);
  await finish();
  assertEquals([...image.badHashBlocks], [0]);
  disk.write(5, Uint8Array.of(0));
  integrity.check(image, 0);
  await finish();
  assertEquals(image.badHashBlocks.size, 0);
});

Deno.test("S8: what is not here is not checked", async () => {
  const map = new Uint8Array(1025).fill(0xff, 0, 512);
  const { image, integrity, finish } = await setUp(map);
  integrity.checkAll(image);
  await finish();
  assertEquals([integrity.checked, image.badHashBlocks.size], [1, 0]);
});

Deno.test("a disk that fails does not end the checks", async () => {
  const { disk, image, integrity, told, finish } = await setUp();
  const read = disk.read.bind(disk);
  disk.read = (offset, into) => {
    if (offset === 0) throw new Error("the disk is broken");
    read(offset, into);
  };
  integrity.checkAll(image);
  await finish();
  assertEquals(integrity.checked, 2);
  assert(told[0].includes("the disk is broken"));
});

Deno.test("checks go in slices, and end when told to", async () => {
  const { image, integrity, clock } = await setUp();
  integrity.checkAll(image);
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
  assertEquals([integrity.checked, clock.timers], [0, 1], "after one slice others have their turn");
  const stopped = integrity.stop();
  clock.advance(1);
  await stopped;
  assertEquals([integrity.checked, clock.timers], [0, 0]);
});
