/** flexnbd-proxy's job: what its acceptance tests ask for, plain and with a cache, on `denbd proxy`. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import type { Connection } from "../../src/net/connection.ts";
import { converse } from "../../src/net/converse.ts";
import { dial } from "../../src/net/dial.ts";
import { need } from "../../src/wire/conversation.ts";
import { Command, CommandFlag } from "../../src/wire/nbd/constants.ts";
import { freePort, run, temporaryDirectory } from "../testing/process.ts";
import { randomFrom } from "../testing/random.ts";
import { oldstyleGreeting, simpleReply } from "../testing/oldstyle.ts";
import { RawClient } from "../testing/raw_client.ts";
import { peerTest, startNbdkit, startQemuNbd } from "../interop/peers.ts";
import { denbd, proxy, type RunningServer, serve, start } from "./program.ts";

const MIB = 1024 * 1024;
const BLOCK = 4096;

/** Who asks for a cache, and who does without. */
const STYLES = [
  { name: "", flags: [] },
  { name: " with a cache", flags: ["--cache=shared-unsafe"] },
];

function connect(server: RunningServer): Promise<Connection> {
  const [text] = server.listening;
  return dial(
    text.startsWith("unix:")
      ? { transport: "unix", path: text.slice(5) }
      : { transport: "tcp", host: "127.0.0.1", port: server.port },
  );
}

async function clientOf(server: RunningServer) {
  const client = await RawClient.open(await connect(server));
  return { client, [Symbol.dispose]: () => client.connection.close() };
}

interface Pair {
  readonly content: Uint8Array;
  readonly image: string;
  readonly server: RunningServer;
  readonly front: RunningServer;
}

/** An image of 1 MiB, served by us, and a proxy in front of it. */
async function withProxy(
  flags: readonly string[],
  test: (pair: Pair) => Promise<void>,
  serverFlags: readonly string[] = [],
  endsItself = false,
): Promise<void> {
  using directory = temporaryDirectory();
  const image = directory.file("image");
  const content = randomFrom(7).bytes(MIB);
  Deno.writeFileSync(image, content);
  await using server = await serve(["--file", image, ...serverFlags]);
  await using front = await proxy([...flags, server.uri()]);
  await test({ content, image, server, front });
  if (!endsItself) assertEquals(await front.stop(), 0);
}

