/** TLS at our server with the clients of others. */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { parseDiskLocator } from "../../src/base/uri.ts";
import { dial } from "../../src/net/dial.ts";
import { openDisk } from "../../src/open_disk.ts";
import { serve } from "../program/program.ts";
import { Authority } from "../testing/certificates.ts";
import { run, type TemporaryDirectory, temporaryDirectory } from "../testing/process.ts";
import { peerTest } from "./peers.ts";

const sizeBytes = 4 << 20;
const content = Uint8Array.from({ length: sizeBytes }, (_, index) => index * 13 + (index >> 9));

/** The directory of an authority with a certificate for a server that is called `localhost`, and `client` below. */
async function certificates(directory: TemporaryDirectory, name: string): Promise<string> {
  const authority = await Authority.create(directory.file(name));
  await authority.issue("server", { names: "DNS:localhost" });
  authority.clientFiles("client", authority);
  return authority.path;
}

function makeImage(directory: TemporaryDirectory): string {
  const path = directory.file("image");
  Deno.writeFileSync(path, content);
  return path;
}

peerTest("nbdinfo, nbdcopy and qemu-img read and write over TLS", [
  "openssl",
  "nbdinfo",
  "nbdcopy",
  "qemu-img",
], async () => {
  using directory = temporaryDirectory();
  const path = await certificates(directory, "authority");
  const image = makeImage(directory);
  await using server = await serve(["--file", image, "--tls", "require", "--tls-certificates", path]);
  const uri = `nbds://localhost:${server.port}/?tls-certificates=${path}/client`;
  const { stdout } = await run("nbdinfo", ["--json", uri]);
  const info = JSON.parse(stdout);
  assertEquals([info.TLS, info.exports[0]["export-size"]], [true, sizeBytes]);
  await server.logged(/\(TLSv1\.3\) opened/);

  await run("nbdcopy", [uri, directory.file("copy")]);
  assertEquals(Deno.readFileSync(directory.file("copy")), content);
  Deno.writeFileSync(directory.file("reversed"), content.toReversed());
  await run("nbdcopy", ["--flush", directory.file("reversed"), uri]);
  assertEquals(Deno.readFileSync(image), content.toReversed());

  const credentials = `tls-creds-x509,id=t0,endpoint=client,dir=${path}/client`;
  const source = `driver=nbd,host=localhost,port=${server.port},tls-creds=t0`;
  await run("qemu-img", [
    ...["convert", "--object", credentials, "--image-opts", source, "-O", "raw"],
    directory.file("converted"),
  ]);
  assertEquals(Deno.readFileSync(directory.file("converted")), content.toReversed());
});

peerTest("a wrong authority, a wrong host name and a client without TLS are refused with a reason", [
  "openssl",
  "nbdinfo",
], async () => {
  using directory = temporaryDirectory();
  const path = await certificates(directory, "authority");
  const other = await certificates(directory, "other");
  const image = makeImage(directory);
  await using server = await serve([
    ...["--file", image, "--read-only", "--tls", "require", "--tls-certificates", path],
  ]);
  const at = (host: string) => `${host}:${server.port}/`;
  const wrong = await run("nbdinfo", [`nbds://${at("localhost")}?tls-certificates=${other}/client`], {
    code: 1,
  });
  assertStringIncludes(wrong.stderr, "certificate");
  await server.logged(/W.* refused: the TLS handshake failed: /);
  const elsewhere = `nbds://${at("127.0.0.1")}?tls-certificates=${path}/client`;
  assertStringIncludes((await run("nbdinfo", [elsewhere], { code: 1 })).stderr, "certificate");
  // Each address is complained about once a minute.
  await using another = await serve([
    "--file",
    image,
    "--read-only",
    "--tls",
    "require",
    "--tls-certificates",
    path,
  ]);
  await run("nbdinfo", [`nbd://localhost:${another.port}/`], { code: 1 });
  await another.logged(/W.* refused: .*: TLS is required/);
});

