import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import type { BlockDevice, Extent } from "../../../src/device/device.ts";
import { DeviceError } from "../../../src/device/device_error.ts";
import { MemoryDisk } from "../../../src/device/memory.ts";
import { ChunkType, Command, CommandFlag, WireErrno } from "../../../src/wire/nbd/constants.ts";
import type { ClientWishes } from "../../../src/wire/nbd/handshake_client.ts";
import { serveDisk } from "../../testing/served_disk.ts";

const MIB = 1 << 20;
const SIZE = 64 * MIB;

const FORMS: readonly [string, Partial<ClientWishes>][] = [
  ["simple replies", { structured: false, extended: false }],
  ["structured replies", { extended: false, contexts: ["base:allocation"] }],
  ["extended headers", { contexts: ["base:allocation"] }],
];

function pattern(length: number, seed = 1): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  let state = seed;
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    bytes[i] = 1 + (state >>> 16) % 255;
  }
  return bytes;
}

/** Overrides some methods of a disk, and forwards the rest. */
function changed(device: BlockDevice, changes: Partial<BlockDevice>): BlockDevice {
  return new Proxy(device, {
    get(target, key) {
      const value = key in changes ? changes[key as keyof BlockDevice] : target[key as keyof BlockDevice];
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

for (const [name, wishes] of FORMS) {
  const test = (what: string, fn: () => Promise<void>) => Deno.test(`session, ${name}: ${what}`, fn);

  test("reads back what was written, at odd places and over piece borders", async () => {
    await using served = serveDisk(new MemoryDisk(SIZE));
    const client = await served.client(wishes);
    for (
      const [offset, length] of [[0, 1], [4095, 2], [1, 300_000], [7 * MIB + 3, 5 * MIB + 1], [SIZE - 5, 5]]
    ) {
      const data = pattern(length, offset + 1);
      assertEquals((await client.write(offset, data)).error, 0);
      assertEquals((await client.read(offset, length)).data, data);
    }
  });

  test("survives a stream cut at every byte", async () => {
    await using served = serveDisk(new MemoryDisk(SIZE), { bytesPerRead: 1 });
    const client = await served.client(wishes);
    const data = pattern(10_000);
    assertEquals((await client.write(123, data)).error, 0);
    assertEquals((await client.read(123, data.length)).data, data);
  });

  test("answers every invalid request with the protocol's error, and goes on", async () => {
    await using served = serveDisk(new MemoryDisk(SIZE));
    const client = await served.client(wishes);
    const extended = wishes.extended !== false;
    const { READ, WRITE, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS } = Command;
    const { EINVAL, ENOSPC } = WireErrno;
    const payload = new Uint8Array(1024);
    const rows: [string, Parameters<typeof client.ask>, number][] = [
      ["unknown command", [{ type: 42, length: 512 }], EINVAL],
      ["unknown flag", [{ type: READ, flags: 1 << 9, length: 512 }], EINVAL],
      ["NO_HOLE on READ", [{ type: READ, flags: CommandFlag.NO_HOLE, length: 512 }], EINVAL],
      ["FAST_ZERO on TRIM", [{ type: TRIM, flags: CommandFlag.FAST_ZERO, length: 512 }], EINVAL],
      ["read past the end", [{ type: READ, offset: SIZE - 512, length: 1024 }], EINVAL],
      ["read far past the end", [{ type: READ, offset: SIZE + 1, length: 1 }], EINVAL],
      ["a range that wraps", [{ type: READ, offset: 2 ** 64 - 2048, length: 4096 }], EINVAL],
      ["write past the end", [{ type: WRITE, offset: SIZE - 512, length: 1024 }, payload], ENOSPC],
      ["zero past the end", [{ type: WRITE_ZEROES, offset: SIZE - 512, length: 1024 }], ENOSPC],
      ["trim past the end", [{ type: TRIM, offset: SIZE - 512, length: 1024 }], EINVAL],
      ["cache past the end", [{ type: CACHE, offset: SIZE - 512, length: 1024 }], EINVAL],
      ["length zero", [{ type: READ, length: 0 }], EINVAL],
      ["write of nothing", [{ type: WRITE, length: 0 }, new Uint8Array(0)], EINVAL],
    ];
    if (wishes.contexts === undefined) {
      rows.push(["status without a context", [{ type: BLOCK_STATUS, length: 512 }], EINVAL]);
      rows.push(["DF without chunks", [{ type: READ, flags: CommandFlag.DF, length: 512 }], EINVAL]);
    } else {
      rows.push(["status past the end", [{ type: BLOCK_STATUS, offset: SIZE, length: 1 }], EINVAL]);
    }
    if (extended) {
      const flags = CommandFlag.PAYLOAD_LEN;
      rows.push(["READ with a payload", [{ type: READ, flags, length: 1024 }, payload], EINVAL]);
      rows.push(["TRIM with a payload", [{ type: TRIM, flags, length: 1024 }, payload], EINVAL]);
      rows.push(["a status query too long", [{ type: BLOCK_STATUS, flags, length: 1024 }, payload], EINVAL]);
    } else {
      const flags = CommandFlag.PAYLOAD_LEN;
      rows.push(["PAYLOAD_LEN in compact mode", [{ type: TRIM, flags, length: 1024 }], EINVAL]);
    }
    for (const [what, ask, error] of rows) {
      const answer = await client.ask(...ask);
      assertEquals(answer.error, error, what);
      if (wishes.structured !== false) assert(answer.text.length > 0, `${what} has no text`);
      assertEquals((await client.read(0, 512)).error, 0, `after ${what}`);
    }
  });

  test("refuses everything that writes on a read-only export", async () => {
    await using served = serveDisk(new MemoryDisk(SIZE), { readOnly: true });
    const client = await served.client(wishes);
    assertEquals((await client.write(0, new Uint8Array(512))).error, WireErrno.EPERM);
    assertEquals((await client.write(SIZE, new Uint8Array(512))).error, WireErrno.EPERM);
    assertEquals((await client.write(0, new Uint8Array(300_000))).error, WireErrno.EPERM);
    for (const type of [Command.TRIM, Command.WRITE_ZEROES]) {
      assertEquals((await client.ask({ type, length: 512 })).error, WireErrno.EPERM);
    }
    assertEquals((await client.ask({ type: Command.FLUSH })).error, 0);
    assertEquals((await client.read(0, 512)).error, 0);
  });

  test("tells the errno of a disk that fails, at once or later", async () => {
    for (const later of [false, true]) {
      for (const [errno, error] of [["EIO", 5], ["ENOSPC", 28], ["EROFS", 1], ["ETIMEDOUT", 5]] as const) {
        const fail = () => {
          const error = new DeviceError(errno, "write");
          if (later) return Promise.reject(error);
          throw error;
        };
        const disk = changed(new MemoryDisk(SIZE), { read: fail, write: fail, flush: fail, zero: fail });
        await using served = serveDisk(disk);
        const client = await served.client(wishes);
        assertEquals((await client.read(0, 512)).error, error);
        assertEquals((await client.write(0, new Uint8Array(512))).error, error);
        assertEquals((await client.write(0, new Uint8Array(900_000))).error, error);
        assertEquals((await client.ask({ type: Command.FLUSH })).error, error);
        assertEquals((await client.ask({ type: Command.WRITE_ZEROES, length: 512 })).error, error);
      }
    }
  });

  test("answers out of order what the disk answers out of order", async () => {
    const gates = new Map<number, PromiseWithResolvers<void>>();
    const memory = new MemoryDisk(SIZE);
    const disk = changed(memory, {
      read(offset, into) {
        if (offset === 0) return memory.read(offset, into);
        const gate = Promise.withResolvers<void>();
        gates.set(offset, gate);
        return gate.promise.then(() => memory.read(offset, into));
      },
    });
    memory.write(0, pattern(3 * MIB));
    await using served = serveDisk(disk);
    const client = await served.client(wishes);
    const slow = await client.send({ type: Command.READ, offset: MIB, length: 100_000, flags: 0 });
    const slower = await client.send({ type: Command.READ, offset: 2 * MIB, length: 50_000 });
    const quick = await client.send({ type: Command.READ, offset: 0, length: 4096 });
    assertEquals((await client.answer(quick)).data, pattern(4096));
    gates.get(2 * MIB)!.resolve();
    const expected = pattern(3 * MIB);
    assertEquals((await client.answer(slower)).data, expected.slice(2 * MIB, 2 * MIB + 50_000));
    gates.get(MIB)!.resolve();
    assertEquals((await client.answer(slow)).data, expected.slice(MIB, MIB + 100_000));
  });

  test("keeps the payload of a write that the disk takes its time with", async () => {
    const memory = new MemoryDisk(SIZE);
    const gate = Promise.withResolvers<void>();
    const disk = changed(memory, {
      write: (offset, data) => gate.promise.then(() => memory.write(offset, data)),
    });
    await using served = serveDisk(disk);
    const client = await served.client(wishes);
    const lengths = [3, 4096, 100_000, 300_000, 1 * MIB + 5, 17];
    const cookies: bigint[] = [];
    for (const [i, length] of lengths.entries()) {
      const request = { type: Command.WRITE, offset: i * 2 * MIB, length };
      cookies.push(await client.send(request, pattern(length, i + 1)));
    }
    // A read that is answered shows that all writes have arrived.
    await client.answer(await client.send({ type: Command.READ, offset: SIZE - 512, length: 512 }));
    gate.resolve();
    for (const cookie of cookies) assertEquals((await client.answer(cookie)).error, 0);
    for (const [i, length] of lengths.entries()) {
      assertEquals((await client.read(i * 2 * MIB, length)).data, pattern(length, i + 1), `write ${i}`);
    }
  });

  test("finishes what was asked before DISC, then closes", async () => {
    await using served = serveDisk(new MemoryDisk(SIZE));
    const client = await served.client(wishes);
    for (let i = 0; i < 64; i++) {
      await client.send({ type: Command.READ, offset: 4096 * i, length: 4096, flags: 0 });
    }
    await client.send({ type: Command.DISC, offset: 77, length: 88 });
    let done = 0;
    for (let reply; (reply = await client.receive()) !== null;) {
      if (reply.header.form === "simple" || (reply.header.flags & 1) !== 0) done++;
    }
    assertEquals(done, 64);
  });

  test("closes on a wrong magic, and other clients notice nothing", async () => {
    await using served = serveDisk(new MemoryDisk(SIZE));
    const other = await served.client(wishes);
    const client = await served.client(wishes);
    const cookie = await client.send({ type: Command.FLUSH, cookie: 0x7777777777777777n });
    assertEquals((await client.answer(cookie)).error, 0);
    if (wishes.structured === false) client.expect({ type: Command.FLUSH, cookie });
    await client.connection.write(new Uint8Array(32).fill(0x77));
    if (wishes.structured === false) assertEquals((await client.receive())?.header.error, WireErrno.EINVAL);
    assertEquals(await client.receive(), null);
    assertEquals((await other.read(0, 512)).error, 0);
  });

  test("closes on a WRITE larger than 64 MiB without waiting for it", async () => {
    await using served = serveDisk(new MemoryDisk(SIZE));
    const client = await served.client(wishes);
    await client.send({ type: Command.WRITE, offset: 0, length: 64 * MIB + 1 });
    assertEquals(await client.receive(), null);
  });

  test("reads of up to 64 MiB are served, larger ones refused", async () => {
    await using served = serveDisk(new MemoryDisk(80 * MIB));
    const client = await served.client(wishes);
    assertEquals((await client.read(0, 64 * MIB)).error, 0);
    const tooLarge = await client.read(0, 64 * MIB + 1);
    assertEquals(tooLarge.error, wishes.structured === false ? WireErrno.EINVAL : WireErrno.EOVERFLOW);
  });

  test("drain finishes what is under way, refuses what is new, and ends", async () => {
    const memory = new MemoryDisk(SIZE);
    const gate = Promise.withResolvers<void>();
    const disk = changed(memory, { flush: () => gate.promise });
    await using served = serveDisk(disk);
    const client = await served.client(wishes);
    const flush = await client.send({ type: Command.FLUSH });
    // Answered, so the flush before it has begun.
    assertEquals((await client.read(0, 512)).error, 0);
    const draining = served.server.drain(60_000);
    assertEquals((await client.read(0, 512)).error, WireErrno.ESHUTDOWN);
    gate.resolve();
    assertEquals((await client.answer(flush)).error, 0);
    assertEquals(await client.receive(), null);
    assertEquals(await draining, true);
  });

  test("a flush that FUA needs is made where the disk has none of its own", async () => {
    const memory = new MemoryDisk(SIZE);
    const calls: string[] = [];
    const disk = changed(memory, {
      can: { ...memory.can, fua: false },
      write: (offset, data, options) => {
        calls.push(`write fua=${options?.fua ?? false}`);
        return memory.write(offset, data);
      },
      flush: () => void calls.push("flush"),
    });
    await using served = serveDisk(disk);
    const client = await served.client(wishes);
    assertEquals((await client.write(0, new Uint8Array(512), CommandFlag.FUA)).error, 0);
    assertEquals(calls, ["write fua=false", "flush"]);
    calls.length = 0;
    assertEquals((await client.write(0, new Uint8Array(600_000), CommandFlag.FUA)).error, 0);
    assertEquals(calls.at(-1), "flush");
    assert(calls.length > 2, "a large write goes to the disk in pieces");
  });

  test("losing the right to write is felt by the next request", async () => {
    let rights: "write" | "read" | "none" = "write";
    await using served = serveDisk(new MemoryDisk(SIZE), { judge: () => ({ rights, reason: "test" }) });
    const client = await served.client(wishes);
    assertEquals((await client.write(0, new Uint8Array(512))).error, 0);
    rights = "read";
    served.server.reconsider();
    assertEquals((await client.write(0, new Uint8Array(512))).error, WireErrno.EPERM);
    assertEquals((await client.read(0, 512)).error, 0);
    rights = "none";
    served.server.reconsider();
    assertEquals(await client.receive(), null);
  });
}

Deno.test("session: a hole is read as a hole, and with DF as data in one chunk", async () => {
  await using served = serveDisk(new MemoryDisk(SIZE));
  const client = await served.client();
  const data = pattern(4096);
  await client.write(128 * 1024, data);
  const { chunks, data: read } = await client.read(0, 512 * 1024);
  assertEquals(read.slice(128 * 1024, 132 * 1024), data);
  const kinds = chunks.map(({ header }) => header.type);
  assertEquals(kinds, [ChunkType.OFFSET_HOLE, ChunkType.OFFSET_DATA, ChunkType.OFFSET_HOLE, ChunkType.NONE]);
  assertEquals((await client.read(0, 4096)).chunks[0].header.type, ChunkType.OFFSET_HOLE);
  const unsplit = await client.read(0, 512 * 1024, CommandFlag.DF);
  assertEquals(unsplit.chunks.map(({ header }) => header.type), [ChunkType.OFFSET_DATA]);
});

Deno.test("session: a part of a read that fails is an error, and the rest is no data to rely on", async () => {
  const memory = new MemoryDisk(SIZE);
  memory.write(0, pattern(4096));
  memory.write(256 * 1024, pattern(4096));
  for (const later of [false, true]) {
    const disk = changed(memory, {
      read(offset, into) {
        if (offset < 256 * 1024) return memory.read(offset, into);
        const error = new DeviceError("EIO", "read", offset, into.length);
        if (later) return Promise.reject(error);
        throw error;
      },
    });
    await using served = serveDisk(disk);
    const client = await served.client();
    assertEquals((await client.read(0, 512 * 1024)).error, WireErrno.EIO);
    assertEquals((await client.read(0, 4096)).error, 0);
  }
});

Deno.test("session: block status tells extents once per context, one with REQ_ONE", async () => {
  const extents: Extent[] = [
    { length: 4096, kind: "data" },
    { length: 4096, kind: "zero" },
    { length: 8192, kind: "hole" },
    { length: 4096, kind: "hole" },
    { length: 4096, kind: "data" },
  ];
  for (const later of [false, true]) {
    const disk = changed(new MemoryDisk(SIZE), {
      extents: () => later ? Promise.resolve([...extents]) : [...extents],
    });
    await using served = serveDisk(disk);
    const compact = await served.client({ extended: false, contexts: ["base:allocation"] });
    const { chunks } = await compact.ask({ type: Command.BLOCK_STATUS, length: 24576 });
    assertEquals(chunks.length, 1);
    const view = new DataView(chunks[0].payload.buffer);
    const told = Array.from({ length: (view.byteLength - 4) / 8 }, (_, i) => [
      view.getUint32(4 + 8 * i),
      view.getUint32(8 + 8 * i),
    ]);
    assertEquals(told, [[4096, 0], [4096, 2], [12288, 3], [4096, 0]]);
    const one = await compact.ask({ type: Command.BLOCK_STATUS, length: 1000, flags: CommandFlag.REQ_ONE });
    assertEquals(new DataView(one.chunks[0].payload.buffer).getUint32(4), 1000);
    assertEquals(one.chunks[0].payload.length, 12);
    const extended = await served.client({ contexts: ["base:allocation"] });
    const wide = await extended.ask({ type: Command.BLOCK_STATUS, length: 24576 });
    assertEquals(wide.chunks[0].header.type, ChunkType.BLOCK_STATUS_EXT);
    const id = extended.agreement.contexts[0].id;
    const query = new Uint8Array(12);
    new DataView(query.buffer).setBigUint64(0, 4096n);
    new DataView(query.buffer).setUint32(8, id);
    const flags = CommandFlag.PAYLOAD_LEN;
    const filtered = await extended.ask({ type: Command.BLOCK_STATUS, flags, length: 12 }, query);
    assertEquals(filtered.error, 0);
    assertEquals(filtered.chunks[0].payload.length, 24);
    new DataView(query.buffer).setUint32(8, id + 1);
    const wrong = await extended.ask({ type: Command.BLOCK_STATUS, flags, length: 12 }, query);
    assertEquals(wrong.error, WireErrno.EINVAL);
  }
});

Deno.test("session: the ranges of trim, zero and status may be larger than 4 GiB", async () => {
  await using served = serveDisk(new MemoryDisk(8 * 2 ** 30));
  const client = await served.client({ contexts: ["base:allocation"] });
  await client.write(5 * 2 ** 30, pattern(4096));
  assertEquals((await client.ask({ type: Command.WRITE_ZEROES, length: 6 * 2 ** 30 })).error, 0);
  assertEquals((await client.read(5 * 2 ** 30, 4096)).data, new Uint8Array(4096));
  assertEquals((await client.ask({ type: Command.TRIM, length: 8 * 2 ** 30 })).error, 0);
  const { chunks } = await client.ask({ type: Command.BLOCK_STATUS, length: 8 * 2 ** 30 });
  const status = new DataView(chunks[0].payload.buffer);
  assert(status.getBigUint64(8) > 0n && status.getBigUint64(8) <= BigInt(8 * 2 ** 30));
  assertEquals(status.getBigUint64(16), 3n);
});

Deno.test("session: a disk with large blocks refuses what is not aligned", async () => {
  const memory = new MemoryDisk(SIZE);
  const disk = changed(memory, { blockSizes: { minimum: 4096, preferred: 4096, maximumPayload: 32 * MIB } });
  await using served = serveDisk(disk);
  const client = await served.client();
  assertEquals(client.agreement.blockSizes?.minimum, 4096);
  assertEquals((await client.write(512, new Uint8Array(4096))).error, WireErrno.EINVAL);
  assertEquals((await client.read(0, 512)).error, WireErrno.EINVAL);
  assertEquals((await client.write(4096, new Uint8Array(1 * MIB))).error, 0);
});

Deno.test("session: more than 128 requests wait for the disk one after the other, and all are answered", async () => {
  const memory = new MemoryDisk(SIZE);
  let waiting = 0;
  let most = 0;
  const disk = changed(memory, {
    async read(offset, into) {
      most = Math.max(most, ++waiting);
      await new Promise((resolve) => setTimeout(resolve, 0));
      waiting--;
      memory.read(offset, into);
    },
  });
  await using served = serveDisk(disk);
  const client = await served.client();
  for (let i = 0; i < 1000; i++) await client.send({ type: Command.READ, offset: i * 512, length: 512 });
  let done = 0;
  while (done < 1000) {
    const reply = await client.receive();
    if (reply === null) throw new Error(`the stream ended after ${done} replies`);
    done++;
  }
  assert(most <= 128, `${most} requests waited together`);
  assert(most > 64, `only ${most} requests waited together`);
});

Deno.test("session: latencies, traffic and dirty bytes are counted", async () => {
  await using served = serveDisk(new MemoryDisk(SIZE));
  const client = await served.client();
  await client.write(0, pattern(4096));
  await client.write(0, pattern(512), CommandFlag.FUA);
  await client.read(0, 1024);
  await client.read(SIZE, 1);
  const { traffic } = served.exported;
  assertEquals([traffic.requests, traffic.errors, traffic.readBytes, traffic.writtenBytes], [
    4,
    1,
    1024,
    4608,
  ]);
  assertEquals(traffic.dirtyBytes, 4096);
  await client.ask({ type: Command.FLUSH });
  assertEquals(traffic.dirtyBytes, 0);
  assertEquals(Object.keys(traffic.latencies()).sort(), ["flush", "read", "write"]);
  assertEquals(traffic.latencies().write.count, 2);
});

Deno.test("session: what a refused client is told names no path", async () => {
  const disk = changed(new MemoryDisk(SIZE), {
    read() {
      throw new DeviceError("EIO", "read", 0, 512, { detail: "/secret/path" });
    },
  });
  await using served = serveDisk(disk);
  const client = await served.client();
  const { text } = await client.read(0, 512);
  assertStringIncludes(text, "EIO");
  assert(!text.includes("secret"));
});

Deno.test("session: a client that leaves in the middle of a large write leaves nothing behind", async () => {
  const memory = new MemoryDisk(SIZE);
  const { promise: finished, resolve: finish } = Promise.withResolvers<void>();
  const slow = changed(memory, { write: () => finished });
  for (const disk of [memory, slow]) {
    const served = serveDisk(disk);
    const client = await served.client();
    await client.send({ type: Command.WRITE, offset: 0, length: 8 * MIB }, new Uint8Array(MIB));
    assertEquals(served.server.clients().length, 1);
    client.connection.close();
    finish();
    assertEquals(await served.server.drain(10_000), true);
    assertEquals(served.server.clients().length, 0);
  }
});
