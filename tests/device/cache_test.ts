import { assert, assertEquals, assertRejects } from "@std/assert";
import { CacheDisk, type CacheOptions } from "../../src/device/cache.ts";
import { MemoryStore } from "../../src/device/cache_memory.ts";
import { DeviceError } from "../../src/device/device_error.ts";
import { FaultDisk } from "../../src/device/fault.ts";
import { MemoryDisk } from "../../src/device/memory.ts";
import { ManualClock } from "../testing/manual_clock.ts";
import { randomFrom } from "../testing/random.ts";
import { conformance } from "./conformance.ts";

const BLOCK = 4096;
const noMore = () => Promise.resolve();

conformance("CacheDisk over a disk that answers at once", {
  open: (sizeBytes) =>
    Promise.resolve({
      disk: new CacheDisk(new MemoryDisk(sizeBytes), new MemoryStore(256 * 1024, BLOCK)),
      [Symbol.asyncDispose]: noMore,
    }),
}, "none");

conformance("CacheDisk over a disk that answers late and out of order", {
  open(sizeBytes) {
    const disk = new FaultDisk(new MemoryDisk(sizeBytes));
    disk.add({ skip: 3, times: 200, delayMs: 1 });
    disk.add({ delayMs: 0 });
    return Promise.resolve({
      disk: new CacheDisk(disk, new MemoryStore(2 << 20, 512), { prefetchBytes: 64 * 1024 }),
      [Symbol.asyncDispose]: noMore,
    });
  },
}, "none");

interface Stack {
  readonly memory: MemoryDisk;
  readonly slow: FaultDisk;
  readonly cache: CacheDisk;
}

/** A cache over a disk of 1 MiB whose every byte is the number of its block. */
function stack(
  { capacityBytes = 1 << 20, ...options }: CacheOptions & { capacityBytes?: number } = {},
): Stack {
  const memory = new MemoryDisk(1 << 20);
  for (let block = 0; block < 256; block++) memory.write(block * BLOCK, new Uint8Array(BLOCK).fill(block));
  const slow = new FaultDisk(memory);
  const cache = new CacheDisk(slow, new MemoryStore(capacityBytes, BLOCK), { prefetchBytes: 0, ...options });
  return { memory, slow, cache };
}

function test(name: string, fn: () => Promise<void> | void): void {
  Deno.test({ name: `CacheDisk ${name}`, permissions: "none", fn });
}

async function firstByte(cache: CacheDisk, block: number): Promise<number> {
  const into = new Uint8Array(1);
  await cache.read(block * BLOCK, into);
  return into[0];
}

test("answers what it has without a promise and without the disk", async () => {
  const { slow, cache } = stack();
  await cache.read(BLOCK, new Uint8Array(3 * BLOCK));
  const reads = slow.add({ operation: "read", errno: "EIO" });
  const into = new Uint8Array(5000);
  assertEquals(cache.read(BLOCK + 100, into), undefined);
  assertEquals([into[0], into[4999]], [1, 2]);
  assertEquals(reads.hits, 0);
});

test("asks the disk once for what several want at the same time", async () => {
  const { slow, cache } = stack();
  const held = slow.add({ operation: "read", hold: true });
  const results = [cache.read(0, new Uint8Array(BLOCK)), cache.read(100, new Uint8Array(10))];
  const long = new Uint8Array(3 * BLOCK);
  results.push(cache.read(0, long));
  assertEquals(held.held, 2); // the first block, and the two behind it
  held.release();
  await Promise.all(results);
  assertEquals([long[0], long[BLOCK], long[2 * BLOCK]], [0, 1, 2]);
  assertEquals(held.hits, 2);
});

for (const kind of ["write", "trim", "zero"] as const) {
  const change = ({ cache }: Stack): void | Promise<void> =>
    kind === "write" ? cache.write(BLOCK, new Uint8Array(BLOCK).fill(0xaa)) : cache[kind](BLOCK, BLOCK);
  const after = kind === "write" ? 0xaa : 0;

  test(`does not keep a fetch that a ${kind} overtook`, async () => {
    const all = stack();
    const { slow, cache } = all;
    const fetching = slow.add({ operation: "read", hold: true, times: 1 });
    const early = new Uint8Array(1);
    const reading = cache.read(BLOCK, early);
    const changing = change(all);
    fetching.release();
    await Promise.all([reading, changing]);
    assertEquals(early[0], 1); // it was there before the change
    assertEquals(await firstByte(cache, 1), after);
    assertEquals(cache.counts.discardedFetches, 1);
  });

  test(`does not keep a fetch that begins during a ${kind}`, async () => {
    const all = stack();
    const { memory, slow, cache } = all;
    const held = slow.add({ operation: kind, hold: true });
    const changing = change(all);
    const late = new Uint8Array(1);
    const reading = cache.read(BLOCK, late);
    held.release();
    await Promise.all([changing, reading]);
    assertEquals(late[0], after);
    // Somebody could have answered it with what was there before: so it must be asked again.
    memory.write(BLOCK, new Uint8Array([0x55]));
    assertEquals(await firstByte(cache, 1), 0x55);
  });

  test(`forgets what it had when a ${kind} begins, not when it ends`, async () => {
    const all = stack();
    const { slow, cache } = all;
    assertEquals(await firstByte(cache, 1), 1);
    const held = slow.add({ operation: kind, hold: true });
    const changing = change(all);
    const into = new Uint8Array(1);
    const reading = cache.read(BLOCK, into);
    assert(reading instanceof Promise);
    held.release();
    await Promise.all([changing, reading]);
    assertEquals(into[0], after);
  });
}

