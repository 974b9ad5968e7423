/** A disk moves behind a proxy that reaches it through TLS or a channel: it follows there, and nowhere else. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { dial } from "../../src/net/dial.ts";
import { Command } from "../../src/wire/nbd/constants.ts";
import { peerTest } from "../interop/peers.ts";
import { Authority } from "../testing/certificates.ts";
import { type TemporaryDirectory, temporaryDirectory } from "../testing/process.ts";
import { RawClient } from "../testing/raw_client.ts";
import { makeSparse } from "../testing/storage.ts";
import { denbd, listen, proxy, type RunningServer, serve } from "./program.ts";

const SIZE_BYTES = 1024 * 1024;

/** How two hosts and a proxy protect what goes between them. */
interface Way {
  /** Options of a host that serves, and of the one that receives. */
  readonly here: readonly string[];
  readonly there: readonly string[];
  /** What the proxy dials, and the old host to reach the new one; with what belongs to each of them. */
  from(port: number): string;
  to(port: number): string;
  readonly env: { readonly host: Record<string, string>; readonly proxy: Record<string, string> };
  /** Never told. */
  readonly secrets: readonly string[];
}

async function channels(directory: TemporaryDirectory): Promise<Way> {
  const names = ["here", "there", "host", "front"].map((name) => directory.file(`key-${name}`));
  const [here, there, host, front] = names;
  const keys: string[] = [];
  for (const path of names) keys.push((await denbd(["keygen", path])).stdout);
  const peers = directory.file("peers");
  Deno.writeTextFileSync(peers, keys[2] + keys[3]);
  const options = (key: string) => ["--channel-port", "0", "--key", key, "--authorized-peers", peers];
  const key = encodeURIComponent(keys[0].split(" ")[1]);
  return {
    here: options(here),
    there: options(there),
    from: (port) => `nbd+noise://127.0.0.1:${port}/?key=${key}&identity=${front}`,
    to: (port) => `nbd+noise://127.0.0.1:${port}/?identity=${host}`,
    // The proxy has nowhere to remember a key: it needs to be told that of the new place.
    env: {
      host: { HOME: directory.file("home"), XDG_CONFIG_HOME: "" },
      proxy: { HOME: "", XDG_CONFIG_HOME: "" },
    },
    secrets: ["identity", host],
  };
}

async function certificates(directory: TemporaryDirectory): Promise<Way> {
  const authority = await Authority.create(directory.file("authority"));
  await authority.issue("server", { names: "IP:127.0.0.1" });
  for (const name of ["host", "front"]) await authority.issue(name, { usage: "clientAuth" });
  const [host, front] = ["host", "front"].map((name) => authority.clientFiles(`of-${name}`, authority, name));
  const options = ["--tls", "require", "--tls-certificates", authority.path, "--tls-verify-peer"];
  return {
    here: options,
    there: options,
    from: (port) => `nbds://127.0.0.1:${port}/?tls-certificates=${front}`,
    to: (port) => `nbds://127.0.0.1:${port}/?tls-certificates=${host}`,
    env: { host: {}, proxy: {} },
    secrets: ["tls-certificates", host],
  };
}

const ways = { "a channel": channels, "TLS": certificates };

/** Where it listens for protected connections: after the plain port, if that is open as well. */
function portOf(server: RunningServer): number {
  return Number(server.listening.at(-1)!.split(":").at(-1));
}

/** A disk behind a proxy, one of whose clients has just written; and where it is to move. */
async function setUp(directory: TemporaryDirectory, way: Way, there: readonly string[] = way.there) {
  const [image, copy, sock] = ["here.img", "there.img", "sock"].map((name) => directory.file(name));
  makeSparse(image, SIZE_BYTES);
  makeSparse(copy, SIZE_BYTES);
  const stack = new AsyncDisposableStack();
  try {
    const state = (side: string) => ["--state-dir", directory.file(`state-${side}`)];
    const source = stack.use(
      await serve(["--file", image, "--sock", sock, ...state("here"), ...way.here], { env: way.env.host }),
    );
    const destination = stack.use(
      await listen(["--file", copy, "--then-serve", ...state("there"), ...there], { env: way.env.host }),
    );
    const front = stack.use(await proxy([way.from(portOf(source))], { env: way.env.proxy }));
    const client = await RawClient.open(
      await dial({ transport: "tcp", host: "127.0.0.1", port: front.port }),
    );
    stack.defer(() => client.connection.close());
    assertEquals((await client.write(0, new Uint8Array(512).fill(1))).error, 0);
    return {
      copy,
      sock,
      source,
      destination,
      front,
      client,
      [Symbol.asyncDispose]: () => stack.disposeAsync(),
    };
  } catch (error) {
    await stack.disposeAsync();
    throw error;
  }
}

for (const [name, make] of Object.entries(ways)) {
  peerTest(
    `a proxy follows a disk through ${name}, and is told no more than it needs`,
    ["openssl"],
    async () => {
      using directory = temporaryDirectory();
      const way = await make(directory);
      await using hosts = await setUp(directory, way);
      const { copy, sock, source, destination, front, client } = hosts;
      await denbd(["mirror", "--sock", sock, way.to(portOf(destination))]);
      const [line] = await front.logged(/the disk has moved from .*: following/);
      for (const secret of way.secrets) assert(!line.includes(secret), line);
      assertEquals(await source.ended(), 0);
      assertEquals((await client.write(512, new Uint8Array(512).fill(2))).error, 0);
      assertEquals((await client.ask({ type: Command.FLUSH })).error, 0);
      await front.logged(/reconnected to/);
      const bytes = Deno.readFileSync(copy);
      assertEquals([bytes[0], bytes[512], bytes[1024]], [1, 2, 0]);
    },
  );

  peerTest(`a proxy does not follow a disk out of ${name}`, ["openssl"], async () => {
    using directory = temporaryDirectory();
    const way = await make(directory);
    await using hosts = await setUp(directory, way, []);
    await denbd(["mirror", "--sock", hosts.sock, `nbd://127.0.0.1:${portOf(hosts.destination)}/`]);
    const [, why] = await hosts.front.logged(
      /cannot reconnect: the disk has moved to nbd:\S+, which is not followed: (.*)/,
    );
    assertStringIncludes(why, "it is to be reached over plain NBD, which protects less than");
    assertEquals(await hosts.source.ended(), 0);
    // None but the old host has ever been there.
    assertEquals(hosts.destination.log.split("\n").filter((line) => / opened "" to /.test(line)).length, 1);
  });
}

peerTest("a proxy does not follow a disk to who has no certificate for that", ["openssl"], async () => {
  using directory = temporaryDirectory();
  const way = await certificates(directory);
  const stranger = await Authority.create(directory.file("stranger"));
  await stranger.issue("server", { names: "IP:127.0.0.1" });
  await using hosts = await setUp(directory, way, ["--tls", "require", "--tls-certificates", stranger.path]);
  // The old host does not look; that is nothing that it could have others do.
  await denbd([
    "mirror",
    "--sock",
    hosts.sock,
    `nbds://127.0.0.1:${portOf(hosts.destination)}/?tls-verify-peer=0`,
  ]);
  const [line] = await hosts.front.logged(/the disk has moved from .*: following/);
  assert(!line.includes("tls-verify-peer"), line);
  await hosts.front.logged(/cannot reconnect: .*(certificate|issuer)/i);
  assertEquals(await hosts.source.ended(), 0);
});
