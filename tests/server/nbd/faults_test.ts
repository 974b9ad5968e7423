/** Disks that fail or are slow, behind the server. */
import { assert, assertEquals } from "@std/assert";
import { FaultDisk } from "../../../src/device/fault.ts";
import { MemoryDisk } from "../../../src/device/memory.ts";
import { StickySync } from "../../../src/device/sticky_sync.ts";
import { Command, CommandFlag, WireErrno } from "../../../src/wire/nbd/constants.ts";
import { decodeFacts, DENBD_NAMESPACE } from "../../../src/wire/nbd/denbd_context.ts";
import { ManualClock } from "../../testing/manual_clock.ts";
import { serveDisk } from "../../testing/served_disk.ts";

const MIB = 1 << 20;
const COLD = { offset: 32 * MIB, length: 32 * MIB };

Deno.test("cold reads of one client hold up no cached read, of the same or another client", async () => {
  const clock = new ManualClock();
  const disk = new FaultDisk(new MemoryDisk(64 * MIB), { clock });
  disk.add({ operation: "read", range: COLD, delayMs: 50 });
  await using served = serveDisk(disk);
  const cold = await served.client();
  const warm = await served.client();
  const cookies: bigint[] = [];
  for (let i = 0; i < 64; i++) {
    cookies.push(await cold.send({ type: Command.READ, offset: COLD.offset + i * 4096, length: 4096 }));
  }
  // No time passes by the clock of the disk while these are answered.
  for (let i = 0; i < 200; i++) assertEquals((await warm.read(i * 4096, 4096)).error, 0);
  assertEquals((await cold.read(0, 4096)).error, 0);
  assertEquals(served.server.clients().map(({ session }) => session.inFlight), [64, 0]);
  clock.advance(50);
  for (const cookie of cookies) assertEquals((await cold.answer(cookie)).error, 0);
});

Deno.test("rule 3: after one failed sync every flush and write fails with EIO, on all connections", async () => {
  const reasons: string[] = [];
  const fault = new FaultDisk(new MemoryDisk(64 * MIB));
  const device = new StickySync(fault, (reason) => reasons.push(reason));
  await using served = serveDisk(device);
  const first = await served.client();
  const second = await served.client();
  const data = new Uint8Array(4096).fill(7);
  assertEquals((await first.write(0, data)).error, 0);
  fault.add({ operation: "flush", times: 1, errno: "EIO" });
  assertEquals((await first.ask({ type: Command.FLUSH })).error, WireErrno.EIO);
  for (const client of [first, second, await served.client()]) {
    assertEquals((await client.ask({ type: Command.FLUSH })).error, WireErrno.EIO);
    assertEquals((await client.write(0, data)).error, WireErrno.EIO);
    assertEquals((await client.write(0, new Uint8Array(900_000))).error, WireErrno.EIO);
    assertEquals((await client.write(0, data, CommandFlag.FUA)).error, WireErrno.EIO);
    for (const type of [Command.TRIM, Command.WRITE_ZEROES]) {
      assertEquals((await client.ask({ type, length: 4096 })).error, WireErrno.EIO);
    }
    assertEquals((await client.read(0, 4096)).data, data);
  }
  assertEquals(reasons.length, 1);
  assert(device.syncFailure !== null);
  assert(served.exported.traffic.dirtyBytes >= 4096, "what was not synced stays dirty");
});

Deno.test("a flush that fails once fails for every client that was there, once for each", async () => {
  // As a disk far away, which says once that it may have lost something.
  const disk = new FaultDisk(new MemoryDisk(MIB));
  const instance = crypto.randomUUID();
  await using served = serveDisk(disk, { instance });
  const [first, second, third] = [await served.client(), await served.client(), await served.client()];
  const flush = async (client: typeof first) => (await client.ask({ type: Command.FLUSH })).error;
  const instanceTold = async () => {
    const { agreement } = await served.client({ contexts: [DENBD_NAMESPACE] });
    return decodeFacts(agreement.contexts.map(({ name }) => name)).instance;
  };
  assertEquals(await flush(second), 0);
  assertEquals(await instanceTold(), instance);
  disk.add({ operation: "flush", times: 1, errno: "EIO" });
  assertEquals(await flush(first), WireErrno.EIO);
  assertEquals(await flush(first), 0);
  assertEquals(await flush(await served.client()), 0);
  for (const client of [second, third]) {
    assertEquals((await client.write(0, new Uint8Array(512), CommandFlag.FUA)).error, 0);
    assertEquals(await flush(client), WireErrno.EIO);
    assertEquals(await flush(client), 0);
  }
  // Who was away hears of it, too.
  const later = await instanceTold();
  assert(later !== undefined && later !== instance);
  // A flush that came too late has lost nothing.
  disk.add({ operation: "flush", times: 1, errno: "ETIMEDOUT" });
  assertEquals(await flush(first), WireErrno.EIO);
  assertEquals([await flush(second), await instanceTold()], [0, later]);
});

Deno.test("a flush under way does not hide that another one failed", async () => {
  const disk = new FaultDisk(new MemoryDisk(MIB));
  await using served = serveDisk(disk);
  const [first, second] = [await served.client(), await served.client()];
  const slow = disk.add({ operation: "flush", times: 1, hold: true });
  const cookie = await second.send({ type: Command.FLUSH });
  while (slow.held === 0) await new Promise((resolve) => setTimeout(resolve));
  disk.add({ operation: "flush", times: 1, errno: "EIO" });
  assertEquals((await first.ask({ type: Command.FLUSH })).error, WireErrno.EIO);
  slow.release();
  assertEquals((await second.answer(cookie)).error, WireErrno.EIO);
  assertEquals((await second.ask({ type: Command.FLUSH })).error, 0);
});
