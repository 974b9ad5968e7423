import { assert, assertEquals } from "@std/assert";
import type { Connection } from "../../src/net/connection.ts";
import { listenTcp, listenUnix } from "../../src/net/listener.ts";
import { OpenFile } from "../../src/os/file_calls.ts";
import { libc } from "../../src/os/libc.ts";
import { Pipe } from "../../src/os/pipe.ts";
import { peerAddress } from "../../src/os/socket_calls.ts";
import { temporaryDirectory } from "../testing/process.ts";
import { randomFrom } from "../testing/random.ts";

const linux = Deno.build.os === "linux";
const MIB = 1 << 20;
const randomBytes = (length: number) => randomFrom(length).bytes(length);

/** A file of random bytes, and a connection accepted over the transport with the client at its other end. */
async function setUp(transport: "tcp" | "unix", sizeBytes: number) {
  const directory = temporaryDirectory();
  const path = directory.file("data");
  const content = randomBytes(sizeBytes);
  Deno.writeFileSync(path, content);
  const file = OpenFile.open(libc()!, path);
  const socket = directory.file("socket");
  const listener = transport === "tcp" ? listenTcp("127.0.0.1", 0) : await listenUnix(socket);
  const client = transport === "tcp"
    ? await Deno.connect({ hostname: "127.0.0.1", port: listener.port! })
    : await Deno.connect({ transport: "unix", path: socket });
  const connection = (await listener.accept())!;
  return {
    path,
    content,
    file,
    client,
    connection: connection as Connection & Required<Pick<Connection, "sendFile">>,
    [Symbol.dispose]() {
      connection.close();
      try {
        client.close();
      } catch {
        // The test has done it.
      }
      listener.close();
      file.close();
      directory[Symbol.dispose]();
    },
  };
}

/** Reads so many bytes, or fewer at the end of the stream or at a reset. */
async function receive(client: Deno.Conn, byteCount: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(byteCount);
  let filled = 0;
  while (filled < byteCount) {
    const count = await client.read(bytes.subarray(filled)).catch(() => null);
    if (count === null) break;
    filled += count;
  }
  return bytes.subarray(0, filled);
}

