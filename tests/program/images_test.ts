/** A dnbd3 configuration directory served by the real program. */
import { assertEquals, assertStringIncludes } from "@std/assert";
import { freePort, type TemporaryDirectory, temporaryDirectory } from "../testing/process.ts";
import * as vectors from "../wire/dnbd3/vectors.ts";
import { denbd, type RunningProgram, start } from "./program.ts";

function configure(
  directory: TemporaryDirectory,
  more = "",
): { config: string; images: string; port: number } {
  const config = directory.file("config");
  const images = directory.file("images");
  Deno.mkdirSync(config);
  Deno.mkdirSync(`${images}/sub`, { recursive: true });
  Deno.writeFileSync(`${images}/sub/odd.r3`, vectors.patternBytes(0, 1_000_123));
  Deno.writeFileSync(`${images}/multi.r2`, new Uint8Array(8192).fill(2));
  Deno.writeFileSync(`${images}/multi.r7`, new Uint8Array(8192).fill(7));
  const port = freePort();
  Deno.writeTextFileSync(
    `${config}/server.conf`,
    `[dnbd3]\nlistenPort=${port}\nbasePath=${images}/ # where images are\n${more}`,
  );
  return { config, images, port };
}

async function serve(
  config: string,
  ...words: string[]
): Promise<{ server: RunningProgram; nbdPort: string }> {
  const server = await start(["serve", "--verbose", "--config", config, "--addr", "127.0.0.1", ...words]);
  const [, addresses] = await server.logged(/: serving \d+ exports? on (.*)$/);
  return { server, nbdPort: addresses.match(/127\.0\.0\.1:(\d+), /)?.[1] ?? "" };
}

Deno.test("S7: images of a configuration directory are read over dnbd3, newest revision first", async () => {
  using directory = temporaryDirectory();
  const { config, images, port } = configure(directory);
  const { server, nbdPort } = await serve(config);
  await using _server = server;
  assertEquals(nbdPort, "", "NBD is served only where somebody is allowed in");
  const uri = `dnbd3://127.0.0.1:${port}`;
  const { bytes } = await denbd(["read", `${uri}/sub/odd`]);
  assertEquals(bytes.length, 1_003_520);
  assertEquals(bytes.subarray(0, 1_000_123), vectors.patternBytes(0, 1_000_123));
  assertEquals((await denbd(["read", "--size", "1", `${uri}/multi`])).bytes, Uint8Array.of(7));
  assertEquals((await denbd(["read", "--size", "1", `${uri}/multi?rid=2`])).bytes, Uint8Array.of(2));

  const answer = await fetch(`http://127.0.0.1:${port}/query?q=images&q=space`);
  const facts = await answer.json();
  assertEquals(facts.images.map((image: Record<string, unknown>) => `${image.name}:${image.rid}`), [
    "multi:2",
    "multi:7",
    "sub/odd:3",
  ]);
  assertEquals(facts.spaceTotal > facts.spaceFree, true);

  Deno.writeFileSync(`${images}/multi.r8`, new Uint8Array(8192).fill(8));
  Deno.writeTextFileSync(`${config}/alt-servers`, "[127.0.0.1]\nfor=nobody\n");
  server.signal("SIGHUP");
  await server.logged(/alt-servers:2: for=nobody is neither client nor replication/);
  await server.logged(/was read again: 4 images/);
  assertEquals((await denbd(["read", "--size", "1", `${uri}/multi`])).bytes, Uint8Array.of(8));
  assertEquals(await server.stop(), 0);
});

Deno.test("S10: rpc.acl says who may ask over HTTP", async () => {
  using directory = temporaryDirectory();
  const { config, port } = configure(directory);
  Deno.writeTextFileSync(`${config}/rpc.acl`, "10.0.0.0/8 ALL\n");
  const { server } = await serve(config);
  await using _server = server;
  const answer = await fetch(`http://127.0.0.1:${port}/query?q=stats`);
  assertEquals([answer.status, await answer.text()], [403, "Access denied"]);
});