for (const { name, flags } of STYLES) {
  const test = (fact: string, run: () => Promise<void>) => Deno.test(`flexnbd proxy${name}: ${fact}`, run);

  test("without a server at the start it ends with 1 instead of listening", async () => {
    const port = freePort();
    const words = ["proxy", "--port", "0", "--conn-addr", "127.0.0.1", "--conn-port", String(port)];
    const { stderr } = await denbd([...words, ...flags], { code: 1 });
    assertMatch(stderr, /cannot connect to 127\.0\.0\.1:\d+: connection refused/);
  });

  test("reads give the file's data", () =>
    withProxy(flags, async ({ content, front }) => {
      using opened = await clientOf(front);
      for (let round = 0; round < 2; round++) {
        for (let block = 0; block < 4; block++) {
          const { error, data } = await opened.client.read(block * BLOCK, BLOCK);
          assertEquals(error, 0);
          assertEquals(data, content.slice(block * BLOCK, (block + 1) * BLOCK));
        }
      }
    }));

  test("writes reach the file, and reads find them", () =>
    withProxy(flags, async ({ image, front }) => {
      using opened = await clientOf(front);
      for (let block = 0; block < 4; block++) {
        await opened.client.read(block * BLOCK, BLOCK);
        const data = new Uint8Array(BLOCK).fill(block + 1);
        assertEquals((await opened.client.write(block * BLOCK, data)).error, 0);
        assertEquals(Deno.readFileSync(image).slice(block * BLOCK, (block + 1) * BLOCK), data);
        assertEquals((await opened.client.read(block * BLOCK, BLOCK)).data, data);
      }
    }));

  test("a write past the end is error 28", () =>
    withProxy(flags, async ({ front }) => {
      using opened = await clientOf(front);
      assertEquals((await opened.client.write(MIB, new Uint8Array(BLOCK))).error, 28);
      assertEquals((await opened.client.read(0, BLOCK)).error, 0);
    }));

  test("any number of clients at once, each sees what the others write", () =>
    withProxy(flags, async ({ front }) => {
      const clients = await Promise.all(Array.from({ length: 20 }, () => clientOf(front)));
      for (const [number, { client }] of clients.entries()) {
        assertEquals((await client.write(0, new Uint8Array(BLOCK).fill(number + 1))).error, 0);
        const reads = await Promise.all(clients.map((other) => other.client.read(0, BLOCK)));
        for (const { data } of reads) assertEquals(data[BLOCK - 1], number + 1);
      }
      for (const opened of clients) opened[Symbol.dispose]();
    }));

  test("one write of 32 MiB, and its read", async () => {
    using directory = temporaryDirectory();
    const image = directory.file("image");
    Deno.writeFileSync(image, new Uint8Array(32 * MIB));
    await using server = await serve(["--file", image]);
    await using front = await proxy([...flags, server.uri()]);
    using opened = await clientOf(front);
    const data = randomFrom(9).bytes(32 * MIB);
    assertEquals((await opened.client.write(0, data)).error, 0);
    assertEquals((await opened.client.ask({ type: Command.FLUSH })).error, 0);
    assert(Deno.readFileSync(image).every((byte, at) => byte === data[at]));
    const answer = await opened.client.read(0, 32 * MIB);
    assertEquals(answer.error, 0);
    assert(answer.data.every((byte, at) => byte === data[at]));
  });

  test("flush, FUA, TRIM and zeroes come through", () =>
    withProxy(flags, async ({ image, front }) => {
      using opened = await clientOf(front);
      const { client } = opened;
      const data = new Uint8Array(100).fill(5);
      assertEquals((await client.write(3 * BLOCK + 7, data, CommandFlag.FUA)).error, 0);
      assertEquals((await client.ask({ type: Command.FLUSH })).error, 0);
      await client.read(0, MIB);
      assertEquals((await client.ask({ type: Command.TRIM, offset: 0, length: BLOCK })).error, 0);
      assertEquals((await client.ask({ type: Command.WRITE_ZEROES, offset: BLOCK, length: BLOCK })).error, 0);
      assertEquals((await client.read(BLOCK, BLOCK)).data, new Uint8Array(BLOCK));
      assertEquals(Deno.readFileSync(image).slice(BLOCK, 2 * BLOCK), new Uint8Array(BLOCK));
      assertEquals(Deno.readFileSync(image).slice(3 * BLOCK + 7, 3 * BLOCK + 107), data);
    }));
}

/** A server that greets as flexnbd does, and then does what the test says. */
class FakeServer implements Disposable {
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  readonly flags: readonly string[] = [
    "--conn-addr",
    "127.0.0.1",
    "--conn-port",
    String(this.#listener.addr.port),
  ];

  /** Takes a connection and greets: 1 MiB, flags as flexnbd's. */
  async accept(): Promise<FakeSession> {
    const connection = await this.#listener.accept();
    await connection.write(oldstyleGreeting(MIB));
    return new FakeSession(connection);
  }

  [Symbol.dispose](): void {
    this.#listener.close();
  }
}

class FakeSession implements Disposable {
  constructor(readonly connection: Deno.Conn) {}

  async receive(byteCount: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(byteCount);
    for (let at = 0; at < byteCount;) {
      const count = await this.connection.read(bytes.subarray(at));
      if (count === null) throw new Error("the proxy has closed the connection");
      at += count;
    }
    return bytes;
  }

  /** Success, to the request whose header this is. */
  async answer(header: Uint8Array, data = new Uint8Array()): Promise<void> {
    const reply = simpleReply(header, data);
    for (let at = 0; at < reply.length;) at += await this.connection.write(reply.subarray(at));
  }

