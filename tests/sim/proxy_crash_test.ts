/**
 * A proxy whose machine loses its power at random moments of copying: what was not made durable is lost in any
 * combination. The map never claims a block that is not there.
 */
import { assert, assertEquals } from "@std/assert";
import { crc32 } from "../../src/base/crc32.ts";
import type { BlockDevice } from "../../src/device/device.ts";
import { DeviceError } from "../../src/device/device_error.ts";
import { MemoryDisk } from "../../src/device/memory.ts";
import { VolatileDisk } from "../testing/volatile_disk.ts";
import { CacheMap } from "../../src/wire/dnbd3/cache_map.ts";
import { MemoryStore } from "../server/dnbd3/memory_store.ts";
import { ProxyWorld } from "../server/dnbd3/proxy_world.ts";
import { randomFrom } from "../testing/random.ts";
import { patternBytes } from "../wire/dnbd3/vectors.ts";

const SIZE = 8 * (1 << 20) + 4096;
const CRASHES = 200;

/** Each write is lost, or not, sector by sector. */
class SectorDisk extends VolatileDisk {
  constructor(medium: MemoryDisk, readonly sectorBytes: number) {
    super(medium);
  }

  override write(offset: number, data: Uint8Array): void {
    for (let at = 0; at < data.length; at += this.sectorBytes) {
      super.write(offset + at, data.subarray(at, at + this.sectorBytes));
    }
  }
}

/** Files on a disk with a cache that a crash empties. Directories are synced by those who change them. */
class CrashingStore extends MemoryStore {
  #crashed = false;

  override put(path: string, content: BlockDevice | Uint8Array): void {
    if (content instanceof SectorDisk) return super.put(path, content);
    const medium = content instanceof MemoryDisk ? content : new MemoryDisk((content as Uint8Array).length);
    if (content instanceof Uint8Array) medium.write(0, content);
    super.put(path, new SectorDisk(medium, path.endsWith(".map") ? 512 : 4096));
  }

  override create(...parameters: Parameters<MemoryStore["create"]>): Promise<void> {
    this.#check();
    return super.create(...parameters);
  }

  override writeSmall(path: string, bytes: Uint8Array): Promise<void> {
    this.#check();
    return super.writeSmall(path, bytes);
  }

  override remove(path: string): Promise<void> {
    this.#check();
    return super.remove(path);
  }

  /** Ends this store. Returns what a restart finds. */
  crash(keeps: () => boolean): CrashingStore {
    this.#crashed = true;
    const found = new CrashingStore();
    for (const [path, { disk }] of this.files) found.put(path, (disk as SectorDisk).crash(keeps));
    return found;
  }

  #check(): void {
    if (this.#crashed) throw new DeviceError("ESHUTDOWN", "write");
  }
}

const blockChecksums = Array.from(
  { length: SIZE / 4096 },
  (_, block) => crc32(patternBytes(block * 4096, 4096)),
);

/**
 * Compares every block that the map claims with what it has to be. Returns how many it claims.
 *
 * @param lied A server sent what is not in the image: only a complete hash block, here all of the image, is known.
 */
async function claimedBlocks(store: CrashingStore, lied = false): Promise<number> {
  if (!store.files.has("x.r1")) return 0;
  const map = await store.readSmall("x.r1.map", 1 << 20);
  const claimed = new CacheMap(SIZE, map ?? new Uint8Array(1 << 16).fill(0xff));
  const claimedCount = claimed.blockCount - claimed.missingBlocks;
  if (lied && !claimed.complete) return claimedCount;
  const block = new Uint8Array(4096);
  for (let number = 0; number < blockChecksums.length; number++) {
    if (!claimed.has(number * 4096, 4096)) continue;
    await store.files.get("x.r1")!.disk.read(number * 4096, block);
    assert(crc32(block) === blockChecksums[number], `block ${number} is claimed, and is not there`);
  }
  return claimedCount;
}

Deno.test(`after each of ${CRASHES} crashes at random moments of copying the map claims nothing that is not there`, async () => {
  const random = randomFrom();
  let store = new CrashingStore();
  let [completed, kept] = [0, 0];
  let lied = false;
  for (let crash = 0; crash < CRASHES; crash++) {
    await using world = new ProxyWorld();
    const origin = world.origin("10.0.0.1", SIZE);
    // Slowly, so that the map is saved a few times before all is here.
    origin.delayMs = 200;
    if (random.chance(0.2)) {
      origin.lie = (_, bytes) => {
        if (!random.chance(0.02)) return;
        lied = true;
        bytes[random.below(bytes.length)] ^= 1;
      };
    }
    const settings = { backgroundReplication: "full", bgrWindowSize: 1 + random.below(3) } as const;
    const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"], { settings, store });
    const client = await world.client(proxy, "x", 1);
    // What is missing is copied on when somebody wants some of it.
    client.block(random.below(SIZE / 4096) * 4096, 4096).catch(() => {});
    await world.pass(random.below(50_000), 50);
    world.clock.advance(random.below(50));
    for (let turns = random.below(60); turns > 0; turns--) await Promise.resolve();
    const likelihood = random.below(3) / 2;
    store = store.crash(() => random.chance(likelihood));
    const hint = `seed ${random.seed}, crash ${crash}`;
    try {
      const claimed = await claimedBlocks(store, lied);
      if (claimed > 0) kept++;
      if (claimed < SIZE / 4096) continue;
    } catch (error) {
      throw new Error(`${hint}: ${(error as Error).message}`, { cause: error });
    }
    // All is here: begin anew.
    completed++;
    lied = false;
    store = new CrashingStore();
  }
  assert(completed > 5 && kept > CRASHES / 4, `seed ${random.seed}: ${completed} completed, ${kept} kept`);
});

Deno.test("a crash in the middle of making a copy leaves no image that counts as complete", async () => {
  // Each of the store's steps is the last one once.
  for (let steps = 0; steps < 4; steps++) {
    await using world = new ProxyWorld();
    world.origin("10.0.0.1", SIZE);
    const store = new CrashingStore();
    let left = steps;
    for (const name of ["writeSmall", "create"] as const) {
      const real = store[name].bind(store) as (...parameters: unknown[]) => Promise<void>;
      store[name] = (...parameters: unknown[]) =>
        left-- > 0 ? real(...parameters) : Promise.reject(new DeviceError("ESHUTDOWN", "write"));
    }
    store.remove = () => Promise.reject(new DeviceError("ESHUTDOWN", "write"));
    const proxy = world.addProxy("10.0.0.2", ["10.0.0.1"], { store });
    await world.offers(proxy, "x");
    const found = store.crash(() => false);
    assertEquals(await claimedBlocks(found), 0, `after ${steps} steps`);
    const again = world.addProxy("10.0.0.3", ["10.0.0.1"], { store: found });
    await world.read(await world.client(again), 0, 4096);
  }
});
