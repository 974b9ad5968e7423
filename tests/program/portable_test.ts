/**
 * The portable executable: where it unpacks to, whom it trusts, and what it does about damage.
 *
 * Packed here is a small script in place of the runtime, which prints the words that it is given.
 */

import { assertEquals, assertMatch } from "@std/assert";
import { asciiComments, buildPortable, shortenSourceMap } from "../../scripts/build/portable.ts";
import { type Finished, run, type TemporaryDirectory, temporaryDirectory } from "../testing/process.ts";
import { program, surroundings } from "./program.ts";

const runtime = `#!/bin/sh
[ -z "$SHOW_IGNORED" ] || exec grep SigIgn /proc/self/status
printf '%s\\n' "$@"
exit 7
`;

let built: Promise<{ text: string; bytes: Uint8Array }> | undefined;

/** Makes the executable under test once, and puts a copy into the directory. */
async function executableIn(directory: TemporaryDirectory): Promise<string> {
  built ??= (async () => {
    using place = temporaryDirectory();
    const [script, output] = [place.file("runtime"), place.file("portable")];
    Deno.writeTextFileSync(script, runtime);
    const entry = new URL("../../main.ts", import.meta.url).pathname;
    await buildPortable({ output, entry, version: "9", flags: ["-X"], runtime: script, cache: place.path });
    return { text: Deno.readTextFileSync(output), bytes: Deno.readFileSync(output) };
  })();
  const path = directory.file("portable");
  Deno.writeFileSync(path, (await built).bytes, { mode: 0o755 });
  return path;
}

/** Runs the executable in an environment of its own. */
async function runWith(
  directory: TemporaryDirectory,
  env: Record<string, string>,
  args: string[] = ["x"],
): Promise<Finished> {
  const words = Object.entries(env).map(([name, value]) => `${name}=${value}`);
  const path = await executableIn(directory);
  return await run("env", ["-i", "PATH=/usr/bin:/bin", ...words, path, ...args], { code: "any" });
}

function mode(path: string): string {
  return (Deno.lstatSync(path).mode! & 0o7777).toString(8);
}

/** The one directory that was unpacked in `home`. */
function unpacked(home: string): string {
  const names = [...Deno.readDirSync(home)].map(({ name }) => name);
  assertEquals(names.length, 1, names.join(" "));
  return `${home}/${names[0]}`;
}

async function inode(path: string): Promise<number> {
  return (await Deno.lstat(path)).ino!;
}

async function unpackInto(directory: TemporaryDirectory): Promise<string> {
  const { code, stdout, stderr } = await runWith(directory, { XDG_CACHE_HOME: directory.path });
  assertEquals([code, stderr], [7, ""]);
  assertMatch(stdout, /^run\n/);
  return unpacked(directory.file("denbd"));
}

Deno.test("portable: the first start unpacks to a private directory, later ones use it", async () => {
  using directory = temporaryDirectory();
  const place = await unpackInto(directory);
  assertEquals([mode(place), mode(`${place}/denbd`), mode(`${place}/denbd.js`)], ["700", "500", "600"]);
  const before = await inode(`${place}/denbd`);
  assertEquals(await unpackInto(directory), place);
  assertEquals(await inode(`${place}/denbd`), before);
});

for (const file of ["denbd", "denbd.js"]) {
  Deno.test(`portable: a damaged ${file} is unpacked anew, not run`, async () => {
    using directory = temporaryDirectory();
    const place = await unpackInto(directory);
    const path = `${place}/${file}`;
    const before = Deno.readFileSync(path);
    Deno.chmodSync(path, 0o700);
    {
      using open = Deno.openSync(path, { write: true });
      open.seekSync(before.length >> 1, Deno.SeekMode.Start);
      open.writeSync(Uint8Array.of(before[before.length >> 1] ^ 1));
    }
    await unpackInto(directory);
    assertEquals(Deno.readFileSync(path), before);
  });
}

Deno.test("portable: an unpacked directory that others may enter is replaced", async () => {
  using directory = temporaryDirectory();
  const place = await unpackInto(directory);
  Deno.chmodSync(place, 0o755);
  await unpackInto(directory);
  assertEquals(mode(place), "700");
});

Deno.test("portable: a link in place of a file is not followed", async () => {
  using directory = temporaryDirectory();
  const place = await unpackInto(directory);
  Deno.renameSync(`${place}/denbd.js`, directory.file("elsewhere.js"));
  Deno.symlinkSync(directory.file("elsewhere.js"), `${place}/denbd.js`);
  await unpackInto(directory);
  assertEquals(Deno.lstatSync(`${place}/denbd.js`).isSymlink, false);
});

