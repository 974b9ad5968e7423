import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { silentLog } from "../../src/base/log.ts";
import type { BlockDevice } from "../../src/device/device.ts";
import { DeviceError } from "../../src/device/device_error.ts";
import { type Fault, FaultDisk } from "../../src/device/fault.ts";
import { MemoryDisk } from "../../src/device/memory.ts";
import { ChannelRefusedError } from "../../src/wire/channel/establish.ts";
import { filled, holding, identity, MIB, settle, setUp } from "../testing/link.ts";
import type { RestartableServer } from "../testing/restartable_server.ts";

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, permissions: "none", fn });
}

for (const connections of [1, 4]) {
  test(`V7: requests that a crash of 30 s left unanswered are sent again, over ${connections} connections`, async () => {
    const { wrap } = holding("write");
    const { server, disk, link, pass } = await setUp({ wrap, connections });
    const writes = Array.from(
      { length: 64 },
      (_, index) => disk.write(index * 4096, filled(index + 1)) as Promise<void>,
    );
    await settle();
    server.crash();
    await pass(30_000);
    server.start();
    await pass(6000);
    await Promise.all(writes);
    await disk.flush();
    for (let index = 0; index < 64; index++) {
      assertEquals(server.stored(index * 4096, 4096), filled(index + 1));
    }
    assertEquals([link.reconnects, link.resent], [1, 64]);
    await disk.close();
  });
}

test("that a connection is back is told as loudly as that it was lost, with how long it was away and what waited", async () => {
  for (
    const [count, waited] of [[0, ""], [1, "; 1 request is sent again"], [
      2,
      "; 2 requests are sent again",
    ]] as const
  ) {
    const warnings: string[] = [];
    const warn = (message: string) => void warnings.push(message);
    const { server, disk, pass } = await setUp({ log: { ...silentLog, warn } });
    server.crash();
    await pass(3000);
    const reads = Array.from({ length: count }, () => disk.read(0, new Uint8Array(512)) as Promise<void>);
    server.start();
    await pass(6000);
    await Promise.all(reads);
    assertStringIncludes(warnings[0], "lost the connection to ");
    assertEquals(warnings.at(-1)!.replace(/^reconnected to \S+/, ""), ` after 3.1 s${waited}`);
    await disk.close();
  }
});

test("V29: requests made while the server is away wait for it, reads among them", async () => {
  const { server, disk, pass } = await setUp();
  await disk.write(0, filled(7));
  await disk.flush();
  server.crash();
  await settle();
  const into = new Uint8Array(4096);
  const reading = disk.read(0, into) as Promise<void>;
  const asking = disk.extents(0, MIB) as Promise<unknown>;
  await pass(1000);
  server.start();
  await pass(6000);
  await reading;
  await asking;
  assertEquals(into, filled(7));
  await disk.close();
});

test("a connection that is lost while it comes back is made once more, whatever the moment", async () => {
  // At which read of the second connection, and how many microtasks behind it.
  for (let readNumber = 1; readNumber <= 8; readNumber++) {
    for (let turns = 0; turns < 12; turns++) {
      const { server, disk, pass } = await setUp({
        soleWriter: true,
        tamper: (connection, dialled) => {
          if (dialled !== 2) return connection;
          let reads = 0;
          const read = async (into: Uint8Array) => {
            const count = await connection.read(into);
            if (++reads === readNumber) {
              void (async () => {
                for (let turn = 0; turn < turns; turn++) await undefined;
                connection.close();
              })();
            }
            return count;
          };
          return {
            peer: connection.peer,
            read,
            write: (bytes) => connection.write(bytes),
            close: () => connection.close(),
          };
        },
      });
      await disk.write(0, filled(1));
      server.crash();
      // What is written again fails.
      server.wrap = (device) => {
        const faulty = new FaultDisk(device);
        faulty.add({ operation: "write", errno: "EIO" });
        return faulty;
      };
      server.start();
      const reading = disk.read(0, new Uint8Array(4096)) as Promise<void>;
      await pass(2000);
      await Promise.race([
        reading,
        settle().then(() => {
          throw new Error(`hangs after read ${readNumber} and ${turns} microtasks`);
        }),
      ]);
      await disk.close();
    }
  }
});

