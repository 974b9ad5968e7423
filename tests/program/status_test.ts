/** What `status` says of a server and of a proxy in front of it, compared with what has happened. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { DISK_THREADS_DEFAULT } from "../../src/device/disk_threads.ts";
import { dial } from "../../src/net/dial.ts";
import { Command, WireErrno } from "../../src/wire/nbd/constants.ts";
import { peerTest, until } from "../interop/peers.ts";
import { Authority } from "../testing/certificates.ts";
import { freePort, type TemporaryDirectory, temporaryDirectory } from "../testing/process.ts";
import { RawClient } from "../testing/raw_client.ts";
import { denbd, proxy, serve, statusOf } from "./program.ts";

const SIZE_BYTES = 1 << 20;

/** How to serve on a port, how to reach it, and what the status calls it. */
interface Way {
  readonly serve: readonly string[];
  readonly uri: string;
  readonly env?: Record<string, string>;
  readonly protection: RegExp;
  readonly identity: RegExp | null;
}

const ways: Record<string, (directory: TemporaryDirectory, port: number) => Way | Promise<Way>> = {
  "in clear": (_, port) => ({
    serve: ["--port", `${port}`],
    uri: `nbd://127.0.0.1:${port}/`,
    protection: /^none$/,
    identity: null,
  }),
  "over TLS": async (directory, port) => {
    const authority = await Authority.create(directory.file("authority"));
    await authority.issue("server", { names: "DNS:localhost" });
    await authority.issue("front", { usage: "clientAuth" });
    const tls = ["--tls", "require", "--tls-certificates", authority.path, "--tls-verify-peer"];
    return {
      serve: ["--port", `${port}`, ...tls],
      uri: `nbds://localhost:${port}/?tls-certificates=${
        authority.clientFiles("client", authority, "front")
      }`,
      protection: /^TLSv1\.3 TLS_(AES_128_GCM_SHA256|AES_256_GCM_SHA384|CHACHA20_POLY1305_SHA256)$/,
      identity: /^front$/,
    };
  },
  "through a channel": async (directory, port) => {
    const [key, peers] = ["server", "peers"].map((name) => directory.file(name));
    await denbd(["keygen", key]);
    const env = { HOME: directory.file("home"), XDG_CONFIG_HOME: "" };
    const { stdout } = await denbd(["keygen"], { env });
    Deno.writeTextFileSync(peers, stdout);
    return {
      serve: ["--channel-port", `${port}`, "--key", key, "--authorized-peers", peers],
      uri: `nbd+noise://127.0.0.1:${port}/`,
      env,
      protection: /^noise$/,
      identity: /^[A-Za-z0-9+/]{43}=$/,
    };
  },
};

for (const [name, make] of Object.entries(ways)) {
  peerTest(`V52: status of a server and of a proxy ${name}: who, what, how protected, how it stands`, [
    "openssl",
  ], async () => {
    using directory = temporaryDirectory();
    const image = directory.file("image");
    Deno.writeFileSync(image, new Uint8Array(SIZE_BYTES).fill(1));
    const [back, ahead] = ["server-control", "proxy-control"].map((name) => directory.file(name));
    const way = await make(directory, freePort());
    const startServer = () => serve(["--file", image, "--sock", back, ...way.serve]);
    let server = await startServer();
    try {
      await using front = await proxy(["--sock", ahead, way.uri], { env: way.env });
      const client = await RawClient.open(
        await dial({ transport: "tcp", host: "127.0.0.1", port: front.port }),
      );
      assertEquals((await client.write(0, new Uint8Array(4096))).error, 0);
      assertEquals((await client.read(0, 512)).error, 0);
      // What the proxy refuses itself is an error of its client, and not of the server's.
      assertEquals((await client.read(SIZE_BYTES, 512)).error, WireErrno.EINVAL);

      const atServer = await statusOf(back);
      assertEquals(atServer.diskThreads, { count: DISK_THREADS_DEFAULT, busy: 0, waiting: 0 });
      const [disk] = atServer.exports;
      assertEquals(
        [disk.sizeBytes, disk.readOnly, disk.errors, disk.readBytes, disk.writtenBytes],
        [SIZE_BYTES, false, 0, 512, 4096],
      );
      const [peer] = disk.clients;
      assertMatch(peer.address, /^127\.0\.0\.1:\d+\b/);
      assertMatch(peer.protection, way.protection);
      if (way.identity === null) assertEquals(peer.identity, null);
      else assertMatch(peer.identity, way.identity);
      assertEquals(
        [peer.rights, peer.errors, peer.inFlight, peer.readBytes, peer.writtenBytes],
        ["write", 0, 0, 512, 4096],
      );
      assert(peer.requests >= 2 && peer.ageMs >= 0);

      const atProxy = await statusOf(ahead);
      assertEquals(atProxy.diskThreads.count, DISK_THREADS_DEFAULT);
      const { sizeBytes, errors, requests, clients: [local], upstream } = atProxy.exports[0];
      assertEquals([sizeBytes, errors, requests], [SIZE_BYTES, 1, 3]);
      assertEquals([local.protection, local.identity, local.errors, local.requests], ["none", null, 1, 3]);
      assertMatch(upstream.peer, /^127\.0\.0\.1:\d+\b/);
      // Both ends call it the same.
      assertEquals(upstream.protection, peer.protection);
      assertEquals(
        [upstream.state, upstream.trouble, upstream.connections, upstream.reconnects, upstream.attempts],
        ["connected", null, 1, 0, 0],
      );
      assertEquals(
        [upstream.requests, upstream.errors, upstream.readBytes, upstream.writtenBytes, upstream.unanswered],
        [2, 0, 512, 4096, 0],
      );

      // Without a server requests wait, and the attempts are counted.
      assertEquals(await server.stop("SIGKILL") > 0, true);
      const pending = await client.send({ type: Command.READ, offset: 4096, length: 512 });
      let waiting = atProxy.exports[0];
      await until(async () => {
        [waiting] = (await statusOf(ahead)).exports;
        return waiting.upstream.attempts >= 2 && waiting.upstream.unanswered === 1;
      });
      assertEquals([waiting.upstream.state, waiting.upstream.connections], ["reconnecting", 0]);
      assertMatch(waiting.upstream.trouble, /./);
      assertEquals(waiting.clients[0].inFlight, 1);
      const view = (await denbd(["status", "--sock", ahead])).stdout;
      assertMatch(view, /\bupstream=reconnecting reconnects=0 .*unanswered=1 /);

      server = await startServer();
      assertEquals((await client.answer(pending)).error, 0);
      const [{ upstream: again }] = (await statusOf(ahead)).exports;
      assertEquals(
        [again.state, again.trouble, again.reconnects, again.attempts, again.resent, again.unanswered],
        ["connected", null, 1, 0, 1, 0],
      );
      assertMatch(again.protection, way.protection);
      client.connection.close();
    } finally {
      await server[Symbol.asyncDispose]();
    }
  });
}