test("does not let a reader that comes after a write join a fetch from before it", async () => {
  const { slow, cache } = stack();
  const fetching = slow.add({ operation: "read", hold: true });
  const before = new Uint8Array(1);
  const first = cache.read(0, before);
  const writing = cache.write(0, new Uint8Array([0x77]));
  const behind = new Uint8Array(1);
  const second = cache.read(0, behind);
  fetching.remove();
  await Promise.all([first, writing, second]);
  assertEquals([before[0], behind[0]], [0, 0x77]);
});

test("keeps the neighbours of what is written", async () => {
  const { slow, cache } = stack();
  await cache.read(0, new Uint8Array(3 * BLOCK));
  await cache.write(BLOCK, new Uint8Array(10));
  const reads = slow.add({ operation: "read", delayMs: 0 });
  assertEquals([await firstByte(cache, 0), await firstByte(cache, 2)], [0, 2]);
  assertEquals(reads.hits, 0);
});

test("gives an error of the disk to all who wait for that fetch, and keeps nothing", async () => {
  const { slow, cache } = stack();
  const failing = slow.add({ operation: "read", errno: "EIO", delayMs: 0 });
  const reads = [cache.read(0, new Uint8Array(10)), cache.read(20, new Uint8Array(10))];
  for (const read of reads) await assertRejects(async () => await read, DeviceError, "EIO");
  failing.remove();
  assertEquals(await firstByte(cache, 0), 0);
});

test("fails nobody for a neighbour's bad block", async () => {
  const { slow, cache } = stack();
  slow.add({ operation: "read", errno: "EIO", range: { offset: 2000, length: 100 } });
  assertEquals(await firstByte(cache, 0), 0);
  await assertRejects(async () => await cache.read(1000, new Uint8Array(2000)), DeviceError, "EIO");
});

test("passes the errors of changes and flushes on", async () => {
  const { slow, cache } = stack();
  slow.add({ errno: "ENOSPC", delayMs: 0 });
  await assertRejects(async () => await cache.write(0, new Uint8Array(1)), DeviceError, "ENOSPC");
  await assertRejects(async () => await cache.zero(0, 1), DeviceError, "ENOSPC");
  await assertRejects(async () => await cache.trim(0, 1), DeviceError, "ENOSPC");
  await assertRejects(async () => await cache.flush(), DeviceError, "ENOSPC");
});

test("answers a write and a flush only when the disk has, and hands FUA on", async () => {
  const { slow, cache } = stack();
  const syncs = slow.add({ operation: "flush", hold: true });
  let answered = 0;
  const writing = Promise.resolve(cache.write(0, new Uint8Array(1), { fua: true })).then(() => answered++);
  const flushing = Promise.resolve(cache.flush()).then(() => answered++);
  for (let turn = 0; turn < 10; turn++) await null;
  assertEquals([answered, syncs.held], [0, 2]);
  syncs.release();
  await Promise.all([writing, flushing]);
});

test("has the next blocks of a sequence before they are asked for, none beyond the end", async () => {
  const { slow, cache } = stack({ prefetchBytes: 64 * 1024 });
  const reads = slow.add({ operation: "read", delayMs: 0 });
  let atOnce = 0;
  for (let offset = 0; offset < 1 << 20; offset += BLOCK) {
    const into = new Uint8Array(BLOCK);
    const reading = cache.read(offset, into);
    if (reading === undefined) atOnce++;
    await reading;
    assertEquals(into[0], offset / BLOCK);
  }
  assert(reads.hits < 80, `${reads.hits} requests`);
  assert(atOnce > 100, `${atOnce} at once`);
  assert(cache.counts.prefetchedBytes > 900_000);
});