Deno.test("every image is a read-only export NAME:REVISION of NBD, for those who are allowed", async () => {
  using directory = temporaryDirectory();
  const { config, images } = configure(directory);
  Deno.writeTextFileSync(`${config}/peers.conf`, "[here]\naddress = 127.0.0.1\nwrite = *\n");
  const { server, nbdPort } = await serve(config, "--port", "0");
  await using _server = server;
  const uri = `nbd://127.0.0.1:${nbdPort}`;
  const { stdout } = await denbd(["info", "--list", "--json", uri]);
  const names = JSON.parse(stdout).exports.map((each: Record<string, unknown>) => each["export-name"]);
  assertEquals(names.sort(), ["multi:2", "multi:7", "sub/odd:3"]);
  const { bytes } = await denbd(["read", "--from", "1000000", "--size", "200", `${uri}/sub/odd:3`]);
  assertEquals(bytes, vectors.patternBytes(1_000_000, 200, 1_000_123));
  const { code, stderr } = await denbd(["write", `${uri}/multi:7`], {
    stdin: new Uint8Array(10),
    code: "any",
  });
  assertEquals(code, 1);
  assertStringIncludes(stderr, "read-only");

  Deno.writeFileSync(`${images}/multi.r7`, new Uint8Array(8192).fill(9));
  const changed = await denbd(["read", "--size", "1", `${uri}/multi:7`], { code: "any" });
  assertEquals([changed.code, changed.bytes.length], [1, 0], "a file that was written to is not served");
  Deno.removeSync(`${images}/multi.r2`);
  server.signal("SIGHUP");
  await server.logged(/was read again: 2 images/);
  assertEquals((await denbd(["read", "--size", "1", `${uri}/multi:7`])).bytes, Uint8Array.of(9));
  assertEquals((await denbd(["read", "--size", "1", `${uri}/multi:2`], { code: "any" })).code, 1);
});

Deno.test("a bad configuration is one clear line and exit code 1, or leaves the running one in force", async () => {
  using directory = temporaryDirectory();
  const { config, port } = configure(directory);
  const file = `${config}/server.conf`;
  const good = Deno.readTextFileSync(file);
  const cases: [string | null, string][] = [
    [null, "there is neither server.conf nor exports.conf"],
    ["[nbd]\n", "there is no section [dnbd3], and no exports.conf"],
    ["[dnbd3]\n", "no basePath in [dnbd3]"],
    ["[dnbd3]\nbasePath=images\n", "server.conf:2: basePath must be absolute, not images"],
    [
      "[dnbd3]\nbasePath=/nonexistent/images\n",
      "cannot read the base path /nonexistent/images: there is no such",
    ],
    [good.replace(`${port}`, "0"), "listenPort must be from 1 to 65535, not 0"],
  ];
  for (const [text, message] of cases) {
    if (text === null) Deno.removeSync(file);
    else Deno.writeTextFileSync(file, text);
    const { code, stderr } = await denbd(["serve", "--config", config, "--addr", "127.0.0.1"], {
      code: "any",
    });
    assertEquals([code, stderr.trim().split("\n").length], [1, 1], stderr);
    assertStringIncludes(stderr, message);
  }
  Deno.writeTextFileSync(file, good);
  const { server } = await serve(config);
  await using _server = server;
  Deno.writeTextFileSync(file, "[dnbd3]\nbasePath=/elsewhere\n");
  server.signal("SIGHUP");
  await server.logged(/server.conf:2: basePath cannot change while running/);
  Deno.removeSync(file);
  server.signal("SIGHUP");
  await server.logged(/kept the configuration: .*there is neither server.conf nor exports.conf/);
  const { bytes } = await denbd(["read", "--size", "1", `dnbd3://127.0.0.1:${port}/multi`]);
  assertEquals(bytes, Uint8Array.of(7));
});