peerTest("TLS may be left alone where it is preferred, and is refused where it is off", [
  "openssl",
  "nbdinfo",
], async () => {
  using directory = temporaryDirectory();
  const path = await certificates(directory, "authority");
  const image = makeImage(directory);
  const client = `?tls-certificates=${path}/client`;
  {
    await using server = await serve(["--file", image, "--tls", "prefer", "--tls-certificates", path]);
    for (const uri of [`nbd://localhost:${server.port}/`, `nbds://localhost:${server.port}/${client}`]) {
      assertEquals(Number((await run("nbdinfo", ["--size", uri])).stdout), sizeBytes);
    }
  }
  await using server = await serve(["--file", image]);
  await run("nbdinfo", [`nbds://localhost:${server.port}/${client}`], { code: 1 });
  await server.logged(/W.* refused: STARTTLS "": TLS is off/);
});

peerTest(
  "SIGHUP reads the certificate again, and keeps it when it is wrong",
  ["openssl", "nbdinfo"],
  async () => {
    using directory = temporaryDirectory();
    const path = await certificates(directory, "authority");
    const other = await certificates(directory, "other");
    const image = makeImage(directory);
    await using server = await serve(["--file", image, "--tls", "require", "--tls-certificates", path]);
    const size = (authority: string, code: number) =>
      run("nbdinfo", ["--size", `nbds://localhost:${server.port}/?tls-certificates=${authority}/client`], {
        code,
      });
    await size(path, 0);
    Deno.copyFileSync(`${other}/server-cert.pem`, `${path}/server-cert.pem`);
    server.signal("SIGHUP");
    await server.logged(/E.*SIGHUP: kept the certificate: cannot use the certificate/);
    await size(path, 0);
    Deno.copyFileSync(`${other}/server-key.pem`, `${path}/server-key.pem`);
    server.signal("SIGHUP");
    await server.logged(/SIGHUP: read the certificate again/);
    await size(path, 1);
    await size(other, 0);
  },
);

peerTest("what is sent in clear behind STARTTLS ends the connection", ["openssl"], async () => {
  using directory = temporaryDirectory();
  const path = await certificates(directory, "authority");
  const image = makeImage(directory);
  await using server = await serve(["--file", image, "--tls", "prefer", "--tls-certificates", path]);
  const connection = await dial({ transport: "tcp", host: "127.0.0.1", port: server.port });
  const startTls = "49484156454f5054" + "00000005" + "00000000";
  const list = "49484156454f5054" + "00000003" + "00000000";
  await connection.write(Uint8Array.fromHex("00000003" + startTls + list));
  let received = 0;
  for (let count; (count = await connection.read(new Uint8Array(1000))) !== null;) received += count;
  assert(received <= 18 + 20, `${received} bytes: more than the greeting and the answer to STARTTLS`);
  await server.logged(/W.* refused: 16 bytes in clear behind STARTTLS/);
  connection.close();
});

peerTest("clients with a certificate come in under its name, and no others", [
  "openssl",
  "nbdinfo",
  "nbdcopy",
  "qemu-img",
], async () => {
  using directory = temporaryDirectory();
  const ours = await Authority.create(directory.file("ours"));
  const other = await Authority.create(directory.file("other"));
  await ours.issue("server", { names: "DNS:localhost" });
  await ours.issue("alice", { usage: "clientAuth" });
  await other.issue("alice");
  const image = makeImage(directory);
  const words = ["--tls", "require", "--tls-certificates", ours.path, "--tls-verify-peer"];
  await using server = await serve(["--file", image, ...words]);
  const alice = ours.clientFiles("client", ours, "alice");
  const uri = (files: string) => `nbds://localhost:${server.port}/?tls-certificates=${files}`;
  assertEquals(Number((await run("nbdinfo", ["--size", uri(alice)])).stdout), sizeBytes);
  await server.logged(/certificate of "alice"\) opened "" to write/);
  await run("nbdcopy", [uri(alice), directory.file("copy")]);
  assertEquals(Deno.readFileSync(directory.file("copy")), content);
  const credentials = `tls-creds-x509,id=t0,endpoint=client,dir=${alice}`;
  const source = `driver=nbd,host=localhost,port=${server.port},tls-creds=t0`;
  await run("qemu-img", [
    ...["convert", "--object", credentials, "--image-opts", source, "-O", "raw"],
    directory.file("converted"),
  ]);
  assertEquals(Deno.readFileSync(directory.file("converted")), content);

  await run("nbdinfo", [uri(ours.clientFiles("without", ours))], { code: 1 });
  await server.logged(/W.* refused: a client certificate is required: the client has none/);
  await run("nbdinfo", [uri(other.clientFiles("foreign", ours, "alice"))], { code: 1 });
  await run("nbdinfo", [`nbd://localhost:${server.port}`], { code: 1 });
});

