/** Protected connections to servers that are killed: a proxy's clients see nothing but pauses. */
import { assertEquals, assertMatch } from "@std/assert";
import { peerTest, until } from "../interop/peers.ts";
import { Authority } from "../testing/certificates.ts";
import { freePort, run, type TemporaryDirectory, temporaryDirectory } from "../testing/process.ts";
import { denbd, proxy, type RunningProgram, start } from "./program.ts";

const sizeBytes = 32 << 20;

/** How to serve an image on a port, and how to reach it. */
interface Way {
  readonly serve: readonly string[];
  readonly uri: string;
  readonly env: Record<string, string>;
  /** What the server says of the proxy when it comes. */
  readonly opened: RegExp;
}

async function throughChannel(directory: TemporaryDirectory, port: number): Promise<Way> {
  const [serverKey, peers] = ["server", "peers"].map((name) => directory.file(name));
  await denbd(["keygen", serverKey]);
  const env = { HOME: directory.file("home"), XDG_CONFIG_HOME: "" };
  const { stdout: publicKey } = await denbd(["keygen"], { env });
  Deno.writeTextFileSync(peers, publicKey);
  return {
    serve: ["--channel-port", `${port}`, "--key", serverKey, "--authorized-peers", peers],
    uri: `nbd+noise://127.0.0.1:${port}/`,
    env,
    opened: /\(key .*\) opened "" to write/,
  };
}

async function throughTls(directory: TemporaryDirectory, port: number): Promise<Way> {
  const authority = await Authority.create(directory.file("authority"));
  await authority.issue("server", { names: "DNS:localhost" });
  await authority.issue("proxy", { usage: "clientAuth" });
  const files = authority.clientFiles("client", authority, "proxy");
  const tls = ["--tls", "require", "--tls-certificates", authority.path, "--tls-verify-peer"];
  return {
    serve: ["--port", `${port}`, ...tls],
    uri: `nbds://localhost:${port}/?tls-certificates=${files}`,
    env: {},
    opened: /certificate of "proxy"\) opened "" to write/,
  };
}

for (const [name, make] of Object.entries({ "a channel": throughChannel, "TLS": throughTls })) {
  peerTest(`fio verifies what it wrote through ${name} while the server was killed three times`, [
    "fio",
    "openssl",
  ], async () => {
    using directory = temporaryDirectory();
    const image = directory.file("image");
    Deno.writeFileSync(image, new Uint8Array(0));
    Deno.truncateSync(image, sizeBytes);
    const { serve, uri, env, opened } = await make(directory, freePort());
    const startServer = async (): Promise<RunningProgram> => {
      const server = await start(["serve", "--verbose", "--file", image, ...serve]);
      await server.logged(/: serving 1 export on/);
      return server;
    };
    let server = await startServer();
    try {
      await using front = await proxy(["--sole-writer", uri], { env });
      await server.logged(opened);
      const load = ["--rw=randwrite", "--bs=4k", "--iodepth=16", "--rate_iops=4000", "--fsync=64"];
      const verify = ["--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0"];
      const common = ["--name=x", "--ioengine=nbd", `--uri=${front.uri()}`, `--size=${sizeBytes}`];
      const writing = run("fio", [...common, ...load, ...verify], { timeoutSeconds: 120 });
      for (let quarter = 1; quarter <= 3; quarter++) {
        // Every block is written once, so what is allocated tells how far it is.
        await until(() => Deno.statSync(image).blocks! * 512 >= quarter * sizeBytes / 4);
        await server.stop("SIGKILL");
        server = await startServer();
        await server.logged(opened);
      }
      assertMatch((await writing).stdout, /err= 0/);
      assertEquals(await front.stop(), 0);
    } finally {
      await server.stop();
    }
  });
}
