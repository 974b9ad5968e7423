import { assert, assertEquals } from "@std/assert";
import type { BlockDevice, Shown } from "../../src/device/device.ts";
import { FaultDisk } from "../../src/device/fault.ts";
import { openFileDisk } from "../../src/device/open_file_disk.ts";
import type { Connection } from "../../src/net/connection.ts";
import { dial } from "../../src/net/dial.ts";
import { Pipe, pipes } from "../../src/os/pipe.ts";
import type { DialledConnection } from "../../src/remote/open_connection.ts";
import { openNbd } from "../../src/remote/open_nbd.ts";
import { Command, WireErrno } from "../../src/wire/nbd/constants.ts";
import type { ClientWishes } from "../../src/wire/nbd/handshake_client.ts";
import { Middleman } from "../testing/middleman.ts";
import { temporaryDirectory } from "../testing/process.ts";
import { randomFrom } from "../testing/random.ts";
import { RawClient } from "../testing/raw_client.ts";
import { listenDisk } from "../testing/served_disk.ts";

const linux = Deno.build.os === "linux";
const KIB = 1024;
const SIZE = 8 * 1024 * KIB;
const LONG = 128 * KIB;

const FORMS: readonly [string, Partial<ClientWishes>][] = [
  ["simple replies", { structured: false, extended: false }],
  ["structured replies", { extended: false }],
  ["extended headers", {}],
];

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name: `reads in pipes: ${name}`, ignore: !linux, fn });
}

interface ChainOptions {
  /** Alters the connections to the server. */
  readonly wrap?: (connection: Connection) => DialledConnection;
  /** Alters the disk of the server. */
  readonly wrapDisk?: (disk: BlockDevice) => BlockDevice;
  /** Whether the READ that begins there may have a pipe. */
  readonly mayPipe?: (offset: number) => boolean;
}

