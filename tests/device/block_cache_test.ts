import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { FileStore, type FileStoreOptions } from "../../src/device/block_cache.ts";
import { openCacheFile } from "../../src/device/block_cache_file.ts";
import { blocksOffset, cacheFileBytes, type CacheSubject } from "../../src/device/block_cache_map.ts";
import { CacheDisk } from "../../src/device/cache.ts";
import type { BlockDevice } from "../../src/device/device.ts";
import { DeviceError } from "../../src/device/device_error.ts";
import { FaultDisk } from "../../src/device/fault.ts";
import { MemoryDisk } from "../../src/device/memory.ts";
import { VolatileDisk } from "../testing/volatile_disk.ts";
import { ManualClock } from "../testing/manual_clock.ts";
import { temporaryDirectory } from "../testing/process.ts";
import { randomFrom } from "../testing/random.ts";
import { conformance } from "./conformance.ts";

const BLOCK = 4096;
const BLOCKS = 64;
const SIZE = BLOCKS * BLOCK - 1000;
const subject: CacheSubject = { sizeBytes: SIZE, blockBytes: BLOCK, identity: "disk A, generation 1" };
const NOTE_MS = 1000;

function subjectOf(sizeBytes: number): CacheSubject {
  return { sizeBytes, blockBytes: BLOCK, identity: "a test" };
}

for (const delays of [false, true]) {
  conformance(`CacheDisk with a file${delays ? " that answers late" : ""}`, {
    async open(sizeBytes) {
      const clock = new ManualClock();
      const memory = new MemoryDisk(cacheFileBytes(subjectOf(sizeBytes)));
      const file = new FaultDisk(memory);
      const store = await FileStore.open(file, subjectOf(sizeBytes), { clock });
      const disk = new FaultDisk(new MemoryDisk(sizeBytes));
      if (delays) {
        file.add({ skip: 5, times: 100, delayMs: 1 });
        file.add({ delayMs: 0 });
        disk.add({ delayMs: 0 });
      }
      return {
        disk: new CacheDisk(disk, store, { prefetchBytes: 16 * BLOCK }),
        [Symbol.asyncDispose]: () => Promise.resolve(),
      };
    },
  }, "none");
}

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name: name.replace(/^(rule \d+: )?/, "$1FileStore "), permissions: "none", fn });
}

/** A disk whose every byte is the number of its block, and a cache file on storage that forgets what is not synced. */
class Scene {
  readonly disk = new MemoryDisk(SIZE);
  readonly slow = new FaultDisk(this.disk);
  medium = new MemoryDisk(cacheFileBytes(subject));
  file!: VolatileDisk;
  faults!: FaultDisk;
  clock!: ManualClock;
  store!: FileStore;
  cache!: CacheDisk;

  constructor() {
    for (let block = 0; block < BLOCKS; block++) this.disk.write(block * BLOCK, filled(block, sizeOf(block)));
  }

  static async start(): Promise<Scene> {
    const scene = new Scene();
    await scene.restart();
    return scene;
  }

  /** Starts with what is on the medium. */
  async restart(other: Partial<CacheSubject> = {}, options: FileStoreOptions = {}): Promise<void> {
    this.file = new VolatileDisk(this.medium);
    this.faults = new FaultDisk(this.file);
    this.clock = new ManualClock();
    this.store = await FileStore.open(this.faults, { ...subject, ...other }, {
      clock: this.clock,
      ...options,
    });
    this.cache = new CacheDisk(this.slow, this.store, { prefetchBytes: 0 });
  }

  /** Power is lost, and comes back. */
  async crash(keeps?: (change: number) => boolean): Promise<void> {
    this.medium = this.file.crash(keeps);
    await this.restart();
  }

  async read(block: number): Promise<Uint8Array> {
    const into = new Uint8Array(sizeOf(block));
    await this.cache.read(block * BLOCK, into);
    return into;
  }

  /** Until the map has what was put. */
  async note(): Promise<void> {
    this.clock.advance(NOTE_MS);
    await settle();
  }

  kept(): number[] {
    return Array.from({ length: BLOCKS }, (_, block) => block).filter((block) => this.store.has(block));
  }
}

const sizeOf = (block: number) => Math.min(BLOCK, SIZE - block * BLOCK);
const filled = (value: number, length = BLOCK) => new Uint8Array(length).fill(value);

async function settle(): Promise<void> {
  for (let turn = 0; turn < 50; turn++) await null;
}

