/** A configuration directory served by the real program: exports, rights, reload. */
import { assert, assertEquals, assertMatch, assertRejects, assertStringIncludes } from "@std/assert";
import { dial } from "../../src/net/dial.ts";
import { Command, TransmissionFlag, WireErrno } from "../../src/wire/nbd/constants.ts";
import { decodeFacts, DENBD_NAMESPACE, encodeSession } from "../../src/wire/nbd/denbd_context.ts";
import { RefusedError } from "../../src/wire/nbd/refused_error.ts";
import { freePort, run, type TemporaryDirectory, temporaryDirectory } from "../testing/process.ts";
import { RawClient } from "../testing/raw_client.ts";
import { Relay, type Verdict } from "../testing/relay.ts";
import { denbd, program, proxy, type RunningProgram, serve as serveFile, start } from "./program.ts";

const MIB = 1 << 20;
const EVERYBODY = "[here]\naddress = 127.0.0.1\naddress = unix\nwrite = *\n";

/** A directory whose files are written as the test goes. */
class Directory implements Disposable {
  readonly path: string;
  readonly #outer: TemporaryDirectory;

  constructor(files: Record<string, string>) {
    this.#outer = temporaryDirectory();
    this.path = this.#outer.file("config");
    Deno.mkdirSync(this.path);
    for (const [name, text] of Object.entries(files)) this.write(name, text);
  }

  /** As editors do: a server that happens to read sees the old file or the new one. */
  write(name: string, text: string): void {
    Deno.writeTextFileSync(`${this.path}/.new`, text);
    Deno.renameSync(`${this.path}/.new`, `${this.path}/${name}`);
  }

  remove(name: string): void {
    Deno.removeSync(`${this.path}/${name}`);
  }

  /** An image beside the configuration, for which a relative path does. */
  image(name: string, sizeBytes = MIB, fill = 0): void {
    Deno.writeFileSync(`${this.path}/${name}`, new Uint8Array(sizeBytes).fill(fill));
  }

  file(name: string): string {
    return this.#outer.file(name);
  }

  get sock(): string {
    return this.#outer.file("control");
  }

  [Symbol.dispose](): void {
    this.#outer[Symbol.dispose]();
  }
}

class Served implements AsyncDisposable {
  readonly clients: RawClient[] = [];

  constructor(readonly program: RunningProgram, readonly directory: Directory, readonly port: number) {}

  async open(exportName: string, port = this.port): Promise<RawClient> {
    const connection = await dial({ transport: "tcp", host: "127.0.0.1", port });
    const client = await RawClient.open(connection, { exportName });
    this.clients.push(client);
    return client;
  }

  async reload(...words: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
    return await denbd(["reload", "--sock", this.directory.sock, ...words], { code: "any" });
  }

  async names(): Promise<string[]> {
    const uri = `nbd://127.0.0.1:${this.port}`;
    const { stdout } = await denbd(["info", "--list", "--json", uri]);
    return JSON.parse(stdout).exports.map((each: Record<string, unknown>) => each["export-name"]);
  }

  // deno-lint-ignore no-explicit-any
  async status(): Promise<any> {
    return JSON.parse((await denbd(["status", "--json", "--sock", this.directory.sock])).stdout);
  }

  async [Symbol.asyncDispose]() {
    for (const { connection } of this.clients) connection.close();
    await this.program[Symbol.asyncDispose]();
  }
}

async function serve(directory: Directory, ...words: string[]): Promise<Served> {
  return await served(await begin(directory, ...words), directory);
}

/** Starts to serve. */
async function begin(directory: Directory, ...words: string[]): Promise<RunningProgram> {
  const placed = words.includes("--unix") || words.includes("--port") || words[0] === "--as-said";
  return await start([
    "serve",
    "--verbose",
    "--config",
    directory.path,
    "--sock",
    directory.sock,
    ...(placed ? [] : ["--port", "0"]),
    ...words.filter((each) => each !== "--as-said"),
  ]);
}

/** Waits until it serves. */
async function served(program: RunningProgram, directory: Directory): Promise<Served> {
  try {
    const [, addresses] = await program.logged(/: serving \d+ exports? on (.*)$/);
    return new Served(program, directory, Number(/127\.0\.0\.1:(\d+)/.exec(addresses)?.[1]));
  } catch (error) {
    await program[Symbol.asyncDispose]();
    throw error;
  }
}

Deno.test("a configuration directory serves its exports as exports.conf says", async () => {
  using directory = new Directory({
    "exports.conf": "[root]\ndisk = root.img\ndefault = yes\ndescription = the root disk\n" +
      "[tools]\ndisk = tools.img\nreadonly = true\n",
    "peers.conf": EVERYBODY,
  });
  directory.image("root.img", MIB, 1);
  directory.image("tools.img", 2 * MIB, 2);
  await using served = await serve(directory);
  assertEquals(await served.names(), ["root", "tools"]);
  const root = await served.open("");
  assertEquals(root.agreement.canonicalName, "root");
  assertEquals((await root.write(0, new Uint8Array(512).fill(9))).error, 0);
  assertEquals(
    Deno.readFileSync(`${directory.path}/root.img`).slice(0, 513),
    Uint8Array.of(...Array(512).fill(9), 1),
  );
  const tools = await served.open("tools");
  assert((tools.agreement.transmissionFlags & TransmissionFlag.READ_ONLY) !== 0);
  assertEquals((await tools.write(0, new Uint8Array(512))).error, WireErrno.EPERM);
  const { access, exports } = await served.status();
  assertEquals([access.acl, access.entries], ["list", ["[here] write = *"]]);
  assertEquals(exports.map((each: { readOnly: boolean }) => each.readOnly), [false, true]);
});