test("does not fail a reader because a prefetch failed", async () => {
  const { slow, cache } = stack({ prefetchBytes: 64 * 1024 });
  slow.add({ operation: "read", errno: "EIO", range: { offset: 10 * BLOCK, length: 1 }, delayMs: 0 });
  for (let block = 0; block < 10; block++) assertEquals(await firstByte(cache, block), block);
  await assertRejects(() => firstByte(cache, 10), DeviceError);
  assertEquals(await firstByte(cache, 11), 11);
});

test("fetches a range on request", async () => {
  const { slow, cache } = stack();
  await cache.cache(0, 8 * BLOCK);
  slow.add({ operation: "read", errno: "EIO" });
  assertEquals(cache.read(0, new Uint8Array(8 * BLOCK)), undefined);
});

test("keeps no more than its capacity, and not what is as large as itself", async () => {
  const { slow, cache } = stack({ capacityBytes: 64 * 1024 });
  const reads = slow.add({ operation: "read", delayMs: 0 });
  for (let block = 0; block < 256; block++) await firstByte(cache, block);
  assertEquals(cache.keptBytes, 64 * 1024);
  await cache.read(0, new Uint8Array(1 << 20));
  assertEquals(reads.hits, 257);
  assertEquals(await firstByte(cache, 255), 255);
  assertEquals(reads.hits, 257);
});

test("waits at its close for what is under way, and reads nothing afterwards", async () => {
  const { slow, cache } = stack();
  slow.add({ operation: "read", hold: true });
  const reading = cache.read(0, new Uint8Array(1));
  await cache.close();
  await reading;
  assertEquals(cache.keptBytes, 0);
});

test("never shows an old block while reads, changes and failures race", async () => {
  for (let round = 0; round < 30; round++) {
    const random = randomFrom();
    const clock = new ManualClock();
    const memory = new MemoryDisk(32 * BLOCK);
    const slow = new FaultDisk(memory, { clock });
    slow.add({ skip: random.below(10), times: 40, delayMs: 1 + random.below(5) });
    slow.add({ operation: "read", skip: 20, times: 3, errno: "EIO", delayMs: 3 });
    slow.add({ delayMs: 2 });
    const store = new MemoryStore((1 + random.below(40)) * BLOCK, BLOCK);
    const cache = new CacheDisk(slow, store, { prefetchBytes: random.below(2) * 8 * BLOCK });
    /** The last write of each block that was answered, and the last that was begun. */
    const answered = new Uint8Array(32);
    const begun = new Uint8Array(32);
    const running = new Set<Promise<unknown>>();
    const track = (work: Promise<unknown>) => {
      running.add(work);
      void work.finally(() => running.delete(work));
    };
    for (let step = 0; step < 200; step++) {
      const block = random.below(32);
      if (random.chance(0.3)) {
        const value = begun[block] = begun[block] + 1;
        const data = new Uint8Array(BLOCK).fill(value);
        track(
          Promise.resolve(cache.write(block * BLOCK, data)).then(() => {
            answered[block] = Math.max(answered[block], value);
          }),
        );
      } else {
        const least = answered[block];
        const into = new Uint8Array(BLOCK);
        const reading = Promise.resolve(cache.read(block * BLOCK, into));
        track(reading.then(() => {
          const where = `seed ${random.seed}, step ${step}, block ${block}`;
          assert(into[0] >= least && into[0] <= begun[block], `${where}: ${into[0]} is not from ${least}`);
          assert(into.every((byte) => byte === into[0]), `${where}: two versions in one block`);
        }, (error) => assert(error instanceof DeviceError)));
      }
      if (random.chance(0.4)) clock.advance(random.below(3));
      for (let turn = random.below(8); turn > 0; turn--) await null;
    }
    while (running.size > 0) {
      clock.advance(1);
      for (let turn = 0; turn < 8; turn++) await null;
    }
    const content = new Uint8Array(32 * BLOCK);
    const whole = Promise.resolve(cache.read(0, content));
    const direct = new Uint8Array(32 * BLOCK);
    memory.read(0, direct);
    for (let turn = 0; turn < 50; turn++) {
      clock.advance(5);
      await null;
    }
    await whole;
    assertEquals(content, direct, `seed ${random.seed}`);
  }
});

test("neither reads nor shows what it keeps while others may write", async () => {
  let isAlone = true;
  const { memory, cache } = stack({ isAlone: () => isAlone });
  assertEquals(await firstByte(cache, 5), 5);
  assertEquals(cache.cachedBytes(5 * BLOCK, BLOCK)?.[0], 5);
  isAlone = false;
  memory.write(5 * BLOCK, new Uint8Array(BLOCK).fill(99));
  assertEquals(cache.cachedBytes(5 * BLOCK, BLOCK), null);
  assertEquals(await firstByte(cache, 5), 99);
});