test("has after a restart what it had, without the disk, the short last block included", async () => {
  const scene = await Scene.start();
  for (const block of [0, 5, BLOCKS - 1]) await scene.read(block);
  await scene.note();
  await scene.crash();
  assertEquals(scene.kept(), [0, 5, BLOCKS - 1]);
  scene.slow.add({ operation: "read", errno: "EIO" });
  for (const block of [0, 5, BLOCKS - 1]) assertEquals(await scene.read(block), filled(block, sizeOf(block)));
});

test("has after a close everything, and reads from what it compared once", async () => {
  const scene = await Scene.start();
  for (let block = 0; block < BLOCKS; block++) await scene.read(block);
  await scene.store.close();
  await scene.restart();
  assertEquals(scene.kept().length, BLOCKS);
  for (let round = 0; round < 2; round++) {
    for (let block = 0; block < BLOCKS; block++) assertEquals((await scene.read(block))[0], block);
  }
});

test("notes nothing before it is durable", async () => {
  const scene = await Scene.start();
  await scene.read(3);
  const changes = scene.file.unflushedChanges;
  const syncs = scene.faults.add({ operation: "flush", hold: true });
  await scene.note();
  assertEquals(syncs.held, 1);
  // The block is lost, and what was written after it is not: a note would be the only thing there.
  await scene.crash((change) => change >= changes);
  assertEquals(scene.kept(), []);
});

test("rule 14: has forgotten durably what is written before the write goes to the disk", async () => {
  const scene = await Scene.start();
  await scene.read(3);
  await scene.note();
  const syncs = scene.faults.add({ operation: "flush", hold: true });
  const writes = scene.slow.add({ operation: "write", delayMs: 0 });
  const writing = Promise.resolve(scene.cache.write(3 * BLOCK, filled(0xaa, 10)));
  await settle();
  assertEquals([syncs.held, writes.hits], [1, 0]);
  syncs.remove();
  await writing;
  assertEquals(writes.hits, 1);
  await scene.crash();
  assertEquals(scene.kept(), []);
  assertEquals((await scene.read(3)).slice(0, 11), new Uint8Array([...filled(0xaa, 10), 3]));
});

test("keeps nothing that a crash of the disk could set back: only what was flushed", async () => {
  const scene = await Scene.start();
  await scene.cache.write(3 * BLOCK, filled(0xaa));
  scene.slow.add({ operation: "write", delayMs: 0 });
  await scene.cache.write(4 * BLOCK, filled(0xaa));
  for (const block of [2, 3, 4]) await scene.read(block);
  assertEquals(scene.kept(), [2]);
  // A write that is answered after the flush has begun is not covered by it.
  const syncs = scene.slow.add({ operation: "flush", hold: true });
  const flushing = scene.cache.flush();
  await scene.cache.write(4 * BLOCK, filled(0xbb));
  syncs.release();
  await flushing;
  for (const block of [3, 4]) await scene.read(block);
  assertEquals(scene.kept(), [2, 3]);
  const failing = scene.slow.add({ operation: "flush", errno: "EIO", delayMs: 0 });
  syncs.remove();
  await assertRejects(async () => await scene.cache.flush(), DeviceError);
  await scene.read(4);
  assertEquals(scene.kept(), [2, 3]);
  failing.remove();
  await scene.cache.flush();
  assertEquals(await scene.read(4), filled(0xbb));
  assertEquals(scene.kept(), [2, 3, 4]);
});

test("makes a second write to the same block wait for the first one's forgetting", async () => {
  const scene = await Scene.start();
  await scene.read(3);
  await scene.note();
  const syncs = scene.faults.add({ operation: "flush", hold: true });
  const writes = scene.slow.add({ operation: "write", delayMs: 0 });
  const writing = [scene.cache.write(3 * BLOCK, filled(0xaa, 10))];
  await settle();
  assertEquals(syncs.held, 1);
  writing.push(scene.cache.write(3 * BLOCK + 100, filled(0xbb, 10)));
  await settle();
  assertEquals(writes.hits, 0);
  syncs.remove();
  await Promise.all(writing);
});