Deno.test("a configuration directory refuses everybody until peers.conf allows, and says so", async () => {
  using directory = new Directory({ "exports.conf": "[root]\ndisk = root.img\n" });
  directory.image("root.img");
  await using served = await serve(directory);
  await served.program.logged(/W.*exports\.conf:1: nobody may have export "root"/);
  await assertRejects(() => served.open("root"), RefusedError, "no such export");
  await served.program.logged(/W.*refused: .*"root": no rule for 127\.0\.0\.1/);
  assertEquals((await served.status()).access.acl, "closed");
  const { code, stderr } = await denbd(["acl", "--sock", directory.sock, "127.0.0.1"], { code: "any" });
  assertEquals(code, 1);
  assertStringIncludes(stderr, "peers.conf says who may do what");
  directory.write("peers.conf", "[here]\naddress = 127.0.0.1\nread = root\nread = rot\n");
  assertEquals((await served.reload()).code, 0);
  await served.program.logged(/W.*peers\.conf:4: there is no export "rot"/);
  assertEquals((await (await served.open("root")).read(0, 512)).error, 0);
});

Deno.test("SIGHUP and reload add, change and remove exports; a client of another notices nothing", async () => {
  using directory = new Directory({
    "exports.conf": "[stays]\ndisk = stays.img\n[goes]\ndisk = goes.img\n[renamed]\ndisk = disk.img\n",
    "peers.conf": EVERYBODY,
  });
  for (const name of ["stays", "goes", "disk", "new"]) directory.image(`${name}.img`);
  await using served = await serve(directory);
  const client = await served.open("stays");
  directory.write(
    "exports.conf",
    "[new]\ndisk = new.img\n[stays]\ndisk = stays.img\ndescription = still here\ndefault = true\n" +
      "[other name]\ndisk = disk.img\n",
  );
  served.program.signal("SIGHUP");
  await served.program.logged(/SIGHUP: .* was read again: 3 exports, 2 added, 0 opened anew, 2 removed/);
  assertEquals((await served.names()).sort(), ["new", "other name", "stays"]);
  assertEquals((await client.write(0, new Uint8Array(512).fill(4))).error, 0);
  assertEquals((await (await served.open("")).read(0, 512)).data, new Uint8Array(512).fill(4));
  await assertRejects(() => served.open("goes"), RefusedError, "no such export");

  directory.write(
    "exports.conf",
    "[stays]\ndisk = stays.img\n[other name]\ndisk = disk.img\nreadonly = true\n[renamed]\ndisk = new.img\n",
  );
  const { code, stdout } = await served.reload();
  assertEquals([code, /was read again: (.*)\n/.exec(stdout)?.[1]], [
    0,
    "3 exports, 1 added, 1 opened anew, 1 removed",
  ]);
  const reopened = await served.open("other name");
  assert((reopened.agreement.transmissionFlags & TransmissionFlag.READ_ONLY) !== 0);
  assertEquals((await client.read(0, 512)).data, new Uint8Array(512).fill(4));
  const uses = (await served.status()).exports.map((each: { name: string; clients: unknown[] }) =>
    `${each.name} ${each.clients.length}`
  );
  assertEquals(uses.sort(), ["other name 1", "renamed 0", "stays 2"]);
});

Deno.test("a removed name is free at once, and disks may change their names among each other", async () => {
  const conf = (a: string, b: string) => `[a]\ndisk = ${a}.img\n[b]\ndisk = ${b}.img\n`;
  using directory = new Directory({ "exports.conf": conf("one", "two"), "peers.conf": EVERYBODY });
  directory.image("one.img", MIB, 1);
  directory.image("two.img", MIB, 2);
  directory.image("three.img", MIB, 3);
  await using served = await serve(directory);
  const first = async (name: string) => {
    const client = await served.open(name);
    const { data } = await client.read(0, 1);
    client.connection.close();
    return data[0];
  };
  assertEquals([await first("a"), await first("b")], [1, 2]);
  directory.write("exports.conf", conf("two", "one"));
  assertEquals((await served.reload("--force")).code, 0);
  assertEquals([await first("a"), await first("b")], [2, 1]);
  directory.write("exports.conf", conf("three", "two"));
  assertEquals((await served.reload("--force")).code, 0);
  assertEquals([await first("a"), await first("b")], [3, 2]);
});

Deno.test("SIGHUP during the start is heard when everything is open, and nothing is opened twice", async () => {
  using directory = new Directory({ "peers.conf": EVERYBODY });
  directory.image("far.img", MIB, 7);
  directory.image("near.img");
  await using far = await serveFile(["--file", `${directory.path}/far.img`]);
  using relay = new Relay(far.port);
  const reached = Promise.withResolvers<void>();
  const held = Promise.withResolvers<void>();
  relay.look = async (): Promise<Verdict> => {
    reached.resolve();
    await held.promise;
    return "pass";
  };
  const near = "[near]\ndisk = near.img\n";
  const distant = `[far]\ndisk = nbd://127.0.0.1:${relay.port}/\n`;
  directory.write("exports.conf", near + distant);
  await using program = await begin(directory);
  await reached.promise;
  directory.image("last.img");
  directory.write("exports.conf", `${near}${distant}[last]\ndisk = last.img\n`);
  program.signal("SIGHUP");
  held.resolve();
  const server = await served(program, directory);
  await program.logged(/SIGHUP: .* was read again: 3 exports, 1 added, 0 opened anew, 0 removed/);
  assertEquals((await server.names()).sort(), ["far", "last", "near"]);
});

