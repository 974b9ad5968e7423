import { assert, assertEquals } from "@std/assert";
import type { BlockDevice } from "../../../src/device/device.ts";
import { openFileDisk } from "../../../src/device/open_file_disk.ts";
import { dial } from "../../../src/net/dial.ts";
import { Command, CommandFlag } from "../../../src/wire/nbd/constants.ts";
import type { ClientWishes } from "../../../src/wire/nbd/handshake_client.ts";
import { ManualClock } from "../../testing/manual_clock.ts";
import { temporaryDirectory } from "../../testing/process.ts";
import { randomFrom } from "../../testing/random.ts";
import { RawClient } from "../../testing/raw_client.ts";
import { listenDisk, type ListeningDisk } from "../../testing/served_disk.ts";

const linux = Deno.build.os === "linux";
const MIB = 1 << 20;
const SIZE = 24 * MIB + 512;

const FORMS: readonly [string, Partial<ClientWishes>][] = [
  ["simple replies", { structured: false, extended: false }],
  ["structured replies", { extended: false }],
  ["extended headers", {}],
];

/** A file with holes, served on a port; counts how often the disk let its file be used. */
async function serveFile() {
  const directory = temporaryDirectory();
  const path = directory.file("disk.img");
  Deno.writeFileSync(path, new Uint8Array());
  Deno.truncateSync(path, SIZE);
  using file = Deno.openSync(path, { write: true });
  const { bytes } = randomFrom(1);
  for (const [offset, length] of [[0, 9 * MIB], [10 * MIB, 200 * 1024], [11 * MIB, SIZE - 11 * MIB]]) {
    file.seekSync(offset, Deno.SeekMode.Start);
    for (let rest = bytes(length); rest.length > 0;) rest = rest.subarray(file.writeSync(rest));
  }
  // By a clock that stands still no look for holes ends early: on a busy machine data may be all that is told.
  const disk = await openFileDisk(path, { clock: new ManualClock() });
  const seen = { lent: 0 };
  const device: BlockDevice = new Proxy(disk, {
    get(target, key) {
      if (key === "cachedFile") {
        return (offset: number, length: number) => {
          const file = target.cachedFile!(offset, length);
          if (file !== null) seen.lent++;
          return file;
        };
      }
      const value = target[key as keyof BlockDevice];
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
  const served = listenDisk(device);
  return {
    served,
    seen,
    path,
    async [Symbol.asyncDispose]() {
      await served[Symbol.asyncDispose]();
      await disk.close();
      directory[Symbol.dispose]();
    },
  };
}

const connect = async (served: ListeningDisk, wishes: Partial<ClientWishes>) =>
  await RawClient.open(await dial({ transport: "tcp", host: "127.0.0.1", port: served.port }), wishes);

for (const [name, wishes] of FORMS) {
  const test = (what: string, fn: () => Promise<void>) =>
    Deno.test({ name: `reads from the file itself, ${name}: ${what}`, ignore: !linux, fn });

  test("the wire has the same bytes as when they were read", async () => {
    await using world = await serveFile();
    const { served, seen } = world;
    const sending = await connect(served, wishes);
    // A connection in memory knows no files.
    const reading = await served.client(wishes);
    const reads = [
      [0, 65_536],
      [3, 100_000],
      [0, 1 * MIB],
      [9 * MIB - 70_000, 140_000],
      [8 * MIB, 8 * MIB],
      [SIZE - 65_537, 65_537],
      [0, 24 * MIB],
    ];
    for (const [offset, length] of reads) {
      for (const flags of wishes.structured === false ? [0] : [0, CommandFlag.DF]) {
        // Now it is in memory, whatever the system has thrown out meanwhile; but for a hole.
        const read = await reading.read(offset, length, flags);
        const before = seen.lent;
        const sent = await sending.read(offset, length, flags);
        const holed = offset + length > 9 * MIB && offset < 11 * MIB;
        assert(holed || seen.lent > before, `${offset} ${length} ${flags}`);
        assertEquals(sent.error, 0);
        assert(sent.data.every((byte, index) => byte === read.data[index]));
        const forms = ({ chunks }: typeof sent) =>
          chunks.map(({ header, payload }) => ({ ...header, cookie: 0n, length: payload.length }));
        // What is larger is read piece by piece.
        if (length <= MIB) assertEquals(forms(sent), forms(read));
      }
    }
    sending.connection.close();
    reading.connection.close();
  });

  test("replies stay whole and in order among others, to a reader that is late", async () => {
    await using world = await serveFile();
    const client = await connect(world.served, wishes);
    const expected = Deno.readFileSync(world.path);
    const ranges = [[0, 512], [0, 3 * MIB], [4096, 4096], [MIB, 6 * MIB], [12 * MIB, 100_000], [7, 9]];
    const cookies: bigint[] = [];
    for (const [offset, length] of ranges) {
      cookies.push(await client.send({ type: Command.READ, offset, length }));
    }
    for (const [index, [offset]] of ranges.entries()) {
      const { error, data } = await client.answer(cookies[index]);
      assertEquals(error, 0);
      assert(data.every((byte, at) => byte === expected[offset + at]));
    }
    client.connection.close();
  });

  test("a write that was answered is in every later read", async () => {
    await using world = await serveFile();
    const client = await connect(world.served, wishes);
    for (let round = 1; round <= 10; round++) {
      const data = new Uint8Array(512 * 1024).fill(round);
      // Longer than what is written at once: it is under way on the pool while the read arrives.
      const writing = await client.send({ type: Command.WRITE, offset: MIB, length: data.length }, data);
      const other = await client.send({ type: Command.READ, offset: MIB, length: data.length });
      assertEquals((await client.answer(writing)).error, 0);
      const read = await client.read(MIB, data.length);
      assert(read.data.every((byte) => byte === round));
      assertEquals((await client.answer(other)).error, 0);
    }
    client.connection.close();
  });

  test("a file that is cut short while it is sent ends the connection, and no other", async () => {
    await using world = await serveFile();
    const { served, path } = world;
    const other = await connect(served, wishes);
    const client = await connect(served, wishes);
    await client.send({ type: Command.READ, offset: 11 * MIB, length: 13 * MIB, flags: 0 });
    // The first bytes show that it is under way; the rest waits for us.
    assert((await client.connection.read(new Uint8Array(16))) !== null);
    Deno.truncateSync(path, 17 * MIB);
    const rest = new Uint8Array(MIB);
    let received = 16;
    for (let count; (count = await client.connection.read(rest)) !== null;) received += count;
    assert(received < 13 * MIB);
    assertEquals((await other.read(0, 100_000)).error, 0);
    assertEquals(served.server.clients().length, 1);
    other.connection.close();
  });
}
