/** What holds for every command, by its declaration alone. */
import { assert, assertEquals, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import { bashCompletions, fishCompletions, zshCompletions } from "../../src/commands/completions.ts";
import { GLOBAL_OPTIONS } from "../../src/commands/global_options.ts";
import { commandHelp, programHelp, readmeTable } from "../../src/commands/help.ts";
import { commandManual, programManual } from "../../src/commands/manual.ts";
import { longName, type Option } from "../../src/commands/options.ts";
import { readOptions, splitWords } from "../../src/commands/parse_arguments.ts";
import { runProgram } from "../../src/commands/program.ts";
import { commands } from "../../src/commands/table.ts";
import { UsageError } from "../../src/commands/usage_error.ts";
import { FakeSurroundings } from "./fake_surroundings.ts";

const pure = { permissions: "none" } as const;

Deno.test("no two commands have one name", pure, () => {
  assertEquals(new Set(commands.map(({ name }) => name)).size, commands.length);
});

for (const command of commands) {
  const { name, summary, usage, options, positional, examples = [] } = command;
  const table: Record<string, Option> = { ...options, ...GLOBAL_OPTIONS };

  Deno.test(`${name} says what it does, in one phrase, and how it is used`, pure, () => {
    assertMatch(name, /^[a-z]+(-[a-z]+)*$/);
    assertMatch(summary, /^[A-Z].{5,70}[^.]$/);
    assert(usage.length > 0);
    for (const line of usage) assert(line === name || line.startsWith(`${name} `), line);
    for (const example of examples) assertMatch(example.command, /\bdenbd\b/);
  });

  Deno.test(`the options of ${name} can be told apart and explain themselves`, pure, () => {
    assertEquals(Object.keys(options).filter((key) => key in GLOBAL_OPTIONS), []);
    const names = Object.entries(table).flatMap(([key, { short, aliases = [] }]) => [
      longName(key),
      ...aliases,
      ...(short === undefined ? [] : [short]),
    ]);
    assertEquals(new Set(names).size, names.length, names.join(" "));
    for (const [key, option] of Object.entries(options)) {
      assertMatch(longName(key), /^[a-z0-9]+(-[a-z0-9]+)*$/);
      if (option.short !== undefined) assertMatch(option.short, /^[A-Za-z]$/);
      assertMatch(option.help, /^[A-Z-].*[^.]$/, `--${longName(key)}`);
    }
  });

  Deno.test(`the usage of ${name} names only options that there are`, pure, () => {
    for (const [, long] of usage.join(" ").matchAll(/--([a-z-]+)/g)) {
      assert(Object.keys(table).some((key) => longName(key) === long), `--${long}`);
    }
  });

  Deno.test(`help, manual and completions of ${name} have all of it`, pure, () => {
    const shells = [bashCompletions(commands), zshCompletions(commands), fishCompletions(commands)];
    const texts = [commandHelp(command), commandManual(command, "1").replaceAll("\\-", "-")];
    for (const text of texts) {
      if (positional !== undefined) assertStringIncludes(text, positional.name);
      assertStringIncludes(text, usage[0]);
    }
    for (const [key, option] of Object.entries(table)) {
      for (const text of texts) {
        assertEquals(text.includes(`--${longName(key)}`), !option.hidden, longName(key));
      }
    }
    const lists = [
      programHelp(commands),
      programManual(commands, "1").replaceAll("\\-", "-"),
      readmeTable(commands),
    ];
    for (const text of [...lists, ...shells]) assertEquals(text.includes(name), !command.hidden);
  });

  const sizes = Object.entries(options).filter(([, { type }]) => type === "size");
  for (const [key] of sizes) {
    for (
      const [size, problem] of [["-1", "negative"], ["4x", "not a size"], [
        "99999999999999999999",
        "too large",
      ]]
    ) {
      Deno.test(`${name} --${longName(key)} ${size} is one clear line and exit 2`, pure, async () => {
        const around = new FakeSurroundings();
        const code = await runProgram([name, `--${longName(key)}`, size], commands, "1", around);
        assertEquals({ code, stdout: around.written.stdout }, { code: 2, stdout: "" });
        const [line, hint, end] = around.written.stderr.split("\n");
        assert(line.startsWith(`denbd ${name}: --${longName(key)}: "${size}" is `), line);
        assertStringIncludes(line, problem);
        assert(hint.startsWith("usage: denbd "), hint);
        assertEquals(end, "");
      });
    }
  }
}

for (const { name, positional } of commands) {
  Deno.test(
    `V53: ${name} refuses an option that there is not with one line, and how it is used`,
    pure,
    async () => {
      const around = new FakeSurroundings();
      const words = Array.from({ length: positional?.min ?? 0 }, () => "x");
      const code = await runProgram([name, ...words, "--no-such-option"], commands, "1.2.3", around);
      // For monitoring plugins 2 is a state.
      assertEquals(code, name === "check" ? 3 : 2);
      const [line, ...usage] = around.written.stderr.trimEnd().split("\n");
      assertEquals(line, `denbd ${name}: unrecognized option '--no-such-option'`);
      assert(usage.length > 0 && usage.every((each) => each.startsWith("usage: denbd ")), usage.join("\n"));
      assertEquals(around.written.stdout, "");
    },
  );
}

Deno.test("V55: every size and offset takes bytes and suffixes, and means the same by them", pure, () => {
  let count = 0;
  for (const command of commands) {
    for (const [key, option] of Object.entries(command.options as Record<string, Option>)) {
      if (option.type !== "size") continue;
      count++;
      const others = Object.entries(command.options as Record<string, Option>)
        .filter(([other, each]) => "required" in each && each.required !== undefined && other !== key)
        .map(([other]) => `--${longName(other)}=x`);
      const words = Array.from({ length: command.positional?.min ?? 0 }, () => "x");
      const parse = (text: string) =>
        readOptions(
          command,
          splitWords([`--${longName(key)}=${text}`, ...others, ...words], command.options),
        )[key];
      for (
        const [text, bytes] of [["8192", 8192], ["8k", 8192], ["8K", 8192], ["8KiB", 8192], ["8kB", 8000], [
          "1M",
          2 ** 20,
        ]]
      ) {
        assertEquals(parse(text as string), bytes, `${command.name} --${longName(key)} ${text}`);
      }
      for (const text of ["8x", "-1", "1.5k", ""]) {
        assertThrows(() => parse(text), UsageError, `--${longName(key)}`);
      }
    }
  }
  assert(count >= 6, `${count} options`);
});