Deno.test("a directory without exports is served with a warning", async () => {
  using directory = new Directory({ "exports.conf": "", "peers.conf": EVERYBODY });
  await using served = await serve(directory);
  await served.program.logged(/W.*: there is nothing to serve$/);
});

Deno.test("an export that was away, or was read-only, comes back as one that may have lost something", async () => {
  using directory = new Directory({ "exports.conf": "[a]\ndisk = a.img\n", "peers.conf": EVERYBODY });
  directory.image("a.img");
  directory.image("b.img");
  await using served = await serve(directory);
  const instanceAfter = async (conf: string): Promise<string> => {
    directory.write("exports.conf", conf);
    assertEquals((await served.reload("--force")).code, 0);
    const connection = await dial({ transport: "tcp", host: "127.0.0.1", port: served.port });
    const { agreement } = await RawClient.open(connection, { exportName: "a", contexts: [DENBD_NAMESPACE] });
    connection.close();
    return decodeFacts(agreement.contexts.map(({ name }) => name)).instance!;
  };
  const first = await instanceAfter("[a]\ndisk = a.img\n");
  assertEquals(await instanceAfter("[a]\ndisk = a.img\ndescription = the same disk\n"), first);
  assertEquals(await instanceAfter("[a]\ndisk = a.img\ndiscard = unmap\n"), first, "it was closed well");
  const seen = new Set([first]);
  const others = ["disk = a.img\nreadonly = true", "disk = a.img", "disk = b.img", "disk = a.img"];
  for (const other of others) seen.add(await instanceAfter(`[a]\n${other}\n`));
  assertEquals(seen.size, 5);
  directory.write("exports.conf", "[c]\ndisk = b.img\n");
  assertEquals((await served.reload("--force")).code, 0);
  const back = await instanceAfter("[a]\ndisk = a.img\n");
  assert(!seen.has(back));
  assertEquals(await instanceAfter("[a]\ndisk = a.img\ndiscard = unmap\n"), back);
});

Deno.test("clients of a disk at the far end hear that others write to it, and keep nothing of it", async () => {
  using directory = new Directory({ "peers.conf": EVERYBODY });
  directory.image("near.img");
  directory.image("far.img");
  await using shared = await serveFile(["--file", `${directory.path}/far.img`]);
  const far = `disk = nbd://127.0.0.1:${shared.port}/`;
  const near = "[near]\ndisk = near.img\n[fixed]\ndisk = fixed.img\nreadonly = true\n";
  directory.image("fixed.img");
  directory.write("exports.conf", `${near}[far]\n${far}\n[read]\n${far}\nreadonly = true\n`);
  await using served = await serve(directory);
  const factsOf = async (exportName: string) => {
    const session = encodeSession({ id: crypto.randomUUID(), generation: 1 });
    const connection = await dial({ transport: "tcp", host: "127.0.0.1", port: served.port });
    const contexts = [DENBD_NAMESPACE, session];
    const { agreement } = await RawClient.open(connection, { exportName, contexts });
    connection.close();
    const { leaseMs, othersWrite = false } = decodeFacts(agreement.contexts.map(({ name }) => name));
    return [leaseMs !== undefined, othersWrite];
  };
  assertEquals(await factsOf("near"), [true, false]);
  assertEquals(await factsOf("fixed"), [false, false]);
  assertEquals(await factsOf("far"), [false, false]);
  assertEquals(await factsOf("read"), [false, true]);
});

Deno.test("V51: an export in use is not removed without force; then its requests fail cleanly", async () => {
  using directory = new Directory({
    "exports.conf": "[used]\ndisk = used.img\n[other]\ndisk = other.img\n",
    "peers.conf": EVERYBODY,
  });
  for (const name of ["used", "other", "new"]) directory.image(`${name}.img`);
  await using served = await serve(directory);
  const [client, other] = [await served.open("used"), await served.open("other")];
  directory.write("exports.conf", "[other]\ndisk = other.img\n[new]\ndisk = new.img\n");
  const refused = await served.reload();
  assertEquals(refused.code, 1);
  assertStringIncludes(refused.stderr, 'in use: "used" (1 clients); denbd reload --force cuts them off');
  served.program.signal("SIGHUP");
  await served.program.logged(/E.*SIGHUP: kept the configuration: .*in use: "used"/);
  assertEquals((await client.write(0, new Uint8Array(512))).error, 0);
  assertEquals((await served.names()).sort(), ["other", "used"], "nothing has changed");

  const { code, stderr } = await served.reload("--force");
  assertEquals([code, stderr], [0, ""]);
  assertEquals(await client.receive(), null);
  assertEquals((await other.write(0, new Uint8Array(512))).error, 0);
  assertEquals((await served.names()).sort(), ["new", "other"]);
  await served.program.logged(/I.*left "used" after .*: the export was removed/);
});

const broken: [string, string, string][] = [
  ["exports.conf", "[a]\ndisk = a.img\nreadOnly = yes\n", "exports.conf:3: unknown key readOnly"],
  ["exports.conf", "[b]\ndisk = missing.img\n", 'exports.conf:1: cannot open export "b": '],
  [
    "exports.conf",
    "[a]\ndisk = a.img\n[b]\ndisk = a.img\nreadonly = true\n",
    'exports.conf:3: cannot open export "b"',
  ],
  [
    "peers.conf",
    "[here]\naddress = 127.0.0.1/40\nwrite = *\n",
    "peers.conf:2: address: its prefix has at most 32",
  ],
  ["server.conf", "[nbd]\n[tls]\nmode = require\n", "server.conf:3: mode = require needs certificates"],
  ["server.conf", "[tls]\nmode = prefer\ncertificates = none\n", "server-cert.pem: it does not exist"],
  ["server.conf", "[dnbd3]\nbasePath = /images\n", "server.conf: section [dnbd3] cannot come while running"],
  ["server.conf", "[http]\nlisten = 192.0.2.1:80\n", "server.conf:2: listen: "],
];

