import { assertEquals } from "@std/assert";
import { Backoff } from "../../src/remote/backoff.ts";
import { ReplayMap } from "../../src/remote/replay_map.ts";
import { randomFrom } from "../testing/random.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name, permissions: "none", fn });
}

test("ReplayMap agrees with one value and one epoch per byte", () => {
  const random = randomFrom();
  for (let round = 0; round < 100; round++) {
    const map = new ReplayMap();
    const expected: (readonly [value: number, epoch: number] | null)[] = new Array(64).fill(null);
    let epoch = 0;
    for (let step = 0; step < 60; step++) {
      const offset = random.below(64);
      const length = random.below(65 - offset);
      const kind = random.below(8);
      if (kind < 5) {
        const data = kind < 4 ? random.bytes(length) : null;
        map.remember(offset, length, data, epoch);
        for (let at = 0; at < length; at++) expected[offset + at] = [data?.[at] ?? 0, epoch];
        data?.fill(0xee); // The caller's buffer is the caller's again.
      } else if (kind === 5) {
        map.forget(offset, length);
        expected.fill(null, offset, offset + length);
      } else if (kind === 6) {
        epoch++;
      } else {
        const before = random.below(epoch + 2);
        map.forgetBefore(before);
        expected.forEach((each, at) => each !== null && each[1] < before && (expected[at] = null));
      }
      const found: (number | null)[] = new Array(64).fill(null);
      let last = 0;
      for (const entry of map.entries()) {
        if (entry.offset < last) throw new Error(`seed ${random.seed}: entries overlap`);
        last = entry.offset + entry.length;
        for (let at = 0; at < entry.length; at++) found[entry.offset + at] = entry.data?.[at] ?? 0;
      }
      assertEquals(found, expected.map((each) => each === null ? null : each[0]), `seed ${random.seed}`);
    }
    map.forgetBefore(Infinity);
    assertEquals([map.isEmpty, map.bytes], [true, 0]);
  }
});

test("ReplayMap counts what it holds, once", () => {
  const map = new ReplayMap();
  for (let turn = 0; turn < 10_000; turn++) map.remember(4096, 4096, new Uint8Array(4096), 0);
  assertEquals(map.entries().length, 1);
  assertEquals(map.bytes < 5000, true);
  map.forget(5000, 100);
  assertEquals(map.entries().map(({ offset, length }) => [offset, length]), [[4096, 904], [5100, 3092]]);
  map.forget(0, 10_000);
  assertEquals(map.bytes, 0);
});

test("Backoff tries at once, then ever later with jitter, up to five seconds", () => {
  for (const random of [0, 0.999]) {
    const backoff = new Backoff(() => random);
    const waits = Array.from({ length: 10 }, () => backoff.next());
    assertEquals(waits[0], 0);
    assertEquals(waits[1] >= 100 && waits[1] < 200, true);
    for (let at = 2; at < 10; at++) assertEquals(waits[at] >= waits[at - 1] && waits[at] <= 5000, true);
    backoff.reset();
    assertEquals(backoff.next(), 0);
  }
});