Deno.test("portable: a cache directory that others can write to is passed over", async () => {
  using directory = temporaryDirectory();
  const [open, home] = [directory.file("open"), directory.file("home")];
  Deno.mkdirSync(open);
  Deno.mkdirSync(home);
  Deno.chmodSync(open, 0o777);
  const { code } = await runWith(directory, { XDG_CACHE_HOME: open, HOME: home });
  assertEquals(code, 7);
  assertEquals([...Deno.readDirSync(`${open}/denbd`)].length, 0);
  unpacked(`${home}/.cache/denbd`);
});

Deno.test("portable: a link in place of the cache directory is passed over", async () => {
  using directory = temporaryDirectory();
  const [elsewhere, cache, home] = ["elsewhere", "cache", "home"].map((name) => directory.file(name));
  for (const path of [elsewhere, cache, home]) Deno.mkdirSync(path);
  Deno.symlinkSync(elsewhere, `${cache}/denbd`);
  assertEquals((await runWith(directory, { XDG_CACHE_HOME: cache, HOME: home })).code, 7);
  assertEquals([...Deno.readDirSync(elsewhere)].length, 0);
  unpacked(`${home}/.cache/denbd`);
});

Deno.test({
  name: "portable: a directory of another user is passed over",
  ignore: Deno.uid() !== 0,
  async fn() {
    using directory = temporaryDirectory();
    const [cache, home] = [directory.file("cache"), directory.file("home")];
    for (const path of [cache, home]) Deno.mkdirSync(path);
    Deno.mkdirSync(`${cache}/denbd`, { mode: 0o700 });
    Deno.chownSync(`${cache}/denbd`, 65534, 65534);
    assertEquals((await runWith(directory, { XDG_CACHE_HOME: cache, HOME: home })).code, 7);
    assertEquals([...Deno.readDirSync(`${cache}/denbd`)].length, 0);
    unpacked(`${home}/.cache/denbd`);
  },
});

Deno.test("portable: systemd's cache directory comes first", async () => {
  using directory = temporaryDirectory();
  const [state, home] = [directory.file("state"), directory.file("home")];
  Deno.mkdirSync(state);
  Deno.mkdirSync(home);
  assertEquals((await runWith(directory, { CACHE_DIRECTORY: `${state}:/nonexistent`, HOME: home })).code, 7);
  unpacked(state);
  assertEquals([...Deno.readDirSync(home)].length, 0);
});

Deno.test("portable: it works without HOME", async () => {
  using directory = temporaryDirectory();
  const { code, stderr } = await runWith(directory, { TMPDIR: directory.path });
  assertEquals([code, stderr], [7, ""]);
  // Root may write to /var/cache; anybody else unpacks to the temporary directory.
  const [, id] = /^id=(.+)$/m.exec((await built!).text)!;
  const places = [`/var/cache/denbd/${id}`, directory.file(`denbd-${Deno.uid()}/${id}`)];
  const used = places.filter((place) => {
    try {
      return Deno.statSync(place).isDirectory;
    } catch {
      return false;
    }
  });
  assertEquals(used.length, 1);
  Deno.removeSync(used[0], { recursive: true });
});

Deno.test("portable: it works without PATH, and with one where nothing is", async () => {
  using directory = temporaryDirectory();
  for (const path of ["", "/nowhere"]) {
    const { code, stdout, stderr } = await runWith(directory, { XDG_CACHE_HOME: directory.path, PATH: path });
    assertEquals([code, stderr], [7, ""]);
    assertMatch(stdout, /^run\n/);
  }
});

Deno.test("portable: a directory that was asked for and cannot be used is an error", async () => {
  using directory = temporaryDirectory();
  const path = directory.file("file");
  Deno.writeTextFileSync(path, "");
  const { code, stdout, stderr } = await runWith(directory, { DENBD_UNPACK_DIR: path, HOME: directory.path });
  assertEquals([code, stdout], [1, ""]);
  assertMatch(stderr, /^denbd: cannot unpack to \S+: it must be writable .*\n$/);
  assertEquals([...Deno.readDirSync(directory.path)].map(({ name }) => name).sort(), ["file", "portable"]);
});

Deno.test("portable: a file that was cut short runs nothing and leaves nothing", async () => {
  using directory = temporaryDirectory();
  const path = await executableIn(directory);
  Deno.truncateSync(path, Deno.statSync(path).size - 1000);
  const place = directory.file("here");
  const { code, stdout, stderr } = await run(path, [], { env: { DENBD_UNPACK_DIR: place }, code: "any" });
  assertEquals([code, stdout], [1, ""]);
  assertMatch(stderr, /^denbd: cannot unpack to .*\n$/);
  assertEquals([...Deno.readDirSync(place)].length, 0);
});

Deno.test("portable: starts at the same time all work, and leave one copy", async () => {
  using directory = temporaryDirectory();
  const starts = Array.from({ length: 4 }, () => runWith(directory, { XDG_CACHE_HOME: directory.path }));
  for (const { code, stderr } of await Promise.all(starts)) assertEquals([code, stderr], [7, ""]);
  unpacked(directory.file("denbd"));
});

