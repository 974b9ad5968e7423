import { assert, assertEquals } from "@std/assert";
import { DirtyMap } from "../../src/migrate/dirty_map.ts";
import { randomFrom } from "../testing/random.ts";

const KIB = 1024;

Deno.test({
  name: "dirty map: a mark covers every block that it touches, a clearing those that lie inside",
  permissions: "none",
  fn() {
    const map = new DirtyMap(100 * KIB);
    map.mark(4095, 2);
    assertEquals(map.bytes, 8 * KIB);
    map.clear(1, 8 * KIB - 1);
    assertEquals(map.bytes, 4 * KIB);
    assertEquals(map.take(0, Infinity), { offset: 0, length: 4 * KIB });
    assert(map.isEmpty);
    assertEquals(map.take(0, Infinity), null);
  },
});

Deno.test({
  name: "dirty map: the last block is as short as the disk has it",
  permissions: "none",
  fn() {
    const map = new DirtyMap(9 * KIB + 7);
    map.markAll();
    assertEquals(map.bytes, 9 * KIB + 7);
    map.clear(8 * KIB, KIB + 7);
    assertEquals(map.bytes, 8 * KIB);
    map.markAll();
    assertEquals(map.take(8 * KIB, Infinity), { offset: 8 * KIB, length: KIB + 7 });
  },
});

Deno.test({
  name: "dirty map: a disk without bytes is clean",
  permissions: "none",
  fn() {
    const map = new DirtyMap(0);
    map.markAll();
    assert(map.isEmpty);
    assertEquals([map.bytes, map.take(0, 1), map.touches(0, 1)], [0, null, false]);
  },
});

Deno.test({
  name: "dirty map: of a large disk the blocks grow, so that the map does not",
  permissions: "none",
  fn() {
    const map = new DirtyMap(2 ** 44, { blocksMax: 2 ** 16 });
    assertEquals(map.blockBytes, 2 ** 28);
    map.mark(2 ** 43, 1);
    assertEquals(map.take(0, Infinity), { offset: 2 ** 43, length: 2 ** 28 });
  },
});

Deno.test({
  name: "dirty map: does what a plain set of blocks does",
  permissions: "none",
  fn() {
    const random = randomFrom();
    const sizeBytes = 300 * 4 * KIB - 100;
    const blocks = 300;
    for (let round = 0; round < 200; round++) {
      const map = new DirtyMap(sizeBytes);
      const plain = new Set<number>();
      for (let step = 0; step < 20; step++) {
        const offset = random.below(sizeBytes);
        const length = random.below(sizeBytes - offset + 1);
        const end = offset + length;
        const kind = random.below(3);
        if (kind === 0) {
          map.mark(offset, length);
          if (length > 0) {
            for (let at = Math.floor(offset / 4096); at * 4096 < end; at++) plain.add(at);
          }
        } else if (kind === 1) {
          map.clear(offset, length);
          for (let at = 0; at < blocks; at++) {
            if (at * 4096 >= offset && Math.min((at + 1) * 4096, sizeBytes) <= end) plain.delete(at);
          }
        } else {
          const taken = map.take(offset, length);
          const first = [...plain].filter((at) => at >= Math.floor(offset / 4096)).sort((a, b) => a - b)[0];
          assertEquals(taken?.offset, first === undefined ? undefined : first * 4096);
          if (taken === null) continue;
          for (let at = first; at * 4096 < taken.offset + taken.length; at++) assert(plain.delete(at));
        }
        const touched = [...plain].some((at) => at >= Math.floor(offset / 4096) && at * 4096 < end);
        assertEquals(map.touches(offset, length), length > 0 && touched);
        const bytes = [...plain].reduce((sum, at) => sum + Math.min(4096, sizeBytes - at * 4096), 0);
        assertEquals(map.bytes, bytes);
      }
    }
  },
});
