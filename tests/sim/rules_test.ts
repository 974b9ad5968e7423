/** What must hold in the dangerous cases, each staged step by step; the worlds of the simulation meet them by chance. */
import { assertEquals, assertRejects } from "@std/assert";
import { CacheDisk } from "../../src/device/cache.ts";
import { MemoryStore } from "../../src/device/cache_memory.ts";
import type { BlockDevice } from "../../src/device/device.ts";
import { DeviceError } from "../../src/device/device_error.ts";
import { type Fault, FaultDisk } from "../../src/device/fault.ts";
import { MemoryDisk } from "../../src/device/memory.ts";
import { filled, holding, identity, MIB, newSession, openLink, settle, setUp } from "../testing/link.ts";
import { RestartableServer } from "../testing/restartable_server.ts";

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, permissions: "none", fn });
}

/** Notes what a disk is asked for, in that order. */
function noting(disk: BlockDevice, notes: string[]): BlockDevice {
  return new Proxy(disk, {
    get(target, key) {
      const value = Reflect.get(target, key);
      if (typeof value !== "function") return value;
      return (...args: unknown[]) => {
        notes.push(String(key));
        return value.apply(target, args);
      };
    },
  });
}

const yesterday = { ...identity, generation: identity.generation - 1 };
const another = { ...identity, uuid: "fedcba98-7654-4321-8fed-cba987654321" };

for (
  const [what, found, message] of [
    ["yesterday's copy", yesterday, "it is an older state of the disk"],
    ["another disk", another, "it is another disk"],
  ] as const
) {
  test(`rule 2: ${what} that is put in place during an outage gets nothing, neither sent again nor written again`, async () => {
    const { server, disk, pass } = await setUp({ identity, soleWriter: true });
    await disk.write(0, filled(2));
    server.crash();
    const copy = new MemoryDisk(MIB);
    copy.write(0, filled(1));
    server.medium = copy;
    server.identity = found;
    server.start();
    const writing = disk.write(4096, filled(3)) as Promise<void>;
    writing.catch(() => {});
    await pass(2000);
    await assertRejects(() => writing, DeviceError, message);
    await assertRejects(async () => await disk.flush(), DeviceError, message);
    server.crash();
    assertEquals(server.stored(0, 4096), filled(1));
    assertEquals(server.stored(4096, 4096), filled(0));
    await disk.close();
  });
}

test("rule 8: a flush that began before a write was answered does not let go of it", async () => {
  const { wrap, faults } = holding("write");
  const { server, disk, pass } = await setUp({ soleWriter: true, wrap });
  const writing = disk.write(0, filled(1)) as Promise<void>;
  await settle();
  await disk.flush();
  faults[0].release();
  await writing;
  server.crash();
  server.start();
  await pass(1000);
  assertEquals(server.stored(0, 4096), filled(1));
  await disk.close();
});

test("rule 8: while it is written again, and until that is flushed, everything else waits", async () => {
  const notes: string[] = [];
  const faults: Fault[] = [];
  const wrap = (disk: BlockDevice) => {
    const faulty = new FaultDisk(disk);
    faults.push(faulty.add({ operation: "flush", hold: true }));
    return noting(faulty, notes);
  };
  const { server, disk, pass } = await setUp({ soleWriter: true, connections: 2, wrap });
  await disk.write(0, filled(1));
  await disk.zero(8192, 4096);
  server.crash();
  notes.length = 0;
  const into = new Uint8Array(4096);
  const reading = disk.read(0, into) as Promise<void>;
  const writing = disk.write(65536, filled(9)) as Promise<void>;
  server.start();
  await pass(3000);
  assertEquals(notes.sort(), ["flush", "write", "zero"]);
  faults[1].remove();
  await Promise.all([reading, writing]);
  assertEquals(into, filled(1));
  await disk.close();
});

test("rule 13: a flush through a proxy waits for that of the server, and covers what was answered on all connections", async () => {
  const faults: Fault[] = [];
  const wrap = (disk: BlockDevice) => {
    const faulty = new FaultDisk(disk);
    faults.push(faulty.add({ operation: "flush", hold: true }));
    return faulty;
  };
  const { server, clock, disk } = await setUp({ connections: 3, wrap });
  const front = new RestartableServer(MIB);
  front.wrap = () => new CacheDisk(disk, new MemoryStore(65536, 4096));
  front.start();
  const { disk: local } = await openLink(front, clock, { connections: 2 });
  await Promise.all(Array.from({ length: 16 }, (_, at) => local.write(at * 4096, filled(at + 1))));
  let answered = false;
  const flushing = local.flush().then(() => answered = true);
  await settle();
  assertEquals([answered, faults[0].held], [false, 1]);
  faults[0].release();
  await flushing;
  server.crash();
  for (let at = 0; at < 16; at++) assertEquals(server.stored(at * 4096, 4096), filled(at + 1));
  await local.close();
  await disk.close();
});

test("rule 13: FUA through a proxy is durable when it is answered", async () => {
  const { server, clock, disk } = await setUp();
  const front = new RestartableServer(MIB);
  front.wrap = () => new CacheDisk(disk, new MemoryStore(65536, 4096));
  front.start();
  const { disk: local } = await openLink(front, clock);
  await local.write(0, filled(5), { fua: true });
  server.crash();
  assertEquals(server.stored(0, 4096), filled(5));
  await local.close();
  await disk.close();
});

test("rule 14: a fill that races a write through a proxy is thrown away", async () => {
  const { wrap, faults } = holding("read");
  const { clock, disk } = await setUp({ wrap, session: newSession(), identity });
  const front = new RestartableServer(MIB);
  front.wrap = () => new CacheDisk(disk, new MemoryStore(65536, 4096), { prefetchBytes: 0 });
  front.start();
  const reader = await openLink(front, clock);
  const writer = await openLink(front, clock);
  // The fill fetches the whole block; the write touches a part of it that the reader did not ask for.
  const seen = new Uint8Array(512);
  const reading = reader.disk.read(0, seen) as Promise<void>;
  await settle();
  const writing = writer.disk.write(2048, filled(7, 512)) as Promise<void>;
  await settle();
  faults[0].remove();
  await Promise.all([reading, writing]);
  const again = new Uint8Array(4096);
  await reader.disk.read(0, again);
  assertEquals(again.subarray(2048, 2560), filled(7, 512));
  await reader.disk.close();
  await writer.disk.close();
  await disk.close();
});