Deno.test("a broken configuration changes nothing, and is told with file and line", async () => {
  const good: Record<string, string> = {
    "exports.conf": "[a]\ndisk = a.img\n",
    "peers.conf": EVERYBODY,
    "server.conf": "[nbd]\nmaxConnections = 100\n",
  };
  using directory = new Directory(good);
  directory.image("a.img");
  await using served = await serve(directory);
  const client = await served.open("a");
  for (const [name, text, message] of broken) {
    directory.write(name, text);
    const { code, stdout, stderr } = await served.reload("--force");
    assertEquals([code, stdout], [1, ""], text);
    assertStringIncludes(stderr, message);
    assertEquals(stderr.trim().split("\n").length, 1);
    assertEquals((await client.write(0, new Uint8Array(512))).error, 0);
    assertEquals((await (await served.open("a")).read(0, 512)).error, 0);
    assertEquals(await served.names(), ["a"]);
    directory.write(name, good[name]);
  }
  const { code, stdout } = await served.reload();
  assertEquals([code, stdout.includes("0 added, 0 opened anew, 0 removed")], [0, true]);
});

Deno.test("V50: whichever step of a reload fails, no descriptor is left", async () => {
  const good = { "exports.conf": "[a]\ndisk = a.img\n", "peers.conf": EVERYBODY, "server.conf": "" };
  using directory = new Directory(good);
  for (const name of ["a.img", "b.img", "c.img"]) directory.image(name);
  await using served = await serve(directory, "--as-said", "--unix", directory.file("nbd.sock"));
  const descriptors = async () =>
    (await run("ls", [`/proc/${served.program.pid}/fd`])).stdout.trim().split("\n").length;
  const failing: [string, string][] = [
    ["exports.conf", "[a]\ndisk = a.img\n[b]\ndisk = b.img\n[c]\ndisk = none.img\n"],
    ["exports.conf", "[a]\ndisk = a.img\n[b]\ndisk = b.img\n[c]\ndisk = nbd://127.0.0.1:1/\n"],
    ["exports.conf", `[a]\ndisk = a.img\n[b]\ndisk = b.img\n[c]\ndisk = b.img\n`],
    ["server.conf", "[tls]\nmode = require\ncertificates = none\n"],
    ["peers.conf", "[here]\naddress = nowhere\nread = *\n"],
  ];
  const round = async () => {
    for (const [name, text] of failing) {
      directory.write(name, text);
      const { code } = await served.reload();
      assertEquals(code, 1, text);
      directory.write(name, good[name as keyof typeof good]);
    }
  };
  // What the runtime opens once and keeps is there after the first.
  await round();
  const before = await descriptors();
  for (let times = 0; times < 3; times++) await round();
  assertEquals(await descriptors(), before);
  assertEquals((await served.reload()).code, 0);
});

Deno.test("V53: a broken configuration ends a start with exit code 1 and one line", async () => {
  using directory = new Directory({});
  directory.image("a.img");
  const starts = broken.filter(([, , message]) => !message.includes("while running"));
  for (const [name, text, message] of starts) {
    for (const other of ["exports.conf", "peers.conf", "server.conf"]) {
      try {
        directory.remove(other);
      } catch { /* it was not there */ }
    }
    directory.write("exports.conf", "[a]\ndisk = a.img\n");
    directory.write(name, text);
    const { code, stderr } = await denbd(["serve", "--config", directory.path, "--port", "0"], {
      code: "any",
    });
    assertEquals(code, 1, text);
    const lines = stderr.trim().split("\n").filter((line) => !/^\d+:W:/.test(line));
    assertEquals(lines.length, 1, stderr);
    assertStringIncludes(lines[0], message);
  }
});

Deno.test("options that a configuration directory replaces are misuse", async () => {
  using directory = new Directory({ "exports.conf": "" });
  const cases: [string[], string][] = [
    [["--file", "x"], "exports are said in exports.conf"],
    [["-e", "a=b"], "exports are said in exports.conf"],
    [["10.0.0.0/8"], "peers.conf says who may do what"],
    [["--default-deny"], "peers.conf says who may do what"],
    [["--tls", "require"], "TLS is said in [tls]"],
    [["--channel-port", "0"], "channels are said in [channel]"],
    [["--http", "0"], "HTTP is said in [http]"],
    [["--oldstyle"], "exclude each other"],
  ];
  for (const [words, message] of cases) {
    const { code, stderr } = await denbd(["serve", "--config", directory.path, ...words], { code: "any" });
    assertEquals(code, 2, words.join(" "));
    assertStringIncludes(stderr, message);
  }
});

