/** What flexnbd's own acceptance tests ask of a server, asked of ours: the happy path and serve mode. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { converse } from "../../src/net/converse.ts";
import { dial } from "../../src/net/dial.ts";
import type { Connection } from "../../src/net/connection.ts";
import { need } from "../../src/wire/conversation.ts";
import { Command, CommandFlag } from "../../src/wire/nbd/constants.ts";
import { RawClient } from "../testing/raw_client.ts";
import { temporaryDirectory } from "../testing/process.ts";
import { denbd, type RunningServer, serve } from "./program.ts";

const blockBytes = 1024;

/** Every block holds its own number, so that one in the wrong place shows. */
function pattern(blocks: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array(blocks * blockBytes).map((_, index) => (index >> 10) * 31 + index % 251);
}

function where(server: RunningServer, from: number, size: number): string[] {
  return [
    "--addr",
    "127.0.0.1",
    "--port",
    String(server.port),
    "--from",
    String(from),
    "--size",
    String(size),
  ];
}

async function serveImage(image: string, content: Uint8Array, ...more: string[]): Promise<RunningServer> {
  Deno.writeFileSync(image, content);
  return await serve(["--file", image, "--addr", "127.0.0.1", "--port", "0", ...more]);
}

for (const style of [[], ["--oldstyle"]]) {
  Deno.test(`flexnbd${style.join("")}: read gives blocks and odd places of the file`, async () => {
    using directory = temporaryDirectory();
    const content = pattern(64);
    await using server = await serveImage(directory.file("image"), content, ...style);
    const ranges = [0, 12, 63].map((block) => [block * blockBytes, blockBytes]);
    for (const [from, size] of [...ranges, [124, 4], [1200, 4], [10028, 4], [25488, 4]]) {
      const { bytes } = await denbd(["read", ...where(server, from, size)]);
      assertEquals(bytes, content.slice(from, from + size));
    }
  });

  Deno.test(`flexnbd${style.join("")}: what write puts there is in the file, and read finds it`, async () => {
    using directory = temporaryDirectory();
    const image = directory.file("image");
    await using server = await serveImage(image, new Uint8Array(64 * blockBytes), ...style);
    for (const block of [0, 12, 63]) {
      const data = new Uint8Array(blockBytes).fill(block + 1);
      const from = block * blockBytes;
      await denbd(["write", ...where(server, from, blockBytes)], { stdin: data });
      assertEquals(Deno.readFileSync(image).slice(from, from + blockBytes), data);
      assertEquals((await denbd(["read", ...where(server, from, blockBytes)])).bytes, data);
    }
  });
}

Deno.test("flexnbd: writing every other block leaves the others zero", async () => {
  using directory = temporaryDirectory();
  const image = directory.file("image");
  await using server = await serveImage(image, new Uint8Array(64 * blockBytes));
  const content = pattern(64);
  const client = await RawClient.open(await connect(server));
  for (let block = 0; block < 64; block += 2) {
    const from = block * blockBytes;
    assertEquals((await client.write(from, content.subarray(from, from + blockBytes))).error, 0);
  }
  client.connection.close();
  const seen = Deno.readFileSync(image);
  for (let block = 0; block < 64; block++) {
    const range = [block * blockBytes, (block + 1) * blockBytes] as const;
    assertEquals(
      seen.slice(...range),
      block % 2 === 0 ? content.slice(...range) : new Uint8Array(blockBytes),
    );
  }
});

Deno.test("flexnbd: eight bytes above 2 GiB of a sparse file", async () => {
  using directory = temporaryDirectory();
  const image = directory.file("image");
  Deno.writeFileSync(image, new Uint8Array());
  Deno.truncateSync(image, 4 * 2 ** 30);
  await using server = await serve(["--file", image]);
  const from = 2 ** 31 + 2 ** 29;
  await denbd(["write", ...where(server, from, 8)], { stdin: "abcdefgh" });
  assertEquals((await denbd(["read", ...where(server, from, 8)])).stdout, "abcdefgh");
  assert(Deno.statSync(image).blocks! * 512 < 1 << 20, "the file is no longer sparse");
});

Deno.test("flexnbd: one write of 256 MiB of zeroes over ones", async () => {
  using directory = temporaryDirectory();
  const image = directory.file("image");
  const sizeBytes = 256 << 20;
  await using server = await serveImage(image, new Uint8Array(sizeBytes).fill(1));
  await denbd(["write", ...where(server, 0, sizeBytes)], { stdin: new Uint8Array(sizeBytes) });
  assertEquals(await server.stop("SIGINT"), 0);
  assertEquals(new BigUint64Array(Deno.readFileSync(image).buffer).findIndex((word) => word !== 0n), -1);
});

// Serve mode: the bytes on the wire, in the old style that flexnbd's clients speak.

interface Hello {
  readonly client: RawClient;
  readonly sizeBytes: number;
}