Deno.test("a client reads on from the second server when the first is killed", async () => {
  using directory = temporaryDirectory();
  const [one, two] = [directory.file("one"), directory.file("two")].map((path) => {
    Deno.mkdirSync(path);
    return configure({ ...directory, file: (name: string) => `${path}/${name}` } as TemporaryDirectory);
  });
  const image = vectors.patternBytes(0, 64 << 20);
  for (const { images } of [one, two]) Deno.writeFileSync(`${images}/big.r1`, image);
  const first = (await serve(one.config)).server;
  await using _first = first;
  const second = (await serve(two.config)).server;
  await using _second = second;
  const uri = `dnbd3://127.0.0.1:${one.port},127.0.0.1:${two.port}/big`;
  const target = directory.file("copy");
  const copying = denbd(["copy", uri, target]);
  await first.logged(/ reads big:1/);
  await first.stop("SIGKILL");
  await copying;
  assertEquals(Deno.readFileSync(target).every((byte, at) => byte === image[at]), true);
});

Deno.test("S12: the log file takes what its mask says, and SIGUSR2 opens it anew", async () => {
  using directory = temporaryDirectory();
  const file = directory.file("server.log");
  const { config, port } = configure(directory, `[logging]\nfile=${file}\nfileMask=ERROR WARNING INFO\n`);
  const { server } = await serve(config);
  await using _server = server;
  assertStringIncludes(Deno.readTextFileSync(file), ": serving 3 exports on ");
  Deno.renameSync(file, `${file}.1`);
  server.signal("SIGUSR2");
  await server.logged(/SIGUSR2: log file opened anew/);
  const lines = Deno.readTextFileSync(file);
  assertStringIncludes(lines, "SIGUSR2: log file opened anew\n");
  assertEquals(lines.includes("serving 3 exports"), false);
  const answer = await fetch(`http://127.0.0.1:${port}/query?q=logfile`);
  assertStringIncludes((await answer.json()).logfile, ": serving 3 exports on ");
  assertEquals(await server.stop(), 0);
});

Deno.test("S12: a log file that cannot be opened ends the start with exit code 1", async () => {
  using directory = temporaryDirectory();
  const { config } = configure(directory, `[logging]\nfile=${directory.file("none")}/server.log\n`);
  const { stderr } = await denbd(["serve", "--config", config, "--addr", "127.0.0.1"], { code: 1 });
  assertStringIncludes(stderr, "cannot open the log file");
});

Deno.test("S8: images that are damaged or overwritten in place are refused, and the status says which", async () => {
  using directory = temporaryDirectory();
  const { config, images, port } = configure(directory);
  for (const name of ["sub/odd.r3", "multi.r2"]) await denbd(["crc", `${images}/${name}`]);
  // Damaged before the server has ever looked, so only the checksums can tell.
  Deno.writeFileSync(`${images}/sub/odd.r3`, vectors.patternBytes(8, 1_000_123));
  const sock = directory.file("control");
  const { server } = await serve(config, "--sock", sock);
  await using _server = server;
  assertEquals((await denbd(["check", "--sock", sock])).stdout, "fine: 3 exports, 0 clients\n");
  assertEquals((await denbd(["verify", "--sock", sock])).stdout, "2 images are being checked\n");
  await server.logged(/sub\/odd.* does not fit/);
  // Overwritten while it is served, with the same size.
  Deno.writeFileSync(`${images}/multi.r7`, new Uint8Array(8192).fill(8));
  await denbd(["read", "--size", "1", "--deadline", "1s", `dnbd3://127.0.0.1:${port}/multi?rid=7`], {
    code: 1,
  });
  const status = JSON.parse((await denbd(["status", "--sock", sock, "--json"])).stdout);
  const shown = status.images.map((image: Record<string, unknown>) => [
    image.name,
    image.revision,
    image.unverified,
    image.quarantine,
    image.badHashBlocks,
  ]);
  assertEquals(shown, [
    ["multi", 2, false, null, []],
    ["multi", 7, true, "its file was written to", []],
    ["sub/odd", 3, false, null, [0]],
  ]);
  assertStringIncludes((await denbd(["status", "--sock", sock])).stdout, " quarantined=1 ");
  const { stdout } = await denbd(["check", "--sock", sock], { code: 1 });
  assertEquals(stdout, "degraded: image multi:7 is quarantined: its file was written to, and 1 more\n");
});
