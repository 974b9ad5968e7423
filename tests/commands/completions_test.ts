import { assertEquals, assertStringIncludes } from "@std/assert";
import { bashCompletions, fishCompletions, zshCompletions } from "../../src/commands/completions.ts";
import { type Command, command } from "../../src/commands/command.ts";
import { findProgram, run, temporaryDirectory } from "../testing/process.ts";

const commands: Command[] = [
  command({
    name: "serve",
    summary: "Serves Bob's [disk]: a $HOME",
    usage: ["serve"],
    positional: { name: "ACL_ENTRY", help: "Who" },
    options: {
      file: { type: "string", short: "f", valueName: "FILE", help: 'The disk: it\'s "here" [or $there]' },
      mode: { type: "enum", values: ["one", "two"], short: "m", help: "Which" },
      port: { type: "port", help: "Which port" },
      secret: { type: "flag", hidden: true, help: "Not shown" },
    },
    run() {},
  }),
  command({
    name: "read",
    summary: "Reads",
    usage: ["read DISK"],
    positional: { name: "DISK", help: "Which" },
    options: {},
    run() {},
  }),
  command({
    name: "help",
    summary: "Helps",
    usage: ["help"],
    positional: { name: "COMMAND", help: "x" },
    options: {},
    run() {},
  }),
];

/** What bash offers after these words, the last of which is being typed. */
async function offered(...words: string[]): Promise<string[]> {
  using directory = temporaryDirectory();
  for (const name of ["disk.img", "dir", "other"]) await Deno.writeTextFile(directory.file(name), "");
  const script = `${bashCompletions(commands)}
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _denbd; printf '%s\\n' "\${COMPREPLY[@]}"`;
  const { stdout } = await run("bash", ["-c", script, "bash", "denbd", ...words], { cwd: directory.path });
  return stdout.trim().split("\n").filter(Boolean).sort();
}

const CASES: [string[], string[]][] = [
  [[""], ["--help", "--version", "help", "read", "serve"]],
  [["se"], ["serve"]],
  [["serve", "--f"], ["--file"]],
  [["serve", "--s"], []],
  [["serve", "--log"], ["--log-format"]],
  [["serve", "--file", "di"], ["dir", "disk.img"]],
  [["serve", "-f", "di"], ["dir", "disk.img"]],
  [["serve", "--file", "=", "di"], ["dir", "disk.img"]],
  [["serve", "--mode", ""], ["one", "two"]],
  [["serve", "--mode", "="], ["one", "two"]],
  [["serve", "--port", "d"], []],
  [["serve", "d"], []],
  [["read", "d"], ["dir", "disk.img"]],
  [["help", "r"], ["read"]],
];

for (const [words, expected] of CASES) {
  Deno.test(`bash completes "${words.join(" ")}"`, async () =>
    assertEquals(await offered(...words), expected));
}

const SCRIPTS = { bash: bashCompletions, zsh: zshCompletions, fish: fishCompletions };

for (const [shell, make] of Object.entries(SCRIPTS)) {
  Deno.test({
    name: `${shell} accepts its completion script, whatever the help says`,
    ignore: findProgram(shell) === null,
    async fn() {
      using directory = temporaryDirectory();
      await Deno.writeTextFile(directory.file("script"), make(commands));
      await run(shell, ["-n", directory.file("script")]);
    },
  });
}

Deno.test({
  name: "fish offers commands, options and values",
  ignore: findProgram("fish") === null,
  async fn() {
    using directory = temporaryDirectory();
    const env = { HOME: directory.path };
    const complete = async (line: string) => {
      const script = `${fishCompletions(commands)}\ncomplete -C '${line}'`;
      return (await run("fish", ["--no-config", "-c", script], { env })).stdout;
    };
    assertStringIncludes(await complete("denbd se"), "serve\tServes Bob's [disk]: a $HOME");
    assertStringIncludes(await complete("denbd serve --f"), `--file\tThe disk: it's "here" [or $there]`);
    assertEquals((await complete("denbd serve --mode ")).trim().split("\n"), ["one\tWhich", "two\tWhich"]);
  },
});
