/** What is asked wrongly, or cannot be: one clear line, exit code 2 or 1, and nothing left behind. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { run, temporaryDirectory } from "../testing/process.ts";
import { smallFileSystem, storageTest } from "../testing/storage.ts";
import { denbd, program, serve } from "./program.ts";

interface Misuse {
  readonly args: string[];
  /** 2: it was asked wrongly, and the usage is shown. 1: it could not be done. */
  readonly code: 1 | 2;
  readonly says: RegExp;
}

/** `IMAGE`, `DIRECTORY` and `MISSING` stand for paths. */
const misuses: readonly Misuse[] = [
  { args: ["serv", "--file", "IMAGE"], code: 2, says: /no command .serv.; did you mean 'serve'/ },
  { args: ["serve"], code: 2, says: /--file is required/ },
  { args: ["serve", "--file"], code: 2, says: /'--file' requires an argument/ },
  { args: ["serve", "--file", "IMAGE", "--wat"], code: 2, says: /unrecognized option '--wat'/ },
  {
    args: ["serve", "--file", "IMAGE", "--prot", "1"],
    code: 2,
    says: /unrecognized option '--prot'; did you mean '--port'\?$/,
  },
  { args: ["read", "--form=1", "IMAGE"], code: 2, says: /'--form'; did you mean '--from'\?$/ },
  { args: ["serve", "--file", "IMAGE", "--port", "65536"], code: 2, says: /--port: 65536 is out of range/ },
  { args: ["serve", "--file", "IMAGE", "--port", "-1"], code: 2, says: /--port: / },
  {
    args: ["serve", "--file", "IMAGE", "--port", "nbd"],
    code: 2,
    says: /--port: "nbd" is not a whole number/,
  },
  {
    args: ["serve", "--file", "IMAGE", "--addr", "localhost"],
    code: 2,
    says: /"localhost" is not an IP address/,
  },
  { args: ["serve", "--file", "IMAGE", "10.0.0.0/33"], code: 2, says: /bad spec: 10\.0\.0\.0\/33/ },
  { args: ["serve", "--file", "IMAGE", "--export", "x"], code: 2, says: /--export: "x" is no NAME=DISK/ },
  { args: ["serve", "--file", "MISSING", "--port", "0"], code: 1, says: /MISSING.*no such file/ },
  { args: ["serve", "--file", "DIRECTORY", "--port", "0"], code: 1, says: /DIRECTORY is a directory/ },
  {
    args: ["serve", "--file", "IMAGE", "--addr", "192.0.2.1", "--port", "0"],
    code: 1,
    says: /192\.0\.2\.1:0/,
  },
  {
    args: ["serve", "--file", "IMAGE", "--port", "0", "--sock", "MISSING/control"],
    code: 1,
    says: /cannot listen on MISSING\/control/,
  },
  {
    args: ["serve", "--file", "IMAGE", "--unix", "IMAGE"],
    code: 1,
    says: /IMAGE: it exists and is no socket/,
  },
  { args: ["read", "--from", "4x", "--size", "1", "IMAGE"], code: 2, says: /--from: "4x" is not a size/ },
  { args: ["read", "--from", "-1", "--size", "1", "IMAGE"], code: 2, says: /--from: "-1" is negative/ },
  { args: ["read", "--from", "0", "--size", "1.5", "IMAGE"], code: 2, says: /--size: "1\.5" is not a size/ },
  { args: ["read", "--from", "0", "--size", "9E", "IMAGE"], code: 2, says: /--size: "9E" is / },
  { args: ["read", "--from", "0", "--size", "2G", "IMAGE"], code: 1, says: /IMAGE/ },
  { args: ["read", "MISSING"], code: 1, says: /MISSING.*no such file/ },
  { args: ["read", "IMAGE", "IMAGE"], code: 2, says: /./ },
  {
    args: ["read", "--addr", "127.0.0.1", "--port", "1", "--from", "0", "--size", "1"],
    code: 1,
    says: /refused/,
  },
  { args: ["read", "nbd+unix:///?socket=MISSING"], code: 1, says: /MISSING: there is no such socket/ },
  { args: ["read", "nbd+unix:///"], code: 2, says: /socket/ },
  { args: ["write", "--size", "4", "MISSING"], code: 1, says: /MISSING.*no such file/ },
  { args: ["help", "serv"], code: 2, says: /no command .serv.; did you mean 'serve'/ },
  { args: ["help", "nonsense"], code: 2, says: /no command .nonsense.; see denbd help/ },
  { args: ["serve", "--file", ""], code: 2, says: /--file: a path is missing/ },
  { args: ["serve", "-e", "x=IMAGE", "-e", "x=IMAGE"], code: 2, says: /two exports have the name "x"/ },
  {
    args: ["serve", "-e", "x=IMAGE,default", "-e", "y=IMAGE,default"],
    code: 2,
    says: /"x" and "y" cannot both be the default/,
  },
  {
    args: ["serve", "--file", "IMAGE", "--unix", "MISSING/socket"],
    code: 1,
    says: /cannot listen on MISSING\/socket: there is no such directory$/,
  },
  {
    args: ["serve", "--file", "IMAGE", "--unix", "IMAGE/socket"],
    code: 1,
    says: /cannot listen on IMAGE\/socket: part of the path is not a directory$/,
  },
  { args: ["serve", "--config", "IMAGE"], code: 1, says: /: cannot be read: part of the path is not a dir/ },
  { args: ["serve", "--config", "MISSING"], code: 1, says: /there is neither server.conf nor exports.conf/ },
  { args: ["own", "MISSING"], code: 1, says: /cannot look at MISSING: there is no such file$/ },
  { args: ["own", "DIRECTORY"], code: 1, says: /DIRECTORY is neither a file nor a block device$/ },
  { args: ["own", "--claim", "--json", "IMAGE"], code: 2, says: /--claim and --json exclude each other/ },
  {
    args: ["proxy", "--port", "0", "--cache-dir", "/dev/null", "--read-only", "IMAGE"],
    code: 1,
    says: /cannot use \/dev\/null\/\S+\.cache: \/dev\/null is no directory\)$/,
  },
  {
    args: ["listen", "--file", "IMAGE", "--writers", "one-session"],
    code: 2,
    says: /--writers belongs to --then-serve$/,
  },
  ...[
    ["serve", "--port", "0", "--file", "IMAGE"],
    ["serve", "--port", "0", "--file", "IMAGE", "--read-only"],
    ["serve", "--port", "0", "--config", "DIRECTORY"],
    ["listen", "--port", "0", "--file", "IMAGE"],
    ["proxy", "--port", "0", "nbd://127.0.0.1:1/"],
    ["own", "IMAGE"],
  ].map((args): Misuse => ({
    args: [...args, "--state-dir", "/dev/null"],
    code: 1,
    says: /cannot use the state directory \/dev\/null: it is no directory$/,
  })),
  {
    args: ["serve", "--port", "0", "--file", "IMAGE", "--state-dir", "IMAGE/state"],
    code: 1,
    says: /cannot use the state directory IMAGE\/state: part of the path is not a directory$/,
  },
  { args: ["crc", "--verify", "IMAGE"], code: 1, says: /cannot use IMAGE.crc: there is no such file$/ },
  { args: ["crc", "/dev/null"], code: 1, says: /\/dev\/null/ },
  { args: ["copy", "IMAGE", "/dev/full"], code: 1, says: /cannot create \/dev\/full: the runtime keeps/ },
  {
    args: ["copy", "IMAGE", "MISSING/copy"],
    code: 1,
    says: /cannot create MISSING\/copy: there is no such d/,
  },
  { args: ["unreserve", "--sock", "MISSING", "a", "b"], code: 2, says: /unexpected argument 'b'/ },
  { args: ["unreserve", "--sock", "MISSING", ""], code: 2, says: /an argument is empty/ },
  { args: ["break", "--sock", "MISSING", "--name", "a\nb"], code: 2, says: /has a line break/ },
  { args: ["status", "--sock", "MISSING"], code: 1, says: /socket "MISSING": there is no such file$/ },
  { args: ["status", "--sock", "IMAGE"], code: 1, says: /socket "IMAGE": no server answers on it$/ },
  { args: ["status", "--sock", "MISSING", "--changes", "--watch"], code: 2, says: /exclude each other/ },
];

