/** How many calls of disks may wait, as a setting of the real program. */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { DISK_THREADS_DEFAULT } from "../../src/device/disk_threads.ts";
import { dial } from "../../src/net/dial.ts";
import { Command } from "../../src/wire/nbd/constants.ts";
import { temporaryDirectory } from "../testing/process.ts";
import { RawClient } from "../testing/raw_client.ts";
import { makeCold } from "../testing/storage.ts";
import { denbd, serve, start, statusOf } from "./program.ts";

const PIECE_BYTES = 64 * 1024;
const PIECES = 256;

Deno.test("V54: a server answers all it is asked with 1 disk thread and with 8, and while that changes", async () => {
  using directory = temporaryDirectory();
  const image = directory.file("disk.img");
  const content = new Uint8Array(PIECES * PIECE_BYTES);
  for (let at = 0; at < content.length; at += PIECE_BYTES) {
    crypto.getRandomValues(content.subarray(at, at + PIECE_BYTES));
  }
  Deno.writeFileSync(image, content);
  const sock = directory.file("control");
  await using server = await serve(["--file", image, "--disk-threads", "1", "--sock", sock]);
  const { port } = server;
  const client = await RawClient.open(await dial({ transport: "tcp", host: "127.0.0.1", port }));
  for (const count of [1, 8, 1]) {
    assertEquals((await statusOf(sock)).diskThreads.count, count);
    await makeCold(image);
    const cookies: bigint[] = [];
    for (let piece = 0; piece < PIECES; piece++) {
      // All over the disk, so that nobody reads ahead.
      const offset = piece * 83 % PIECES * PIECE_BYTES;
      cookies.push(await client.send({ type: Command.READ, offset, length: PIECE_BYTES }));
    }
    const next = count === 1 ? 8 : 1;
    const changing = denbd(["disk-threads", "--sock", sock, String(next)]);
    for (const [piece, cookie] of cookies.entries()) {
      const { error, data } = await client.answer(cookie);
      const offset = piece * 83 % PIECES * PIECE_BYTES;
      assertEquals([error, data], [0, content.subarray(offset, offset + PIECE_BYTES)]);
    }
    assertEquals((await changing).stdout, "updated\n");
  }
  assertEquals((await statusOf(sock)).diskThreads, { count: 8, busy: 0, waiting: 0 });
  client.connection.close();
});

Deno.test("V54: a server refuses to start with no disk threads, and with more than it may have", async () => {
  using directory = temporaryDirectory();
  const image = directory.file("disk.img");
  Deno.writeFileSync(image, new Uint8Array(4096));
  for (const count of ["0", "25", "-1", "1.5", "some"]) {
    const result = await denbd(["serve", "--file", image, `--disk-threads=${count}`], { code: 2 });
    assertMatch(result.stderr, /^denbd serve: --disk-threads: .*\nusage: /);
    assertStringIncludes(result.stderr, count);
  }
});

Deno.test("V54: diskThreads of server.conf is read again on a reload, and 0 leaves what there was", async () => {
  using directory = temporaryDirectory();
  const file = (name: string) => `${directory.path}/${name}`;
  Deno.writeFileSync(file("a.img"), new Uint8Array(4096));
  Deno.writeTextFileSync(file("exports.conf"), "[a]\ndisk = a.img\n");
  Deno.writeTextFileSync(file("peers.conf"), "[here]\naddress = 127.0.0.1\nread = a\n");
  const sock = file("control");
  const configure = (line: string) => Deno.writeTextFileSync(file("server.conf"), `[nbd]\n${line}\n`);
  configure("diskThreads = 8");
  await using server = await start([
    ...["serve", "--verbose", "--config", directory.path],
    ...["--port", "0", "--sock", sock],
  ]);
  await server.logged(/: serving 1 export on /);
  const reload = () => denbd(["reload", "--sock", sock], { code: "any" });
  const count = async () => (await statusOf(sock)).diskThreads.count;
  assertEquals(await count(), 8);
  configure("diskThreads = 1");
  assertEquals((await reload()).code, 0);
  assertEquals(await count(), 1);
  configure("diskThreads = 0");
  const refused = await reload();
  assertEquals(refused.code, 1);
  assertStringIncludes(refused.stderr, 'server.conf:2: diskThreads: "0" is not a whole number from 1 to 24');
  assertEquals(await count(), 1);
  configure("");
  assertEquals((await reload()).code, 0);
  assertEquals(await count(), DISK_THREADS_DEFAULT);
  assert(DISK_THREADS_DEFAULT > 1);
});
