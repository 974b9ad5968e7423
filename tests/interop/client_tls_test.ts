/** Our client inside TLS: at the servers of others, and at our own. */
import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { denbd, proxy, serve } from "../program/program.ts";
import { Authority } from "../testing/certificates.ts";
import { run, type TemporaryDirectory, temporaryDirectory } from "../testing/process.ts";
import { type PeerServer, peerTest, startNbdkit, startQemuNbd } from "./peers.ts";

const sizeBytes = 2 << 20;
const content = Uint8Array.from({ length: sizeBytes }, (_, index) => index * 31 + (index >> 8));

interface World extends Disposable {
  readonly directory: TemporaryDirectory;
  readonly image: string;
  readonly authority: Authority;
  /** Directories for the client: with a certificate, without one, and with another authority. */
  readonly alice: string;
  readonly nobody: string;
  readonly stranger: string;
}

async function makeWorld(): Promise<World> {
  const directory = temporaryDirectory();
  const image = directory.file("image");
  Deno.writeFileSync(image, content);
  const authority = await Authority.create(directory.file("authority"));
  await authority.issue("server", { names: "DNS:localhost" });
  await authority.issue("alice", { usage: "clientAuth" });
  const other = await Authority.create(directory.file("other"));
  return {
    directory,
    image,
    authority,
    alice: authority.clientFiles("with", authority, "alice"),
    nobody: authority.clientFiles("without", authority),
    stranger: authority.clientFiles("stranger", other),
    [Symbol.dispose]: () => directory[Symbol.dispose](),
  };
}

/** How to reach a server inside TLS: `localhost` where it listens on 127.0.0.1. */
function secure({ port, socket }: Pick<PeerServer, "port" | "socket">, files: string): string {
  return socket === ""
    ? `nbds://localhost:${port}/?tls-certificates=${files}`
    : `nbds+unix:///?socket=${socket}&tls-certificates=${files}`;
}

/** The disk is written, read and copied; it is back as it was. */
async function use(uri: string, directory: TemporaryDirectory): Promise<void> {
  const { stdout } = await denbd(["info", "--json", uri]);
  const info = JSON.parse(stdout);
  assertEquals([info.TLS, info.exports[0]["export-size"]], [true, sizeBytes]);
  const data = content.toReversed().slice(0, 70_000);
  await denbd(["write", "--from", "4096", uri], { stdin: data });
  assertEquals((await denbd(["read", "--from", "4096", "--size", "70000", uri])).bytes, data);
  await denbd(["write", "--from", "4096", uri], { stdin: content.slice(4096, 4096 + 70_000) });
  const copy = directory.file("copied");
  await denbd(["copy", uri, copy]);
  assertEquals(Deno.readFileSync(copy), content);
  Deno.removeSync(copy);
}

peerTest("our client uses nbdkit and qemu-nbd inside TLS, and shows its certificate where one is wanted", [
  "openssl",
  "nbdkit",
  "qemu-nbd",
], async () => {
  using world = await makeWorld();
  const { directory, image, authority, alice, nobody, stranger } = world;
  const certificates = `--tls-certificates=${authority.path}`;
  for (const transport of ["tcp", "unix"] as const) {
    await using nbdkit = await startNbdkit(["--tls=require", certificates, "file", image], { transport });
    await use(secure(nbdkit, nobody), directory);
    assertStringIncludes((await denbd(["info", secure(nbdkit, stranger)], { code: 1 })).stderr, "not good");
  }
  {
    const verify = ["--tls=require", certificates, "--tls-verify-peer", "file", image];
    await using nbdkit = await startNbdkit(verify, { transport: "tcp" });
    await use(secure(nbdkit, alice), directory);
    await denbd(["info", secure(nbdkit, nobody)], { code: 1 });
  }
  const credentials = `tls-creds-x509,id=t0,endpoint=server,dir=${authority.path},verify-peer=on`;
  const words = ["--object", credentials, "--tls-creds", "t0"];
  await using qemu = await startQemuNbd(image, words, { transport: "tcp" });
  await use(secure(qemu, alice), directory);
  await denbd(["info", secure(qemu, nobody)], { code: 1 });
});

peerTest(
  "our client at our server: every refusal says why, and nothing goes in clear",
  ["openssl"],
  async () => {
    using world = await makeWorld();
    const { directory, image, authority, alice, nobody, stranger } = world;
    const words = ["--tls", "require", "--tls-certificates", authority.path, "--tls-verify-peer"];
    {
      await using server = await serve(["--file", image, ...words]);
      const at = (files: string, host = "localhost") =>
        `nbds://${host}:${server.port}/?tls-certificates=${files}`;
      await use(at(alice), directory);
      await server.logged(/certificate of "alice"\) opened "" to write/);
      const refusal = async (uri: string) => (await denbd(["info", uri], { code: 1 })).stderr;
      // First, because each address is complained about once a minute.
      assertStringIncludes(await refusal(at(nobody)), "does not take our certificate, or wants one");
      await server.logged(/W.* refused: a client certificate is required: the client has none/);
      assertStringIncludes(await refusal(at(stranger)), "signed by none of the authorities");
      assertMatch(
        await refusal(at(alice, "127.0.0.1")),
        /certificate is not for "127\.0\.0\.1": IP: 127\.0\.0\.1 is not in the cert's list\n$/,
      );
      assertStringIncludes(await refusal(`nbd://localhost:${server.port}`), "ERR_TLS_REQD");
      assertStringIncludes(await refusal(at(directory.file("nowhere"))), "ca-cert.pem: it does not exist");
      await use(`${at(alice, "127.0.0.1")}&tls-hostname=localhost`, directory);
      await use(`${at(alice, "127.0.0.1")}&tls-verify-peer=0`, directory);
    }
    const withoutTls: [string[], string][] = [
      [[], "the server refused STARTTLS: ERR_POLICY (TLS is off)"],
      [["--oldstyle"], "the server speaks oldstyle, which has no TLS"],
    ];
    for (const [more, message] of withoutTls) {
      await using plain = await serve(["--file", image, ...more]);
      const uri = `nbds://localhost:${plain.port}/?tls-certificates=${nobody}`;
      assertStringIncludes((await denbd(["info", uri], { code: 1 })).stderr, message);
    }
  },
);

peerTest("a proxy keeps TLS to its server, also over a restart", ["openssl", "nbdcopy"], async () => {
  using world = await makeWorld();
  const { directory, image, authority, alice } = world;
  const words = [
    "--file",
    image,
    "--tls",
    "require",
    "--tls-certificates",
    authority.path,
    "--tls-verify-peer",
  ];
  const first = await serve(words);
  const { port } = first;
  await using front = await proxy([`nbds://localhost:${port}/?tls-certificates=${alice}`]);
  assertEquals(await first.stop("SIGKILL"), 137);
  await using again = await serve([...words, "--port", `${port}`]);
  await run("nbdcopy", [front.uri(), directory.file("copy")]);
  assertEquals(Deno.readFileSync(directory.file("copy")), content);
  await again.logged(/certificate of "alice"\) opened "" to write/);
});