test("rule 14: shows nothing old after kill -9 at any moment around a write", async () => {
  const random = randomFrom();
  for (let round = 0; round < 300; round++) {
    const scene = await Scene.start();
    const where = `seed ${random.seed}, round ${round}`;
    for (let step = 0; step < 20; step++) {
      const block = random.below(8);
      if (random.chance(0.5)) assertEquals((await scene.read(block)).length, sizeOf(block));
      else {void Promise.resolve(scene.cache.write(block * BLOCK + random.below(50), random.bytes(100)))
          .catch(() => {});}
      if (random.chance(0.3)) scene.clock.advance(NOTE_MS);
      for (let turn = random.below(12); turn > 0; turn--) await null;
    }
    // Nothing of what runs reaches the disk any more.
    scene.slow.add({ errno: "ESHUTDOWN" });
    scene.medium = scene.file.crash(random.chance(0.5) ? () => random.chance(0.5) : undefined);
    await settle();
    const disk = new MemoryDisk(SIZE);
    const content = new Uint8Array(SIZE);
    scene.disk.read(0, content);
    disk.write(0, content);
    const store = await FileStore.open(scene.medium, subject);
    const cache = new CacheDisk(disk, store, { prefetchBytes: 0 });
    for (let block = 0; block < 8; block++) {
      const into = new Uint8Array(BLOCK);
      await cache.read(block * BLOCK, into);
      assertEquals(into, content.slice(block * BLOCK, (block + 1) * BLOCK), `${where}, block ${block}`);
    }
  }
});

test("never gives wrong data for any damage to the file", async () => {
  const whole = await Scene.start();
  for (let block = 0; block < BLOCKS; block++) await whole.read(block);
  await whole.store.close();
  const random = randomFrom();
  const bytes = new Uint8Array(whole.medium.sizeBytes);
  whole.file.read(0, bytes);
  for (let round = 0; round < 200; round++) {
    const damaged = bytes.slice();
    const inMap = random.chance(0.6);
    const limit = inMap ? blocksOffset(subject) : damaged.length;
    for (let hit = 1 + random.below(4); hit > 0; hit--) damaged[random.below(limit)] ^= 1 << random.below(8);
    if (random.chance(0.2)) damaged.fill(0, random.below(damaged.length)); // cut off, and made its size again
    const medium = new MemoryDisk(damaged.length);
    medium.write(0, damaged);
    const store = await FileStore.open(medium, subject);
    const cache = new CacheDisk(whole.disk, store, { prefetchBytes: 0 });
    for (let block = 0; block < BLOCKS; block++) {
      const into = new Uint8Array(sizeOf(block));
      await cache.read(block * BLOCK, into);
      assert(into.every((byte) => byte === block), `seed ${random.seed}, round ${round}, block ${block}`);
    }
  }
});

test("takes nothing from a damaged page of the map", async () => {
  const scene = await Scene.start();
  for (let block = 0; block < BLOCKS; block++) await scene.read(block);
  await scene.store.close();
  const bit = new Uint8Array(1);
  scene.medium.read(4096 + 4 * 200, bit);
  scene.medium.write(4096 + 4 * 200, new Uint8Array([bit[0] ^ 4]));
  await scene.restart();
  assertEquals(scene.kept(), []);
});

for (
  const [what, other] of [
    ["another disk, or a later generation", { identity: "disk A, generation 2" }],
    ["a disk of another size", { sizeBytes: SIZE - BLOCK }],
    ["blocks of another size", { blockBytes: 2 * BLOCK }],
  ] as const
) {
  test(`drops what it had of ${what}, for good`, async () => {
    const scene = await Scene.start();
    await scene.read(3);
    await scene.note();
    scene.medium = scene.file.crash();
    await scene.restart(other);
    assertEquals(scene.kept(), []);
    await scene.crash();
    assertEquals(scene.kept(), []);
  });
}

test("is given up when the map cannot be written: removed first, then the write goes on", async () => {
  const scene = await Scene.start();
  let removed = 0;
  await scene.restart({}, { remove: () => Promise.resolve(void removed++) });
  await scene.read(3);
  await scene.note();
  scene.faults.add({ operation: "flush", errno: "EIO" });
  await scene.cache.write(3 * BLOCK, filled(0xaa));
  assertEquals([removed, scene.kept().length], [1, 0]);
  assertEquals(await scene.read(3), filled(0xaa));
  await scene.cache.write(4 * BLOCK, filled(0xbb));
  assertEquals(await scene.read(4), filled(0xbb));
});

test("fails the write when the map can neither be written nor removed", async () => {
  const scene = await Scene.start();
  await scene.restart({}, { remove: () => Promise.reject(new Error("no way")) });
  await scene.read(3);
  await scene.note();
  scene.faults.add({ operation: "flush", errno: "EIO" });
  await assertRejects(async () => await scene.cache.write(3 * BLOCK, filled(0xaa)), DeviceError, "no way");
  assertEquals(await scene.read(3), filled(3));
});

test("goes on without keeping when the file is full", async () => {
  const scene = await Scene.start();
  scene.faults.add({ operation: "write", errno: "ENOSPC" });
  assertEquals(await scene.read(3), filled(3));
  assertEquals(await scene.read(3), filled(3));
  assertEquals(scene.kept(), []);
});