  [Symbol.dispose](): void {
    this.connection.close();
  }
}

/** What of a request stays the same when it is sent again: all but the handle. */
const meaning = (header: Uint8Array) => [...header.subarray(0, 8), ...header.subarray(16)];

for (const { name, flags } of STYLES) {
  Deno.test(`flexnbd proxy${name}: a read is retried on a new connection`, async () => {
    using upstream = new FakeServer();
    const greeted = upstream.accept();
    await using front = await proxy([...flags, ...upstream.flags]);
    using opened = await clientOf(front);
    const reading = opened.client.read(0, BLOCK);
    const first = await greeted;
    const asked = await first.receive(28);
    first[Symbol.dispose]();
    using second = await upstream.accept();
    const again = await second.receive(28);
    assertEquals(meaning(again), meaning(asked));
    const data = randomFrom(5).bytes(BLOCK);
    await second.answer(again, data);
    const { error, data: read } = await reading;
    assertEquals([error, read], [0, data]);
  });

  Deno.test(`flexnbd proxy${name}: a write is retried with its payload`, async () => {
    using upstream = new FakeServer();
    const greeted = upstream.accept();
    await using front = await proxy([...flags, ...upstream.flags]);
    using opened = await clientOf(front);
    const data = randomFrom(6).bytes(BLOCK);
    const writing = opened.client.write(0, data);
    const first = await greeted;
    const asked = await first.receive(28 + BLOCK);
    first[Symbol.dispose]();
    using second = await upstream.accept();
    const again = await second.receive(28 + BLOCK);
    assertEquals(meaning(again.subarray(0, 28)), meaning(asked.subarray(0, 28)));
    assertEquals(again.slice(28), data);
    await second.answer(again);
    assertEquals((await writing).error, 0);
  });

  Deno.test(`flexnbd proxy${name}: a server that stops reading a large write is left after FLEXNBD_UPSTREAM_TIMEOUT`, async () => {
    using upstream = new FakeServer();
    const greeted = upstream.accept();
    const env = { FLEXNBD_UPSTREAM_TIMEOUT: "1" };
    await using front = await proxy([...flags, ...upstream.flags], { env });
    using opened = await clientOf(front);
    const data = randomFrom(8).bytes(MIB);
    const writing = opened.client.write(0, data);
    writing.catch(() => {});
    const first = await greeted;
    const asked = await first.receive(28);
    using second = await upstream.accept();
    first[Symbol.dispose]();
    // A large write comes in pieces.
    const written = new Uint8Array(MIB);
    for (let left = MIB; left > 0;) {
      const header = await second.receive(28);
      if (left === MIB) assertEquals(meaning(header), meaning(asked));
      const view = new DataView(header.buffer);
      const piece = await second.receive(view.getUint32(24));
      written.set(piece, Number(view.getBigUint64(16)));
      left -= piece.length;
      await second.answer(header);
    }
    assert(written.every((byte, at) => byte === data[at]));
    assertEquals((await writing).error, 0);
    assertMatch(front.log, /no sign of life for/);
  });
}

Deno.test("proxy --cache-dir answers after kill -9 what it had before, and forgets what was written since", async () => {
  using directory = temporaryDirectory();
  const image = directory.file("image");
  Deno.writeFileSync(image, new Uint8Array(4 * MIB).fill(1));
  const port = freePort();
  await using server = await serve(["--file", image, "--port", String(port)]);
  const flags = ["--sole-writer", "--cache-dir", directory.file("cache"), server.uri()];
  {
    await using front = await proxy(flags);
    using opened = await clientOf(front);
    assertEquals((await opened.client.read(0, MIB)).error, 0);
    assertEquals(await front.stop(), 0);
  }
  {
    await using front = await proxy(flags);
    using opened = await clientOf(front);
    // From the file alone: the server stands still.
    server.signal("SIGSTOP");
    const { data } = await opened.client.read(0, 512 * 1024);
    server.signal("SIGCONT");
    assertEquals(data, new Uint8Array(512 * 1024).fill(1));
    assertEquals((await opened.client.write(70_000, new Uint8Array(10).fill(2))).error, 0);
    await front.stop("SIGKILL");
  }
  await using front = await proxy(flags);
  using opened = await clientOf(front);
  const { data } = await opened.client.read(0, MIB);
  assertEquals(data, Deno.readFileSync(image).slice(0, MIB));
  assertEquals([...data.subarray(69_999, 70_011)], [1, ...new Array(10).fill(2), 1]);
});

Deno.test("proxy --sole-writer sees a server that is killed and comes back as a pause", async () => {
  using directory = temporaryDirectory();
  const image = directory.file("image");
  Deno.writeFileSync(image, new Uint8Array(MIB));
  const port = freePort();
  const start = () =>
    serve(["--file", image, "--port", String(port), "--state-dir", directory.file("state")]);
  let server = await start();
  await using front = await proxy(["--sole-writer", "--cache", server.uri()]);
  using opened = await clientOf(front);
  for (let round = 1; round <= 3; round++) {
    assertEquals((await opened.client.write(0, new Uint8Array(BLOCK).fill(round))).error, 0);
    await server.stop("SIGKILL");
    const { client } = opened;
    const reading = await client.send({ type: Command.READ, length: BLOCK });
    const data = new Uint8Array(BLOCK).fill(round);
    const writing = await client.send({ type: Command.WRITE, offset: BLOCK, length: BLOCK }, data);
    server = await start();
    const read = await client.answer(reading);
    const written = await client.answer(writing);
    assertEquals([read.error, read.data[0], written.error], [0, round, 0]);
    assertEquals((await client.ask({ type: Command.FLUSH })).error, 0);
  }
  assertEquals(Deno.readFileSync(image).slice(0, 2 * BLOCK), new Uint8Array(2 * BLOCK).fill(3));
  assertEquals(await front.stop(), 0);
  await server.stop();
});

Deno.test("proxy ends in time although the server is away, and says what that may have cost", async () => {
  using directory = temporaryDirectory();
  const image = directory.file("image");
  Deno.writeFileSync(image, new Uint8Array(MIB));
  await using server = await serve(["--file", image]);
  await using front = await proxy(["--drain-timeout", "200ms", server.uri()]);
  using opened = await clientOf(front);
  assertEquals((await opened.client.write(0, new Uint8Array(BLOCK))).error, 0);
  await server.stop("SIGKILL");
  assertEquals(await front.stop(), 1);
  assertMatch(front.log, /what was written last may be lost: no answer for 0\.2 s/);
});

Deno.test("flexnbd proxy: --addr with a path is a Unix socket, removed at the end", async () => {
  using directory = temporaryDirectory();
  const socket = directory.file("socket");
  await withProxy(["--addr", socket], async ({ content, front }) => {
    assertEquals(front.listening, [`unix:${socket}`]);
    assertEquals((await denbd(["read", front.uri()])).bytes, content);
  });
  assertEquals([...Deno.readDirSync(directory.path)], []);
});

Deno.test("flexnbd proxy: oldstyle on both sides, an odd size in whole sectors", async () => {
  using directory = temporaryDirectory();
  const image = directory.file("image");
  Deno.writeFileSync(image, new Uint8Array(1535).fill(3));
  await using server = await serve(["--file", image]);
  await using front = await proxy(["--oldstyle", server.uri()]);
  const connection = await connect(front);
  const { result: hello } = await converse(need(152), connection);
  connection.close();
  const view = new DataView(hello.buffer, hello.byteOffset);
  assertEquals(new TextDecoder().decode(hello.subarray(0, 8)), "NBDMAGIC");
  assertEquals(view.getBigUint64(16), 1024n);
  await using second = await proxy(["--conn-addr", "127.0.0.1", "--conn-port", String(front.port)]);
  assertEquals((await denbd(["read", second.uri()])).bytes, new Uint8Array(1024).fill(3));
});

Deno.test("proxy --wait listens as soon as the server is there, and a signal ends the waiting", async () => {
  using directory = temporaryDirectory();
  const image = directory.file("image");
  Deno.writeFileSync(image, new Uint8Array(MIB).fill(4));
  const port = freePort();
  const words = ["proxy", "--wait", "--verbose", "--port", "0", `nbd://127.0.0.1:${port}/`];
  await using front = await start(words);
  await using impatient = await start(words);
  await Promise.all([front.logged(/trying again/), impatient.logged(/trying again/)]);
  assertEquals(await impatient.stop(), 0);
  await using _server = await serve(["--file", image, "--port", String(port)]);
  const [, address] = await front.logged(/serving 1 export on (.*)$/);
  assertEquals((await denbd(["read", `nbd://${address}/`])).bytes, new Uint8Array(MIB).fill(4));
});

Deno.test("proxy leaves the cache off where others may write, and says how to have it", () =>
  withProxy(["--cache"], async ({ front, server }) => {
    assertMatch(front.log, /the cache is off.*--sole-writer.*--cache=shared-unsafe/);
    // Written past the proxy, and seen through it.
    using near = await clientOf(front);
    using far = await clientOf(server);
    await near.client.read(0, BLOCK);
    await far.client.write(0, new Uint8Array(BLOCK).fill(0x5a));
    assertEquals((await near.client.read(0, BLOCK)).data, new Uint8Array(BLOCK).fill(0x5a));
  }));

Deno.test("proxy that may only read uses no cache where others write, nor does one behind it", async () => {
  using directory = temporaryDirectory();
  const image = directory.file("image");
  Deno.writeFileSync(image, new Uint8Array(MIB));
  await using server = await serve(["--file", image, "127.0.0.1=write", "127.0.0.2=read"]);
  await using front = await proxy(["--cache", "--bind", "127.0.0.2", server.uri()]);
  await using behind = await proxy(["--cache", front.uri()]);
  for (const { log } of [front, behind]) assertMatch(log, /the cache is off, because others may write/);
  using far = await clientOf(server);
  using near = await clientOf(behind);
  await near.client.read(0, BLOCK);
  await far.client.write(0, new Uint8Array(BLOCK).fill(0x5a));
  assertEquals((await near.client.read(0, BLOCK)).data, new Uint8Array(BLOCK).fill(0x5a));
});

Deno.test("proxy caches a read-only disk: what was read is answered without the server", () =>
  withProxy(["--cache"], async ({ content, front, server }) => {
    using opened = await clientOf(front);
    await opened.client.read(0, 256 * 1024);
    server.signal("SIGSTOP");
    const { data } = await opened.client.read(BLOCK, 64 * 1024);
    server.signal("SIGCONT");
    assertEquals(data, content.slice(BLOCK, BLOCK + 64 * 1024));
    assertEquals((await opened.client.write(0, new Uint8Array(512))).error, 1);
  }, ["--read-only"]));

Deno.test("proxy --read-only refuses writes, and its access list whom it does not name", async () => {
  using directory = temporaryDirectory();
  const image = directory.file("image");
  Deno.writeFileSync(image, new Uint8Array(MIB));
  await using server = await serve(["--file", image]);
  await using front = await proxy(["--read-only", server.uri(), "127.0.0.1"]);
  using opened = await clientOf(front);
  assertEquals((await opened.client.write(0, new Uint8Array(512))).error, 1);
  await using closed = await proxy([server.uri(), "10.1.2.3"]);
  const { stderr } = await denbd(["read", closed.uri()], { code: 1 });
  assertMatch(stderr, /no entry matches/);
});

Deno.test("proxy caches a disk that is reserved for it, and shows how it stands with the server", async () => {
  using directory = temporaryDirectory();
  const sock = directory.file("control");
  const state = ["--state-dir", directory.file("state")];
  const serverSock = directory.file("server");
  const serverFlags = ["--writers", "one-session", "--sock", serverSock, ...state];
  await withProxy(
    ["--cache", "--sock", sock],
    async ({ content, front, server }) => {
      using opened = await clientOf(front);
      await opened.client.read(0, 256 * 1024);
      server.signal("SIGSTOP");
      const { data } = await opened.client.read(BLOCK, 64 * 1024);
      server.signal("SIGCONT");
      assertEquals(data, content.slice(BLOCK, BLOCK + 64 * 1024));
      assertEquals((await opened.client.write(0, new Uint8Array(512))).error, 0);
      const [exported] = JSON.parse((await denbd(["status", "--sock", sock, "--json"])).stdout).exports;
      const { upstream, caches: [cache] } = exported;
      assertEquals([upstream.state, upstream.fenced, upstream.reserved, upstream.reconnects], [
        "connected",
        true,
        true,
        0,
      ]);
      assert(upstream.replayBytes >= 512 && cache.hits > 0 && cache.keptBytes > 0);
      const { stdout: line } = await denbd(["status", "--sock", sock]);
      assertMatch(
        line,
        / upstream=connected reconnects=0 resent=0 unanswered=0 fenced=yes reserved=yes replay_bytes=\d+ /,
      );
      assertMatch(line, / cache_hits=\d+ /);
      // The server says for whom; a second writer is told.
      const [served] = JSON.parse((await denbd(["status", "--sock", serverSock, "--json"])).stdout).exports;
      assertEquals([served.writers, served.reservation.session], ["one-session", upstream.session.id]);
      assertMatch(upstream.session.id, /^[0-9a-f]{8}$/);
      const { stderr } = await denbd(["write", "--size", "1", server.uri()], { code: 1, stdin: "x" });
      assertMatch(stderr, /it is reserved for 127\.0\.0\.1:\d+\)/);
      assertEquals((await denbd(["read", "--size", "4", server.uri()])).bytes.length, 4);
      // A client of others may look.
      using stranger = await clientOf(server);
      assertEquals((await stranger.client.read(0, 512)).error, 0);
      assertEquals((await stranger.client.write(0, new Uint8Array(512))).error, 1);
      // The operator ends it.
      assertMatch((await denbd(["unreserve", "--sock", serverSock])).stdout, /was reserved for 127\.0\.0\.1/);
      assertEquals((await denbd(["write", "--size", "1", server.uri()], { stdin: "x" })).code, 0);
      await front.stop("SIGKILL");
    },
    serverFlags,
    true,
  );
});

