/** Servers that break the protocol: nothing they say is delivered, and the connection ends. */
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { DeviceError } from "../../src/device/device_error.ts";
import type { Connection } from "../../src/net/connection.ts";
import { converse } from "../../src/net/converse.ts";
import { ConnectionSet } from "../../src/remote/connection_set.ts";
import { NbdDisk } from "../../src/remote/nbd.ts";
import { openConnection } from "../../src/remote/open_connection.ts";
import { ChunkType, Command } from "../../src/wire/nbd/constants.ts";
import { negotiateNewstyle } from "../../src/wire/nbd/handshake_server.ts";
import { encodeChunkHeader, encodeSimpleReply } from "../../src/wire/nbd/transmission.ts";
import { WireError } from "../../src/wire/wire_error.ts";
import { connectionPair } from "../testing/connection_pair.ts";
import { bytes as fromHex } from "../testing/hex.ts";
import { anOffer, hallOf } from "../testing/nbd_hall.ts";

type Form = "simple" | "structured" | "extended";

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, permissions: "none", fn });
}

/** A client that has just agreed on a form with a server whose every byte is the test's. */
async function meet(form: Form) {
  const [here, there] = connectionPair();
  const greeted = converse(negotiateNewstyle(hallOf([anOffer()])), there);
  const wishes = {
    exportName: "disk",
    contexts: ["base:allocation"],
    structured: form !== "simple",
    extended: form === "extended",
  };
  const opened = await openConnection(() => Promise.resolve(here), wishes);
  await greeted;
  return { disk: new NbdDisk(new ConnectionSet([opened])), server: there };
}

/** Reads one request; cookie and all. Compact requests have 28 bytes, extended ones 32. */
async function request(server: Connection, form: Form): Promise<bigint> {
  const header = new Uint8Array(form === "extended" ? 32 : 28);
  for (let filled = 0; filled < header.length;) {
    const count = await server.read(header.subarray(filled));
    if (count === null) throw new Error("the client has left");
    filled += count;
  }
  return new DataView(header.buffer).getBigUint64(8);
}

/** A chunk with these fields, right or wrong; `payload` in hexadecimal. */
function chunk(
  form: Form,
  cookie: bigint,
  type: number,
  flags: number,
  payload: string,
  claimed?: number,
): Uint8Array {
  const data = fromHex(payload);
  const bytes = new Uint8Array(32 + data.length);
  const extended = form === "extended";
  const view = new DataView(bytes.buffer);
  const header = encodeChunkHeader(view, 0, extended, flags, type, cookie, OFFSET, claimed ?? data.length);
  bytes.set(data, header);
  return bytes.subarray(0, header + data.length);
}

function simple(cookie: bigint, error: number): Uint8Array {
  const bytes = new Uint8Array(16);
  encodeSimpleReply(new DataView(bytes.buffer), 0, cookie, error);
  return bytes;
}

const OFFSET = 8192;
const LENGTH = 16;
const at = (offset: number) => offset.toString(16).padStart(16, "0");
const DATA = "11".repeat(LENGTH);
const { NONE, OFFSET_DATA, OFFSET_HOLE, BLOCK_STATUS, BLOCK_STATUS_EXT, ERROR, ERROR_OFFSET } = ChunkType;
const DONE = 1;
/** The id that our server gives to `base:allocation`. */
const ID = 1;

type Lie = readonly [
  what: string,
  chunks: readonly (readonly [type: number, flags: number, payload: string, claimed?: number])[],
];

