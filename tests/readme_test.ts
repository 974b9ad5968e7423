/** The README says what is true of the program now. */

import { assertEquals } from "@std/assert";
import config from "../deno.json" with { type: "json" };
import { GLOBAL_OPTIONS } from "../src/commands/global_options.ts";
import { readmeTable } from "../src/commands/help.ts";
import { splitWords } from "../src/commands/parse_arguments.ts";
import { commands } from "../src/commands/table.ts";

const root = new URL("..", import.meta.url);
const readme = Deno.readTextFileSync(new URL("README.md", root));

/** Command lines in fenced blocks: all of a `sh` block, and those behind a prompt of a `console` block. */
function commandLines(): string[] {
  const blocks = [...readme.matchAll(/^```(\w+)\n(.*?)^```$/gms)];
  return blocks.flatMap(([, kind, text]) => {
    const lines = text.split("\n").map((line) => line.replace(/\s+#.*$/, "").replace(/ &$/, ""));
    if (kind === "sh") return lines;
    return lines.filter((line) => /^\w*\$ /.test(line)).map((line) => line.replace(/^\w*\$ /, ""));
  });
}

Deno.test("README: the table of commands is that of the program", () => {
  const [, table] = /<!-- made from .*? -->\n\n(.*?)\n?<!-- end -->/s.exec(readme)!;
  const cells = (text: string) =>
    text.trim().split("\n").map((row) => row.split("|").slice(1, -1).map((cell) => cell.trim()));
  assertEquals(
    cells(table).filter(([first]) => !/^-+$/.test(first)),
    cells(readmeTable(commands)).filter(
      ([first]) => !/^-+$/.test(first),
    ),
  );
});

Deno.test("README: every command line of denbd has a command and options that exist", () => {
  const lines = commandLines().flatMap((line) => line.split(" | ")).filter((line) =>
    /^denbd [a-z]/.test(line)
  );
  assertEquals(lines.length > 5, true);
  for (const line of lines) {
    const [, name, ...words] = line.split(/\s+/);
    const command = commands.find((each) => each.name === name);
    assertEquals(command?.name, name, line);
    splitWords(words, { ...GLOBAL_OPTIONS, ...command!.options });
  }
});

Deno.test("README: every task that it names exists", () => {
  const named = [...readme.matchAll(/(?:deno|deno@2\.9\.6) task (\w+)/g)].map(([, task]) => task);
  assertEquals(named.filter((task) => !(task in config.tasks)), []);
});

Deno.test("README: every file that it names exists", () => {
  for (const [, path] of readme.matchAll(/`((?:src|tests|scripts)\/[\w./@]+)`/g)) {
    Deno.statSync(new URL(path, root));
  }
});

Deno.test("README: every import that the program maps is explained", () => {
  for (const name of Object.keys(config.imports)) assertEquals(readme.includes(name), true, name);
});
