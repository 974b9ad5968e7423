import { assert, assertEquals } from "@std/assert";
import type { BlockDevice } from "../../../src/device/device.ts";
import { DeviceError } from "../../../src/device/device_error.ts";
import { MemoryDisk } from "../../../src/device/memory.ts";
import { dial } from "../../../src/net/dial.ts";
import { Command, CommandFlag, WireErrno } from "../../../src/wire/nbd/constants.ts";
import type { ClientWishes } from "../../../src/wire/nbd/handshake_client.ts";
import { until } from "../../interop/peers.ts";
import { type Answer, RawClient } from "../../testing/raw_client.ts";
import { listenDisk, type ListeningDisk } from "../../testing/served_disk.ts";

const MIB = 1 << 20;
const SIZE = 64 * MIB;

const FORMS: readonly [string, Partial<ClientWishes>, number][] = [
  ["simple replies", { structured: false, extended: false }, 0],
  ["chunks", { extended: false }, 0],
  ["one chunk", {}, CommandFlag.DF],
];

/** The byte at an offset of the test disks. */
const byteAt = (offset: number) => (offset * 31 + (offset >> 12)) & 0xff;

/** A disk whose bytes follow from their offsets, which answers at once or later; what changes it replaces. */
function patternDisk(later: boolean, onRead: (offset: number) => void = () => {}): BlockDevice {
  const piece = Uint8Array.from({ length: MIB }, (_, at) => byteAt(at));
  return new Proxy<BlockDevice>(new MemoryDisk(SIZE), {
    get(target, key) {
      if (key === "read") {
        return (offset: number, into: Uint8Array) => {
          onRead(offset);
          for (let at = 0; at < into.length;) {
            const from = (offset + at) % MIB;
            const part = piece.subarray(from, from + into.length - at);
            into.set(part, at);
            at += part.length;
          }
          return later ? Promise.resolve() : undefined;
        };
      }
      if (key === "can") return { ...target.can, extents: false };
      const value = target[key as keyof BlockDevice];
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

function assertPattern({ error, data }: Answer, offset: number): void {
  assertEquals(error, 0);
  // Every byte near the ends and borders of pieces, others now and then.
  for (let at = 0; at < data.length; at += at % 65536 < 4200 ? 1 : 509) {
    if (data[at] !== byteAt((offset + at) % MIB)) {
      assertEquals(data[at], byteAt((offset + at) % MIB), `at ${at}`);
    }
  }
}

const connect = async (served: ListeningDisk, wishes: Partial<ClientWishes>) =>
  await RawClient.open(await dial({ transport: "tcp", host: "127.0.0.1", port: served.port }), wishes);

for (const [name, wishes, flags] of FORMS) {
  const test = (what: string, fn: () => Promise<void>) => Deno.test(`large reads, ${name}: ${what}`, fn);

  test("clients that ask for a lot and take nothing cost little memory, and get all of it in the end", async () => {
    let peakBytes = 0;
    const disk = patternDisk(false, () => peakBytes = Math.max(peakBytes, served.server.bufferedBytes));
    const served: ListeningDisk = listenDisk(disk);
    const clients = await Promise.all(Array.from({ length: 20 }, () => connect(served, wishes)));
    const cookies = await Promise.all(
      clients.map((client) => client.send({ type: Command.READ, offset: 0, length: 48 * MIB, flags })),
    );
    const small = await connect(served, wishes);
    assertPattern(await small.read(12_345, 8192), 12_345);
    for (const [index, client] of clients.entries()) {
      assertPattern(await client.answer(cookies[index]), 0);
      client.connection.close();
    }
    small.connection.close();
    // All of it would be 960 MiB.
    assert(peakBytes < 64 * MIB, `${peakBytes}`);
    await served[Symbol.asyncDispose]();
    assertEquals(served.server.bufferedBytes, 0);
  });

  test("beyond the budget everybody goes on with little, the others' requests as well", async () => {
    let peakBytes = 0;
    const disk = patternDisk(true, () => peakBytes = Math.max(peakBytes, served.server.bufferedBytes));
    const served: ListeningDisk = listenDisk(disk);
    const clients = await Promise.all(Array.from({ length: 100 }, () => connect(served, wishes)));
    for (const client of clients) {
      for (let n = 0; n < 3; n++) {
        await client.send({ type: Command.READ, offset: n * 8 * MIB, length: 8 * MIB, flags });
      }
    }
    const last = await connect(served, wishes);
    await until(() => served.server.bufferedBytes > 64 * MIB);
    for (const length of [512, 100_000, 3 * MIB]) assertPattern(await last.read(777, length, flags), 777);
    const data = new Uint8Array(2 * MIB);
    assertEquals((await last.write(0, data)).error, 0);
    // A hundred times 24 MiB were asked for.
    assert(peakBytes < 150 * MIB, `${peakBytes}`);
    for (const client of [...clients, last]) client.connection.close();
    await served[Symbol.asyncDispose]();
    assertEquals(served.server.bufferedBytes, 0);
  });

  test("replies to others on the connection are whole, before, between and behind", async () => {
    for (const later of [false, true]) {
      await using served = listenDisk(patternDisk(later));
      const client = await connect(served, wishes);
      const asked: [bigint, number][] = [];
      for (
        const [offset, length] of [[0, 512], [5, 5 * MIB], [MIB, 3 * MIB], [4096, 4096], [9, 2 * MIB], [1, 1]]
      ) {
        asked.push([await client.send({ type: Command.READ, offset, length, flags }), offset]);
      }
      for (const [cookie, offset] of asked) assertPattern(await client.answer(cookie), offset);
      client.connection.close();
    }
  });

  test("a disk that fails in the middle gives an error, or the end of the connection, and no wrong data", async () => {
    const disk = patternDisk(true, (offset) => {
      if (offset >= 6 * MIB) throw new DeviceError("EIO", "read", offset);
    });
    await using served = listenDisk(disk);
    const client = await connect(served, wishes);
    assertEquals((await client.read(8 * MIB, 4 * MIB, flags)).error, WireErrno.EIO);
    assertPattern(await client.read(0, 5 * MIB, flags), 0);
    const cookie = await client.send({ type: Command.READ, offset: 0, length: 8 * MIB, flags });
    if (name === "chunks") {
      assertEquals((await client.answer(cookie)).error, WireErrno.EIO);
      assertPattern(await client.read(0, 512, flags), 0);
    } else {
      // The beginning has left.
      const rest = new Uint8Array(MIB);
      let received = 0;
      for (let count; (count = await client.connection.read(rest)) !== null;) received += count;
      assert(received <= 7 * MIB);
    }
    await until(() => name === "chunks" || served.server.clients().length === 0);
    client.connection.close();
  });
}

Deno.test("large reads: a client that leaves in the middle leaves no memory behind", async () => {
  for (const [, wishes, flags] of FORMS) {
    for (const later of [false, true]) {
      const served = listenDisk(patternDisk(later));
      const client = await connect(served, wishes);
      await client.send({ type: Command.READ, offset: 0, length: 48 * MIB, flags });
      await client.send({ type: Command.READ, offset: 0, length: 16 * MIB, flags });
      assert(await client.connection.read(new Uint8Array(100_000)) !== null);
      client.connection.close();
      await until(() => served.server.clients().length === 0);
      await served[Symbol.asyncDispose]();
      assertEquals(served.server.bufferedBytes, 0);
    }
  }
});

Deno.test("large writes: those that the disk does not take are left with their clients", async () => {
  const taken = Promise.withResolvers<void>();
  let peakBytes = 0;
  let written = 0;
  const memory = new MemoryDisk(SIZE);
  const disk = new Proxy<BlockDevice>(memory, {
    get(target, key) {
      if (key === "write") {
        return async (_offset: number, data: Uint8Array) => {
          peakBytes = Math.max(peakBytes, served.server.bufferedBytes);
          await taken.promise;
          written += data.length;
        };
      }
      const value = target[key as keyof BlockDevice];
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
  const served: ListeningDisk = listenDisk(disk);
  const payload = new Uint8Array(MIB);
  const clients = await Promise.all(Array.from({ length: 30 }, () => connect(served, {})));
  const answers = clients.map(async (client) => {
    const request = { type: Command.WRITE, offset: 0, length: 24 * MIB };
    const cookie = await client.send(request, new Uint8Array());
    for (let sent = 0; sent < request.length; sent += MIB) await client.connection.write(payload);
    return (await client.answer(cookie)).error;
  });
  await until(() => served.server.bufferedBytes > 64 * MIB);
  taken.resolve();
  assertEquals(await Promise.all(answers), clients.map(() => 0));
  assertEquals(written, 30 * 24 * MIB);
  assert(peakBytes < 100 * MIB, `${peakBytes}`);
  for (const client of clients) client.connection.close();
  await served[Symbol.asyncDispose]();
  assertEquals(served.server.bufferedBytes, 0);
});