/** Answers to READ of 16 bytes at 8192. */
const readLies: readonly Lie[] = [
  ["data before the request", [[OFFSET_DATA, DONE, at(OFFSET - 1) + DATA]]],
  ["data behind the request", [[OFFSET_DATA, DONE, at(OFFSET + 1) + DATA]]],
  ["data at an offset that wraps", [[OFFSET_DATA, DONE, "ffffffffffffffff" + DATA]]],
  ["more data than were asked for", [[OFFSET_DATA, DONE, at(OFFSET) + DATA + "11"]]],
  ["a claim of 4 GiB of data", [[OFFSET_DATA, DONE, at(OFFSET), 0xffffffff]]],
  ["a data chunk without data", [[OFFSET_DATA, DONE, at(OFFSET)]]],
  ["fewer data than were asked for", [[OFFSET_DATA, DONE, at(OFFSET) + "11".repeat(15)]]],
  ["no data at all", [[NONE, DONE, ""]]],
  ["the same data twice", [[OFFSET_DATA, 0, at(OFFSET) + DATA], [OFFSET_DATA, DONE, at(OFFSET) + "22"]]],
  ["a hole over data", [[OFFSET_DATA, 0, at(OFFSET) + DATA], [
    OFFSET_HOLE,
    DONE,
    at(OFFSET + 8) + "00000001",
  ]]],
  ["an empty hole", [[OFFSET_HOLE, DONE, at(OFFSET) + "00000000"]]],
  ["a hole longer than the request", [[OFFSET_HOLE, DONE, at(OFFSET) + "00000011"]]],
  ["a hole chunk that is too long", [[OFFSET_HOLE, DONE, at(OFFSET) + "0000001000"]]],
  ["NONE without DONE", [[OFFSET_DATA, 0, at(OFFSET) + DATA], [NONE, 0, ""]]],
  ["NONE with a payload", [[NONE, DONE, "00"]]],
  ["an unknown chunk type", [[77, DONE, "00"]]],
  ["a status in reply to READ", [[BLOCK_STATUS, DONE, "00000001" + "0000001000000000"]]],
  ["error 0", [[ERROR, DONE, "00000000" + "0000"]]],
  ["an error text longer than its chunk", [[ERROR, DONE, "00000005" + "0003" + "6162"]]],
  ["an error text shorter than its chunk", [[ERROR, DONE, "00000005" + "0001" + "6162"]]],
  ["an error chunk that is too short", [[ERROR, DONE, "00000005"]]],
  ["an error chunk of 1 MiB", [[ERROR, DONE, "", 1 << 20]]],
  ["an error outside the request", [[ERROR_OFFSET, DONE, "00000005" + "0000" + at(OFFSET + LENGTH + 1)]]],
  ["a second answer", [[OFFSET_DATA, DONE, at(OFFSET) + DATA], [NONE, DONE, ""]]],
];

/** Checks that the connection is over, at both ends, and stays so. */
async function expectEnd(disk: NbdDisk, server: Connection): Promise<void> {
  const rest = new Uint8Array(1024);
  while (await server.read(rest) !== null);
  await assertRejects(async () => await disk.read(0, new Uint8Array(1)), DeviceError, "is lost");
}

/** Reads by {@linkcode NbdDisk.show}. */
function shown(disk: NbdDisk, offset: number, length: number): Promise<void> {
  return new Promise((resolve, reject) => {
    disk.show(offset, length, (bytes, error) => bytes === null ? reject(error) : resolve());
  });
}