test("V29: the first attempt is made at once, later ones with growing pauses up to five seconds", async () => {
  const { server, disk, pass } = await setUp();
  server.crash();
  await settle();
  await pass(50);
  assertEquals(server.dialled, 2);
  await pass(60_000);
  assert(server.dialled > 12 && server.dialled < 35, `${server.dialled} attempts`);
  await disk.close();
});

for (
  const [what, refusal] of [
    ["key", new ChannelRefusedError("key AAAA is not among the authorised peers", true)],
    ["certificate", new Error("the server's certificate is not good: it has expired")],
  ] as const
) {
  test(`V38: who is refused for its ${what} while it comes back asks with growing pauses, and says why`, async () => {
    let refused = 0;
    const { server, disk, link, pass } = await setUp({
      deadlineMs: 50_000,
      tamper: (connection, dialled) => {
        if (dialled === 1) return connection;
        refused++;
        connection.close();
        throw refusal;
      },
    });
    const cut = disk.read(0, new Uint8Array(4096)) as Promise<void>;
    await cut;
    server.cut();
    await settle();
    const reading = disk.read(0, new Uint8Array(4096)) as Promise<void>;
    reading.catch(() => {});
    await pass(49_000);
    assertStringIncludes(link.status.trouble ?? "", refusal.message);
    assert(refused > 9 && refused < 35, `${refused} attempts`);
    await pass(2000);
    const error = await assertRejects(() => reading, DeviceError);
    assertEquals(error.errno, "ETIMEDOUT");
    await disk.close();
  });
}

test("V15: without a sole writer the next flush after a lost connection fails, and says why, once", async () => {
  const { server, disk, pass } = await setUp();
  await disk.write(0, filled(1));
  server.crash();
  server.start();
  await pass(1000);
  const error = await assertRejects(() => disk.flush(), DeviceError);
  assertEquals(error.errno, "EIO");
  assertStringIncludes(error.message, "was lost; writes since the flush before may be, too");
  await disk.flush();
  // What was flushed before is in no danger.
  await disk.write(0, filled(2));
  await disk.flush();
  server.crash();
  server.start();
  await pass(1000);
  await disk.flush();
  assertEquals(server.stored(0, 4096), filled(2));
  await disk.close();
});

test("a flush that the connection took with it covers nothing", async () => {
  const { wrap } = holding("flush");
  const { server, disk, pass } = await setUp({ wrap });
  await disk.write(0, filled(1));
  const flushes = [disk.flush(), disk.flush()];
  for (const flushing of flushes) flushing.catch(() => {});
  await settle();
  server.crash();
  server.start();
  await pass(1000);
  for (const flushing of flushes) await assertRejects(() => flushing, DeviceError, "EIO");
  await disk.flush();
  await disk.close();
});

test("V17: a durable write is in no danger", async () => {
  const { server, disk, pass } = await setUp();
  await disk.write(0, filled(1), { fua: true });
  server.crash();
  server.start();
  await pass(1000);
  await disk.flush();
  assertEquals(server.stored(0, 4096), filled(1));
  await disk.close();
});

test("V15: a sole writer writes again what the server lost: the latest content, zeroes too, before all else", async () => {
  const { server, disk, pass } = await setUp({ soleWriter: true });
  await disk.write(0, filled(9, 16384));
  await disk.flush();
  await disk.write(0, filled(1, 8192));
  await disk.write(4096, filled(2));
  await disk.zero(12288, 4096);
  // Durable at once: an older write must not cover it afterwards.
  await disk.write(1024, filled(3, 1024), { fua: true });
  server.crash();
  await settle();
  const into = new Uint8Array(16384);
  const reading = disk.read(0, into) as Promise<void>;
  server.start();
  await pass(1000);
  await reading;
  const expected = new Uint8Array(16384);
  expected.fill(1, 0, 4096).fill(2, 4096, 8192).fill(9, 8192, 12288).fill(3, 1024, 2048);
  assertEquals(into, expected);
  await disk.flush();
  assertEquals(server.stored(0, 16384), expected);
  await disk.close();
});

