import { assertEquals, assertRejects } from "@std/assert";
import { crc32 } from "../../src/base/crc32.ts";
import { CheckedBlocks, type DoubtfulSource } from "../../src/device/checked_blocks.ts";
import { DeviceError } from "../../src/device/device_error.ts";
import { randomFrom } from "../testing/random.ts";

const MIB = 1 << 20;
const BLOCK_BYTES = 2 * MIB;
const SIZE = 5 * BLOCK_BYTES + MIB + 123;
const RIGHT = randomFrom(5).bytes(SIZE);
const CONTENT = {
  sizeBytes: SIZE,
  blockBytes: BLOCK_BYTES,
  checksums: Uint32Array.from(
    { length: 6 },
    (_, index) => crc32(RIGHT.subarray(index * BLOCK_BYTES, (index + 1) * BLOCK_BYTES)),
  ),
};

/** Sources `a`, `b` …, of which the first that is believed answers. */
class Sources implements DoubtfulSource {
  readonly asked: number[] = [];
  readonly distrusted = new Set<string>();
  /** What each makes of the right bytes. */
  readonly lies = new Map<string, (offset: number, bytes: Uint8Array) => void>();
  /** Everybody waits for this. */
  gate: Promise<void> = Promise.resolve();

  constructor(readonly names: string) {}

  async fetch(offset: number, into: Uint8Array): Promise<string> {
    this.asked.push(offset);
    await this.gate;
    const name = [...this.names].find((name) => !this.distrusted.has(name));
    if (name === undefined) throw new DeviceError("EIO", "read");
    into.set(RIGHT.subarray(offset, offset + into.length));
    this.lies.get(name)?.(offset, into);
    return name;
  }

  distrust(source: string): void {
    this.distrusted.add(source);
  }
}

function flipAt(place: number) {
  return (offset: number, bytes: Uint8Array) => {
    if (offset <= place && place < offset + bytes.length) bytes[place - offset] ^= 1;
  };
}

async function read(blocks: CheckedBlocks, offset: number, length: number): Promise<void> {
  const into = new Uint8Array(length);
  await blocks.read(offset, into);
  assertEquals(into, RIGHT.subarray(offset, offset + length), `${length} bytes at ${offset}`);
}

Deno.test("CheckedBlocks give any range, across blocks and up to an odd end", async () => {
  const blocks = new CheckedBlocks(new Sources("a"), CONTENT, 2);
  for (const [offset, length] of [[0, SIZE], [BLOCK_BYTES - 1, 2], [SIZE - 1, 1], [17, 0], [MIB, 3 * MIB]]) {
    await read(blocks, offset, length);
  }
});

Deno.test("CheckedBlocks fetch a block once for all who wait for it, and keep the last few", async () => {
  const sources = new Sources("a");
  const blocks = new CheckedBlocks(sources, CONTENT, 2);
  await Promise.all(Array.from({ length: 20 }, (_, index) => read(blocks, 20 - index, 10)));
  assertEquals(sources.asked, [0, MIB]);
  await read(blocks, BLOCK_BYTES + 5, 1);
  await read(blocks, 5, 1);
  assertEquals(sources.asked.length, 4);
  // The block that was used last stays.
  await read(blocks, 2 * BLOCK_BYTES + 5, 1);
  await read(blocks, 9, 1);
  assertEquals(sources.asked.length, 6);
});

Deno.test("CheckedBlocks have no more blocks on their way than they may keep", async () => {
  const sources = new Sources("a");
  const gate = Promise.withResolvers<void>();
  sources.gate = gate.promise;
  const blocks = new CheckedBlocks(sources, CONTENT, 2);
  const reads = [0, 1, 2, 3, 4, 5].map((index) => read(blocks, index * BLOCK_BYTES, 10));
  assertEquals(sources.asked, [0, MIB, BLOCK_BYTES, BLOCK_BYTES + MIB]);
  gate.resolve();
  await Promise.all(reads);
});

Deno.test("CheckedBlocks take a block that does not fit from the next source, and name the liar", async () => {
  const sources = new Sources("abc");
  sources.lies.set("a", flipAt(MIB + 7));
  sources.lies.set("b", flipAt(3));
  const blocks = new CheckedBlocks(sources, CONTENT, 2);
  await read(blocks, 100, 100);
  assertEquals([...sources.distrusted], ["a", "b"]);
  assertEquals(blocks.mismatches, 2);
});

Deno.test("CheckedBlocks blame nobody for a block of two sources, and fetch it again", async () => {
  const sources = new Sources("a");
  let count = 0;
  const fetch = sources.fetch.bind(sources);
  sources.fetch = async (offset, into) => {
    await fetch(offset, into);
    if (count++ === 0) into[0] ^= 1;
    return count === 2 ? "b" : "a";
  };
  await read(new CheckedBlocks(sources, CONTENT, 2), 100, 100);
  assertEquals([...sources.distrusted], []);
});

Deno.test("CheckedBlocks fail rather than give what does not fit, and try again when asked again", async () => {
  const sources = new Sources("a");
  sources.lies.set("a", flipAt(3));
  const blocks = new CheckedBlocks(sources, CONTENT, 1);
  const into = new Uint8Array(10);
  await assertRejects(() => blocks.read(100, into), DeviceError, "EIO");
  assertEquals(into, new Uint8Array(10));
  // Blocks that are right are given as long as somebody gives them.
  sources.distrusted.clear();
  await read(blocks, BLOCK_BYTES, 10);
  sources.lies.clear();
  await read(blocks, 100, 10);
});

Deno.test("CheckedBlocks give up a block that never fits although it has sources without end", async () => {
  const sources = new Sources("a");
  sources.distrust = () => {};
  sources.lies.set("a", flipAt(3));
  const blocks = new CheckedBlocks(sources, CONTENT, 1);
  await assertRejects(() => blocks.read(0, new Uint8Array(1)), DeviceError, "whoever sends it");
});

Deno.test("CheckedBlocks read ahead for who reads in order, and for nobody else", async () => {
  const sources = new Sources("a");
  const blocks = new CheckedBlocks(sources, CONTENT, 3);
  await read(blocks, 0, MIB);
  await read(blocks, 3 * MIB - 5, 5);
  assertEquals(sources.asked.length, 4);
  const others = new Sources("a");
  const inOrder = new CheckedBlocks(others, CONTENT, 3);
  await read(inOrder, 0, MIB + 5);
  await read(inOrder, MIB + 5, 5);
  assertEquals(others.asked, [0, MIB, BLOCK_BYTES, BLOCK_BYTES + MIB]);
});