async function connect(server: RunningServer): Promise<Connection> {
  return await dial({ transport: "tcp", host: "127.0.0.1", port: server.port });
}

/** Reads and checks the 152 bytes that a server of old says first. */
async function hello(server: RunningServer): Promise<Hello> {
  const connection = await connect(server);
  const { result: bytes, rest } = await converse(need(152), connection);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  assertEquals(new TextDecoder().decode(bytes.subarray(0, 8)), "NBDMAGIC");
  assertEquals(view.getBigUint64(8), 0x0000420281861253n);
  // flexnbd has flags, flush and FUA; a client minds no more of them.
  assertEquals(view.getUint32(24) & 13, 13);
  assertEquals(bytes.subarray(28).findIndex((byte) => byte !== 0), -1);
  const agreement = { structured: false, extended: false };
  // deno-lint-ignore no-explicit-any
  const client = new RawClient(connection, agreement as any, rest);
  return { client, sizeBytes: Number(view.getBigUint64(16)) };
}

async function withOldServer(
  content: Uint8Array,
  test: (client: RawClient, image: string, sizeBytes: number, server: RunningServer) => Promise<void>,
): Promise<void> {
  using directory = temporaryDirectory();
  const image = directory.file("image");
  await using server = await serveImage(image, content, "--oldstyle");
  const { client, sizeBytes } = await hello(server);
  try {
    await test(client, image, sizeBytes, server);
  } finally {
    client.connection.close();
  }
}

Deno.test("flexnbd serve: a wrong request magic is an error with the same handle, then the end", () =>
  withOldServer(pattern(4), async ({ connection }) => {
    const request = new Uint8Array(28).fill(0xff);
    request.set([1, 2, 3, 4, 5, 6, 7, 8], 8);
    await connection.write(request);
    const { result: reply } = await converse(need(16), connection);
    const view = new DataView(reply.buffer, reply.byteOffset);
    assertEquals(view.getUint32(0), 0x67446698);
    assert(view.getUint32(4) !== 0);
    assertEquals(reply.slice(8), request.slice(8, 16));
    assertEquals(await connection.read(new Uint8Array(1)), null);
  }));

Deno.test("flexnbd serve: a longer write over a shorter one", () =>
  withOldServer(new Uint8Array(4096), async (client, image) => {
    assertEquals((await client.write(0, new Uint8Array(4096))).error, 0);
    assertEquals((await client.write(0, Uint8Array.of(1))).error, 0);
    assertEquals((await client.write(0, Uint8Array.of(2, 3))).error, 0);
    assertEquals(Deno.readFileSync(image).slice(0, 3), Uint8Array.of(2, 3, 0));
  }));

Deno.test("flexnbd serve: a read out of bounds is an error, and the connection goes on", () =>
  withOldServer(pattern(4), async (client, _image, sizeBytes) => {
    assert((await client.read(sizeBytes, 1)).error !== 0);
    assert((await client.read(sizeBytes - 1, 2)).error !== 0);
    assertEquals((await client.read(sizeBytes - 1, 1)).error, 0);
  }));

Deno.test("flexnbd serve: a write out of bounds is ENOSPC after its payload, and the connection goes on", () =>
  withOldServer(pattern(4), async (client, image, sizeBytes) => {
    assertEquals((await client.write(sizeBytes - 1, Uint8Array.of(1, 2))).error, 28);
    assertEquals((await client.write(0, Uint8Array.of(9))).error, 0);
    assertEquals(Deno.readFileSync(image), Uint8Array.of(9, ...pattern(4).slice(1)));
  }));

Deno.test("flexnbd serve: an unknown command is EINVAL, and the connection goes on", () =>
  withOldServer(pattern(4), async (client) => {
    assertEquals((await client.ask({ type: 123 })).error, 22);
    assertEquals((await client.read(0, 512)).data, pattern(4).slice(0, 512));
  }));

Deno.test("flexnbd serve: flush and writes with FUA succeed", () =>
  withOldServer(pattern(16), async (client, image) => {
    assertEquals((await client.ask({ type: Command.FLUSH })).error, 0);
    const data = new Uint8Array(33).fill(5);
    assertEquals((await client.write(3 * 4096 + 100, data, CommandFlag.FUA)).error, 0);
    assertEquals(Deno.readFileSync(image).slice(3 * 4096 + 100, 3 * 4096 + 133), data);
  }));

Deno.test("flexnbd serve: an odd size is announced in whole sectors, and the log says so", () =>
  withOldServer(new Uint8Array(1535), (_client, _image, sizeBytes, server) => {
    assertEquals(sizeBytes, 1024);
    assertMatch(server.log, /the last 511 bytes are no whole sector/);
    return Promise.resolve();
  }));

Deno.test("newstyle serves an odd size to the byte", async () => {
  using directory = temporaryDirectory();
  const content = pattern(2).slice(0, 1535);
  await using server = await serveImage(directory.file("image"), content);
  assertEquals((await denbd(["read", server.uri()])).bytes, content);
});
