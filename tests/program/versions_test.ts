/** What a later version of the program has left behind, met by this one. */
import { assertEquals, assertMatch } from "@std/assert";
import { crc32 } from "../../src/base/crc32.ts";
import { dial } from "../../src/net/dial.ts";
import { type TemporaryDirectory, temporaryDirectory } from "../testing/process.ts";
import { RawClient } from "../testing/raw_client.ts";
import { denbd, proxy, serve } from "./program.ts";

/** The one file in a directory whose name fits. */
function only(path: string, name: RegExp): string {
  const names = [...Deno.readDirSync(path)].map((each) => each.name).filter((each) => name.test(each));
  assertEquals(names.length, 1, String(names));
  return `${path}/${names[0]}`;
}

/** Of what a file holds, with its length. */
function hash(file: string): string {
  const bytes = Deno.readFileSync(file);
  return `${bytes.length} ${crc32(bytes)}`;
}

/** Lets the file say that it has version 9. */
function makeLater(file: string): void {
  const bytes = Deno.readFileSync(file);
  if (file.endsWith(".cache")) {
    new DataView(bytes.buffer).setUint32(12, 9, true);
    return Deno.writeFileSync(file, bytes);
  }
  const text = new TextDecoder().decode(bytes).replace(/"version": ?\d+/, '"version":9');
  assertMatch(text, /"version":9/);
  Deno.writeTextFileSync(file, text);
}

/** A server with a disk, whose proxy has left a cache file and a session. */
async function setUp(directory: TemporaryDirectory) {
  const image = directory.file("disk.img");
  Deno.writeFileSync(image, new Uint8Array(1 << 20).fill(1));
  const state = directory.file("state");
  const server = await serve(["--file", image, "--state-dir", state, "--writers", "one-session"]);
  const cache = directory.file("cache");
  const words = ["--cache-dir", cache, server.uri()];
  const front = await proxy(words);
  const client = await RawClient.open(
    await dial({ transport: "tcp", host: "127.0.0.1", port: front.port }),
  );
  assertEquals((await client.write(0, new Uint8Array(4096))).error, 0);
  assertEquals((await client.read(0, 4096)).error, 0);
  client.connection.close();
  // Killed: so that the session and its reservation stay.
  await front.stop("SIGKILL");
  return { image, state, server, cache, words };
}

Deno.test("V56: whatever a later version has kept of a disk, a start says so, names both, and changes nothing", async () => {
  using directory = temporaryDirectory();
  const { image, state, server, cache, words } = await setUp(directory);
  await using _server = server;
  const proxied = ["proxy", "--port", "0", ...words];
  for (const [file, name] of [[only(cache, /\.cache$/), "cache"], [only(cache, /\.session$/), "session"]]) {
    const good = Deno.readFileSync(file);
    makeLater(file);
    const later = hash(file);
    const { stderr } = await denbd(proxied, { code: 1, timeoutSeconds: 20 });
    assertMatch(
      stderr,
      new RegExp(`cannot use \\S+\\.${name}: it has version 9, this program knows version 1`),
    );
    assertEquals(hash(file), later);
    Deno.writeFileSync(file, good);
  }

  await server.stop();
  const disk = only(state, /^(?!reservation).*\.json$/);
  const reservation = only(state, /^reservation-.*\.json$/);
  const serving = ["serve", "--port", "0", "--file", image, "--state-dir", state, "--writers", "one-session"];
  const good = Deno.readFileSync(disk);
  makeLater(disk);
  const later = hash(disk);
  const refused = await denbd(serving, { code: 1, timeoutSeconds: 20 });
  assertMatch(
    refused.stderr,
    /cannot use \S+: it has version 9, this program knows versions 1 and 2; remove it/,
  );
  assertEquals(hash(disk), later);
  Deno.writeFileSync(disk, good);

  makeLater(reservation);
  const laterOne = hash(reservation);
  const started = await denbd(serving, { code: 1, timeoutSeconds: 20 });
  assertMatch(
    started.stderr,
    /cannot use \S+: it has version 9, this program knows versions 1 and 2; remove it to end the reservation/,
  );
  assertEquals(hash(reservation), laterOne);

  // On a reload, the configuration stays.
  const configuration = directory.file("config");
  Deno.mkdirSync(configuration);
  Deno.writeTextFileSync(`${configuration}/exports.conf`, "");
  const sock = directory.file("control");
  const again = ["--config", configuration, "--sock", sock, "--state-dir", state];
  await using configured = await serve(again);
  Deno.writeTextFileSync(`${configuration}/exports.conf`, `[a]\ndisk = ${image}\n`);
  const reloaded = await denbd(["reload", "--sock", sock], { code: 1 });
  assertMatch(
    reloaded.stderr,
    /exports\.conf:1: cannot open export "a": .* it has version 9, this program knows/,
  );
  assertEquals(hash(reservation), laterOne);
  const { exports } = JSON.parse((await denbd(["status", "--json", "--sock", sock])).stdout);
  assertEquals(exports, []);
  assertEquals(await configured.stop(), 0);
});
