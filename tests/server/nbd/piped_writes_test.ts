import { assert, assertEquals } from "@std/assert";
import type { BlockDevice } from "../../../src/device/device.ts";
import { DeviceError } from "../../../src/device/device_error.ts";
import { MemoryDisk } from "../../../src/device/memory.ts";
import { openFileDisk } from "../../../src/device/open_file_disk.ts";
import type { Connection } from "../../../src/net/connection.ts";
import { dial } from "../../../src/net/dial.ts";
import { listenUnix } from "../../../src/net/listener.ts";
import { claimDescriptor } from "../../../src/net/connection_descriptor.ts";
import { NativeConnection } from "../../../src/net/native_connection.ts";
import { libc } from "../../../src/os/libc.ts";
import { type Pipe, pipes } from "../../../src/os/pipe.ts";
import { Command, CommandFlag, WireErrno } from "../../../src/wire/nbd/constants.ts";
import { until } from "../../interop/peers.ts";
import { temporaryDirectory } from "../../testing/process.ts";
import { randomFrom } from "../../testing/random.ts";
import { connectionPair } from "../../testing/connection_pair.ts";
import { RawClient } from "../../testing/raw_client.ts";
import { listenDisk } from "../../testing/served_disk.ts";

const ignore = Deno.build.os !== "linux";
const KIB = 1 << 10;
const MIB = 1 << 20;
const SIZE = 16 * MIB;

type Take = (write: () => void | Promise<void>, offset: number, length: number) => void | Promise<void>;

/** A file of zeroes without holes, served on a port and on a Unix socket; tells what came to it through pipes. */
async function serveFile(take: Take = (write) => write()) {
  const directory = temporaryDirectory();
  const path = directory.file("disk.img");
  Deno.writeFileSync(path, new Uint8Array(SIZE));
  const disk = await openFileDisk(path);
  const seen = { pipedBytes: 0, copiedBytes: 0, flushes: 0 };
  const device: BlockDevice = new Proxy(disk, {
    get(target, key) {
      if (key === "writeFromPipe") {
        return (offset: number, length: number, pipe: Pipe) => {
          seen.pipedBytes += length;
          return take(() => target.writeFromPipe!(offset, length, pipe), offset, length);
        };
      }
      if (key === "write") {
        return (offset: number, data: Uint8Array) => {
          seen.copiedBytes += data.length;
          return take(() => target.write(offset, data), offset, data.length);
        };
      }
      if (key === "flush") seen.flushes++;
      const value = target[key as keyof BlockDevice];
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
  const served = listenDisk(device);
  const socket = directory.file("socket");
  const listener = await listenUnix(socket);
  const serving = served.server.serve(listener);
  const dialTo = (transport: "tcp" | "unix") =>
    transport === "tcp"
      ? dial({ transport, host: "127.0.0.1", port: served.port })
      : dial({ transport, path: socket });
  return {
    served,
    disk,
    seen,
    content: () => Deno.readFileSync(path),
    connect: async (transport: "tcp" | "unix" = "tcp", wrap = (connection: Connection) => connection) =>
      await RawClient.open(wrap(await dialTo(transport))),
    async [Symbol.asyncDispose]() {
      listener.close();
      await served[Symbol.asyncDispose]();
      await serving;
      await disk.close();
      directory[Symbol.dispose]();
      assertEquals([served.server.bufferedBytes, pipes.takenCount], [0, 0]);
    },
  };
}

/** A connection whose writes arrive in parts, cut anywhere. */
function inParts(connection: Connection, partBytes: () => number): Connection {
  let last = Promise.resolve();
  const write = async (bytes: Uint8Array) => {
    for (let rest = bytes; rest.length > 0;) {
      const part = rest.subarray(0, partBytes());
      rest = rest.subarray(part.length);
      await connection.write(part);
      await new Promise((resolve) => setTimeout(resolve, 0));
    }
  };
  return {
    peer: connection.peer,
    read: (into) => connection.read(into),
    write: (bytes) => last = last.then(() => write(bytes)),
    close: () => connection.close(),
  };
}

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name: `writes through pipes: ${name}`, ignore, fn });
}

const write = (offset: number, length: number, flags = 0) => ({ type: Command.WRITE, offset, length, flags });