for (const { args, code, says } of misuses) {
  Deno.test(`V53: denbd ${args.join(" ")}: exit code ${code}, one line`, async () => {
    using directory = temporaryDirectory();
    const paths: Record<string, string> = {
      IMAGE: directory.file("image"),
      DIRECTORY: directory.path,
      MISSING: directory.file("missing"),
    };
    Deno.writeFileSync(paths.IMAGE, new Uint8Array(1 << 20));
    const words = args.map((word) => word.replace(/IMAGE|DIRECTORY|MISSING/, (name) => paths[name]));
    const result = await denbd(words, { code: "any", timeoutSeconds: 20 });
    const lines = result.stderr.trimEnd().split("\n").map((line) =>
      Object.entries(paths).reduce((text, [name, path]) => text.replaceAll(path, name), line)
        .replaceAll("DIRECTORY/missing", "MISSING").replaceAll("DIRECTORY/image", "IMAGE")
    );
    assertEquals([result.code, result.stdout], [code, ""], result.stderr);
    assertMatch(lines[0], /^denbd( \w+)?: /);
    assertMatch(lines[0], says);
    // Misuse of a known command shows how it is used.
    if (code === 1) assertEquals(lines.length, 1, result.stderr);
    else assert(lines.slice(1).every((line) => line.startsWith("usage: denbd ")), result.stderr);
    assertEquals([...Deno.readDirSync(directory.path)].map(({ name }) => name), ["image"]);
  });
}