test("a sole writer's memory is bounded by flushes of its own", async () => {
  let flushes = 0;
  const wrap = (disk: BlockDevice): BlockDevice =>
    new Proxy(disk, {
      get(target, key) {
        const value = Reflect.get(target, key);
        if (key === "flush") return () => (flushes++, target.flush());
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  const { disk, link } = await setUp({ soleWriter: true, replayBytesMax: 64 * 1024, wrap });
  let most = 0;
  for (let turn = 0; turn < 100; turn++) {
    const offsets = Array.from({ length: 8 }, (_, index) => ((turn * 8 + index) % 256) * 4096);
    await Promise.all(offsets.map((offset) => disk.write(offset, filled(turn))));
    most = Math.max(most, link.replayBytes);
  }
  assert(flushes > 20, `${flushes} flushes`);
  assert(most < 64 * 1024 + 8 * 4300, `${most} bytes`);
  await disk.close();
});

test("rule 8: what is written again has ended before anything else happens, also when a part of it fails", async () => {
  const faults: Fault[] = [];
  const { server, disk, pass } = await setUp({ soleWriter: true, connections: 2 });
  await disk.write(0, filled(1));
  await disk.write(8192, filled(1));
  server.crash();
  server.wrap = (device) => {
    const faulty = new FaultDisk(device);
    const write = { operation: "write", times: 1 } as const;
    faulty.add({ ...write, range: { offset: 0, length: 1 }, errno: "EIO" });
    faults.push(faulty.add({ ...write, range: { offset: 8192, length: 1 }, hold: true }));
    return faulty;
  };
  server.start();
  let answered = false;
  const writing = (disk.write(16384, filled(2)) as Promise<void>).then(() => answered = true);
  await pass(2000);
  assertEquals([answered, faults[0].held], [false, 1]);
  faults[0].remove();
  await writing;
  await assertRejects(() => disk.flush(), DeviceError, "could not be repeated");
  await disk.close();
});

/** Writes so much that a sole writer flushes by itself. */
async function fill(disk: BlockDevice): Promise<void> {
  for (let at = 0; at < 3; at++) await disk.write(at * 4096, filled(1));
}

test("a flush of its own that a sole writer waits for in vain says nothing about the disk", async () => {
  const { wrap, faults } = holding("flush");
  const { server, disk, pass } = await setUp({
    soleWriter: true,
    replayBytesMax: 16 * 1024,
    deadlineMs: 1000,
    wrap,
  });
  await fill(disk);
  await settle();
  assertEquals(faults[0].held, 1);
  await pass(1500);
  faults[0].remove();
  await pass(1000);
  await disk.flush();
  server.crash();
  assertEquals(server.stored(0, 4096), filled(1));
  await disk.close();
});

test("what a flush of its own met is told to who flushes next, once, and not to the next of its own", async () => {
  const wrap = (disk: BlockDevice) => {
    const faulty = new FaultDisk(disk);
    faulty.add({ operation: "flush", times: 1, errno: "EIO" });
    return faulty;
  };
  const { disk } = await setUp({ soleWriter: true, replayBytesMax: 16 * 1024, wrap });
  for (let turn = 0; turn < 4; turn++) {
    await fill(disk);
    await settle();
  }
  const error = await assertRejects(() => disk.flush(), DeviceError);
  assertEquals(error.message.match(/cannot flush/g)?.length, 2);
  await disk.flush();
  await disk.close();
});

test("rule 4: a request that takes too long fails, others do not, and its connection is closed first", async () => {
  const { wrap, faults } = holding("read");
  const { server, disk, pass, link } = await setUp({ wrap, deadlineMs: 60_000 });
  const reading = disk.read(0, new Uint8Array(4096)) as Promise<void>;
  reading.catch(() => {});
  await pass(59_000);
  const writing = disk.write(8192, filled(1)) as Promise<void>;
  await writing;
  await pass(2000);
  const error = await assertRejects(() => reading, DeviceError);
  assertEquals(error.errno, "ETIMEDOUT");
  faults[0].remove();
  await pass(1000);
  assertEquals(link.reconnects, 1);
  await disk.read(0, new Uint8Array(4096));
  assertEquals(server.dialled, 2);
  await disk.close();
});

test("V8: one and 10,000 requests to a dead server fail at the same time", async () => {
  for (const count of [1, 10_000]) {
    const { server, disk, clock, pass } = await setUp({ deadlineMs: 60_000 });
    server.crash();
    await settle();
    const failures: number[] = [];
    const ended = Array.from(
      { length: count },
      (_, index) =>
        (disk.read((index % 256) * 4096, new Uint8Array(16)) as Promise<void>).catch((error) => {
          assertEquals(error.errno, "ETIMEDOUT");
          failures.push(clock.now());
        }),
    );
    await pass(59_900);
    assertEquals(failures.length, 0);
    await pass(200);
    await Promise.all(ended);
    assertEquals(failures.length, count);
    assert(failures.every((at) => at >= 60_000 && at <= 60_100));
    await disk.close();
  }
});

test("a lost connection to the same instance of a denbd server loses nothing, and frightens nobody", async () => {
  for (const soleWriter of [false, true]) {
    const { server, disk, link, pass } = await setUp({ identity, soleWriter, connections: 2 });
    await disk.write(0, filled(1));
    server.cut();
    await pass(1000);
    await disk.write(4096, filled(2));
    await disk.flush();
    assertEquals(link.reconnects, 1);
    assertEquals([server.stored(0, 4096), server.stored(4096, 4096)], [filled(1), filled(2)]);
    await disk.close();
  }
});

test("another instance of a denbd server is a crash, also when connections were cut before", async () => {
  const { server, disk, pass } = await setUp({ identity });
  await disk.write(0, filled(1));
  server.cut();
  await pass(1000);
  server.crash();
  server.identity = { ...identity, generation: 8 };
  server.start();
  await pass(1000);
  await assertRejects(() => disk.flush(), DeviceError, "may be, too");
  await disk.close();
});

const changes: [string, (server: RestartableServer) => void, string | null][] = [
  ["larger", (server) => server.medium = new MemoryDisk(2 * MIB), null],
  [
    "smaller",
    (server) => server.medium = new MemoryDisk(MIB - 1),
    "its size is 1048575 bytes instead of 1048576",
  ],
  [
    "with another identity",
    (server) => server.identity = { ...identity, uuid: "11234567-89ab-4def-8123-456789abcdef" },
    "it is another disk: 11234567-89ab-4def-8123-456789abcdef instead of 01234567-89ab-4def-8123-456789abcdef",
  ],
  ["without identity", (server) => server.identity = undefined, "it is another disk: it has no identity"],
  [
    "as a copy of yesterday",
    (server) => server.identity = { ...identity, generation: 6 },
    "it is an older state of the disk: generation 6 after 7",
  ],
  ["with a higher generation", (server) => server.identity = { ...identity, generation: 8 }, null],
  ["read-only", (server) => server.readOnly = true, "it is read-only now"],
  [
    "without trim",
    (server) =>
      server.wrap = (disk) =>
        new Proxy(disk, {
          get: (target, key) => key === "can" ? { ...target.can, trim: false } : Reflect.get(target, key),
        }),
    "it no longer offers trim",
  ],
];

for (const [what, change, message] of changes) {
  test(`V6: an export that comes back ${what} is ${message === null ? "accepted" : "refused, with the reason"}`, async () => {
    const { server, disk, pass } = await setUp({ identity });
    server.crash();
    change(server);
    await settle();
    const reading = disk.read(0, new Uint8Array(4096)) as Promise<void>;
    reading.catch(() => {});
    server.start();
    await pass(1000);
    if (message === null) {
      await reading;
    } else {
      await assertRejects(() => reading, DeviceError, message);
      await assertRejects(async () => await disk.read(0, new Uint8Array(1)), DeviceError, message);
    }
    await disk.close();
  });
}

test("V10: closing fails what is unanswered, at once, whether the server is there or not", async () => {
  for (const away of [false, true]) {
    const { wrap } = holding("read");
    const { server, disk, clock } = await setUp({ wrap });
    const reading = disk.read(0, new Uint8Array(4096)) as Promise<void>;
    reading.catch(() => {});
    await settle();
    if (away) server.crash();
    await settle();
    await disk.close();
    assertEquals((await assertRejects(() => reading, DeviceError)).errno, "ESHUTDOWN");
    await assertRejects(() => disk.flush(), DeviceError, "the disk was closed");
    assertEquals(clock.timers, 0);
  }
});

test("V27: the caller may use its buffer again after a write was answered, although it may be written again", async () => {
  const { server, disk, pass } = await setUp({ soleWriter: true });
  const data = filled(5);
  await disk.write(0, data);
  data.fill(6);
  server.crash();
  server.start();
  await pass(1000);
  await disk.flush();
  assertEquals(server.stored(0, 4096), filled(5));
  await disk.close();
});