Deno.test("portable: the copies of other builds go when they are old and no process runs them", async () => {
  using directory = temporaryDirectory();
  const home = directory.file("denbd");
  const names = ["old", "young", "running", "foreign"];
  for (const name of names) {
    Deno.mkdirSync(`${home}/${name}`, { recursive: true, mode: 0o700 });
    if (name === "foreign") continue;
    Deno.copyFileSync("/bin/sleep", `${home}/${name}/denbd`);
    Deno.writeTextFileSync(`${home}/${name}/denbd.js`, "");
  }
  Deno.chmodSync(home, 0o700);
  const child = new Deno.Command(`${home}/running/denbd`, { args: ["60"] }).spawn();
  const old = new Date(Date.now() - 49 * 3600_000);
  for (const name of names) if (name !== "young") Deno.utimeSync(`${home}/${name}`, old, old);
  const { code, stderr } = await runWith(directory, { XDG_CACHE_HOME: directory.path });
  assertEquals([code, stderr], [7, ""]);
  child.kill();
  await child.status;
  const left = [...Deno.readDirSync(home)].map(({ name }) => name);
  assertEquals(names.filter((name) => left.includes(name)), ["young", "running", "foreign"]);
  assertEquals(left.length, 4);
});

Deno.test("portable: SIGUSR1 is ignored until the program takes it over", async () => {
  using directory = temporaryDirectory();
  const { stdout } = await runWith(directory, { XDG_CACHE_HOME: directory.path, SHOW_IGNORED: "1" });
  const mask = BigInt(`0x${/SigIgn:\s*([0-9a-f]+)/.exec(stdout)![1]}`);
  assertEquals(mask & (1n << 9n), 1n << 9n);
});

Deno.test("portable: words reach the program as they were typed, and its exit code comes back", async () => {
  using directory = temporaryDirectory();
  const words = ["a b\"c'$HOME`x`\\n*", "", "--", "-v"];
  const { code, stdout } = await runWith(directory, { XDG_CACHE_HOME: directory.path }, words);
  assertEquals(code, 7);
  const lines = stdout.split("\n").slice(0, -1);
  assertEquals(lines.slice(-words.length), words);
  assertEquals(lines.at(-words.length - 1), `${unpacked(directory.file("denbd"))}/denbd.js`);
  assertEquals(lines.at(-words.length - 2), "-X");
});

Deno.test("portable: standard input is the program's", async () => {
  using directory = temporaryDirectory();
  const path = await executableIn(directory);
  const { stdout } = await run("sh", ["-c", `"$0" x >/dev/null; cat`, path], {
    stdin: "every byte\n",
    env: { DENBD_UNPACK_DIR: directory.file("here") },
  });
  assertEquals(stdout, "every byte\n");
});

Deno.test("portable: with the real runtime inside it is denbd", async () => {
  const { stdout } = await run(await program(), ["--version"], { env: surroundings });
  assertMatch(stdout, /^denbd \d+\.\d+\.\d+\n$/);
});

Deno.test("portable: the program that is packed is ASCII", async () => {
  using directory = temporaryDirectory();
  const text = Deno.readTextFileSync(`${await unpackInto(directory)}/denbd.js`);
  assertEquals(/[^\0-\x7f]/.exec(text)?.[0], undefined);
});

Deno.test("of comments only ASCII is kept, and of code everything", () => {
  const text = '/** a… */\n  * é\n  // ü\nconst a = "ö";\n';
  assertEquals(asciiComments(text), '/** a? */\n  * ?\n  // ?\nconst a = "ö";\n');
});

Deno.test("of a source map the lines are kept, and the files' names from the project's root", () => {
  const head = "code\n//# sourceMappingURL=data:application/json;base64,";
  const encode = (map: unknown) => head + new TextEncoder().encode(JSON.stringify(map)).toBase64();
  const map = {
    version: 3,
    sources: ["../home/src/a.ts", "../cache/x/b.js"],
    sourcesContent: ["a", "b"],
    names: ["n"],
    // Line 1: a.ts 1:0, the same line again, 17 lines on. Line 2: nothing. Line 3: b.js, one line back, at 4:20.
    mappings: "AAAA,IAAIA,EAiBA;;EChBgB",
  };
  const short = shortenSourceMap(
    encode(map),
    new URL("file:///tmp/bundle.js"),
    new URL("file:///home/main.ts"),
  );
  assertEquals(
    short,
    encode({
      version: 3,
      sources: ["denbd:///src/a.ts", "denbd:///dependency/b.js"],
      names: [],
      mappings: "AAAA,MAiBI;;EChBgB",
    }),
  );
});