for (const flag of ["--state-dir", "--cache-dir"]) {
  Deno.test(`a proxy that was killed has its reservation at once when it starts again: ${flag}`, async () => {
    using directory = temporaryDirectory();
    const serverSock = directory.file("server");
    const image = directory.file("image");
    Deno.writeFileSync(image, new Uint8Array(MIB));
    const kept = ["--reservation-timeout", "0", "--state-dir", directory.file("state"), "--sock", serverSock];
    await using server = await serve(["--file", image, "--writers", "one-session", ...kept]);
    const flags = [flag, directory.file("proxy"), server.uri()];
    for (let round = 1; round <= 3; round++) {
      await using front = await proxy(flags);
      using opened = await clientOf(front);
      assertEquals((await opened.client.write(0, new Uint8Array(BLOCK).fill(round))).error, 0);
      // Nobody else comes in between, and a second proxy is not the same.
      const { stderr } = await denbd(["write", "--size", "1", server.uri()], { code: 1, stdin: "x" });
      assertMatch(stderr, /it is reserved for/);
      const second = await denbd(["proxy", "--port", "0", ...flags], { code: 1 });
      assertMatch(second.stderr, /the session is in use by/);
      await front.stop("SIGKILL");
    }
    assertEquals(Deno.readFileSync(image).slice(0, BLOCK), new Uint8Array(BLOCK).fill(3));
    // What the operator has broken stays broken; the next proxy comes as another.
    assertMatch((await denbd(["unreserve", "--sock", serverSock])).stdout, /was reserved for/);
    await using front = await proxy(flags);
    using opened = await clientOf(front);
    assertEquals((await opened.client.write(0, new Uint8Array(BLOCK).fill(4))).error, 0);
    assertEquals(await front.stop(), 0);
    assertEquals((await denbd(["write", "--size", "1", server.uri()], { stdin: "x" })).code, 0);
  });
}