Deno.test("V33: rights that change on a reload hold for those who are connected", async () => {
  const rule = (right: string) => `[here]\naddress = 127.0.0.1\n${right} = a\nwrite = b\n`;
  using directory = new Directory({
    "exports.conf": "[a]\ndisk = a.img\n[b]\ndisk = b.img\n",
    "peers.conf": rule("write"),
  });
  directory.image("a.img");
  directory.image("b.img");
  await using served = await serve(directory);
  const [a, b] = [await served.open("a"), await served.open("b")];
  assertEquals((await a.write(0, new Uint8Array(512).fill(1))).error, 0);
  directory.write("peers.conf", rule("read"));
  assertEquals((await served.reload()).code, 0);
  for (const type of [Command.TRIM, Command.WRITE_ZEROES]) {
    assertEquals((await a.ask({ type, length: 4096 })).error, WireErrno.EPERM);
  }
  assertEquals((await a.write(0, new Uint8Array(512))).error, WireErrno.EPERM);
  assertEquals((await a.read(0, 512)).data, new Uint8Array(512).fill(1));
  directory.write("peers.conf", rule("none"));
  assertEquals((await served.reload()).code, 0);
  assertEquals(await a.receive(), null);
  assertEquals((await b.write(0, new Uint8Array(512))).error, 0);
  await served.program.logged(/W.*is no longer allowed: \[here\] has none = a/);
  assertEquals(await served.names(), ["b"]);
});

Deno.test("reload under load: 20 clients of unchanged exports notice nothing of 30 reloads", async () => {
  const fixed = [0, 1, 2, 3].map((each) => `[load${each}]\ndisk = load${each}.img\nwriters = any\n`).join("");
  using directory = new Directory({ "exports.conf": fixed, "peers.conf": EVERYBODY });
  for (const each of [0, 1, 2, 3]) directory.image(`load${each}.img`);
  for (const each of [0, 1]) directory.image(`extra${each}.img`);
  await using served = await serve(directory);
  const clients = await Promise.all(
    Array.from({ length: 20 }, (_, index) => served.open(`load${index % 4}`)),
  );
  let stop = false;
  const rounds = clients.map(async (client, index) => {
    let round = 0;
    const offset = Math.floor(index / 4) * 128 * 1024;
    while (!stop || round === 0) {
      round++;
      const data = new Uint8Array(64 * 1024).fill(round);
      assertEquals((await client.write(offset, data)).error, 0);
      const { error, data: back } = await client.read(offset, data.length);
      assertEquals([error, back[0], back.at(-1)], [0, round & 0xff, round & 0xff]);
      if (round % 8 === 0) assertEquals((await client.ask({ type: Command.FLUSH })).error, 0);
    }
    return round;
  });
  // A failed client ends the test now rather than after all reloads.
  const failed = Promise.race(rounds.map((each) => each.then(() => {})));
  for (let round = 0; round < 30; round++) {
    const extra = round % 3 === 0 ? "" : `[extra]\ndisk = extra${round % 3 - 1}.img\n`;
    directory.write("exports.conf", round % 2 === 0 ? fixed + extra : extra + fixed);
    directory.write(
      "peers.conf",
      round % 5 === 4 ? "nonsense" : `${EVERYBODY}[n${round}]\naddress = ::1\nread = *\n`,
    );
    const reloading = served.reload("--force").then(({ code }) =>
      assertEquals(code, round % 5 === 4 ? 1 : 0)
    );
    await Promise.race([reloading, failed]);
    if (round % 2 === 0) served.program.signal("SIGHUP");
  }
  const before = (await served.status()).exports;
  stop = true;
  const counts = await Promise.all(rounds);
  assert(counts.every((count) => count > 1), `${counts}`);
  assertEquals(
    before.filter(({ name }: { name: string }) => name.startsWith("load")).map(
      (each: { clients: unknown[]; errors: number }) => [each.clients.length, each.errors],
    ),
    [[5, 0], [5, 0], [5, 0], [5, 0]],
  );
  assertEquals(await served.program.stop(), 0);
});

Deno.test("where NBD listens may change on a reload; clients who came in before stay", async () => {
  const [one, two] = [freePort(), freePort()];
  using directory = new Directory({
    "exports.conf": "[a]\ndisk = a.img\n",
    "peers.conf": EVERYBODY,
    "server.conf": `[nbd]\nlisten = 127.0.0.1:${one}\n`,
  });
  directory.image("a.img");
  await using served = await serve(directory, "--as-said");
  const client = await served.open("a", one);
  const socket = directory.file("nbd.sock");
  directory.write("server.conf", `[nbd]\nlisten = 127.0.0.1:${two}\nlisten = unix:${socket}\n`);
  assertEquals((await served.reload()).code, 0);
  assertEquals((await served.status()).listening, [`127.0.0.1:${two}`, `unix:${socket}`]);
  await assertRejects(() => served.open("a", one), Error, "refused");
  assertEquals((await (await served.open("a", two)).read(0, 512)).error, 0);
  const { bytes } = await denbd(["read", "--size", "4", `nbd+unix:///a?socket=${socket}`]);
  assertEquals(bytes.length, 4);
  assertEquals((await client.write(0, new Uint8Array(512))).error, 0);

  // The same port on an address that includes the other.
  directory.write("server.conf", `[nbd]\nlisten = 0:${two}\n`);
  assertEquals((await served.reload()).code, 0);
  assertEquals((await served.status()).listening, [`0.0.0.0:${two}`]);
  assertEquals((await (await served.open("a", two)).read(0, 512)).error, 0);

  // A port that somebody has.
  using taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  directory.write("server.conf", `[nbd]\nlisten = 127.0.0.1:${one}\nlisten = 127.0.0.1:${taken.addr.port}\n`);
  const { code, stderr } = await served.reload();
  assertEquals(code, 1);
  assertMatch(stderr, new RegExp(`kept the configuration: cannot listen on 127.0.0.1:${taken.addr.port}: `));
  assertEquals((await served.status()).listening, [`0.0.0.0:${two}`]);
  await assertRejects(() => served.open("a", one), Error, "refused");
  assertEquals((await client.write(0, new Uint8Array(512))).error, 0);
});

