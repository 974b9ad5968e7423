import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { DeviceError } from "../../src/device/device_error.ts";
import { FaultDisk } from "../../src/device/fault.ts";
import { MemoryDisk } from "../../src/device/memory.ts";
import { StickySync } from "../../src/device/sticky_sync.ts";
import { VolatileDisk } from "../testing/volatile_disk.ts";
import { ManualClock } from "../testing/manual_clock.ts";
import { randomFrom } from "../testing/random.ts";
import { conformance } from "./conformance.ts";

const KIB = 1024;

function disposable<Disk>(disk: Disk) {
  return Promise.resolve({ disk, [Symbol.asyncDispose]: () => Promise.resolve() });
}

conformance("FaultDisk without rules", {
  open: (sizeBytes) => disposable(new FaultDisk(new MemoryDisk(sizeBytes))),
}, "none");
conformance("FaultDisk that delays some", {
  open(sizeBytes) {
    const disk = new FaultDisk(new MemoryDisk(sizeBytes));
    disk.add({ operation: "write", range: { offset: 0, length: sizeBytes / 2 }, delayMs: 1 });
    disk.add({ operation: "read", skip: 5, times: 50, delayMs: 0 });
    return disposable(disk);
  },
}, "none");
conformance("VolatileDisk", {
  open: (sizeBytes) => disposable(new VolatileDisk(new MemoryDisk(sizeBytes))),
}, "none");
conformance("StickySync", {
  open: (sizeBytes) => disposable(new StickySync(new MemoryDisk(sizeBytes))),
}, "none");

function test(name: string, fn: () => void | Promise<void>): void {
  Deno.test({ name, permissions: "none", fn });
}

async function errnoOf(call: () => unknown): Promise<string> {
  return (await assertRejects(async () => void await call(), DeviceError)).errno;
}

test("FaultDisk fails the operations that a rule names, and no others", async () => {
  const disk = new FaultDisk(new MemoryDisk(64 * KIB));
  const fault = disk.add({
    operation: "write",
    range: { offset: 4096, length: 4096 },
    skip: 1,
    times: 2,
    errno: "ENOSPC",
  });
  const touching = () => disk.write(8000, new Uint8Array(500).fill(1));
  disk.write(0, new Uint8Array(4096));
  disk.write(8192, new Uint8Array(4096));
  touching();
  assertEquals([await errnoOf(touching), await errnoOf(touching)], ["ENOSPC", "ENOSPC"]);
  touching();
  disk.read(4096, new Uint8Array(4096));
  assertEquals(fault.hits, 2);
});

test("FaultDisk holds cold reads back by the clock, and nobody else", async () => {
  const clock = new ManualClock();
  const disk = new FaultDisk(new MemoryDisk(64 * KIB), { clock });
  disk.add({ operation: "read", range: { offset: 0, length: 4096 }, delayMs: 50 });
  let ended = false;
  const cold = (disk.read(0, new Uint8Array(512)) as Promise<void>).then(() => ended = true);
  assertEquals(disk.read(4096, new Uint8Array(512)), undefined);
  assertEquals(disk.write(8192, new Uint8Array(512)), undefined);
  clock.advance(49);
  await Promise.resolve();
  assertEquals([ended, clock.timers], [false, 1]);
  clock.advance(1);
  await cold;
});

test("FaultDisk answers out of order, but never turns overlapping operations round", async () => {
  const disk = new FaultDisk(new MemoryDisk(64 * KIB));
  const hold = disk.add({ operation: "write", times: 1, hold: true });
  const first = disk.write(0, new Uint8Array(4096).fill(1));
  assertEquals(disk.write(4096, new Uint8Array(512).fill(2)), undefined);
  const second = disk.write(100, new Uint8Array(1).fill(3));
  const seen = new Uint8Array(200);
  const read = disk.read(0, seen);
  assert(second instanceof Promise && read instanceof Promise);
  assertEquals(hold.held, 1);
  hold.release();
  await Promise.all([first, second, read]);
  assertEquals([seen[99], seen[100], seen[101]], [1, 3, 1]);
});

