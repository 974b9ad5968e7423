import { assert, assertEquals, assertThrows } from "@std/assert";
import { MemoryStore } from "../../src/device/cache_memory.ts";
import { randomFrom } from "../testing/random.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name: `MemoryStore ${name}`, permissions: "none", fn });
}

const filled = (value: number) => new Uint8Array(4096).fill(value);

function content(store: MemoryStore, block: number, length = 4096): Uint8Array {
  const bytes = new Uint8Array(length);
  store.read(block, 0, bytes);
  return bytes;
}

test("gives back what was put, any part of it, and the short last block", () => {
  const store = new MemoryStore(1 << 20, 4096);
  store.put(2 ** 40, filled(7));
  store.put(3, new Uint8Array([1, 2, 3]));
  assertEquals(content(store, 2 ** 40), filled(7));
  const part = new Uint8Array(2);
  store.read(3, 1, part);
  assertEquals(part, new Uint8Array([2, 3]));
  assert(!store.has(4));
});

test("never keeps more than its capacity, and throws out what was not read", () => {
  const store = new MemoryStore(4 * 4096, 4096);
  for (const block of [0, 1, 2, 3]) store.put(block, filled(block));
  content(store, 0);
  content(store, 2);
  store.put(4, filled(4));
  store.put(5, filled(5));
  assertEquals([0, 1, 2, 3, 4, 5].map((block) => store.has(block)), [true, false, true, false, true, true]);
  assertEquals(store.keptBytes, 4 * 4096);
});

test("has what a map would have, whatever is put and forgotten", () => {
  const store = new MemoryStore(50 * 4096, 4096);
  const random = randomFrom();
  const expected = new Map<number, number>();
  for (let step = 0; step < 20_000; step++) {
    const block = random.below(120);
    if (random.chance(0.6)) {
      const value = random.below(256);
      store.put(block, filled(value));
      expected.set(block, value);
    } else if (random.chance(0.2)) {
      const end = random.chance(0.05) ? 1_000_000 : block + 1 + random.below(4);
      store.forget(block, end);
      for (const each of [...expected.keys()]) if (each >= block && each < end) expected.delete(each);
    } else if (store.has(block)) {
      assertEquals(content(store, block, 1)[0], expected.get(block), `seed ${random.seed}`);
    }
    assert(store.keptBytes <= 50 * 4096);
  }
});

test("refuses blocks of a size that does not fit", () => {
  for (const blockBytes of [0, 3000, 1 << 21]) {
    assertThrows(() => new MemoryStore(1 << 20, blockBytes), RangeError);
  }
});

test("shows a range where it lies in one piece, and only there", () => {
  const store = new MemoryStore(8 * 4096, 4096);
  for (const block of [10, 11, 12, 20, 13]) store.put(block, filled(block));
  const shown = store.view(10 * 4096 + 4000, 2 * 4096)!;
  assertEquals([shown.length, shown[0], shown[96], shown.at(-1)], [2 * 4096, 10, 11, 12]);
  // Between 12 and 13 lies 20.
  assertEquals(store.view(12 * 4096, 2 * 4096), null);
  assertEquals(store.view(9 * 4096, 2 * 4096), null);
  assertEquals(store.view(13 * 4096, 4097), null);
  store.forget(11, 12);
  assertEquals(store.view(10 * 4096, 4097), null);
});

test("shows nothing across the pieces of its memory, and counts what it shows as read", () => {
  const store = new MemoryStore(2 << 20, 1 << 19);
  for (const block of [0, 1, 2, 3]) store.put(block, new Uint8Array(1 << 19).fill(block));
  assertEquals(store.view(1 << 19, 1 << 20), null);
  assertEquals(store.view(0, 1 << 20)!.length, 1 << 20);
  store.put(4, new Uint8Array(1 << 19));
  assertEquals([0, 1, 2, 3, 4].map((block) => store.has(block)), [true, true, false, true, true]);
});