for (const transport of ["tcp", "unix"] as const) {
  test(`every byte arrives where it belongs, whatever its way, over ${transport}`, async () => {
    const random = randomFrom();
    await using world = await serveFile();
    const expected = new Uint8Array(SIZE);
    const clients = await Promise.all([
      world.connect(transport),
      world.connect(transport),
      world.connect(
        transport,
        (connection) => inParts(connection, () => 1 + random.below(random.chance(0.2) ? 40 : 90_000)),
      ),
    ]);
    // Each has a region of its own, and several writes under way.
    const regionBytes = Math.floor(SIZE / clients.length);
    await Promise.all(clients.map(async (client, index) => {
      for (let round = 0; round < 12; round++) {
        const cookies: bigint[] = [];
        for (let n = 0; n < 4; n++) {
          const aligned = random.chance(0.5);
          let length = 1 + random.below(random.chance(0.3) ? 2 * MIB : 300_000);
          let offset = index * regionBytes + random.below(regionBytes - length - 4096);
          if (aligned) [offset, length] = [offset & ~4095, Math.max(4096, length & ~4095)];
          offset = Math.max(offset, index * regionBytes);
          const data = random.bytes(length);
          expected.set(data, offset);
          const flags = random.chance(0.1) ? CommandFlag.FUA : 0;
          cookies.push(await client.send(write(offset, length, flags), data));
          // Small ones in between are read, header and all.
          if (random.chance(0.3)) cookies.push(await client.send({ type: Command.FLUSH }));
        }
        for (const cookie of cookies) assertEquals((await client.answer(cookie)).error, 0);
      }
    }));
    const content = world.content();
    for (let at = 0; at < SIZE; at++) {
      if (content[at] !== expected[at]) {
        assertEquals(content[at], expected[at], `at ${at}, seed ${random.seed}`);
      }
    }
    assert(world.seen.pipedBytes > 4 * MIB, `seed ${random.seed}: only ${world.seen.pipedBytes} bytes`);
    for (const client of clients) client.connection.close();
  });

  test(`a client that leaves in the middle of a payload leaves nothing behind, over ${transport}`, async () => {
    await using world = await serveFile();
    const stays = await world.connect(transport);
    for (const sentBytes of [0, 1, 4096, 70_000, 300_000]) {
      const client = await world.connect(transport);
      await client.send(write(0, 400_000), new Uint8Array(sentBytes).fill(1));
      // What was sent before it has been taken notice of.
      assertEquals((await stays.write(8 * MIB, new Uint8Array(100_000))).error, 0);
      client.connection.close();
      await until(() => world.served.server.clients().length === 1);
    }
    stays.connection.close();
  });
}

test("FUA flushes once all of the payload is with the disk", async () => {
  await using world = await serveFile();
  const client = await world.connect();
  assertEquals((await client.write(0, new Uint8Array(600_000).fill(3), CommandFlag.FUA)).error, 0);
  assertEquals(world.seen.flushes, 1);
  assert(world.seen.pipedBytes > 0);
  client.connection.close();
});

for (const later of [false, true]) {
  const how = later ? "later" : "at once";
  test(`a disk that fails ${how} in the middle gives its error, and the stream stays in step`, async () => {
    const fail = (offset: number) => {
      throw new DeviceError("ENOSPC", "write", offset);
    };
    await using world = await serveFile((write, offset) => {
      if (!later) return offset >= MIB && offset < 2 * MIB ? fail(offset) : write();
      return Promise.resolve().then(() => offset >= MIB && offset < 2 * MIB ? fail(offset) : write());
    });
    for (const transport of ["tcp", "unix"] as const) {
      const client = await world.connect(transport);
      const cookies: [bigint, number][] = [];
      for (
        const [offset, length, error] of [
          [MIB - 256 * KIB, 3 * MIB, WireErrno.ENOSPC],
          [MIB, 128 * KIB, WireErrno.ENOSPC],
          [2 * MIB, 128 * KIB, 0],
          [0, 4096, 0],
          [0, MIB + 1, WireErrno.ENOSPC],
          [4 * MIB, 700_000, 0],
        ]
      ) {
        const data = new Uint8Array(length).fill(offset / 4096 + 1);
        cookies.push([await client.send(write(offset, length), data), error]);
      }
      for (const [cookie, error] of cookies) assertEquals((await client.answer(cookie)).error, error);
      const { data } = await client.read(4 * MIB, 700_000);
      assert(data.every((byte) => byte === (4 * MIB / 4096 + 1 & 0xff)));
      client.connection.close();
    }
    assert(world.seen.pipedBytes > 0);
  });
}

