import { assertEquals, assertRejects } from "@std/assert";
import type { BlockDevice } from "../../src/device/device.ts";
import { DeviceError } from "../../src/device/device_error.ts";
import { MemoryDisk } from "../../src/device/memory.ts";
import { Outflow } from "../../src/migrate/outflow.ts";
import { Throttle } from "../../src/migrate/throttle.ts";
import { ManualClock } from "../testing/manual_clock.ts";

const MIB = 1024 * 1024;

/** An outflow into a disk that keeps nothing, with what `flush` does there. */
function outflowTo(flush: () => void | Promise<void>): Outflow {
  const disk: BlockDevice = Object.assign(new MemoryDisk(1024 * MIB), { write() {}, flush });
  return new Outflow(disk, new Throttle(new ManualClock()), () => 0);
}

async function writeMany(outflow: Outflow, mebibytes: number): Promise<void> {
  const data = new Uint8Array(MIB);
  for (let at = 0; at < mebibytes; at++) await outflow.write(at * MIB, data);
}

Deno.test("outflow: much that was acknowledged is flushed on the way, by one flush at a time", async () => {
  const asked: PromiseWithResolvers<void>[] = [];
  const outflow = outflowTo(() => {
    asked.push(Promise.withResolvers());
    return asked.at(-1)!.promise;
  });
  await writeMany(outflow, 63);
  assertEquals(asked.length, 0);
  await writeMany(outflow, 200);
  assertEquals(asked.length, 1);
  asked[0].resolve();
  await asked[0].promise;
  await writeMany(outflow, 2);
  assertEquals(asked.length, 2);
  const last = outflow.flush();
  assertEquals(asked.length, 3);
  for (const each of asked) each.resolve();
  await last;
});

Deno.test("outflow: a flush on the way that failed fails the next one, though that would succeed", async () => {
  let flushes = 0;
  const outflow = outflowTo(() => {
    if (++flushes === 1) throw new DeviceError("EIO", "flush");
  });
  await writeMany(outflow, 100);
  assertEquals(flushes, 1);
  await assertRejects(() => outflow.flush(), DeviceError, "EIO");
  assertEquals(flushes, 2);
});
