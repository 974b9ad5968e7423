/** Bytes inside TLS: in whatever pieces, over whatever carries them, to a good end or a bad one. */
import {
  assert,
  assertEquals,
  assertGreater,
  assertInstanceOf,
  assertRejects,
  assertThrows,
} from "@std/assert";
import { TLSSocket } from "node:tls";
import type { Connection } from "../../src/net/connection.ts";
import { dial } from "../../src/net/dial.ts";
import { DirectTlsConnection } from "../../src/net/direct_tls_connection.ts";
import { listenTcp } from "../../src/net/listener.ts";
import { connectTls } from "../../src/net/tls_client.ts";
import { prepareTlsServer } from "../../src/net/tls_server.ts";
import { WireError } from "../../src/wire/wire_error.ts";
import { peerTest } from "../interop/peers.ts";
import { Authority } from "../testing/certificates.ts";
import { connectionPair } from "../testing/connection_pair.ts";
import { temporaryDirectory } from "../testing/process.ts";

/** A transport that counts what is read from it, and alters what is written to it. */
class Tap implements Connection {
  reads = 0;
  alter = (bytes: Uint8Array): Uint8Array => bytes;

  constructor(private readonly inner: Connection) {}

  get peer() {
    return this.inner.peer;
  }
  read(into: Uint8Array) {
    this.reads++;
    return this.inner.read(into);
  }
  write(bytes: Uint8Array): void | Promise<void> {
    return this.inner.write(this.alter(bytes.slice()));
  }
  close(): void {
    this.inner.close();
  }
}

interface Pair extends Disposable {
  readonly client: Connection;
  readonly server: Connection;
}

async function secure(near: Connection, far: Connection): Promise<Pair> {
  using directory = temporaryDirectory();
  const authority = await Authority.create(directory.file("authority"));
  await authority.issue("server", { names: "DNS:localhost" });
  const own = {
    certificate: authority.read("server-cert.pem"),
    privateKey: authority.read("server-key.pem"),
  };
  const authorities = authority.read("ca-cert.pem");
  const [client, server] = await Promise.all([
    connectTls(near, { serverName: "localhost", authorities }),
    prepareTlsServer(own)(far),
  ]);
  return {
    client,
    server,
    [Symbol.dispose]() {
      near.close();
      far.close();
    },
  };
}

async function overTcp(): Promise<Pair> {
  const listener = listenTcp("127.0.0.1", 0);
  const address = { transport: "tcp", host: "127.0.0.1", port: listener.port! } as const;
  const [near, far] = await Promise.all([dial(address), listener.accept()]);
  listener.close();
  return await secure(near, far!);
}

/** Fills `byteCount` bytes by reads with room for `roomBytes`, those that need no waiting first. */
async function receive(connection: Connection, byteCount: number, roomBytes: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(byteCount);
  for (let filled = 0; filled < byteCount;) {
    const room = bytes.subarray(filled, filled + roomBytes);
    const count = connection.readNow?.(room, false) ?? await connection.read(room);
    if (count === null) throw new Error(`ended after ${filled} bytes`);
    filled += count;
  }
  return bytes;
}

function pattern(byteCount: number): Uint8Array {
  return Uint8Array.from({ length: byteCount }, (_, index) => index * 7 + (index >> 8) * 3);
}

