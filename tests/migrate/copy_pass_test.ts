import { assertEquals } from "@std/assert";
import type { BlockDevice } from "../../src/device/device.ts";
import { MemoryDisk } from "../../src/device/memory.ts";
import { copyPass } from "../../src/migrate/copy_pass.ts";
import { DirtyMap } from "../../src/migrate/dirty_map.ts";
import { systemClock } from "../../src/os/clock.ts";

const MIB = 1024 * 1024;

Deno.test("copy pass: what clients change far ahead of it is sent by it, and not once more by the next", async () => {
  const source = new MemoryDisk(1024 * MIB);
  for (const at of [0, 900]) source.write(at * MIB, new Uint8Array(4096).fill(1));
  const dirty = new DirtyMap(source.sizeBytes);
  dirty.markAll();
  const writes: number[] = [];
  const destination: BlockDevice = Object.assign(new MemoryDisk(source.sizeBytes), {
    write(offset: number, data: Uint8Array) {
      writes.push(Math.floor(offset / MIB));
      // A client writes ahead of the pass, and behind it.
      if (writes.length === 1) { for (const at of [0, 900]) dirty.mark(at * MIB, data.length); }
    },
  });
  await copyPass(source, destination, dirty, { clock: systemClock, signal: new AbortController().signal });
  assertEquals(writes.filter((at) => at === 900).length, 1);
  assertEquals(dirty.take(4 * MIB, MIB), null);
  assertEquals(dirty.take(0, MIB)?.offset, 0);
});