for (const transport of ["tcp", "unix"] as const) {
  Deno.test({
    name:
      `NativeConnection.moveNow() over ${transport} moves what is there, and tells a full pipe from no bytes`,
    ignore: !linux,
    async fn() {
      using opened = await setUp(transport, 1);
      const { client, connection } = opened;
      const pipe = Pipe.open()!;
      await client.write(new Uint8Array([1, 2]));
      // A read by the runtime opens our turn.
      assertEquals(await connection.read(new Uint8Array(1)), 1);
      assertEquals(connection.moveNow!(pipe, 10, false), 1);
      assertEquals(connection.moveNow!(pipe, 10, false), undefined);
      pipe.put(new Uint8Array(pipe.capacityBytes));
      await client.write(new Uint8Array([3, 4]));
      assertEquals(await connection.read(new Uint8Array(1)), 1);
      assertEquals(connection.moveNow!(pipe, 10, false), 0);
      pipe.take(new Uint8Array(pipe.heldBytes));
      client.close();
      assertEquals(await connection.read(new Uint8Array(1)), 1);
      assertEquals(connection.moveNow!(pipe, 10, false), undefined);
      assertEquals(await connection.read(new Uint8Array(1)), null);
      connection.close();
      assertEquals(connection.moveNow!(pipe, 10, false), undefined);
      assertEquals(pipe.heldBytes, 0);
      pipe.close();
    },
  });

  const test = (what: string, fn: () => Promise<void>) =>
    Deno.test({ name: `a file goes out over ${transport} ${what}`, ignore: !linux, fn });

  test("between what was written before and after it, to a reader that is late", async () => {
    using world = await setUp(transport, 20 * MIB + 123);
    const { connection, client, file, content } = world;
    const head = randomBytes(28);
    const tail = randomBytes(5 * MIB);
    // The first fits the socket, the second does not, the rest queues behind it.
    const sent = [
      connection.sendFile(head, file, 1000, 20_000),
      connection.sendFile(head, file, 77, content.length - 77),
      connection.write(tail),
      connection.sendFile(head, file, 0, 3 * MIB),
    ];
    assert(sent.slice(1).every((promise) => promise instanceof Promise));
    const expected = [
      [head, content.subarray(1000, 21_000)],
      [head, content.subarray(77)],
      [tail],
      [head, content.subarray(0, 3 * MIB)],
    ].flat();
    for (const bytes of expected) assertEquals(await receive(client, bytes.length), bytes);
    await Promise.all(sent);
  });

  test("also where it left the page cache meanwhile", async () => {
    using world = await setUp(transport, 20 * MIB);
    const { connection, client, file, content } = world;
    file.isCached = () => false;
    const sent = connection.sendFile(new Uint8Array(1), file, 0, content.length);
    file.readCached = () => -1;
    assertEquals((await receive(client, 1 + content.length)).subarray(1), content);
    await sent;
  });

  test("not to its end if it is cut short on the way: the connection is closed", async () => {
    using world = await setUp(transport, 20 * MIB);
    const { connection, client, file, content, path } = world;
    const sent = Promise.resolve(connection.sendFile(new Uint8Array(1), file, 0, content.length));
    const failed = sent.then(() => false, () => true);
    Deno.truncateSync(path, 15 * MIB);
    const received = await receive(client, 1 + content.length);
    assert(received.length <= 1 + 15 * MIB);
    assertEquals(received.subarray(1), content.subarray(0, received.length - 1));
    assertEquals(await failed, true);
    assertEquals(connection.read(new Uint8Array(1)), null);
  });

  test("not at all once it is closed, whoever has its descriptor then", async () => {
    using world = await setUp(transport, 20 * MIB);
    const { connection, client, file, content, path } = world;
    const failed = Promise.resolve(connection.sendFile(new Uint8Array(1), file, 0, content.length))
      .then(() => false, () => true);
    const fd = file.fd;
    file.close();
    Deno.writeFileSync(path, new Uint8Array(content.length));
    const other = OpenFile.open(libc()!, path);
    assertEquals(other.fd, fd);
    const received = await receive(client, 1 + content.length);
    assertEquals(received.subarray(1), content.subarray(0, received.length - 1));
    assertEquals(await failed, true);
    other.close();
  });

  test("until its reader has gone", async () => {
    using world = await setUp(transport, 20 * MIB);
    const { connection, client, file, content } = world;
    const failed = Promise.resolve(connection.sendFile(new Uint8Array(1), file, 0, content.length))
      .then(() => false, () => true);
    await receive(client, 4096);
    client.close();
    assertEquals(await failed, true);
  });
}

/** The descriptor of a connection whose peer has this port. */
function descriptorTo(peer: Deno.Conn): number {
  const { port } = peer.localAddr as Deno.NetAddr;
  const leadsThere = (fd: number) => {
    const address = peerAddress(fd);
    return address?.transport === "tcp" && address.port === port;
  };
  return Array.from({ length: 256 }, (_, fd) => fd).find(leadsThere)!;
}

Deno.test({
  name: "accepted TCP connections probe a silent peer, and give it up after a quarter of one",
  ignore: !linux,
}, async () => {
  using world = await setUp("tcp", 1);
  const fd = descriptorTo(world.client);
  const option = (level: number, name: number) => {
    const value = new Int32Array(1);
    assertEquals(libc()!.getsockopt(fd, level, name, value, new Uint32Array([4])), 0);
    return value[0];
  };
  // SOL_SOCKET SO_KEEPALIVE; IPPROTO_TCP TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT in seconds, TCP_USER_TIMEOUT in ms.
  assertEquals([option(1, 9), option(6, 4), option(6, 5), option(6, 6), option(6, 18)], [1, 5, 5, 2, 0]);
  // TCP_NODELAY.
  assertEquals(option(6, 1), 1);
});

Deno.test({ name: "within the machine what is sent is not paced", ignore: !linux }, async () => {
  using world = await setUp("tcp", 1);
  const name = new Uint8Array(16);
  // IPPROTO_TCP TCP_CONGESTION
  const result = libc()!.getsockopt(descriptorTo(world.client), 6, 13, name, new Uint32Array([name.length]));
  assertEquals(result, 0);
  assertEquals(new TextDecoder().decode(name.subarray(0, name.indexOf(0))), "reno");
});