const transports: [string, () => Promise<Pair>][] = [
  ["TCP", overTcp],
  ["memory", () => secure(...connectionPair())],
  ["memory, 1000 bytes at a time", () => secure(...connectionPair(1000))],
];
for (const [name, open] of transports) {
  peerTest(`TLS over ${name} gives out what was written, whatever fits`, ["openssl"], async () => {
    using pair = await open();
    assertInstanceOf(pair.client, DirectTlsConnection);
    assertInstanceOf(pair.server, DirectTlsConnection);
    for (const [from, to] of [[pair.client, pair.server], [pair.server, pair.client]]) {
      for (const byteCount of [1, 28, 4096, 16_384, 49_152, 49_153, 131_100, 3_000_000]) {
        for (const roomBytes of [4096, 40_000, 262_144]) {
          const bytes = pattern(byteCount);
          const [received] = await Promise.all([receive(to, byteCount, roomBytes), from.write(bytes)]);
          assertEquals(received, bytes, `${byteCount} bytes, by reads of ${roomBytes}`);
        }
      }
    }
    pair.server.close();
    assertEquals(await pair.client.read(new Uint8Array(1)), null);
    assertEquals(pair.server.read(new Uint8Array(1)), null);
    assertThrows(() => pair.server.write(new Uint8Array(1)), Deno.errors.BrokenPipe);
    pair.client.close();
  });
}

peerTest("who closes has sent what was written before", ["openssl"], async () => {
  using pair = await secure(...connectionPair());
  const bytes = pattern(200_000);
  void pair.client.write(bytes);
  pair.client.close();
  assertEquals(await receive(pair.server, bytes.length, 65_536), bytes);
  assertEquals(await pair.server.read(new Uint8Array(10)), null);
  pair.server.close();
});

peerTest("what nobody wants to read is left to the transport", ["openssl"], async () => {
  const [near, far] = connectionPair(4096);
  const tap = new Tap(far);
  using pair = await secure(near, tap);
  await pair.client.write(pattern(1_000_000));
  assertEquals((await receive(pair.server, 10, 10)).length, 10);
  // Those of the handshake, and one or two for the first record.
  assert(tap.reads < 20, `${tap.reads} reads`);
  const before = tap.reads;
  await receive(pair.server, 999_990, 65_536);
  assertGreater(tap.reads, before + 200);
});

peerTest(
  "a damaged record is an error, of which the peer hears, and nothing of it is read",
  ["openssl"],
  async () => {
    const [near, far] = connectionPair();
    const tap = new Tap(near);
    using pair = await secure(tap, far);
    await pair.client.write(pattern(100));
    assertEquals(await receive(pair.server, 100, 100), pattern(100));
    tap.alter = (bytes) => {
      bytes[bytes.length - 1] ^= 1;
      return bytes;
    };
    await pair.client.write(pattern(100));
    const into = new Uint8Array(200);
    await assertRejects(async () => await pair.server.read(into), WireError, "TLS failed");
    assertEquals(into, new Uint8Array(200));
    assertThrows(() => pair.server.read(into), WireError, "TLS failed");
    assertThrows(() => pair.server.write(into), WireError, "TLS failed");
    await assertRejects(async () => await pair.client.read(into), WireError, "alert");
    pair.server.close();
    pair.client.close();
  },
);

peerTest("a read that waits ends when the connection is closed", ["openssl"], async () => {
  using pair = await overTcp();
  const reading = pair.server.read(new Uint8Array(10));
  pair.server.close();
  assertEquals(await reading, null);
  assertEquals(await pair.client.read(new Uint8Array(10)), null);
  pair.client.close();
});

peerTest(
  "where the runtime keeps its records to itself its socket is used as it is",
  ["openssl"],
  async () => {
    const calls = Object.getPrototypeOf(
      (new TLSSocket(undefined!) as unknown as { _handle: object })._handle,
    );
    const getBytesRead = calls.getBytesRead;
    calls.getBytesRead = undefined;
    try {
      using pair = await overTcp();
      assert(!(pair.client instanceof DirectTlsConnection));
      for (const [from, to] of [[pair.client, pair.server], [pair.server, pair.client]]) {
        const bytes = pattern(500_000);
        const [received] = await Promise.all([receive(to, bytes.length, 65_536), from.write(bytes)]);
        assertEquals(received, bytes);
      }
      pair.server.close();
      assertEquals(await pair.client.read(new Uint8Array(1)), null);
      pair.client.close();
    } finally {
      calls.getBytesRead = getBytesRead;
    }
  },
);
