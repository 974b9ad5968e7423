import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { runProgram } from "../../src/commands/program.ts";
import { commands } from "../../src/commands/table.ts";
import { readKeyPair } from "../../src/net/channel_identity.ts";
import { temporaryDirectory } from "../testing/process.ts";
import { FakeSurroundings } from "./fake_surroundings.ts";

async function denbd(words: readonly string[], environment: Record<string, string> = {}) {
  const around = new FakeSurroundings(environment);
  const code = await runProgram(words, commands, "1", around);
  return { code, out: around.written.stdout, stderr: around.written.stderr };
}

const mode = (path: string) => Deno.statSync(path).mode! & 0o777;

Deno.test("keygen writes a private key for its owner only, and its public key beside it and to stdout", async () => {
  using directory = temporaryDirectory();
  const path = directory.file("server");
  const { code, out, stderr } = await denbd(["keygen", "--comment", "store 1", path]);
  assertEquals([code, stderr], [0, ""]);
  assertMatch(out, /^denbd-x25519 [A-Za-z0-9+/]{43}= store 1\n$/);
  assertEquals(Deno.readTextFileSync(`${path}.pub`), out);
  assertEquals([mode(path), mode(`${path}.pub`) & 0o600], [0o600, 0o600]);
  const { publicKey } = await readKeyPair(path);
  assertEquals(out.split(" ")[1], publicKey.toBase64());
  assertEquals(await denbd(["keygen", "--public", "-C", "again", path]), {
    code: 0,
    out: out.replace("store 1", "again"),
    stderr: "",
  });
});

Deno.test("keygen overwrites nothing", async () => {
  using directory = temporaryDirectory();
  const path = directory.file("key");
  await denbd(["keygen", path]);
  const before = Deno.readTextFileSync(path);
  const { code, out, stderr } = await denbd(["keygen", path]);
  assertEquals([code, out], [1, ""]);
  assertEquals(stderr, `denbd keygen: cannot create ${path}: it exists already\n`);
  assertEquals((await denbd(["keygen", "--psk", path])).code, 1);
  assertEquals(Deno.readTextFileSync(path), before);
});

Deno.test("keygen leaves no private key behind whose public key cannot be written", async () => {
  using directory = temporaryDirectory();
  const path = directory.file("key");
  Deno.writeTextFileSync(`${path}.pub`, "another's");
  const { code, out, stderr } = await denbd(["keygen", path]);
  assertEquals([code, out], [1, ""]);
  assertEquals(stderr, `denbd keygen: cannot create ${path}.pub: it exists already\n`);
  assertEquals([...Deno.readDirSync(directory.path)].map(({ name }) => name), ["key.pub"]);
});

Deno.test("keygen without a file makes the user's key, in a directory of the user's own", async () => {
  using directory = temporaryDirectory();
  const home = directory.file("home");
  const { code, out } = await denbd(["keygen"], { HOME: home, USER: "alice" });
  assertEquals(code, 0);
  assertMatch(out, / alice@\S+\n$/);
  assertEquals([mode(`${home}/.config/denbd`), mode(`${home}/.config/denbd/key`)], [0o700, 0o600]);
  const other = { HOME: home, XDG_CONFIG_HOME: directory.file("xdg") };
  assertEquals((await denbd(["keygen"], other)).code, 0);
  assertEquals(mode(directory.file("xdg/denbd/key")), 0o600);
});

Deno.test("keygen --psk makes a pre-shared key and shows nothing", async () => {
  using directory = temporaryDirectory();
  const path = directory.file("psk");
  assertEquals(await denbd(["keygen", "--psk", path]), { code: 0, out: "", stderr: "" });
  assertMatch(Deno.readTextFileSync(path), /^denbd-psk [A-Za-z0-9+/]{43}=\n$/);
  assertEquals(mode(path), 0o600);
});

Deno.test("keygen says what is wrong", async () => {
  using directory = temporaryDirectory();
  const cases: [string[], number, string][] = [
    [["keygen"], 2, "FILE is missing"],
    [["keygen", "--psk"], 2, "FILE is missing"],
    [["keygen", "--psk", "--public", "x"], 2, "neither --public nor --comment"],
    [["keygen", "--comment", "a\nb", "x"], 2, "--comment: it is one line"],
    [["keygen", directory.file("no/key")], 1, "there is no such directory"],
    [["keygen", ""], 2, "FILE is missing"],
    [["keygen", "--public", directory.file("none")], 1, "it does not exist"],
  ];
  for (const [words, expected, message] of cases) {
    const { code, stderr } = await denbd(words);
    assertEquals(code, expected, words.join(" "));
    assertStringIncludes(stderr, message);
  }
});