test("a flush that fails once is remembered: flushes and changes fail with EIO, reads go on", async () => {
  const told: string[] = [];
  const faulty = new FaultDisk(new MemoryDisk(64 * KIB));
  const disk = new StickySync(faulty, (reason) => told.push(reason));
  faulty.add({ operation: "flush", times: 1, errno: "ENOSPC" });
  disk.write(0, new Uint8Array(512).fill(1));
  assertEquals(disk.syncFailure, null);
  assertEquals(await errnoOf(() => disk.flush()), "ENOSPC");
  const calls = [
    () => disk.flush(),
    () => disk.write(0, new Uint8Array(512)),
    () => disk.trim(0, 512),
    () => disk.zero(0, 512),
  ];
  for (const call of calls) assertEquals(await errnoOf(call), "EIO");
  const content = new Uint8Array(1);
  disk.read(0, content);
  assertEquals(content[0], 1);
  assertStringIncludes(disk.syncFailure!, "cannot flush: ENOSPC");
  assertEquals(told, [disk.syncFailure]);
});

test("a write with fua remembers a failed sync, and does not take a failed write for one", async () => {
  const faulty = new FaultDisk(new MemoryDisk(64 * KIB));
  const disk = new StickySync(faulty);
  faulty.add({ operation: "write", times: 1, errno: "ENOSPC" });
  assertEquals(await errnoOf(() => disk.write(0, new Uint8Array(512), { fua: true })), "ENOSPC");
  assertEquals(disk.syncFailure, null);
  faulty.add({ operation: "flush", times: 1, errno: "EIO" });
  assertEquals(await errnoOf(() => disk.write(0, new Uint8Array(512), { fua: true })), "EIO");
  assertEquals(await errnoOf(() => disk.write(0, new Uint8Array(512))), "EIO");
});

test("a flush does not succeed when another one failed while it ran", async () => {
  const faulty = new FaultDisk(new MemoryDisk(64 * KIB));
  const disk = new StickySync(faulty);
  const slow = faulty.add({ operation: "flush", times: 1, hold: true });
  faulty.add({ operation: "flush", times: 1, errno: "EIO" });
  const first = disk.flush() as Promise<void>;
  assertEquals(await errnoOf(() => disk.flush()), "EIO");
  slow.release();
  assertEquals(await errnoOf(() => first), "EIO");
});

test("VolatileDisk loses on a crash what was not flushed, and nothing else", async () => {
  const disk = new VolatileDisk(new MemoryDisk(64 * KIB));
  const fill = (byte: number) => new Uint8Array(512).fill(byte);
  disk.write(0, fill(1));
  disk.flush();
  disk.write(0, fill(2));
  disk.write(512, fill(3), { fua: true });
  disk.write(1024, fill(4));
  assertEquals(disk.unflushedChanges, 2);
  const left = disk.crash();
  const content = new Uint8Array(1536);
  left.read(0, content);
  assertEquals([content[0], content[512], content[1024]], [1, 3, 0]);
  assertEquals(await errnoOf(() => disk.read(0, content)), "ESHUTDOWN");
});

test("VolatileDisk may keep what was not flushed, but never over what was durable", () => {
  const random = randomFrom();
  for (let round = 0; round < 50; round++) {
    const disk = new VolatileDisk(new MemoryDisk(16));
    const history: { value: number; durable: boolean }[] = [{ value: 0, durable: true }];
    for (let step = 1; step < 20; step++) {
      const fua = random.chance(0.2);
      disk.write(0, new Uint8Array([step]), { fua });
      history.push({ value: step, durable: fua });
      if (random.chance(0.1)) {
        disk.flush();
        history.at(-1)!.durable = true;
      }
    }
    const content = new Uint8Array(1);
    disk.crash(() => random.chance(0.5)).read(0, content);
    const possible = history.slice(history.findLastIndex(({ durable }) => durable)).map(({ value }) => value);
    assert(
      possible.includes(content[0]),
      `seed ${random.seed}: ${content[0]} after ${JSON.stringify(history)}`,
    );
  }
});
