import { assertEquals, assertRejects, assertStrictEquals } from "@std/assert";
import type { Endpoint } from "../../src/base/endpoint.ts";
import { dial, DialError, type DialOptions } from "../../src/net/dial.ts";
import type { Connection } from "../../src/net/connection.ts";
import { temporaryDirectory } from "../testing/process.ts";

/** A server that tells who came, and sends back what it gets. */
function echo(listener: Deno.Listener) {
  const from: string[] = [];
  const done = (async () => {
    for await (const conn of listener) {
      if (conn.remoteAddr.transport === "tcp") from.push((conn.remoteAddr as Deno.NetAddr).hostname);
      await conn.readable.pipeTo(conn.writable).catch(() => {});
    }
  })();
  return { from, [Symbol.asyncDispose]: () => (listener.close(), done) };
}

async function roundTrip(connection: Connection, byteCount: number): Promise<void> {
  const sent = new Uint8Array(byteCount).map((_, index) => index * 7);
  const writing = connection.write(sent);
  const received = new Uint8Array(byteCount);
  for (let filled = 0; filled < byteCount;) {
    const count = await connection.read(received.subarray(filled));
    if (count === null) throw new Error(`the stream ended after ${filled} bytes`);
    filled += count;
  }
  await writing;
  assertEquals(received, sent);
}

async function check(endpoint: Endpoint, options: DialOptions = {}): Promise<Connection> {
  const connection = await dial(endpoint, options);
  await roundTrip(connection, 5);
  await roundTrip(connection, 3_000_000);
  connection.close();
  connection.close();
  assertEquals(await connection.read(new Uint8Array(1)), null);
  return connection;
}

const portOf = (listener: Deno.Listener) => (listener.addr as Deno.NetAddr).port;

Deno.test("V23: dial() reaches IPv4, a host name and, without binding, IPv6", async () => {
  for (
    const [listening, hosts] of [["127.0.0.1", ["127.0.0.1", "localhost"]], ["::1", ["::1"]]]
  ) {
    const listener = Deno.listen({ hostname: listening as string, port: 0 });
    await using _server = echo(listener);
    for (const host of hosts as string[]) {
      const connection = await check({ transport: "tcp", host, port: portOf(listener) });
      assertEquals(connection.peer.address, listening);
    }
  }
});

Deno.test("V23: dial() reaches a Unix socket", async () => {
  using directory = temporaryDirectory();
  const path = directory.file("socket");
  await using _server = echo(Deno.listen({ transport: "unix", path }));
  await check({ transport: "unix", path });
});

Deno.test("dial() connects from the address it is told", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  await using server = echo(listener);
  const connection = await check({ transport: "tcp", host: "localhost", port: portOf(listener) }, {
    bind: "127.0.0.7",
  });
  assertEquals(connection.peer.text, `127.0.0.1:${portOf(listener)}`);
  assertEquals(server.from, ["127.0.0.7"]);
});

Deno.test("dial() from an IPv6 address reaches IPv6", async () => {
  const listener = Deno.listen({ hostname: "::1", port: 0 });
  await using _server = echo(listener);
  await check({ transport: "tcp", host: "::1", port: portOf(listener) }, { bind: "::1" });
});

Deno.test("dial() says whom it could not reach, and why", async () => {
  using directory = temporaryDirectory();
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const port = portOf(listener);
  listener.close();
  const failures: [Endpoint, DialOptions, string][] = [
    [
      { transport: "tcp", host: "127.0.0.1", port },
      {},
      `cannot connect to 127.0.0.1:${port}: connection refused`,
    ],
    [{ transport: "tcp", host: "::1", port }, {}, `cannot connect to [::1]:${port}: connection refused`],
    [{ transport: "tcp", host: "127.0.0.1", port }, { bind: "127.0.0.9" }, `127.0.0.1:${port}: `],
    [{ transport: "tcp", host: "127.0.0.1", port }, { bind: "192.0.2.1" }, `127.0.0.1:${port}: `],
    [{ transport: "unix", path: directory.file("none") }, {}, "there is no such socket"],
    [{ transport: "unix", path: directory.file("none") }, { bind: "127.0.0.1" }, "no address to bind"],
    [{ transport: "tcp", host: "no-such-host.invalid", port }, {}, "no-such-host.invalid"],
  ];
  for (const [endpoint, options, message] of failures) {
    await assertRejects(() => dial(endpoint, options), DialError, message);
  }
});

Deno.test("dial() ends with the signal's reason", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const endpoint: Endpoint = { transport: "tcp", host: "127.0.0.1", port: portOf(listener) };
  for (const bind of [undefined, "127.0.0.1"]) {
    const reason = new Error("too late");
    const before = await assertRejects(() => dial(endpoint, { bind, signal: AbortSignal.abort(reason) }));
    assertStrictEquals(before, reason);
    const controller = new AbortController();
    const dialling = dial(endpoint, { bind, signal: controller.signal });
    controller.abort(reason);
    assertStrictEquals(await assertRejects(() => dialling), reason);
  }
  listener.close();
});

Deno.test("a connection bound to an address ends its reads when the peer closes, and its writes when we do", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const accepted = listener.accept();
  const endpoint: Endpoint = { transport: "tcp", host: "127.0.0.1", port: portOf(listener) };
  const connection = await dial(endpoint, { bind: "127.0.0.1" });
  (await accepted).close();
  assertEquals(await connection.read(new Uint8Array(1)), null);
  connection.close();
  await assertRejects(async () => await connection.write(new Uint8Array(1)));
  listener.close();
});