for (const form of ["structured", "extended"] as const) {
  for (const [what, chunks] of readLies) {
    const expectRefused = async (read: (disk: NbdDisk) => Promise<void>) => {
      const { disk, server } = await meet(form);
      const reading = read(disk);
      // Another request under way fails with it.
      const other = disk.read(0, new Uint8Array(1)) as Promise<void>;
      other.catch(() => {});
      const cookie = await request(server, form);
      await request(server, form);
      for (const [type, flags, payload, claimed] of chunks) {
        await server.write(chunk(form, cookie, type, flags, payload, claimed));
      }
      if (what === "a second answer") {
        await reading;
      } else {
        const error = await assertRejects(() => reading, DeviceError);
        assertEquals(error.errno, "EIO");
        assert(error.cause instanceof WireError, `${error.cause}`);
      }
      assert((await assertRejects(() => other, DeviceError)).cause instanceof WireError);
      await expectEnd(disk, server);
    };
    test(`READ answered with ${what} ends the connection (${form})`, async () => {
      await expectRefused((disk) => disk.read(OFFSET, new Uint8Array(LENGTH)) as Promise<void>);
      await expectRefused((disk) => shown(disk, OFFSET, LENGTH));
    });
  }

  const fitting = form === "extended" ? BLOCK_STATUS_EXT : BLOCK_STATUS;
  const word = (value: number) => value.toString(16).padStart(form === "extended" ? 16 : 8, "0");
  const status = (id: number, ...extents: number[][]) =>
    id.toString(16).padStart(8, "0") +
    (form === "extended" ? extents.length.toString(16).padStart(8, "0") : "") +
    extents.map(([length, bits]) => word(length) + word(bits)).join("");
  const statusLies: readonly Lie[] = [
    ["no status", [[NONE, DONE, ""]]],
    ["the status of a context that was not agreed", [[fitting, DONE, status(99, [LENGTH, 0])]]],
    ["two statuses of one context", [[fitting, 0, status(ID, [LENGTH, 0])], [
      fitting,
      DONE,
      status(ID, [LENGTH, 0]),
    ]]],
    ["an extent of 0 bytes", [[fitting, DONE, status(ID, [0, 0])]]],
    ["no extents", [[fitting, DONE, status(ID)]]],
    ["an extent behind the end of the request", [[fitting, DONE, status(ID, [LENGTH, 0], [1, 0])]]],
    ["half an extent", [[fitting, DONE, status(ID, [LENGTH, 0]) + "0000"]]],
    ["data", [[OFFSET_DATA, DONE, at(OFFSET) + DATA]]],
    ["more extents than bytes", [[fitting, DONE, "", 4 + 16 * 17 * 2]]],
  ];
  for (const [what, chunks] of statusLies) {
    test(`BLOCK_STATUS answered with ${what} ends the connection (${form})`, async () => {
      const { disk, server } = await meet(form);
      const asking = disk.extents(OFFSET, LENGTH) as Promise<unknown>;
      const cookie = await request(server, form);
      for (const each of chunks) {
        const [type, flags, payload, claimed] = each;
        await server.write(chunk(form, cookie, type, flags, payload, claimed));
      }
      assert((await assertRejects(() => asking, DeviceError)).cause instanceof WireError);
      await expectEnd(disk, server);
    });
  }

  test(`an unknown error chunk fails its request only (${form})`, async () => {
    const { disk, server } = await meet(form);
    const failing = disk.read(OFFSET, new Uint8Array(LENGTH)) as Promise<void>;
    const cookie = await request(server, form);
    await server.write(chunk(form, cookie, 0x8077, 0, "0000001c" + "0002" + "6f68" + "feed"));
    await server.write(chunk(form, cookie, NONE, DONE, ""));
    const error = await assertRejects(() => failing, DeviceError);
    assertEquals(error.errno, "ENOSPC");
    assertStringIncludes(error.message, 'the server says "oh"');
    const into = new Uint8Array(LENGTH);
    const reading = disk.read(OFFSET, into);
    const next = await request(server, form);
    await server.write(chunk(form, next, OFFSET_DATA, 0, at(OFFSET + 8) + DATA.slice(16)));
    await server.write(chunk(form, next, OFFSET_HOLE, DONE, at(OFFSET) + "00000008"));
    await reading;
    assertEquals(into, new Uint8Array(LENGTH).fill(0x11, 8));
    await disk.close();
  });

  test(`data, then an error: the request fails, the connection lives (${form})`, async () => {
    const { disk, server } = await meet(form);
    const failing = disk.read(OFFSET, new Uint8Array(LENGTH)) as Promise<void>;
    const cookie = await request(server, form);
    await server.write(chunk(form, cookie, OFFSET_DATA, 0, at(OFFSET) + DATA));
    await server.write(chunk(form, cookie, ERROR_OFFSET, DONE, "00000005" + "0000" + at(OFFSET + 3)));
    assertEquals((await assertRejects(() => failing, DeviceError)).errno, "EIO");
    const flushing = disk.flush();
    await server.write(
      chunk(form, await request(server, form), NONE, DONE, "").fill(0, 16, form === "extended" ? 24 : 16),
    );
    await flushing;
    await disk.close();
  });
}