/** A server of a file, somebody between, and a server of the remote disk; all over TCP. */
async function chain(
  { wrap = (connection) => connection, wrapDisk = (disk) => disk, mayPipe = () => true }: ChainOptions = {},
) {
  const directory = temporaryDirectory();
  const path = directory.file("disk.img");
  const random = randomFrom();
  const content = random.bytes(SIZE);
  Deno.writeFileSync(path, content);
  const disk = await openFileDisk(path);
  const origin = listenDisk(wrapDisk(disk));
  const between = new Middleman(origin.port, (_from, bytes) => bytes);
  const opened = await openNbd({
    dial: async () => wrap(await dial({ transport: "tcp", host: "127.0.0.1", port: between.listener.port! })),
    exportName: "disk",
    readOnly: true,
    survival: {},
  });
  const seen = { piped: 0, shown: 0 };
  const device: BlockDevice = new Proxy<BlockDevice>(opened.disk, {
    get(target, key) {
      if (key === "show") {
        return (offset: number, length: number, done: Shown, openPipe?: () => Pipe | null) => {
          const look: Shown = (bytes, error) => {
            if (bytes instanceof Pipe) seen.piped++;
            else if (bytes !== null && length >= LONG) seen.shown++;
            done(bytes, error);
          };
          target.show!(offset, length, look, openPipe && (() => mayPipe(offset) ? openPipe() : null));
        };
      }
      const value = target[key as keyof BlockDevice];
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
  const proxy = listenDisk(device);
  return {
    random,
    content,
    between,
    link: opened.link!,
    seen,
    async client(wishes: Partial<ClientWishes> = {}): Promise<RawClient> {
      return await RawClient.open(
        await dial({ transport: "tcp", host: "127.0.0.1", port: proxy.port }),
        wishes,
      );
    },
    async [Symbol.asyncDispose]() {
      await proxy[Symbol.asyncDispose]();
      await opened.disk.close();
      between[Symbol.dispose]();
      await origin[Symbol.asyncDispose]();
      await disk.close();
      directory[Symbol.dispose]();
      assertEquals(pipes.takenCount, 0);
      pipes.clear();
    },
  };
}

type Chain = Awaited<ReturnType<typeof chain>>;

/** Reads at random, some at a time, more than half of them behind the one before, and compares. */
async function readAtRandom({ random, content }: Chain, client: RawClient, count: number, depth: number) {
  const waiting: { offset: number; length: number; cookie: bigint }[] = [];
  let end = 0;
  for (let sent = 0; sent < count || waiting.length > 0;) {
    if (sent < count && waiting.length < depth) {
      const length = random.chance(0.2)
        ? 1 + random.below(8 * KIB)
        : random.chance(0.3)
        ? LONG
        : random.chance(0.2)
        ? 250 * KIB + random.below(2500 * KIB)
        : 40 * KIB + random.below(200 * KIB);
      const offset = random.chance(0.6) && end + length <= SIZE
        ? end
        : random.chance(0.5)
        ? random.below(SIZE - length)
        : 4 * KIB * random.below((SIZE - length) / (4 * KIB));
      end = offset + length;
      waiting.push({ offset, length, cookie: await client.send({ type: Command.READ, offset, length }) });
      sent++;
      continue;
    }
    const { offset, length, cookie } = waiting.splice(random.below(waiting.length), 1)[0];
    const { error, data } = await client.answer(cookie);
    assertEquals(error, 0, `seed ${random.seed}`);
    const wrong = data.findIndex((byte, at) => byte !== content[offset + at]);
    assertEquals(wrong, -1, `${length} bytes at ${offset}, seed ${random.seed}`);
  }
}

for (const [name, wishes] of FORMS) {
  test(`${name}: the bytes are those of the disk, whatever sizes are mixed`, async () => {
    await using world = await chain();
    const client = await world.client(wishes);
    await readAtRandom(world, client, 200, 12);
    assert(world.seen.piped > 20, `${world.seen.piped} in pipes`);
    client.connection.close();
  });
}

test("READs that get no pipe do not keep those behind them from theirs", async () => {
  const length = 256 * KIB;
  // Of what goes elsewhere the last bytes have to be waited for.
  const butLast = (into: Uint8Array) =>
    into.subarray(0, into.length - (into.length > 16 * KIB ? 8 * KIB : 0));
  await using world = await chain({
    mayPipe: (offset) => offset >= 4 * length,
    wrap: (connection) => {
      const { read, readNow } = connection;
      connection.read = (into) => read.call(connection, butLast(into));
      connection.readNow = (into, patient) => readNow!.call(connection, butLast(into), patient);
      return connection;
    },
  });
  const client = await world.client();
  const cookies: bigint[] = [];
  for (let offset = 0; offset < SIZE; offset += length) {
    cookies.push(await client.send({ type: Command.READ, offset, length }));
  }
  for (const cookie of cookies) assertEquals((await client.answer(cookie)).error, 0);
  assertEquals(world.seen, { piped: cookies.length - 4, shown: 4 });
  client.connection.close();
});

test("a long READ passes in parts, and fails as one", async () => {
  const fault = { operation: "read", range: { offset: 3000 * KIB, length: 1 }, errno: "EIO" } as const;
  await using world = await chain({
    wrapDisk: (disk) => {
      const faulty = new FaultDisk(disk);
      faulty.add(fault);
      return faulty;
    },
  });
  const length = 2048 * KIB;
  for (const [form, wishes] of FORMS) {
    const client = await world.client(wishes);
    const cookies: bigint[] = [];
    for (let offset = 0; offset < SIZE; offset += length) {
      cookies.push(await client.send({ type: Command.READ, offset, length }));
    }
    const answers = [];
    for (const cookie of cookies) answers.push(await client.answer(cookie));
    assertEquals(answers.map(({ error }) => error), [0, WireErrno.EIO, 0, 0], form);
    const good = answers[2].data;
    assert(good.every((byte, at) => byte === world.content[2 * length + at]), `seed ${world.random.seed}`);
    client.connection.close();
  }
  assert(world.seen.piped > 0);
});

test("neighbours reach the server as fewer, and leave for the clients that asked for them", async () => {
  await using world = await chain();
  const { between, content } = world;
  let asked = 0;
  Object.assign(between, {
    meddle: (from: string, bytes: Uint8Array) => {
      // Nothing but READs passes here, in extended headers.
      if (from === "client") asked += bytes.length / 32;
      return bytes;
    },
  });
  const clients = [await world.client(), await world.client(FORMS[0][1])];
  const count = 64;
  for (let round = 0; round < 4; round++) {
    const cookies: bigint[] = [];
    for (let at = 0; at < count; at++) {
      cookies.push(await clients[at % 2].send({ type: Command.READ, offset: at * LONG, length: LONG }));
    }
    for (const [at, cookie] of cookies.entries()) {
      const { error, data } = await clients[at % 2].answer(cookie);
      assertEquals(error, 0);
      const wrong = data.findIndex((byte, index) => byte !== content[at * LONG + index]);
      assertEquals(wrong, -1, `part ${at}, seed ${world.random.seed}`);
    }
  }
  assert(asked < 4 * count, `${asked} requests`);
  assertEquals(world.link.status.readBytes, 4 * count * LONG);
  for (const { connection } of clients) connection.close();
});

test("a link that is cut in the middle of data leaves no half and no second copy of them", async () => {
  await using world = await chain();
  const { between, random, link, seen } = world;
  // Where in what the server has sent the next cut comes.
  let cutAt = 300 * KIB;
  let sent = 0;
  Object.assign(between, {
    meddle: (from: string, bytes: Uint8Array) => {
      if (from !== "server") return bytes;
      sent += bytes.length;
      if (sent < cutAt) return bytes;
      const rest = bytes.subarray(0, Math.max(0, bytes.length - (sent - cutAt)));
      cutAt = sent + 500 * KIB + random.below(3000 * KIB);
      queueMicrotask(() => between.cut());
      return rest;
    },
  });
  const clients = [await world.client(), await world.client(FORMS[0][1])];
  await Promise.all(clients.map((client) => readAtRandom(world, client, 150, 10)));
  assert(link.reconnects >= 5, `${link.reconnects} reconnects`);
  assert(seen.piped > 20);
  for (const { connection } of clients) connection.close();
});

test("clients that do not read what they asked for hold up nobody", async () => {
  await using world = await chain();
  const late: [RawClient, bigint[]][] = [];
  for (let index = 0; index < 24; index++) {
    const client = await world.client();
    const cookies: bigint[] = [];
    for (let at = 0; at < 100; at++) {
      const offset = (at % 32) * LONG;
      cookies.push(await client.send({ type: Command.READ, offset, length: LONG }));
    }
    late.push([client, cookies]);
  }
  const prompt = await world.client();
  await readAtRandom(world, prompt, 100, 8);
  assert(pipes.takenCount > 0);
  const held = pipes.takenCount;
  assert(held <= 32, `${held} pipes`);
  for (const [client, cookies] of late.splice(0, 4)) {
    for (const [at, cookie] of cookies.entries()) {
      const { data } = await client.answer(cookie);
      const start = (at % 32) * LONG;
      assert(data.every((byte, index) => byte === world.content[start + index]));
    }
    client.connection.close();
  }
  // The rest leave without a word, and their pipes go back.
  for (const [client] of late) client.connection.close();
  prompt.connection.close();
});

test("where the system stops to splice, in the middle of data too, they go another way for good", async () => {
  let moves = 0;
  await using world = await chain({
    wrap: (connection) => {
      const move = connection.moveNow!.bind(connection);
      connection.moveNow = (pipe, length, patient) => {
        if (++moves < 30) return move(pipe, Math.min(length, 30_000), patient);
        connection.moveNow = undefined;
        return undefined;
      };
      return connection;
    },
  });
  const client = await world.client();
  await readAtRandom(world, client, 100, 8);
  const { piped } = world.seen;
  assert(piped > 0);
  await readAtRandom(world, client, 50, 8);
  assertEquals(world.seen.piped, piped);
  assert(world.seen.shown > 0);
  assertEquals(moves, 30);
  client.connection.close();
});

test("data that come in pieces too small for a pipe are put together elsewhere", async () => {
  await using world = await chain({
    wrap: (connection) => {
      const move = connection.moveNow!.bind(connection);
      // A pipe holds so many pieces, whatever their size.
      connection.moveNow = (pipe, _length, patient) => move(pipe, 1, patient);
      return connection;
    },
  });
  const client = await world.client();
  await readAtRandom(world, client, 60, 6);
  assertEquals(world.seen.piped, 0);
  assert(world.seen.shown > 0);
  client.connection.close();
});