Deno.test("proxy shows its status on the control socket", async () => {
  using directory = temporaryDirectory();
  await withProxy(["--sock", directory.file("control")], async ({ front, server }) => {
    using opened = await clientOf(front);
    await opened.client.read(0, BLOCK);
    const { stdout } = await denbd(["status", "--sock", directory.file("control"), "--json"]);
    const [exported] = JSON.parse(stdout).exports;
    assertEquals([exported.source, exported.sizeBytes, exported.clients.length], [server.uri(), MIB, 1]);
  });
});

peerTest("V18: proxy in front of nbdkit hands its errors to the client that asked", ["nbdkit"], async () => {
  using directory = temporaryDirectory();
  const image = directory.file("image");
  Deno.writeFileSync(image, new Uint8Array(MIB).fill(6));
  for (const flags of [[], ["--cache=shared-unsafe"]]) {
    const trigger = directory.file("trigger");
    await using server = await startNbdkit([
      "--filter=error",
      "file",
      image,
      "error=EIO",
      "error-rate=100%",
      `error-file=${trigger}`,
    ]);
    await using front = await proxy([...flags, server.uri]);
    using opened = await clientOf(front);
    assertEquals((await opened.client.read(0, BLOCK)).error, 0);
    Deno.writeFileSync(trigger, new Uint8Array());
    // What the cache may have fetched ahead is not what is asked for.
    assertEquals((await opened.client.read(512 * 1024, BLOCK)).error, 5);
    assertEquals((await opened.client.write(0, new Uint8Array(BLOCK))).error, 5);
    Deno.removeSync(trigger);
    assertEquals((await opened.client.read(512 * 1024, BLOCK)).data, new Uint8Array(BLOCK).fill(6));
    assertEquals((await opened.client.ask({ type: Command.FLUSH })).error, 0);
  }
});

