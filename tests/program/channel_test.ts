/** Channels between two runs of the program. */

import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { until } from "../interop/peers.ts";
import { type TemporaryDirectory, temporaryDirectory } from "../testing/process.ts";
import { denbd, type RunningProgram, start } from "./program.ts";

const sizeBytes = 8 << 20;

interface Files {
  readonly image: string;
  readonly serverKey: string;
  readonly peers: string;
  /** For the client: a home with a key. */
  readonly env: Record<string, string>;
  /** The client's public key, as one line. */
  readonly publicKey: string;
}

async function makeFiles(directory: TemporaryDirectory): Promise<Files> {
  const [image, serverKey, peers] = ["image", "server", "peers"].map((name) => directory.file(name));
  Deno.writeFileSync(image, new Uint8Array(sizeBytes));
  await denbd(["keygen", serverKey]);
  const env = { HOME: directory.file("home"), XDG_CONFIG_HOME: "" };
  const { stdout: publicKey } = await denbd(["keygen"], { env });
  Deno.writeTextFileSync(peers, `# all\n${publicKey}`);
  return { image, serverKey, peers, env, publicKey };
}

/** A server and the port of its channel. */
async function serveChannel(
  { image, serverKey, peers }: Files,
  port = 0,
): Promise<{ running: RunningProgram; port: number }> {
  const words = [
    "--file",
    image,
    "--channel-port",
    `${port}`,
    "--key",
    serverKey,
    "--authorized-peers",
    peers,
  ];
  const running = await start(["serve", "--verbose", ...words]);
  const [, addresses] = await running.logged(/: serving 1 export on (.*)$/);
  assertMatch(addresses, /^127\.0\.0\.1:\d+$/, "a channel port opens no plain one beside it");
  return { running, port: Number(addresses.split(":")[1]) };
}

Deno.test("a disk is written and read through a channel, also after its server was killed", async () => {
  using directory = temporaryDirectory();
  const files = await makeFiles(directory);
  const data = crypto.getRandomValues(new Uint8Array(60_000));
  let port: number;
  {
    const first = await serveChannel(files);
    await using server = first.running;
    port = first.port;
    const uri = `nbd+noise://127.0.0.1:${port}/`;
    const { stderr } = await denbd(["write", "--from", "1000", uri], { env: files.env, stdin: data });
    assertStringIncludes(stderr, `first contact with 127.0.0.1:${port}`);
    const { bytes, stderr: quiet } = await denbd(["read", "--from", "1000", "--size", "60000", uri], {
      env: files.env,
    });
    assertEquals([bytes, quiet], [data, ""]);
    await server.logged(
      new RegExp(`\\(key ${files.publicKey.split(" ")[1].replaceAll(/[+/]/g, "\\$&")}\\) opened`),
    );
    await server.stop("SIGKILL");
  }
  await using again = (await serveChannel(files, port)).running;
  const uri = `nbd+noise://127.0.0.1:${port}/`;
  const { bytes, stderr } = await denbd(["read", "--from", "1000", "--size", "60000", uri], {
    env: files.env,
  });
  assertEquals([bytes, stderr], [data, ""]);
  assertEquals(await again.stop(), 0);
});

Deno.test("a copy through channels leaves each of them with a goodbye: the server has nothing to warn of", async () => {
  using directory = temporaryDirectory();
  const files = await makeFiles(directory);
  const { running, port } = await serveChannel(files);
  await using server = running;
  await denbd(["copy", `nbd+noise://127.0.0.1:${port}/`, directory.file("copy")], { env: files.env });
  const leavings = () => server.log.match(/left "" after [^;]*;/g) ?? [];
  await until(() => leavings().length === 4);
  assertEquals(await server.stop(), 0);
  const ends = leavings();
  assertEquals(ends.map((end) => end.replace(/after .* s/, "")), Array(4).fill('left "" : disconnected;'));
});

Deno.test("SIGHUP reads the authorised peers again, and keeps them when the file is wrong", async () => {
  using directory = temporaryDirectory();
  const files = await makeFiles(directory);
  const { running, port } = await serveChannel(files);
  await using server = running;
  const words = ["read", "--size", "16", `nbd+noise://127.0.0.1:${port}/`];
  const read = () => denbd(words, { env: files.env, code: "any" });
  assertEquals((await read()).code, 0);

  Deno.writeTextFileSync(files.peers, "nonsense\n");
  server.signal("SIGHUP");
  await server.logged(/kept the authorised peers: .*peers:1: a public key begins with/);
  assertEquals((await read()).code, 0);

  Deno.writeTextFileSync(files.peers, `none ${files.publicKey}`);
  server.signal("SIGHUP");
  await server.logged(/read the authorised peers again/);
  const { code, stderr } = await read();
  assertEquals(code, 1);
  assertStringIncludes(stderr, "the server refused the channel: key ");
  assertStringIncludes(stderr, "is authorised for none");
  await server.logged(/W.*refused: key .* is authorised for none/);
});

Deno.test("serve refuses options of the channel that do not fit together", async () => {
  using directory = temporaryDirectory();
  const { image, serverKey, peers } = await makeFiles(directory);
  const open = directory.file("open");
  Deno.writeTextFileSync(open, Deno.readTextFileSync(serverKey));
  Deno.chmodSync(open, 0o644);
  const port = ["--channel-port", "0"];
  const cases: [string[], number, string][] = [
    [["--key", serverKey], 2, "belong to --channel-port"],
    [["--encryption", "off"], 2, "belong to --channel-port"],
    [port, 2, "--channel-port needs --authorized-peers"],
    [[...port, "--encryption", "off", "--key", serverKey], 2, "has no use for --key"],
    [
      [...port, "--authorized-peers", peers, "--key", open],
      1,
      "others may read it (mode 0644); run chmod 600",
    ],
    [[...port, "--authorized-peers", peers, "--key", `${serverKey}.pub`], 1, "others may read it"],
    [[...port, "--authorized-peers", peers, "--key", directory.file("no")], 1, "it does not exist"],
    [[...port, "--authorized-peers", directory.file("no"), "--key", serverKey], 1, "it does not exist"],
    [[...port, "--authorized-peers", serverKey, "--key", serverKey], 1, "server:1: a public key is wanted"],
  ];
  for (const [words, code, message] of cases) {
    const { stderr } = await denbd(["serve", "--file", image, ...words], { code });
    assertStringIncludes(stderr, message);
  }
});

Deno.test("DENBD_CRYPTO says what encrypts records, and is refused where that is not to be had", async () => {
  using directory = temporaryDirectory();
  const { image, serverKey, peers, env } = await makeFiles(directory);
  const words = [
    "serve",
    "--file",
    image,
    "--channel-port",
    "0",
    "--key",
    serverKey,
    "--authorized-peers",
    peers,
  ];
  const refused = 'DENBD_CRYPTO is "libressl": it may be webcrypto (the default) or openssl\n';
  const wrong = { ...env, DENBD_CRYPTO: "libressl" };
  const server = await denbd(words, { env: wrong, code: 1 });
  assertStringIncludes(server.stderr, refused);
  const client = await denbd(["info", "nbd+noise://127.0.0.1:1/"], { env: wrong, code: 1 });
  assertStringIncludes(client.stderr, refused);
});
