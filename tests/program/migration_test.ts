/** What flexnbd's own acceptance tests ask of migrations, asked of ours: at both ends, and at each with a fake other. */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { converse } from "../../src/net/converse.ts";
import { dial } from "../../src/net/dial.ts";
import { need } from "../../src/wire/conversation.ts";
import { Command } from "../../src/wire/nbd/constants.ts";
import { RawClient } from "../testing/raw_client.ts";
import { freePort, temporaryDirectory } from "../testing/process.ts";
import { denbd, listen, type RunningServer, serve } from "./program.ts";

const MIB = 1024 * 1024;

function image(path: string, sizeBytes: number, random = true): string {
  using file = Deno.openSync(path, { write: true, create: true, truncate: true });
  for (let at = 0; random && at < sizeBytes; at += 65536) {
    file.writeSync(crypto.getRandomValues(new Uint8Array(Math.min(65536, sizeBytes - at))));
  }
  file.truncateSync(sizeBytes);
  return path;
}

function assertSameFiles(one: string, other: string): void {
  const [ours, theirs] = [Deno.readFileSync(one), Deno.readFileSync(other)];
  assertEquals(ours.length, theirs.length);
  assertEquals(ours.findIndex((byte, at) => byte !== theirs[at]), -1);
}

function mirrorTo(port: number, sock: string, ...more: string[]) {
  const where = ["--addr", "127.0.0.1", "--port", String(port), "--sock", sock];
  return denbd(["mirror", ...where, ...more], { code: "any" });
}

/** A source and a destination of the same size. */
async function pair(directory: ReturnType<typeof temporaryDirectory>, sizeBytes: number) {
  const file = image(directory.file("source"), sizeBytes);
  const copy = image(directory.file("copy"), sizeBytes, false);
  const sock = directory.file("source.sock");
  const source = await serve(["--file", file, "--sock", sock]);
  const destination = await listen(["--file", copy, "--sock", directory.file("copy.sock")]);
  return { file, copy, sock, source, destination };
}

for (const style of [[], ["--oldstyle"]]) {
  Deno.test(`flexnbd mirror${style.join("")}: both ends exit with 0, the file stays, contents are equal`, async () => {
    using directory = temporaryDirectory();
    const file = image(directory.file("source"), 4096);
    const copy = image(directory.file("copy"), 4096, false);
    const sock = directory.file("sock");
    await using source = await serve(["--file", file, "--sock", sock, ...style]);
    await using destination = await listen(["--file", copy, ...style]);
    assertEquals((await mirrorTo(destination.port, sock)).stdout, "Migration started\n");
    assertEquals([await source.ended(), await destination.ended()], [0, 0]);
    assertSameFiles(file, copy);
  });
}

Deno.test("flexnbd mirror --unlink: the file is gone at the end, and not before the destination has it", async () => {
  using directory = temporaryDirectory();
  const { file, copy, sock, source, destination } = await pair(directory, 4096);
  const before = Deno.readFileSync(file);
  const { code, stderr } = await mirrorTo(destination.port, sock, "--unlink", "--quiet");
  assertEquals([code, stderr], [0, ""]);
  assertEquals([await source.ended(), await destination.ended()], [0, 0]);
  assertEquals(Deno.readFileSync(copy), before);
  assertEquals(await exists(file), false);
});

async function exists(path: string): Promise<boolean> {
  return await Deno.stat(path).then(() => true, () => false);
}

// The destination, with a source that does what it should not.

async function helloFrom(port: number): Promise<RawClient> {
  const connection = await dial({ transport: "tcp", host: "127.0.0.1", port });
  const { result: bytes, rest } = await converse(need(152), connection);
  assertEquals(new TextDecoder().decode(bytes.subarray(0, 8)), "NBDMAGIC");
  const agreement = { structured: false, extended: false };
  // deno-lint-ignore no-explicit-any
  return new RawClient(connection, agreement as any, rest);
}