peerTest("proxy in front of qemu-nbd is what the disk is", ["qemu-nbd"], async () => {
  using directory = temporaryDirectory();
  const image = directory.file("image");
  const content = randomFrom(3).bytes(MIB);
  Deno.writeFileSync(image, content);
  for (const flags of [[], ["--cache=shared-unsafe"]]) {
    await using server = await startQemuNbd(image);
    await using front = await proxy([...flags, server.uri]);
    assertEquals((await denbd(["read", front.uri()])).bytes, Deno.readFileSync(image));
    const data = randomFrom(4).bytes(70_001);
    await denbd(["write", "--from", "4999", front.uri()], { stdin: data });
    assertEquals(Deno.readFileSync(image).slice(4999, 4999 + data.length), data);
    assertEquals((await denbd(["read", "--from", "4999", "--size", "70001", front.uri()])).bytes, data);
  }
});

peerTest(
  "proxy says why the next flush fails after nbdkit was killed, and empties its cache for what comes back",
  ["nbdkit"],
  async () => {
    using directory = temporaryDirectory();
    const [image, other] = [directory.file("image"), directory.file("other")];
    Deno.writeFileSync(image, new Uint8Array(MIB).fill(1));
    Deno.writeFileSync(other, new Uint8Array(MIB).fill(2));
    const sock = directory.file("control");
    const socket = directory.file("nbd.sock");
    const server = await startNbdkit(["file", image], { socket });
    // It ends after the proxy, for whose connection it would wait.
    await using later = new AsyncDisposableStack();
    await using front = await proxy(["--cache=shared-unsafe", "--sock", sock, server.uri]);
    using opened = await clientOf(front);
    assertEquals((await opened.client.write(0, new Uint8Array(BLOCK).fill(9))).error, 0);
    assertEquals((await opened.client.read(MIB / 2, BLOCK)).data[0], 1);
    await server.stop("SIGKILL");
    await Deno.remove(socket).catch(() => {});
    later.use(await startNbdkit(["file", other], { socket }));
    await front.logged(/reconnected to/);
    assertEquals((await opened.client.read(MIB / 2, BLOCK)).data[0], 2);
    const { stdout: line } = await denbd(["status", "--sock", sock]);
    assertMatch(line, / reconnects=1 .*fenced=no reserved=no .*next_flush=fails /);
    const before = JSON.parse((await denbd(["status", "--sock", sock, "--json"])).stdout).exports[0].upstream;
    assertMatch(before.doubt, /was lost; writes since the flush before may be, too/);
    assertEquals((await opened.client.ask({ type: Command.FLUSH })).error, 5);
    assertEquals((await opened.client.ask({ type: Command.FLUSH })).error, 0);
    const after = JSON.parse((await denbd(["status", "--sock", sock, "--json"])).stdout).exports[0].upstream;
    assertEquals([after.doubt, after.lastDoubt], [null, before.doubt]);
  },
);

