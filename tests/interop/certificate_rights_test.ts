/** Rights by the name in a certificate, in a configuration directory, for the clients of others. */
import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { denbd, start } from "../program/program.ts";
import { Authority } from "../testing/certificates.ts";
import { run, temporaryDirectory } from "../testing/process.ts";
import { peerTest } from "./peers.ts";

peerTest("what a client may do is said by the name in its certificate, and a reload changes it", [
  "openssl",
  "nbdinfo",
  "nbdcopy",
], async () => {
  using directory = temporaryDirectory();
  const config = directory.file("config");
  Deno.mkdirSync(config);
  const write = (name: string, text: string) => Deno.writeTextFileSync(`${config}/${name}.conf`, text);
  Deno.writeFileSync(`${config}/disk.img`, new Uint8Array(1 << 20).fill(5));
  write("exports", "[disk]\ndisk = disk.img\n");
  const peers = (alice: string) =>
    `[alice]\ncertificate = alice\n${alice} = disk\n[bob]\ncertificate = bob\nread = *\n`;
  write("peers", peers("write"));
  const authority = await Authority.create(directory.file("authority"));
  await authority.issue("server", { names: "DNS:localhost" });
  const files: Record<string, string> = {};
  for (const who of ["alice", "bob", "carol"]) {
    await authority.issue(who, { usage: "clientAuth" });
    files[who] = authority.clientFiles(`for-${who}`, authority, who);
  }
  const tls = (more: string) => `[tls]\nmode = require\ncertificates = ${authority.path}\n${more}`;
  write("server", tls("verifyPeer = true\n"));
  const sock = directory.file("control");
  await using server = await start(["serve", "--verbose", "--config", config, "--sock", sock, "--port", "0"]);
  const [, port] = await server.logged(/serving 1 export on 127\.0\.0\.1:(\d+)/);
  const uri = (who: string, name = "disk") =>
    `nbds://localhost:${port}/${name}?tls-certificates=${files[who]}`;
  const info = async (who: string) => {
    const { stdout } = await run("nbdinfo", ["--list", "--json", uri(who, "")]);
    return JSON.parse(stdout).exports.map((each: Record<string, unknown>) =>
      `${each["export-name"]} ${each.is_read_only ? "read" : "write"}`
    );
  };
  assertEquals([await info("alice"), await info("bob"), await info("carol")], [
    ["disk write"],
    ["disk read"],
    [],
  ]);
  Deno.writeFileSync(directory.file("new"), new Uint8Array(1 << 20).fill(6));
  const copy = (who: string) => run("nbdcopy", ["--flush", directory.file("new"), uri(who)], { code: "any" });
  assertEquals((await copy("bob")).code, 1);
  assertEquals(Deno.readFileSync(`${config}/disk.img`)[0], 5);
  assertEquals((await copy("alice")).code, 0);
  assertEquals(Deno.readFileSync(`${config}/disk.img`)[0], 6);
  const refused = await run("nbdinfo", [uri("carol")], { code: 1 });
  assertMatch(refused.stderr, /no such export|No such file/);
  await server.logged(/W.*refused: .*"disk": no rule for 127\.0\.0\.1 with certificate "carol"/);

  write("peers", peers("read"));
  assertEquals((await denbd(["reload", "--sock", sock])).code, 0);
  assertEquals(await info("alice"), ["disk read"]);
  assertEquals((await copy("alice")).code, 1);

  // TLS itself may change too, and is kept when it is wrong.
  write("server", tls("verifyPeer = perhaps\n"));
  const wrong = await denbd(["reload", "--sock", sock], { code: 1 });
  assertStringIncludes(wrong.stderr, 'server.conf:4: verifyPeer: "perhaps" is neither true nor false');
  assertEquals(await info("bob"), ["disk read"]);
  write("server", "[nbd]\n");
  assertEquals((await denbd(["reload", "--sock", sock])).code, 0);
  await run("nbdinfo", [uri("bob")], { code: 1 });
  await run("nbdinfo", [`nbd://localhost:${port}/disk`], { code: 1 });
});