for (const form of ["simple", "structured"] as const) {
  test(`an answer with an unknown cookie ends the connection (${form})`, async () => {
    const { disk, server } = await meet(form);
    const flushing = disk.flush();
    const cookie = await request(server, form);
    await server.write(simple(cookie + 1n, 0));
    assert((await assertRejects(() => flushing, DeviceError)).cause instanceof WireError);
    await expectEnd(disk, server);
  });

  test(`an answer with an unknown magic ends the connection (${form})`, async () => {
    const { disk, server } = await meet(form);
    const flushing = disk.flush();
    const reply = simple(await request(server, form), 0);
    reply[0] ^= 1;
    await server.write(reply);
    assert((await assertRejects(() => flushing, DeviceError)).cause instanceof WireError);
    await expectEnd(disk, server);
  });
}

test("a chunk that was not agreed ends the connection", async () => {
  const { disk, server } = await meet("simple");
  const reading = disk.read(OFFSET, new Uint8Array(LENGTH)) as Promise<void>;
  const cookie = await request(server, "simple");
  await server.write(chunk("structured", cookie, OFFSET_DATA, DONE, at(OFFSET) + DATA));
  assert((await assertRejects(() => reading, DeviceError)).cause instanceof WireError);
  await expectEnd(disk, server);
});

test("READ may fail by a simple reply where chunks were agreed, but not succeed", async () => {
  const { disk, server } = await meet("structured");
  const failing = disk.read(OFFSET, new Uint8Array(LENGTH)) as Promise<void>;
  await server.write(simple(await request(server, "structured"), 1));
  assertEquals((await assertRejects(() => failing, DeviceError)).errno, "EPERM");
  const reading = disk.read(OFFSET, new Uint8Array(LENGTH)) as Promise<void>;
  await server.write(simple(await request(server, "structured"), 0));
  assert((await assertRejects(() => reading, DeviceError)).cause instanceof WireError);
  await expectEnd(disk, server);
});

test("an unknown error code is EINVAL, and the connection lives", async () => {
  const { disk, server } = await meet("simple");
  for (const [code, errno] of [[4711, "EINVAL"], [28, "ENOSPC"], [95, "ENOTSUP"]] as const) {
    const flushing = disk.flush();
    await server.write(simple(await request(server, "simple"), code));
    assertEquals((await assertRejects(() => flushing, DeviceError)).errno, errno);
  }
  await disk.close();
});

test("a server that closes fails what is under way, and everything later", async () => {
  const { disk, server } = await meet("simple");
  const flushing = disk.flush();
  await request(server, "simple");
  server.close();
  await assertRejects(() => flushing, DeviceError, "the server closed the connection");
  await assertRejects(() => disk.flush(), DeviceError, "is lost");
  await disk.close();
});

test("a server that is shutting down is left politely once it has answered the rest", async () => {
  const { disk, server } = await meet("simple");
  const first = disk.flush();
  const second = disk.flush();
  const cookies = [await request(server, "simple"), await request(server, "simple")];
  await server.write(simple(cookies[0], 108));
  assertEquals((await assertRejects(() => first, DeviceError)).errno, "ESHUTDOWN");
  await assertRejects(() => disk.flush(), DeviceError, "ESHUTDOWN");
  await server.write(simple(cookies[1], 0));
  await second;
  const goodbye = new Uint8Array(28);
  await server.read(goodbye);
  assertEquals(new DataView(goodbye.buffer).getUint16(6), Command.DISC);
  assertEquals(await server.read(goodbye), null);
  await disk.close();
});