Deno.test("rights by key hold through the channel, and follow a reload", async () => {
  using directory = new Directory({ "exports.conf": "[a]\ndisk = a.img\n[b]\ndisk = b.img\n" });
  directory.image("a.img", MIB, 1);
  directory.image("b.img", MIB, 2);
  const env = { HOME: directory.file("home"), XDG_CONFIG_HOME: "" };
  const { stdout: key } = await denbd(["keygen"], { env });
  await denbd(["keygen", `${directory.path}/key`]);
  const port = freePort();
  directory.write("server.conf", `[channel]\nlisten = 127.0.0.1:${port}\nkey = key\n`);
  directory.write("peers.conf", `[client]\nkey = ${key}read = a\nwrite = b\n`);
  await using served = await serve(directory, "--as-said");
  assertEquals((await served.status()).listening, [`127.0.0.1:${port}`]);
  const uri = (name: string) => `nbd+noise://127.0.0.1:${port}/${name}`;
  const run = (...words: string[]) => denbd(words, { env, code: "any", stdin: new Uint8Array(16) });
  assertEquals((await run("read", "--size", "2", uri("a"))).bytes, Uint8Array.of(1, 1));
  const write = await run("write", uri("a"));
  assertEquals(write.code, 1);
  assertStringIncludes(write.stderr, "read-only");
  assertEquals((await run("write", uri("b"))).code, 0);

  directory.write("peers.conf", "[nobody]\naddress = 192.0.2.1\nread = *\n");
  assertEquals((await served.reload()).code, 0);
  const stranger = await run("read", "--size", "2", uri("a"));
  assertEquals(stranger.code, 1);
  assertStringIncludes(stranger.stderr, "is not among the authorised peers");

  directory.write("peers.conf", `[client]\nkey = ${key}read = b\n`);
  directory.write("server.conf", `[channel]\nlisten = 127.0.0.1:${freePort()}\nkey = key\n`);
  assertEquals((await served.reload()).code, 0);
  await served.program.logged(/W.*server\.conf: \[channel\] cannot change while running/);
  assertEquals((await run("read", "--size", "2", uri("b"))).code, 0);
  assertStringIncludes((await run("read", "--size", "2", uri("a"))).stderr, "no such export");
});

Deno.test("[http] tells metrics, and [nbd] limits hold and change on a reload", async () => {
  const place = freePort();
  using directory = new Directory({
    "exports.conf": "[a]\ndisk = a.img\n",
    "peers.conf": EVERYBODY,
    "server.conf": `[nbd]\nmaxConnections = 1\n[http]\nlisten = ${place}\n`,
  });
  directory.image("a.img");
  await using served = await serve(directory);
  const answer = await fetch(`http://127.0.0.1:${place}/healthz`);
  assertEquals([answer.status, await answer.text()], [200, "fine: 1 export, 0 clients\n"]);
  await served.open("a");
  await assertRejects(() => served.open("a"));
  directory.write("server.conf", `[nbd]\nmaxConnections = 2\n[http]\nlisten = ${place}\n`);
  assertEquals((await served.reload()).code, 0);
  assertEquals((await (await served.open("a")).read(0, 512)).error, 0);
  await assertRejects(() => served.open("a"));
});

Deno.test("an export that has moved to another host is served no longer, and the others are", async () => {
  const both = "[a]\ndisk = a.img\n[b]\ndisk = b.img\n";
  using directory = new Directory({ "exports.conf": both, "peers.conf": EVERYBODY });
  directory.image("a.img", MIB, 1);
  directory.image("b.img", MIB, 2);
  directory.image("moved.img");
  {
    await using served = await serve(directory);
    const client = await served.open("b");
    const port = freePort();
    const receiver = await start([
      "listen",
      "--verbose",
      "--addr",
      "127.0.0.1",
      "--port",
      `${port}`,
      "--state-dir",
      directory.file("state"),
      "--file",
      `${directory.path}/moved.img`,
    ]);
    await using _receiver = receiver;
    await receiver.logged(/: serving 1 export on/);
    await denbd(["mirror", "--sock", directory.sock, "--name", "a", `nbd://127.0.0.1:${port}/`]);
    assertEquals(await receiver.ended(), 0);
    assertEquals(Deno.readFileSync(`${directory.path}/moved.img`), new Uint8Array(MIB).fill(1));
    assertEquals(await served.names(), ["b"]);
    assertEquals((await served.reload()).code, 0);
    await served.program.logged(/E.*exports\.conf:1: export "a" is not served: .*a\.img has moved to/);
    assertEquals(await served.names(), ["b"]);
    assertEquals((await client.write(0, new Uint8Array(512))).error, 0);
  }
  await using again = await serve(directory);
  await again.program.logged(/E.*exports\.conf:1: export "a" is not served: /);
  assertEquals(await again.names(), ["b"]);
});

Deno.test("V45: several read and one writes; a second writer is let in to read only", async () => {
  using directory = new Directory({ "exports.conf": "[a]\ndisk = a.img\n", "peers.conf": EVERYBODY });
  directory.image("a.img");
  await using served = await serve(directory);
  const [writer, reader] = [await served.open("a"), await served.open("a")];
  assertEquals((await writer.write(0, new Uint8Array(512).fill(7))).error, 0);
  assertEquals((await reader.read(0, 512)).data, new Uint8Array(512).fill(7));
  assert((await reader.write(0, new Uint8Array(512))).error !== 0);
  const late = await served.open("a");
  assert((late.agreement.transmissionFlags & TransmissionFlag.READ_ONLY) !== 0);
  assertEquals((await late.read(0, 512)).data, new Uint8Array(512).fill(7));
  assertEquals((await writer.write(0, new Uint8Array(512).fill(8))).error, 0);
});