Deno.test("V55: sizes have units: 1k is 1024 bytes, 1M is 1048576", async () => {
  using directory = temporaryDirectory();
  const image = directory.file("image");
  const content = new Uint8Array(3 << 20).map((_, index) => index * 7);
  Deno.writeFileSync(image, content);
  const { bytes } = await denbd(["read", "--from", "1M", "--size", "1k", image]);
  assertEquals(bytes, content.slice(1 << 20, (1 << 20) + 1024));
});

Deno.test("V55: a size that must be whole blocks and is not is refused; sizes are told in bytes", async () => {
  using directory = temporaryDirectory();
  const image = directory.file("image");
  Deno.writeFileSync(image, new Uint8Array(3 << 20));
  const { stderr } = await denbd(["copy", "--request-size", "5000", image, directory.file("copy")], {
    code: 2,
  });
  assertMatch(stderr, /^denbd copy: --request-size: 5000 is no multiple of 4096/);
  await using server = await serve(["--file", image]);
  const { stdout } = await denbd(["info", "--json", server.uri()]);
  assertEquals(JSON.parse(stdout).exports[0]["export-size"], 3 << 20);
});

Deno.test("V48: a name that is too long is refused where it is said, and where it is asked for", async () => {
  using directory = temporaryDirectory();
  const image = directory.file("image");
  Deno.writeFileSync(image, new Uint8Array(4096));
  const [longest, longer] = ["n".repeat(4096), "n".repeat(4097)];
  const refused = await denbd(["serve", "--port", "0", "--export", `${longer}=${image}`], { code: "any" });
  assertEquals(refused.code, 2);
  assertMatch(refused.stderr, /4096/);
  await using server = await serve(["--export", `${longest}=${image}`]);
  const size = ["--size", "512"];
  assertEquals((await denbd(["read", ...size, server.uri(longest)])).bytes.length, 512);
  const asked = await denbd(["read", ...size, server.uri(longer)], { code: "any" });
  assertMatch(asked.stderr, /4096/);
  assertEquals([asked.code, asked.bytes.length], [2, 0]);
});

Deno.test("V48: a control socket that another program has is left to it, and said so", async () => {
  using directory = temporaryDirectory();
  const [one, two, control] = ["one", "two", "control"].map((name) => directory.file(name));
  for (const image of [one, two]) Deno.writeFileSync(image, new Uint8Array(4096));
  await using server = await serve(["--file", one, "--sock", control]);
  const args = ["serve", "--file", two, "--port", "0", "--sock", control];
  const { code, stderr } = await denbd(args, { code: "any", timeoutSeconds: 20 });
  assertEquals(code, 1);
  assertMatch(stderr, /^denbd serve: cannot listen on \S+control: another program does\n$/);
  assertEquals((await denbd(["status", "--sock", control])).code, 0);
  assertEquals(await server.stop(), 0);
});

Deno.test("V48: a port that is taken: exit code 1, the address in the message, no control socket left", async () => {
  using directory = temporaryDirectory();
  const [image, control] = [directory.file("image"), directory.file("control")];
  Deno.writeFileSync(image, new Uint8Array(4096));
  using other = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = other.addr;
  const args = ["serve", "--file", image, "--port", String(port), "--sock", control];
  const { code, stderr } = await denbd(args, { code: "any", timeoutSeconds: 20 });
  assertEquals(code, 1);
  assertMatch(stderr, new RegExp(`^denbd serve: cannot listen on 127.0.0.1:${port}: .*in use.*\n$`));
  assertEquals([...Deno.readDirSync(directory.path)].map(({ name }) => name), ["image"]);
});

Deno.test("V48: a socket that nobody answers on is replaced, one that somebody answers on is not", async () => {
  using directory = temporaryDirectory();
  const [image, unix] = [directory.file("image"), directory.file("unix")];
  Deno.writeFileSync(image, new Uint8Array(4096));
  {
    await using killed = await serve(["--file", image, "--unix", unix]);
    await killed.stop("SIGKILL");
  }
  assertEquals(Deno.lstatSync(unix).isSocket, true);
  await using server = await serve(["--file", image, "--unix", unix]);
  assertEquals((await denbd(["read", "--size", "4k", `nbd+unix:///?socket=${unix}`])).bytes.length, 4096);
  const other = directory.file("other");
  Deno.writeFileSync(other, new Uint8Array(4096));
  const { code, stderr } = await denbd(["serve", "--file", other, "--unix", unix], { code: "any" });
  assertEquals(code, 1);
  assertMatch(stderr, /cannot listen on \S+: another program does\n$/);
  assertEquals(await server.stop(), 0);
});