Deno.test("a cache file is found again for the same disk, is private, and used by one program at a time", async () => {
  using directory = temporaryDirectory();
  const folder = directory.file("cache");
  const identity = { uuid: "01234567-89ab-4def-8123-456789abcdef", generation: 1, durable: true };
  const disk: BlockDevice = Object.assign(new MemoryDisk(1 << 20), { identity });
  disk.write(0, filled(7));
  const first = new CacheDisk(disk, await openCacheFile(folder, disk, "nbd://x/"), { prefetchBytes: 0 });
  await first.read(0, new Uint8Array(BLOCK));
  await assertRejects(() => openCacheFile(folder, disk, "nbd://x/"), DeviceError, "EBUSY");
  await first.close();
  const store = await openCacheFile(folder, disk, "nbd://x/");
  assert(store.has(0));
  const into = new Uint8Array(BLOCK);
  await store.read(0, 0, into);
  assertEquals(into, filled(7));
  await store.close();
  const [file] = [...Deno.readDirSync(folder)];
  assertEquals(Deno.statSync(`${folder}/${file.name}`).mode! & 0o777, 0o600);
  assertEquals(Deno.statSync(folder).mode! & 0o777, 0o700);
  const other = await openCacheFile(folder, disk, "nbd://y/");
  assert(!other.has(0));
  await other.close();
});

Deno.test("a cache file of a disk that nobody can tell from another is not trusted by the next start", async () => {
  using directory = temporaryDirectory();
  const disk: BlockDevice = new MemoryDisk(1 << 20);
  const first = new CacheDisk(disk, await openCacheFile(directory.path, disk, "nbd://x/"), {
    prefetchBytes: 0,
  });
  await first.read(0, new Uint8Array(BLOCK));
  await first.close();
  const store = await openCacheFile(directory.path, disk, "nbd://x/");
  assert(!store.has(0));
  await store.close();
});

Deno.test("rule 14: what an earlier life wrote is durable before blocks of it are kept", async () => {
  using directory = temporaryDirectory();
  const lost = new MemoryDisk(SIZE);
  const volatile = new VolatileDisk(lost);
  // Written by a proxy that was killed before anybody flushed.
  volatile.write(0, new Uint8Array(BLOCK).fill(7));
  const store = await openCacheFile(directory.path, volatile, "nbd://host/disk");
  const cache = new CacheDisk(volatile, store);
  const seen = new Uint8Array(BLOCK);
  await cache.read(0, seen);
  await cache.close();
  volatile.crash();
  const left = new Uint8Array(BLOCK);
  lost.read(0, left);
  assertEquals(left, seen);
});

Deno.test("V56: a cache file of a later version is refused, whatever its size, and stays as it is", async () => {
  using directory = temporaryDirectory();
  const disk: BlockDevice = new MemoryDisk(1 << 20);
  await (await openCacheFile(directory.path, disk, "nbd://x/")).close();
  const [{ name }] = [...Deno.readDirSync(directory.path)];
  const file = directory.file(name);
  const changed = Deno.readFileSync(file);
  new DataView(changed.buffer).setUint32(12, 2, true);
  for (const sizeBytes of [changed.length, 5000, 16]) {
    const content = changed.subarray(0, sizeBytes);
    Deno.writeFileSync(file, content);
    const error = await assertRejects(() => openCacheFile(directory.path, disk, "nbd://x/"), DeviceError);
    assertStringIncludes(error.message, `${file}: it has version 2, this program knows version 1; remove it`);
    assertEquals(Deno.readFileSync(file), content);
  }
});

Deno.test("a cache file that was cut off is made anew, and one that is none is left alone", async () => {
  using directory = temporaryDirectory();
  const disk: BlockDevice = new MemoryDisk(1 << 20);
  const first = new CacheDisk(disk, await openCacheFile(directory.path, disk, "nbd://x/"), {
    prefetchBytes: 0,
  });
  await first.read(0, new Uint8Array(BLOCK));
  await first.close();
  const [{ name }] = [...Deno.readDirSync(directory.path)];
  Deno.truncateSync(directory.file(name), 5000);
  const store = await openCacheFile(directory.path, disk, "nbd://x/");
  assert(!store.has(0));
  await store.close();
  Deno.writeTextFileSync(directory.file(name), "dear diary");
  await assertRejects(() => openCacheFile(directory.path, disk, "nbd://x/"), DeviceError, "no cache file");
  assertEquals(Deno.readTextFileSync(directory.file(name)), "dear diary");
});