Deno.test("V40: the port is closed until everything is open", async () => {
  // A server that says nothing: opening its disk takes its time.
  using silent = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const port = freePort();
  using directory = new Directory({
    "exports.conf": `[a]\ndisk = a.img\n[far]\ndisk = nbd://127.0.0.1:${silent.addr.port}/\nreadonly = yes\n`,
    "peers.conf": EVERYBODY,
    "server.conf": `[nbd]\nlisten = 127.0.0.1:${port}\n`,
  });
  directory.image("a.img");
  await using program = await start([
    "serve",
    "--verbose",
    "--config",
    directory.path,
    "--sock",
    directory.sock,
  ]);
  using _asked = await silent.accept();
  await assertRejects(() => Deno.connect({ hostname: "127.0.0.1", port }), Deno.errors.ConnectionRefused);
  await assertRejects(() => Deno.lstat(directory.sock), Deno.errors.NotFound);
  assertEquals(await program.stop("SIGTERM"), 0, program.log);
});

Deno.test("V50: whichever step of a start fails, nothing is left", async () => {
  using taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const [nbd, channel, http] = [freePort(), freePort(), freePort()];
  using directory = new Directory({ "peers.conf": EVERYBODY });
  directory.image("a.img");
  await denbd(["keygen", `${directory.path}/key`]);
  const conf = (ports: { nbd?: number; channel?: number; http?: number }) =>
    `[nbd]\nlisten = 127.0.0.1:${ports.nbd ?? nbd}\nlisten = unix:${directory.file("nbd.sock")}\n` +
    `[channel]\nlisten = 127.0.0.1:${ports.channel ?? channel}\nkey = key\n[http]\nlisten = ${
      ports.http ?? http
    }\n`;
  const busy = taken.addr.port;
  const steps: [string, string, string, string][] = [
    ["[a]\ndisk = a.img\n[b]\ndisk = none.img\n", conf({}), directory.sock, "no such file"],
    ["[a]\ndisk = a.img\n", conf({}).replace("key = key", "key = nokey"), directory.sock, "nokey"],
    ["[a]\ndisk = a.img\n", conf({ nbd: busy }), directory.sock, `cannot listen on 127.0.0.1:${busy}`],
    ["[a]\ndisk = a.img\n", conf({ channel: busy }), directory.sock, `cannot listen on 127.0.0.1:${busy}`],
    ["[a]\ndisk = a.img\n", conf({}), "/nonexistent/control", "cannot listen on /nonexistent/control"],
    ["[a]\ndisk = a.img\n", conf({ http: busy }), directory.sock, `cannot listen on 127.0.0.1:${busy}`],
  ];
  for (const [exports, server, sock, message] of steps) {
    directory.write("exports.conf", exports);
    directory.write("server.conf", server);
    const { code, stderr } = await denbd(["serve", "--config", directory.path, "--sock", sock], {
      code: "any",
    });
    assertEquals(code, 1, stderr);
    assertStringIncludes(stderr, message);
    for (const port of [nbd, channel, http]) Deno.listen({ hostname: "127.0.0.1", port }).close();
    for (const path of [directory.sock, directory.file("nbd.sock")]) {
      await assertRejects(() => Deno.lstat(path), Deno.errors.NotFound);
    }
  }
  // What failed is free for the next.
  directory.write("server.conf", conf({}));
  await using served = await serve(directory, "--as-said");
  assertEquals((await (await served.open("a", nbd)).read(0, 512)).error, 0);
});

Deno.test("V47: a server is stopped and started twenty times in a row on the same port", async () => {
  const port = freePort();
  using directory = new Directory({
    "exports.conf": "[a]\ndisk = a.img\n",
    "peers.conf": EVERYBODY,
    "server.conf": `[nbd]\nlisten = 127.0.0.1:${port}\n`,
  });
  directory.image("a.img");
  for (let round = 0; round < 20; round++) {
    await using served = await serve(directory, "--as-said");
    const client = await served.open("a");
    assertEquals((await client.write(0, new Uint8Array(512).fill(round))).error, 0);
    assertEquals(
      await served.program.stop(round % 2 === 0 ? "SIGTERM" : "SIGKILL"),
      round % 2 === 0 ? 0 : 137,
    );
  }
});

Deno.test("V49: verbs that come twice, or at the wrong time, have a defined end", async () => {
  using directory = new Directory({
    "exports.conf": "[a]\ndisk = a.img\n[b]\ndisk = b.img\n",
    "peers.conf": EVERYBODY,
  });
  directory.image("a.img");
  directory.image("b.img");
  await using served = await serve(directory);
  // The same twice, and several at once.
  for (const { code } of await Promise.all([1, 2, 3, 4].map(() => served.reload()))) assertEquals(code, 0);
  directory.write("exports.conf", "[a]\ndisk = a.img\n");
  const removals = await Promise.all([1, 2].map(() => served.reload()));
  assertEquals(removals.map(({ code }) => code), [0, 0]);
  assertEquals(removals.map(({ stdout }) => /(\d) removed/.exec(stdout)![1]).sort(), ["0", "1"]);
  // A second server on the same disk and sockets.
  const second = await denbd(
    ["serve", "--config", directory.path, "--sock", directory.sock, "--port", "0"],
    { code: "any" },
  );
  assertEquals(second.code, 1);
  assertStringIncludes(second.stderr, "is in use by denbd, process");
  // Stopped while it reloads, then asked again.
  served.program.signal("SIGHUP");
  served.program.signal("SIGTERM");
  assertEquals(await served.program.ended(), 0);
  const gone = await served.reload();
  assertEquals([gone.code, gone.stdout], [1, ""]);
  assertStringIncludes(gone.stderr, "cannot connect to the control socket");
});