Deno.test("a running server says why it cannot do what it is asked", async () => {
  using directory = temporaryDirectory();
  const [image, control] = [directory.file("image"), directory.file("control")];
  Deno.writeFileSync(image, new Uint8Array(4096));
  await using _server = await serve(["--file", image, "--sock", control]);
  const cases: [string[], string][] = [
    [["verify"], "no images of dnbd3 are served"],
    [["unreserve"], "the default export is not reserved"],
    [["unreserve", "none"], 'there is no export "none"'],
    [["break"], "not mirroring"],
    [["break", "--name", "none"], 'there is no export "none"'],
    [["mirror-speed", "--max-speed", "1M"], "Not currently mirroring"],
    [
      ["mirror", "--addr", "127.0.0.1", "--port", "1"],
      "Mirror failed to connect: cannot connect to 127.0.0.1:1: " +
      "connection refused",
    ],
  ];
  for (const [[command, ...words], why] of cases) {
    const { code, stdout, stderr } = await denbd([command, "--sock", control, ...words], { code: "any" });
    assertEquals([code, stdout, stderr], [1, "", `denbd ${command}: ${why}\n`]);
  }
});

storageTest("a full file system: exit code 1, the file in the message, nothing half done left", async () => {
  using directory = temporaryDirectory();
  await using full = await smallFileSystem(1 << 20);
  const image = directory.file("image");
  Deno.writeFileSync(image, new Uint8Array(4 << 20).fill(1));
  const copy = full.file("copy");
  const stdin = new Uint8Array(4 << 20).fill(1);
  const no = async (args: string[], says: RegExp, options: { stdin?: Uint8Array<ArrayBuffer> } = {}) => {
    const { code, stderr } = await denbd(args, { code: "any", timeoutSeconds: 20, ...options });
    assertEquals(code, 1);
    assertMatch(stderr, says);
    assertEquals([...Deno.readDirSync(full.path)].map(({ name }) => name), []);
  };
  await no(
    ["copy", image, copy],
    /^denbd copy: \S+\/copy: cannot write \d+ bytes at \d+: ENOSPC[^:]*: ENOSPC\)\n$/,
  );
  await no(["copy", "-", copy], /^denbd copy: cannot write \S+\/copy: there is no space left\n$/, { stdin });
  await no(
    ["create", "--revision", "1", "--size", "16T", full.path, "image"],
    /^denbd create: cannot write: ENOSPC \(\S+\/image\.r1\.map: there is no space left\)\n$/,
  );
});

Deno.test({
  name: "an image that the caller may not read: exit code 1, the reason in the message",
  ignore: Deno.uid() !== 0,
  async fn() {
    using directory = temporaryDirectory();
    const image = directory.file("image");
    Deno.writeFileSync(image, new Uint8Array(4096), { mode: 0o600 });
    Deno.chmodSync(directory.path, 0o755);
    // As nobody, whose own copy it unpacks.
    Deno.mkdirSync(directory.file("cache"));
    Deno.chownSync(directory.file("cache"), 65534, 65534);
    const copy = directory.file("denbd");
    Deno.copyFileSync(await program(), copy);
    Deno.chmodSync(copy, 0o755);
    const { code, stderr } = await run(
      "setpriv",
      ["--reuid=65534", "--regid=65534", "--clear-groups", copy, "serve", "--file", image, "--port", "0"],
      { code: "any", env: { DENBD_UNPACK_DIR: directory.file("cache") } },
    );
    assertEquals(code, 1, stderr);
    assertMatch(stderr, /^denbd serve: .*permission denied.*\n$/i);
  },
});

storageTest("a state directory on a file system that is full is refused at the start", async () => {
  await using full = await smallFileSystem(64 * 1024);
  using directory = temporaryDirectory();
  const image = directory.file("image");
  Deno.writeFileSync(image, new Uint8Array(4096));
  Deno.mkdirSync(full.file("state"));
  assertEquals(
    (await run("sh", ["-c", `cat /dev/zero >'${full.file("filler")}' 2>/dev/null; true`])).code,
    0,
  );
  const words = ["serve", "--port", "0", "--file", image, "--state-dir", full.file("state")];
  const { stderr } = await denbd(words, { code: 1 });
  assertEquals(
    stderr,
    `denbd serve: cannot use the state directory ${full.file("state")}: there is no space left\n`,
  );
  assertEquals([...Deno.readDirSync(full.file("state"))], []);
});
