import { assert, assertEquals } from "@std/assert";
import { SequenceDetector } from "../../src/device/prefetch.ts";

const KIB = 1024;
const MIB = 1024 * 1024;

function test(name: string, fn: () => void): void {
  Deno.test({ name: `SequenceDetector ${name}`, permissions: "none", fn });
}

test("fetches nothing for a single read, nor for reads all over the disk", () => {
  const detector = new SequenceDetector(1024 * MIB, MIB);
  for (const offset of [0, 500 * MIB, 20 * MIB, 900 * MIB, 3 * MIB]) {
    assertEquals(detector.read(offset, 4 * KIB), null);
  }
});

test("fetches from behind the second read of a sequence, more from time to time, up to the window", () => {
  const detector = new SequenceDetector(1024 * MIB, MIB);
  detector.read(0, 64 * KIB);
  assertEquals(detector.read(64 * KIB, 64 * KIB), { offset: 128 * KIB, length: 128 * KIB });
  let fetchedTo = 256 * KIB;
  for (let offset = 128 * KIB; offset < 64 * MIB; offset += 64 * KIB) {
    const range = detector.read(offset, 64 * KIB);
    if (range === null) continue;
    assertEquals(range.offset, fetchedTo);
    fetchedTo += range.length;
    assert(fetchedTo <= offset + 64 * KIB + MIB);
  }
  assert(fetchedTo >= 64 * MIB + MIB / 2);
});

test("never goes beyond the end of the disk", () => {
  const detector = new SequenceDetector(100_000, MIB);
  detector.read(0, 40_000);
  assertEquals(detector.read(40_000, 40_000), { offset: 80_000, length: 20_000 });
  assertEquals(detector.read(80_000, 20_000), null);
});

test("tells several readers apart", () => {
  const detector = new SequenceDetector(1024 * MIB, MIB);
  const fetched = [0, 0, 0];
  for (let step = 0; step < 100; step++) {
    for (const reader of [0, 1, 2]) {
      const range = detector.read(reader * 100 * MIB + step * 4 * KIB, 4 * KIB);
      fetched[reader] += range?.length ?? 0;
    }
  }
  for (const bytes of fetched) assert(bytes > 400 * KIB, String(fetched));
});

test("forgives requests of a sequence that overtake each other", () => {
  const detector = new SequenceDetector(1024 * MIB, MIB);
  const order = [0, 1, 3, 2, 4, 6, 5, 7, 8];
  const fetched = order.map((block) => detector.read(block * 16 * KIB, 16 * KIB)?.length ?? 0);
  assert(fetched.reduce((sum, bytes) => sum + bytes) > 256 * KIB);
});

test("fetches nothing with a window of 0", () => {
  const detector = new SequenceDetector(MIB, 0);
  for (let offset = 0; offset < MIB; offset += 4096) assertEquals(detector.read(offset, 4096), null);
});