test("what the disk does not take stays with its clients, and comes whole in the end", async () => {
  const gate = Promise.withResolvers<void>();
  let peakBytes = 0;
  await using world = await serveFile(async (write) => {
    peakBytes = Math.max(peakBytes, world.served.server.bufferedBytes);
    await gate.promise;
    await write();
  });
  const clients = await Promise.all(
    Array.from({ length: 20 }, (_, n) => world.connect(n % 2 ? "tcp" : "unix")),
  );
  const pieceBytes = SIZE / clients.length & ~4095;
  const answers = clients.map(async (client, index) => {
    const cookies: bigint[] = [];
    const rounds = 12;
    for (let round = 0; round < rounds; round++) {
      const data = new Uint8Array(pieceBytes).fill(index + round + 1);
      cookies.push(await client.send(write(index * pieceBytes, pieceBytes), data));
    }
    for (const cookie of cookies) assertEquals((await client.answer(cookie)).error, 0);
    const { data } = await client.read(index * pieceBytes, pieceBytes);
    assert(data.every((byte) => byte === index + rounds));
    client.connection.close();
  });
  await until(() => world.served.server.bufferedBytes > 64 * MIB && pipes.takenCount > 16);
  gate.resolve();
  await Promise.all(answers);
  // A hundred and ninety MiB were sent.
  assert(peakBytes < 100 * MIB, `${peakBytes}`);
});

test("a disk that comes before it in the middle of a payload sees the rest", async () => {
  await using world = await serveFile();
  const client = await world.connect();
  const data = randomFrom(5).bytes(MIB);
  const cookie = await client.send(write(0, MIB), data.subarray(0, 500_000));
  await until(() => world.seen.pipedBytes >= 256 * KIB);
  const before = new MemoryDisk(SIZE);
  world.served.exported.device = before;
  await client.connection.write(data.subarray(500_000));
  assertEquals((await client.answer(cookie)).error, 0);
  const seen = new Uint8Array(MIB);
  before.read(0, seen);
  const there = world.seen.pipedBytes;
  assertEquals(seen.subarray(there), data.subarray(there));
  assertEquals(world.content().subarray(0, there), data.subarray(0, there));
  client.connection.close();
});

test("a pipe that is full of small parts is emptied by a copy, whole pages at a time", async () => {
  const random = randomFrom();
  await using world = await serveFile();
  const [here, there] = connectionPair();
  world.served.server.handle(withShortPipes(there, random.below));
  const client = await RawClient.open(here);
  const expected = new Uint8Array(MIB);
  for (const [offset, length] of [[0, 100_000], [5, 300_000], [4096, 512 * KIB], [777, 65_536]]) {
    const data = random.bytes(length);
    expected.set(data, offset);
    assertEquals((await client.write(offset, data)).error, 0, `seed ${random.seed}`);
  }
  assertEquals(world.content().subarray(0, MIB), expected, `seed ${random.seed}`);
  assert(world.seen.copiedBytes > 0 && world.seen.pipedBytes > 0, `seed ${random.seed}`);
  client.connection.close();
});

test("urgent bytes, which no pipe takes, hold up nobody", async () => {
  await using world = await serveFile();
  const other = await world.connect();
  const conn = await Deno.connect({ hostname: "127.0.0.1", port: world.served.port });
  const fd = claimDescriptor(conn)!;
  const client = await RawClient.open(new NativeConnection(conn, () => fd));
  const data = randomFrom(8).bytes(MIB);
  const cookie = await client.send(write(0, MIB), new Uint8Array());
  const MSG_OOB = 1;
  for (let at = 0; at < MIB; at += MIB / 8) {
    await client.connection.write(data.subarray(at, at + MIB / 8));
    // It stands in the stream, and is none of its bytes.
    assertEquals(libc()!.send(fd, new Uint8Array([0xff]), 1, MSG_OOB), 1);
    assertEquals((await other.read(MIB, 4096)).error, 0);
  }
  assertEquals((await client.answer(cookie)).error, 0);
  assertEquals(world.content().subarray(0, MIB), data);
  client.connection.close();
  other.connection.close();
});

/** A connection that moves small parts into a pipe, of which that takes only some. */
function withShortPipes(connection: Connection, below: (limit: number) => number): Connection {
  let early = new Uint8Array();
  let pending: Promise<unknown> | null = null;
  const read = (into: Uint8Array): number | null | Promise<number | null> => {
    if (pending !== null) return pending.then(() => read(into));
    if (early.length === 0) return connection.read(into);
    const part = early.subarray(0, into.length);
    into.set(part);
    early = early.subarray(part.length);
    return part.length;
  };
  return {
    peer: connection.peer,
    read,
    write: (bytes) => connection.write(bytes),
    close: () => connection.close(),
    moveNow(pipe, length) {
      if (below(3) === 0) return 0;
      const part = new Uint8Array(Math.min(length, 1 + below(20_000)));
      const reading = early.length > 0 ? read(part) : connection.read(part);
      if (reading === null) return undefined;
      if (typeof reading === "number") return pipe.put(part.subarray(0, reading));
      pending = reading.then((count) => {
        early = part.subarray(0, count ?? 0);
        pending = null;
      });
      return undefined;
    },
  };
}
