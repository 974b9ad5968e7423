import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { MemoryDisk } from "../../src/device/memory.ts";
import { temporaryDirectory } from "../testing/process.ts";
import { listenDisk } from "../testing/served_disk.ts";
import { denbd } from "./fake_surroundings.ts";

/** A memory disk that keeps the offsets it was asked for. */
function tracingDisk(sizeBytes: number) {
  const disk = new MemoryDisk(sizeBytes);
  const offsets: number[] = [];
  const read = disk.read.bind(disk);
  disk.read = (offset, into) => {
    offsets.push(offset);
    read(offset, into);
  };
  return { disk, offsets };
}

Deno.test("B1: bench reads as many blocks of each disk as it is told, over as many connections", async () => {
  const { disk, offsets } = tracingDisk(1 << 20);
  await using served = listenDisk(disk);
  const { code, out, stderr } = await denbd(
    "bench",
    "-n",
    "100",
    "-t",
    "3",
    "--depth",
    "4",
    "--json",
    served.uri,
    served.uri,
  );
  assertEquals([code, stderr, offsets.length], [0, "", 200]);
  for (const result of JSON.parse(out)) {
    assertEquals([result.attempts, result.succeeded, result.failed], [100, 100, 0]);
    const { p50, p90, p99, p999, max } = result.latencyUs;
    assert(0 < p50 && p50 <= p90 && p90 <= p99 && p99 <= p999 && p999 <= max);
  }
});

Deno.test("B1: with --reconnect every block has a connection of its own", async () => {
  const { disk, offsets } = tracingDisk(1 << 20);
  await using served = listenDisk(disk);
  const { code, out } = await denbd("bench", "--reconnect", "-n", "20", served.uri);
  assertEquals([code, offsets.length], [0, 20]);
  assertStringIncludes(out, "attempts: 20, succeeded: 20, failed: 0");
});

Deno.test("B2: a disk that is not there counts as failures, the others are read, and the exit code is 1", async () => {
  const { disk, offsets } = tracingDisk(1 << 20);
  await using served = listenDisk(disk);
  using directory = temporaryDirectory();
  const { code, out } = await denbd("bench", "-n", "10", directory.file("nosuch"), served.uri);
  assertEquals([code, offsets.length], [1, 10]);
  assertStringIncludes(out, "attempts: 1, succeeded: 0, failed: 1");
  assertStringIncludes(out, "first failure: ");
});

Deno.test("B2: a read that fails counts as one", async () => {
  const { disk } = tracingDisk(1 << 20);
  let reads = 0;
  const read = disk.read.bind(disk);
  disk.read = (offset, into) => {
    if (++reads % 2 === 0) throw new Error("no");
    read(offset, into);
  };
  await using served = listenDisk(disk);
  const { code, out } = await denbd("bench", "-n", "10", "--json", served.uri);
  const [result] = JSON.parse(out);
  assertEquals([code, result.succeeded, result.failed], [1, 5, 5]);
});

Deno.test("B3: offsets are random, unaligned and inside the disk, or one block after the other", async () => {
  const { disk, offsets } = tracingDisk(100_000);
  await using served = listenDisk(disk);
  await denbd("bench", "-n", "200", "-b", "1000", served.uri);
  assert(offsets.every((offset) => offset >= 0 && offset <= 99_000));
  assert(offsets.some((offset) => offset % 512 !== 0) && new Set(offsets).size > 100);
  offsets.length = 0;
  await denbd("bench", "-n", "5", "-b", "40000", "--sequential", served.uri);
  assertEquals(offsets, [0, 40_000, 0, 40_000, 0]);
});

Deno.test("B3: a block as long as the disk is read, a longer one is refused", async () => {
  const { disk, offsets } = tracingDisk(4096);
  await using served = listenDisk(disk);
  assertEquals((await denbd("bench", "-n", "3", served.uri)).code, 0);
  assertEquals(offsets, [0, 0, 0]);
  const { code, out } = await denbd("bench", "-b", "4097", served.uri);
  assertEquals(code, 1);
  assertStringIncludes(out, "a block of 4097 bytes is longer than the disk, 4096 bytes");
});
