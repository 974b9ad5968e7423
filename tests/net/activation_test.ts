import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { activatedDescriptors, listenDescriptor } from "../../src/net/activation.ts";
import { temporaryDirectory } from "../testing/process.ts";

function environment(values: Record<string, string>): (name: string) => string | undefined {
  return (name) => values[name];
}

Deno.test("activatedDescriptors() are ours only if the process is", { permissions: "none" }, () => {
  assertEquals(activatedDescriptors(environment({}), 7), []);
  assertEquals(activatedDescriptors(environment({ LISTEN_FDS: "2", LISTEN_PID: "7" }), 7), [3, 4]);
  assertEquals(activatedDescriptors(environment({ LISTEN_FDS: "2", LISTEN_PID: "8" }), 7), []);
  assertEquals(activatedDescriptors(environment({ LISTEN_FDS: "2" }), 7), []);
  assertEquals(activatedDescriptors(environment({ LISTEN_FDS: "0", LISTEN_PID: "7" }), 7), []);
});

Deno.test("activatedDescriptors() refuses a count that cannot be", { permissions: "none" }, () => {
  for (const count of ["-1", "two", "1e9", "99999", "5000", ""]) {
    assertThrows(
      () => activatedDescriptors(environment({ LISTEN_FDS: count, LISTEN_PID: "7" }), 7),
      TypeError,
    );
  }
});

/** A listening socket that the runtime does not know, as systemd would hand it over. */
function foreignListener(address: Uint8Array<ArrayBuffer>): number {
  const { symbols } = Deno.dlopen("libc.so.6", {
    socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
    bind: { parameters: ["i32", "buffer", "u32"], result: "i32" },
    listen: { parameters: ["i32", "i32"], result: "i32" },
  });
  const [family] = address;
  const fd = symbols.socket(family, 1, 0);
  assertEquals(symbols.bind(fd, address, address.length), 0);
  assertEquals(symbols.listen(fd, 16), 0);
  return fd;
}

function inetAddress(): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(16);
  bytes.set([2, 0, 0, 0, 127, 0, 0, 1]);
  return bytes;
}

function unixAddress(path: string): Uint8Array<ArrayBuffer> {
  return new Uint8Array([1, 0, ...new TextEncoder().encode(path + "\0")]);
}

for (const transport of ["tcp", "unix"] as const) {
  Deno.test(`listenDescriptor() takes connections from a ${transport} socket made by another`, async () => {
    using directory = temporaryDirectory();
    const path = directory.file("socket");
    const fd = foreignListener(transport === "tcp" ? inetAddress() : unixAddress(path));
    const listener = await listenDescriptor(fd);
    assertEquals(listener.text, transport === "tcp" ? `127.0.0.1:${listener.port}` : `unix:${path}`);
    const [client, connection] = await Promise.all([
      transport === "tcp"
        ? Deno.connect({ hostname: "127.0.0.1", port: listener.port! })
        : Deno.connect({ transport, path }),
      listener.accept(),
    ]);
    using _ = client;
    assertEquals(connection!.peer.transport, transport);
    assertEquals(
      connection!.peer.text,
      transport === "unix"
        ? `unix:uid=${Deno.uid()},pid=${Deno.pid}`
        : `127.0.0.1:${(client.localAddr as Deno.NetAddr).port}`,
    );

    // More than one buffer on either side, in both directions, every byte in its place.
    const sent = new Uint8Array(1_000_000).map((_, index) => index % 251);
    const writing = connection!.write(sent);
    const received = new Uint8Array(sent.length);
    for (let at = 0; at < received.length;) at += (await client.read(received.subarray(at)))!;
    await writing;
    assertEquals(received, sent);
    await client.write(sent.subarray(0, 1000));
    client.close();
    const back = new Uint8Array(1000);
    const small = new Uint8Array(7);
    let at = 0;
    for (let count; (count = await connection!.read(small)) !== null; at += count) {
      back.set(small.subarray(0, count), at);
    }
    assertEquals([at, back], [1000, sent.slice(0, 1000)]);
    connection!.close();

    const pending = listener.accept();
    listener.close();
    listener.close();
    assertEquals(await pending, null);
    // Whoever made the socket's file removes it.
    if (transport === "unix") assertEquals(Deno.lstatSync(path).isSocket, true);
  });
}

Deno.test("listenDescriptor() refuses what does not listen", async () => {
  for (const fd of [1_000_000, -1]) {
    await assertRejects(() => listenDescriptor(fd), TypeError, `descriptor ${fd} is no`);
  }
});