peerTest("a client stays as long as SIGHUP finds an authority that has signed its certificate", [
  "openssl",
], async () => {
  using directory = temporaryDirectory();
  const [old, next] = [
    await Authority.create(directory.file("old")),
    await Authority.create(directory.file("next")),
  ];
  await next.issue("server", { names: "DNS:localhost" });
  await old.issue("alice");
  await next.issue("bob");
  const trust = (...authorities: Authority[]) =>
    Deno.writeTextFileSync(`${next.path}/ca-cert.pem`, authorities.map((each) => own.get(each)).join(""));
  const own = new Map([old, next].map((each) => [each, each.read("ca-cert.pem")]));
  const alice = old.clientFiles("for-alice", next, "alice");
  const bob = next.clientFiles("for-bob", next, "bob");
  trust(old, next);
  const words = ["--tls", "require", "--tls-certificates", next.path, "--tls-verify-peer"];
  await using server = await serve(["--file", makeImage(directory), ...words]);
  const open = (files: string) =>
    openDisk(parseDiskLocator(`nbds://localhost:${server.port}/?tls-certificates=${files}`), {
      readOnly: false,
    });
  const first = await open(alice);
  const second = await open(bob);
  const block = new Uint8Array(4096);
  await first.read(0, block);

  trust(next, old);
  server.signal("SIGHUP");
  await server.logged(/SIGHUP: read the certificate again/);
  await first.read(0, block);

  assert(!server.log.includes("no longer allowed"), server.log);

  trust(next);
  server.signal("SIGHUP");
  const fault = "its certificate is signed by none of the authorities that are trusted now";
  await server.logged(new RegExp(`W.*certificate of "alice"\\) is no longer allowed: ${fault}`));
  await server.logged(new RegExp(`certificate of "alice"\\) left "" .*: no longer allowed: ${fault}`));
  // She may come back when she has another one.
  await server.logged(
    /W.* refused: a client certificate is required: that of "CN=alice" by "CN=old" is not signed/,
  );
  await second.write(0, block);
  await Promise.allSettled([first.close(), second.close()]);
  await server.logged(/certificate of "bob"\) left "" .*: disconnected/);
});

peerTest(
  "a client that stops in the middle of the TLS handshake does not hold up the end",
  ["openssl"],
  async () => {
    using directory = temporaryDirectory();
    const path = await certificates(directory, "authority");
    const image = makeImage(directory);
    const patience = ["--handshake-timeout", "0", "--drain-timeout", "600s"];
    await using server = await serve([
      "--file",
      image,
      "--tls",
      "require",
      "--tls-certificates",
      path,
      ...patience,
    ]);
    const connection = await dial({ transport: "tcp", host: "127.0.0.1", port: server.port });
    await connection.write(Uint8Array.fromHex("00000003" + "49484156454f5054" + "00000005" + "00000000"));
    const into = new Uint8Array(1000);
    for (let received = 0; received < 18 + 20;) received += await connection.read(into) ?? 1000;
    assertEquals(await server.stop(), 0);
    assertEquals(await connection.read(into), null);
    connection.close();
  },
);