Deno.test("V39: another local user is refused by the control socket", async () => {
  using directory = new Directory({ "exports.conf": "[a]\ndisk = a.img\n", "peers.conf": EVERYBODY });
  directory.image("a.img");
  await using _served = await serve(directory);
  assertEquals(Deno.statSync(directory.sock).mode! & 0o777, 0o600);
  // Only root may become somebody else.
  if (Deno.uid() !== 0) return;
  // The way there is open to all, so that it is the socket that refuses.
  for (let path = directory.sock; path !== "/tmp"; path = path.slice(0, path.lastIndexOf("/"))) {
    if (path !== directory.sock) Deno.chmodSync(path, 0o755);
  }
  const own = directory.file("denbd");
  Deno.copyFileSync(await program(), own);
  Deno.chmodSync(own, 0o755);
  const home = directory.file("home");
  Deno.mkdirSync(home);
  Deno.chownSync(home, 65534, 65534);
  const stranger = (...words: string[]) =>
    run("setpriv", ["--reuid=65534", "--regid=65534", "--clear-groups", own, ...words], {
      env: { HOME: home, XDG_CACHE_HOME: home },
      code: "any",
    });
  const commands = [["status"], ["acl"], ["reload", "--force"], ["unreserve", "a"]];
  for (const words of commands) {
    const { code, stdout, stderr } = await stranger(...words, "--sock", directory.sock);
    assertEquals([words, code, stdout], [words, 1, ""]);
    assertStringIncludes(stderr, "cannot connect to the control socket");
    assertStringIncludes(stderr, "Permission denied");
  }
  // It was the socket, and nothing else in the way.
  Deno.chmodSync(directory.sock, 0o666);
  assertEquals((await stranger("status", "--sock", directory.sock)).code, 0);
});

Deno.test("V46: a client that was cut off silently and comes again is served, whatever its old connection does", async () => {
  using directory = new Directory({ "exports.conf": "[a]\ndisk = a.img\n", "peers.conf": EVERYBODY });
  directory.image("a.img");
  await using served = await serve(directory);
  using relay = new Relay(served.port);
  await using near = await proxy(["--stall", "1s", `nbd://127.0.0.1:${relay.port}/a`]);
  const client = await RawClient.open(await dial({ transport: "tcp", host: "127.0.0.1", port: near.port }));
  assertEquals((await client.write(0, new Uint8Array(512).fill(1))).error, 0);
  // From its next word on the connection is silent; neither end is told, as when a cable is pulled.
  const held = Promise.withResolvers<Verdict>();
  relay.look = () => {
    relay.look = () => "pass";
    return held.promise;
  };
  assertEquals((await client.write(512, new Uint8Array(512).fill(2))).error, 0);
  // The server heard nothing of its end, and would have kept anybody else out.
  await served.program.logged(/left "a" after .*: replaced by a newer connection of its session; write/);
  const { agreement } = await served.open("a");
  assert((agreement.transmissionFlags & TransmissionFlag.READ_ONLY) !== 0);
  const { data } = await client.read(0, 1024);
  assertEquals([data[0], data[511], data[512], data[1023]], [1, 1, 2, 2]);
  held.resolve("cut");
  client.connection.close();
});

Deno.test("V52: status shows who has what, what they may do, and what they have done", async () => {
  using directory = new Directory({
    "exports.conf": "[a]\ndisk = a.img\n[b]\ndisk = b.img\nreadonly = yes\n",
    "peers.conf": "[here]\naddress = 127.0.0.1\nwrite = a\nread = b\n",
  });
  directory.image("a.img");
  directory.image("b.img", 2 * MIB);
  await using served = await serve(directory);
  const [a, b] = [await served.open("a"), await served.open("b")];
  assertEquals((await a.write(0, new Uint8Array(4096))).error, 0);
  assertEquals((await a.read(0, 512)).error, 0);
  assertEquals((await b.write(0, new Uint8Array(512))).error, WireErrno.EPERM);
  const { exports, listening, access } = await served.status();
  assertEquals(listening, [`127.0.0.1:${served.port}`]);
  assertEquals(access.entries, ["[here] write = a", "[here] read = b"]);
  const [first, second] = exports;
  assertEquals([first.name, first.sizeBytes, first.readOnly, first.writers], [
    "a",
    MIB,
    false,
    "one-session",
  ]);
  assertEquals([second.name, second.sizeBytes, second.readOnly], ["b", 2 * MIB, true]);
  for (
    const [{ clients: [client] }, rights, requests, errors, read, written] of [
      [first, "write", 2, 0, 512, 4096],
      [second, "read", 1, 1, 0, 0],
    ]
  ) {
    assertMatch(client.address, /^127\.0\.0\.1:\d+$/);
    assertEquals(
      [client.identity, client.rights, client.requests, client.errors, client.readBytes, client.writtenBytes],
      [null, rights, requests, errors, read, written],
    );
    assertEquals([client.inFlight, client.ageMs >= 0], [0, true]);
  }
});