Deno.test("proxy goes on with the next server of its list when one is killed", async () => {
  using directory = temporaryDirectory();
  const image = directory.file("image");
  Deno.writeFileSync(image, new Uint8Array(MIB).fill(7));
  // Read-only, so both may have it at the same time.
  await using first = await serve(["--file", image, "--read-only"]);
  await using second = await serve(["--file", image, "--read-only"]);
  const servers = [first, second].map(({ port }) => `127.0.0.1:${port}`).join(",");
  await using front = await proxy(["--read-only", `nbd://${servers}/`]);
  using opened = await clientOf(front);
  assertEquals((await opened.client.read(0, BLOCK)).data[0], 7);
  await first.stop("SIGKILL");
  assertEquals((await opened.client.read(BLOCK, BLOCK)).data[0], 7);
  await front.logged(new RegExp(`reconnected to 127.0.0.1:${second.port}`));
});

/** Memory of a process that is its own, in bytes. */
async function residentBytes(pid: number): Promise<number> {
  return Number((await run("ps", ["-o", "rss=", "-p", String(pid)])).stdout) * 1024;
}

// Of a hundred clients the buffers are 50 MiB (see the server's own tests); what else a process needs differs.
for (const [clientCount, mib] of [[10, 64], [100, 80]]) {
  Deno.test(`V20: 10,000 requests of ${clientCount} clients that wait for a dead server take less than ${mib} MiB, and all are answered in the end`, async () => {
    using directory = temporaryDirectory();
    const image = directory.file("image");
    Deno.writeFileSync(image, new Uint8Array(MIB));
    const where = ["--file", image, "--port", String(freePort()), "--state-dir", directory.file("state")];
    let server = await serve(where);
    await using front = await proxy(["--sole-writer", server.uri()]);
    const clients = await Promise.all(Array.from({ length: clientCount }, () => clientOf(front)));
    await server.stop("SIGKILL");
    await front.logged(/cannot reconnect/);
    const before = await residentBytes(front.pid);
    const data = new Uint8Array(BLOCK).fill(5);
    // What the proxy has no room for stays with its clients.
    const asked = clients.map(({ client }) =>
      Array.from({ length: 10_000 / clientCount }, (_, request) => {
        const offset = (request % 256) * BLOCK;
        return request % 2 === 0
          ? client.send({ type: Command.WRITE, offset, length: BLOCK }, data)
          : client.send({ type: Command.READ, offset, length: BLOCK });
      })
    );
    // Whoever comes now finds that the proxy has taken all that it takes.
    for (let look = 0; look < 3; look++) (await clientOf(front))[Symbol.dispose]();
    const grown = await residentBytes(front.pid) - before;
    assert(grown < mib * MIB, `${(grown / MIB).toFixed(1)} MiB`);
    server = await serve(where);
    await Promise.all(asked.map(async (cookies, index) => {
      const { client } = clients[index];
      for (const cookie of cookies) assertEquals((await client.answer(await cookie)).error, 0);
    }));
    for (const opened of clients) opened[Symbol.dispose]();
    assertEquals(await front.stop(), 0);
    await server.stop();
  });
}
