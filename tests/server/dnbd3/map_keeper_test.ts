import { assertEquals, assertRejects } from "@std/assert";
import { DeviceError } from "../../../src/device/device_error.ts";
import { MemoryDisk } from "../../../src/device/memory.ts";
import { MapKeeper } from "../../../src/server/dnbd3/map_keeper.ts";
import { CacheMap } from "../../../src/wire/dnbd3/cache_map.ts";

const BLOCK = 4096;

/** A map of eight blocks, of which the first is here, and disks that write down what is done to them. */
function setUp() {
  const done: string[] = [];
  const map = new CacheMap(8 * BLOCK, Uint8Array.of(1));
  const [file, data] = [new MemoryDisk(1), new MemoryDisk(8 * BLOCK)];
  file.write(0, Uint8Array.of(1));
  const written = () => {
    const bytes = new Uint8Array(1);
    file.read(0, bytes);
    return bytes[0];
  };
  const { promise: synced, resolve: sync } = Promise.withResolvers<void>();
  const flushes = { data: () => synced };
  data.flush = () => {
    done.push("sync data");
    return flushes.data() as unknown as void;
  };
  file.flush = () => void done.push("sync map");
  const keeper = new MapKeeper(map, file, () => Promise.resolve(data));
  return { map, keeper, done, written, sync, flushes };
}

Deno.test("the map is written after the data is durable, as it was when that began", async () => {
  const { map, keeper, done, written, sync } = setUp();
  map.add(BLOCK, BLOCK);
  const saving = keeper.save();
  await Promise.resolve();
  await Promise.resolve();
  assertEquals([done, written()], [["sync data"], 1]);
  // Written while the sync is under way: nobody knows whether it is part of that.
  map.add(2 * BLOCK, BLOCK);
  // Found to be damaged meanwhile.
  map.remove(0, BLOCK);
  sync();
  await saving;
  assertEquals([done, written()], [["sync data", "sync map"], 0b10]);
  await keeper.save();
  assertEquals(written(), 0b110);
});

Deno.test("who asks while a save is under way gets one that begins after that", async () => {
  const { map, keeper, written, sync } = setUp();
  const first = keeper.save();
  await Promise.resolve();
  await Promise.resolve();
  map.add(BLOCK, BLOCK);
  const second = keeper.save();
  assertEquals(keeper.save(), second);
  sync();
  await first;
  assertEquals(written(), 1);
  await second;
  assertEquals(written(), 0b11);
});

Deno.test("after a failed sync the map has only what was durable before, and is saved no more", async () => {
  const { map, keeper, done, written, flushes } = setUp();
  map.add(0, 4 * BLOCK);
  flushes.data = () => Promise.reject(new DeviceError("EIO", "flush"));
  await assertRejects(() => keeper.save(), DeviceError);
  assertEquals([[...map.encode()], written(), done], [[1], 1, ["sync data"]]);
  await assertRejects(() => keeper.save(), DeviceError);
  assertEquals(done, ["sync data"]);
});
