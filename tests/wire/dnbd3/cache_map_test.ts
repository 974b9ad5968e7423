import { assertEquals } from "@std/assert";
import { CacheMap } from "../../../src/wire/dnbd3/cache_map.ts";

function pure(name: string, fn: () => void) {
  Deno.test({ name, permissions: "none", fn });
}

const MIB = 1024 * 1024;

pure("V15: the map of what a proxy read is the recorded one", () => {
  const map = new CacheMap(64 * MIB);
  // As relayed: the start rounded down and the end rounded up to 4096, then up to three times as much ahead.
  for (
    const [offset, length] of [
      [0, 4096],
      [4096, 12288],
      [40 * MIB, 4096],
      [40 * MIB + 4096, 12288],
      [50 * MIB + 4096, 8192],
      [50 * MIB + 12288, 24576],
      [30 * MIB, 4096],
    ]
  ) map.add(offset, length);
  const bytes = map.encode();
  assertEquals(bytes.length, 2048);
  const set = [...bytes.entries()].filter(([, byte]) => byte !== 0);
  assertEquals(set, [[0, 0x0f], [960, 0x01], [1280, 0x0f], [1600, 0xfe], [1601, 0x01]]);
});

pure("a new map misses everything, and add() of all completes it", () => {
  const map = new CacheMap(9 * 4096);
  assertEquals([map.complete, map.missingBlocks, map.blockCount, map.encode().length], [false, 9, 9, 2]);
  map.add(0, 9 * 4096);
  assertEquals([map.complete, map.missingBlocks, [...map.encode()]], [true, 0, [0xff, 0x01]]);
});

pure("the bits behind the last block do not count", () => {
  assertEquals(new CacheMap(9 * 4096, Uint8Array.of(0xff, 0x01)).complete, true);
  assertEquals(new CacheMap(9 * 4096, Uint8Array.of(0xff, 0xff)).complete, true);
  assertEquals(new CacheMap(9 * 4096, Uint8Array.of(0xff, 0xfe)).missingBlocks, 1);
  assertEquals([...new CacheMap(9 * 4096, Uint8Array.of(0xff, 0xff)).encode()], [0xff, 0x01]);
});

pure("a file that is too short misses blocks, and one that is too long is cut", () => {
  assertEquals(new CacheMap(24 * 4096, Uint8Array.of(0xff)).missingBlocks, 16);
  assertEquals(new CacheMap(8 * 4096, Uint8Array.of(0xff, 0xff, 0xff)).encode().length, 1);
});

pure("add() marks only blocks that lie wholly in the range", () => {
  const map = new CacheMap(8 * 4096);
  map.add(4095, 2 * 4096);
  assertEquals([...map.encode()], [0b0000_0010]);
  map.add(100, 3000);
  assertEquals([...map.encode()], [0b0000_0010]);
});

pure("has() asks for every block that the range touches", () => {
  const map = new CacheMap(32 * 4096);
  map.add(4096, 20 * 4096);
  assertEquals(map.has(4096, 20 * 4096), true);
  assertEquals(map.has(5000, 10), true);
  assertEquals(map.has(4095, 2), false);
  assertEquals(map.has(20 * 4096, 2 * 4096), false);
  assertEquals(map.has(21 * 4096 - 1, 1), true);
  assertEquals(map.has(21 * 4096, 1), false);
});

pure("remove() forgets every block that the range touches", () => {
  const map = new CacheMap(8 * 4096, Uint8Array.of(0xff));
  map.remove(4095, 2);
  assertEquals([[...map.encode()], map.missingBlocks], [[0b1111_1100], 2]);
  map.remove(4095, 2);
  assertEquals(map.missingBlocks, 2);
});

pure("run() gives stretches that are alike, cut at the end of the range", () => {
  const map = new CacheMap(8 * 4096, Uint8Array.of(0b0011_1001));
  assertEquals(map.run(0, 8 * 4096), { offset: 0, length: 4096, present: true });
  assertEquals(map.run(4096, 7 * 4096), { offset: 4096, length: 8192, present: false });
  assertEquals(map.run(3 * 4096 + 10, 5000), { offset: 3 * 4096 + 10, length: 5000, present: true });
});

pure("nextIncompleteUnit() goes round once", () => {
  const map = new CacheMap(28 * 4096, Uint8Array.of(0xff, 0xfe, 0xff, 0x0f));
  assertEquals([0, 1, 2, 3].map((from) => map.nextIncompleteUnit(from)), [1, 1, 1, 1]);
  map.add(8 * 4096, 4096);
  assertEquals(map.nextIncompleteUnit(2), undefined);
});

pure("hash blocks are empty, partial or complete, the last one being short", () => {
  const map = new CacheMap(33 * MIB);
  map.add(16 * MIB, 4096);
  map.add(32 * MIB, MIB);
  assertEquals([0, 1, 2].map((index) => map.hashBlockState(index)), ["empty", "partial", "complete"]);
  map.add(16 * MIB, 16 * MIB);
  assertEquals(map.hashBlockState(1), "complete");
});

pure("percent is the mean over the bytes of the map", () => {
  const map = new CacheMap(32 * 4096, Uint8Array.of(0xff, 0x01, 0, 0));
  assertEquals(map.percent, 37);
  assertEquals(new CacheMap(4096, Uint8Array.of(1)).percent, 100);
});

pure("a map behaves as a set of blocks does, over random operations", () => {
  let state = 20260101;
  const random = (below: number) => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return Math.floor(state / 2 ** 32 * below);
  };
  const blocks = 75;
  const [map, set] = [new CacheMap(blocks * 4096), new Set<number>()];
  for (let step = 0; step < 3000; step++) {
    const first = random(blocks);
    const count = 1 + random(Math.min(20, blocks - first));
    const range = [first * 4096, count * 4096] as const;
    const members = Array.from({ length: count }, (_, index) => first + index);
    if (random(2) === 0) {
      map.add(...range);
      members.forEach((block) => set.add(block));
    } else {
      map.remove(...range);
      members.forEach((block) => set.delete(block));
    }
    assertEquals(map.missingBlocks, blocks - set.size);
    const probe = random(blocks);
    const length = 1 + random(blocks - probe);
    const probed = Array.from({ length }, (_, index) => probe + index);
    assertEquals(map.has(probe * 4096, length * 4096), probed.every((block) => set.has(block)));
    const run = map.run(probe * 4096, length * 4096);
    const alike = probed.findIndex((block) => set.has(block) !== set.has(probe));
    assertEquals([run.length / 4096, run.present], [alike < 0 ? length : alike, set.has(probe)]);
  }
  assertEquals(new CacheMap(blocks * 4096, map.encode()).encode(), map.encode());
});

pure("retain() forgets what another map does not have, and a shorter one has nothing at its end", () => {
  const map = new CacheMap(20 * 4096);
  map.add(0, 20 * 4096);
  map.retain(Uint8Array.of(0b101, 0xf0));
  assertEquals([...map.encode()], [0b101, 0xf0, 0]);
  assertEquals(map.missingBlocks, 14);
});