/** The next connection may come a moment before the server has seen the end of the one before. */
async function helloAgain(port: number): Promise<RawClient> {
  for (let tries = 0;; tries++) {
    try {
      return await helloFrom(port);
    } catch (error) {
      if (tries === 100) throw error;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
}

async function withListener(
  test: (server: RunningServer, sock: string, file: string) => Promise<void>,
  ...more: string[]
): Promise<void> {
  using directory = temporaryDirectory();
  const file = image(directory.file("image"), 4096, false);
  const sock = directory.file("sock");
  await using server = await listen(["--file", file, "--oldstyle", "--sock", sock, ...more]);
  await test(server, sock, file);
}

async function hasControl(sock: string): Promise<string | undefined> {
  const { stdout } = await denbd(["status", "--sock", sock]);
  return /has_control=(\w+)/.exec(stdout)?.[1];
}

Deno.test("flexnbd listen: whoever connects and closes, before or after the hello, has not moved a disk", () =>
  withListener(async (server, sock) => {
    (await dial({ transport: "tcp", host: "127.0.0.1", port: server.port })).close();
    (await helloAgain(server.port)).connection.close();
    (await helloAgain(server.port)).connection.close();
    assertEquals(await hasControl(sock), "false");
  }));

Deno.test("flexnbd listen: SIGTERM before the disk has come is exit code 1", () =>
  withListener(async (server) => {
    const client = await helloFrom(server.port);
    assertEquals(await server.stop("SIGTERM"), 1);
    client.connection.close();
  }));

Deno.test("flexnbd listen: survives a source that leaves in the middle of a reply, or of a write", () =>
  withListener(async (server, sock) => {
    const reader = await helloFrom(server.port);
    await reader.send({ type: Command.READ, offset: 0, length: 8 });
    await reader.connection.read(new Uint8Array(4));
    reader.connection.close();
    const header = await helloAgain(server.port);
    await header.send({ type: Command.WRITE, offset: 0, length: 4096 });
    header.connection.close();
    const writer = await helloAgain(server.port);
    await writer.send({ type: Command.WRITE, offset: 0, length: 8 }, new Uint8Array(8));
    writer.connection.close();
    (await helloAgain(server.port)).connection.close();
    assertEquals(await hasControl(sock), "false");
  }));

Deno.test("flexnbd listen: a second source is closed without a hello while the first is there", () =>
  withListener(async (server) => {
    const first = await helloFrom(server.port);
    const second = await dial({ transport: "tcp", host: "127.0.0.1", port: server.port });
    assertEquals(await second.read(new Uint8Array(1)), null);
    second.close();
    assertEquals((await first.write(0, new Uint8Array(8))).error, 0);
    first.connection.close();
  }));

Deno.test("flexnbd listen: whom the access list does not name is closed without a hello", () =>
  withListener(async (server, sock) => {
    await denbd(["acl", "--sock", sock, "127.0.0.1"]);
    const stranger = await dial(
      { transport: "tcp", host: "127.0.0.1", port: server.port },
      { bind: "127.0.0.6" },
    );
    assertEquals(await stranger.read(new Uint8Array(1)), null);
    stranger.close();
  }));

Deno.test("flexnbd listen: a write beyond the end is an error with the same handle, the next one succeeds", () =>
  withListener(async (server) => {
    const client = await helloFrom(server.port);
    assertEquals((await client.write(4097, new Uint8Array(8))).error, 28);
    assertEquals((await client.write(0, new Uint8Array(8))).error, 0);
    client.connection.close();
  }));

Deno.test("flexnbd listen: the whole disk and a DISCONNECT end it with 0", () =>
  withListener(async (server, _sock, file) => {
    const client = await helloFrom(server.port);
    const data = crypto.getRandomValues(new Uint8Array(4096));
    assertEquals((await client.write(0, data)).error, 0);
    await client.send({ type: Command.DISC });
    assertEquals(await server.ended(), 0);
    assertEquals(Deno.readFileSync(file), data);
    client.connection.close();
  }));

Deno.test("flexnbd listen: a DISCONNECT after 8 bytes ends it only where it is trusted", async () => {
  const eightBytes = async (server: RunningServer) => {
    const client = await helloFrom(server.port);
    assertEquals((await client.write(0, new Uint8Array(8))).error, 0);
    await client.send({ type: Command.DISC });
    assertEquals(await client.receive(), null);
    client.connection.close();
  };
  await withListener(async (server) => {
    await eightBytes(server);
    await server.logged(/left 4096 bytes short/);
    (await helloAgain(server.port)).connection.close();
  });
  await withListener(async (server) => {
    await eightBytes(server);
    assertEquals(await server.ended(), 0);
  }, "--trust-disconnect");
});

Deno.test("flexnbd listen: what the real flexnbd 0.5.0 sends moves the disk", () =>
  withListener(async (server, _sock, file) => {
    const connection = await dial({ transport: "tcp", host: "127.0.0.1", port: server.port });
    const { result: hello } = await converse(need(152), connection);
    assertEquals(hello.subarray(0, 24).toHex(), "4e42444d4147494300004202818612530000000000001000");
    const write = "25609513000000012e4d4952524f522e000000000000000000001000";
    await connection.write(Uint8Array.fromHex(write + "41".repeat(4096)));
    const { result: reply } = await converse(need(16), connection);
    assertEquals(reply.toHex(), "67446698000000002e4d4952524f522e");
    // Of its DISCONNECT the handle is at random.
    await connection.write(
      Uint8Array.fromHex("2560951300000002a8bfb7055a918130000000000000000000000000"),
    );
    assertEquals(await connection.read(new Uint8Array(1)), null);
    connection.close();
    assertEquals(await server.ended(), 0);
    assertEquals(Deno.readTextFileSync(file), "A".repeat(4096));
  }));

// The source, with a destination that does what it should not.

const HELLO = "NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53";

function helloBytes(sizeBytes: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(152);
  for (let at = 0; at < 16; at++) bytes[at] = HELLO.charCodeAt(at);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(16, BigInt(sizeBytes));
  view.setUint32(24, 13);
  return bytes;
}

interface FakeDestination extends Disposable {
  readonly port: number;
  readonly sock: string;
  readonly source: RunningServer;
  accept(): Promise<Deno.TcpConn>;
  mirror(): Promise<{ code: number; stdout: string; stderr: string }>;
}

async function withFakeDestination(test: (there: FakeDestination) => Promise<void>): Promise<void> {
  using directory = temporaryDirectory();
  const file = image(directory.file("image"), 4096);
  const sock = directory.file("sock");
  const env = { FLEXNBD_MS_REQUEST_LIMIT_SECS: "1.0" };
  await using source = await serve(["--file", file, "--sock", sock], { env });
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  const open: Deno.TcpConn[] = [];
  try {
    await test({
      port,
      sock,
      source,
      accept: async () => {
        const connection = await listener.accept();
        open.push(connection);
        return connection;
      },
      mirror: () => mirrorTo(port, sock),
      [Symbol.dispose]() {},
    });
    // The disk is still served, whatever happened.
    const where = ["--addr", "127.0.0.1", "--port", String(source.port), "--from", "0", "--size", "4096"];
    assertEquals((await denbd(["read", ...where])).bytes, Deno.readFileSync(file));
  } finally {
    for (const connection of open) {
      try {
        connection.close();
      } catch {
        // Closed by the test.
      }
    }
  }
}

async function readExactly(connection: Deno.Conn, byteCount: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(byteCount);
  for (let at = 0; at < byteCount;) {
    const count = await connection.read(bytes.subarray(at));
    if (count === null) throw new Error(`closed ${byteCount - at} bytes short`);
    at += count;
  }
  return bytes;
}

Deno.test("flexnbd mirror: nothing listens there", async () => {
  using directory = temporaryDirectory();
  const sock = directory.file("sock");
  await using source = await serve(["--file", image(directory.file("image"), 4096), "--sock", sock]);
  const { code, stderr } = await mirrorTo(freePort(), sock);
  assertEquals(code, 1);
  assertMatch(stderr, /^denbd mirror: Mirror failed to connect: .*connection refused\n$/);
  // It cleared itself away.
  assertStringIncludes((await denbd(["status", "--sock", sock])).stdout, "is_mirroring=false");
  assertEquals(await source.stop(), 0);
});

const refusals: [why: string, says: string, answer: (connection: Deno.TcpConn) => Promise<unknown> | void][] =
  [
    ["no hello", "Remote server failed to respond", () => {}],
    ["closes at once", "Mirror was rejected", (connection) => connection.close()],
    [
      "another size",
      "Remote size does not match local size",
      (connection) => connection.write(helloBytes(8192)),
    ],
    ["a wrong magic", "Mirror was rejected", (connection) => connection.write(new Uint8Array(152).fill(65))],
  ];

for (const [why, says, answer] of refusals) {
  Deno.test(`flexnbd mirror: ${why}: one error, no further attempt`, () =>
    withFakeDestination(async ({ mirror, accept, sock }) => {
      const mirroring = mirror();
      await answer(await accept());
      const { code, stderr } = await mirroring;
      assertEquals(code, 1);
      assertStringIncludes(stderr, says);
      assertEquals(stderr.trimEnd().split("\n").length, 1);
      const { stdout, code: again } = await denbd(["break", "--sock", sock], { code: "any" });
      assertEquals([stdout, again], ["", 1]);
    }));
}

const accidents: [what: string, act: (connection: Deno.TcpConn) => Promise<unknown>][] = [
  ["closes after the hello", () => Promise.resolve()],
  ["is silent after the write's header", async (connection) => {
    await readExactly(connection, 28);
    // Until the source has had enough of it.
    const rest = new Uint8Array(65536);
    while (await connection.read(rest) !== null);
  }],
  ["answers a write with an error", async (connection) => {
    const request = await readExactly(connection, 28 + 4096);
    const reply = Uint8Array.fromHex("6744669800000005" + request.subarray(8, 16).toHex());
    await connection.write(reply);
    // The source breaks it off: no DISCONNECT.
    assertEquals(await connection.read(new Uint8Array(28)), null);
  }],
  ["closes before the reply", (connection) => readExactly(connection, 28 + 4096)],
  ["answers with a wrong magic", async (connection) => {
    const request = await readExactly(connection, 28 + 4096);
    await connection.write(Uint8Array.fromHex("1111111100000000" + request.subarray(8, 16).toHex()));
    assertEquals(await connection.read(new Uint8Array(28)), null);
  }],
];

for (const [what, act] of accidents) {
  Deno.test(`flexnbd mirror: the destination ${what}: it is tried again from the start`, () =>
    withFakeDestination(async ({ mirror, accept, sock }) => {
      const mirroring = mirror();
      const first = await accept();
      await first.write(helloBytes(4096));
      const { stdout } = await mirroring;
      assertEquals(stdout, "Migration started\n");
      await act(first);
      first.close();
      const second = await accept();
      await second.write(helloBytes(4096));
      const request = await readExactly(second, 28 + 4096);
      assertEquals(new DataView(request.buffer).getBigUint64(16), 0n);
      assertEquals((await denbd(["break", "--sock", sock])).stdout, "mirror stopped\n");
    }));
}

Deno.test("flexnbd mirror: SIGTERM while a migration is under way is exit code 1", () =>
  withFakeDestination(async ({ mirror, accept, sock, port }) => {
    using directory = temporaryDirectory();
    const other = directory.file("sock");
    await using source = await serve(["--file", image(directory.file("image"), 4096), "--sock", other]);
    const mirroring = mirrorTo(port, other);
    const connection = await accept();
    await connection.write(helloBytes(4096));
    await mirroring;
    assertEquals(await source.stop("SIGTERM"), 1);
    void mirror, sock;
  }));

Deno.test("flexnbd mirror: a second one gets one answer and has no effect; break answers, and again", () =>
  withFakeDestination(async ({ mirror, accept, sock }) => {
    const mirroring = mirror();
    const connection = await accept();
    await connection.write(helloBytes(4096));
    assertEquals((await mirroring).code, 0);
    await readExactly(connection, 28 + 4096);
    assertMatch(
      (await denbd(["status", "--sock", sock])).stdout,
      /is_mirroring=true clients_allowed=true .* migration_speed=\d+ migration_duration=\d+ migration_seconds_left=\d+ migration_bytes_left=4096 /,
    );
    const second = await mirror();
    assertEquals([second.code, second.stderr], [1, "denbd mirror: mirror already running\n"]);
    const speed = await denbd(["mirror-speed", "--sock", sock, "--max-speed", "1M"]);
    assertEquals(speed.stdout, "updated\n");
    assertMatch((await denbd(["status", "--sock", sock])).stdout, /migration_speed_limit=1048576 /);
    assertEquals((await denbd(["break", "--sock", sock])).stdout, "mirror stopped\n");
    const over = await denbd(["break", "--sock", sock], { code: "any" });
    assertEquals([over.code, over.stderr], [1, "denbd break: not mirroring\n"]);
    const late = await denbd(["mirror-speed", "--sock", sock, "--max-speed", "1M"], { code: "any" });
    assertEquals([late.code, late.stderr], [1, "denbd mirror-speed: Not currently mirroring\n"]);
  }));

Deno.test("flexnbd mirror: broken off while the hello is on its way", () =>
  withFakeDestination(async ({ mirror, accept, sock }) => {
    const mirroring = mirror();
    const connection = await accept();
    await connection.write(helloBytes(4096).subarray(0, 60));
    assertEquals((await denbd(["break", "--sock", sock])).stdout, "mirror stopped\n");
    assertEquals((await mirroring).code, 1);
  }));

Deno.test("mirror: to itself, or between the same files, is refused", async () => {
  using directory = temporaryDirectory();
  const file = image(directory.file("image"), 4096);
  const sock = directory.file("sock");
  await using source = await serve(["--file", file, "--sock", sock]);
  const { code, stderr } = await mirrorTo(source.port, sock);
  assertEquals([code, stderr], [
    1,
    "denbd mirror: Mirror was rejected: the destination is this very server\n",
  ]);
  const same = await denbd(["listen", "--file", file, "--port", "0"], { code: "any" });
  assertEquals(same.code, 1);
  assertMatch(same.stderr, /EBUSY/);
});

// Writing meanwhile.

/** Writes 8 KiB at random places and never reads a reply, until the connection breaks. */
async function writeUnheard(port: number, sizeBytes: number): Promise<void> {
  const client = await RawClient.open(await dial({ transport: "tcp", host: "127.0.0.1", port }));
  const data = new Uint8Array(8192);
  try {
    for (let count = 1;; count++) {
      // What the socket takes at once leaves the others no turn.
      if (count % 8 === 0) await new Promise((resolve) => setTimeout(resolve, 0));
      crypto.getRandomValues(data.subarray(0, 16));
      const offset = Math.floor(Math.random() * (sizeBytes / 4096 - 1)) * 4096;
      await client.send({ type: Command.WRITE, offset, length: data.length }, data.slice());
    }
  } catch {
    // The disk has moved.
  } finally {
    client.connection.close();
  }
}

Deno.test("flexnbd mirror: ten writers and a bombardment with status, and both images are equal", async () => {
  using directory = temporaryDirectory();
  const sizeBytes = 20 * MIB;
  const { file, copy, sock, source, destination } = await pair(directory, sizeBytes);
  await using _ends = { [Symbol.asyncDispose]: async () => void await source.stop("SIGKILL") };
  const writers = Array.from({ length: 5 }, () => writeUnheard(source.port, sizeBytes));
  let over = false;
  const bombardment = (async () => {
    while (!over) {
      try {
        using connection = await Deno.connect({ transport: "unix", path: sock });
        await connection.write(new TextEncoder().encode("status\n\n"));
        await connection.read(new Uint8Array(1024));
      } catch {
        // The server has gone. Failing at once, this would leave nobody else a turn.
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    }
  })();
  assertEquals((await mirrorTo(destination.port, sock)).code, 0);
  writers.push(...Array.from({ length: 5 }, () => writeUnheard(source.port, sizeBytes).catch(() => {})));
  assertEquals([await source.ended(), await destination.ended()], [0, 0]);
  over = true;
  await Promise.all([...writers, bombardment]);
  assertSameFiles(file, copy);
});

Deno.test("flexnbd mirror: started and broken off three times, then to the end", async () => {
  using directory = temporaryDirectory();
  const { file, copy, sock, source, destination } = await pair(directory, 100 * MIB);
  for (let round = 0; round < 3; round++) {
    const words = ["--max-speed", "50M"];
    assertEquals((await mirrorTo(destination.port, sock, ...words)).code, 0);
    assertEquals((await denbd(["break", "--sock", sock])).stdout, "mirror stopped\n");
  }
  assertEquals((await mirrorTo(destination.port, sock)).code, 0);
  assertEquals([await source.ended(), await destination.ended()], [0, 0]);
  assertSameFiles(file, copy);
});

Deno.test("listen --then-serve: goes on with the disk that it has received", async () => {
  using directory = temporaryDirectory();
  const file = image(directory.file("source"), MIB);
  const sock = directory.file("sock");
  await using source = await serve(["--file", file, "--sock", sock]);
  const copy = image(directory.file("copy"), MIB, false);
  await using destination = await listen(["--file", copy, "--then-serve", "--sock", directory.file("there")]);
  assertEquals((await mirrorTo(destination.port, sock)).code, 0);
  assertEquals(await source.ended(), 0);
  await destination.logged(/served from now on/);
  assertStringIncludes(
    (await denbd(["status", "--sock", directory.file("there")])).stdout,
    "has_control=true",
  );
  const readers = [1, 2].map(() => denbd(["read", "--size", "4096", destination.uri()]));
  for (const { bytes } of await Promise.all(readers)) {
    assertEquals(bytes, Deno.readFileSync(file).subarray(0, 4096));
  }
  assertEquals(await destination.stop(), 0);
});

Deno.test("mirror --name: of several exports one moves, the others stay", async () => {
  using directory = temporaryDirectory();
  const [a, b] = ["a", "b"].map((name) => image(directory.file(name), MIB));
  const sock = directory.file("sock");
  await using source = await serve(["-e", `a=${a}`, "-e", `b=${b}`, "--sock", sock]);
  const copy = image(directory.file("copy"), MIB, false);
  await using destination = await listen(["--file", copy]);
  const ambiguous = await mirrorTo(destination.port, sock);
  assertEquals(ambiguous.code, 1);
  assertStringIncludes(ambiguous.stderr, "several exports");
  assertEquals((await mirrorTo(destination.port, sock, "--name", "b")).code, 0);
  assertEquals(await destination.ended(), 0);
  assertSameFiles(b, copy);
  assertEquals((await denbd(["read", "--size", "4", source.uri("a")])).bytes.length, 4);
  assert((await denbd(["read", "--size", "4", source.uri("b")], { code: "any" })).code !== 0);
  assertEquals(await source.stop(), 0);
});
