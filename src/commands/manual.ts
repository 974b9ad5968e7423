/** Manual pages in the language of man(7), from the declarations. */
import type { Command } from "./command.ts";
import { GLOBAL_OPTIONS } from "./global_options.ts";
import { EXIT_CODES, optionRows, paragraphs, wrap } from "./help.ts";

const DESCRIPTION =
  "denbd is network block storage in one binary: it serves disks, moves them while they are in " +
  "use, and reads, writes or copies any of them by hand. One word picks the command.";

/** The page `denbd(1)`: what there is. */
export function programManual(commands: readonly Command[], version: string): string {
  const shown = commands.filter((each) => !each.hidden);
  return page("denbd", version, "network block storage", [
    section("SYNOPSIS", [synopsis("COMMAND [OPTIONS] [ARGUMENTS]")]),
    section("DESCRIPTION", [plain(DESCRIPTION)]),
    section("COMMANDS", shown.map(({ name, summary }) => tagged(name, `${summary}. See denbd-${name}(1).`))),
    section("OPTIONS", optionRows(GLOBAL_OPTIONS).map(optionEntry)),
    exitSection(EXIT_CODES),
  ]);
}

/** The page `denbd-COMMAND(1)`. */
export function commandManual(command: Command, version: string): string {
  const { name, summary, usage, description, positional, options, examples = [], exitCodes = EXIT_CODES } =
    command;
  const sections = [
    section("SYNOPSIS", usage.map(synopsis)),
    section("DESCRIPTION", [`${summary}.`, ...paragraphs(description)].map(plain)),
  ];
  if (positional !== undefined) {
    sections.push(section("ARGUMENTS", [tagged(positional.name, positional.help)]));
  }
  sections.push(section("OPTIONS", [...optionRows(options), ...optionRows(GLOBAL_OPTIONS)].map(optionEntry)));
  sections.push(exitSection(exitCodes));
  if (examples.length > 0) {
    const entries = examples.map(({ text, command }) =>
      `.PP\n${escape(text)}:\n.PP\n.nf\n    ${escape(command)}\n.fi`
    );
    sections.push(section("EXAMPLES", entries));
  }
  return page(`denbd-${name}`, version, summary, sections);
}

function page(name: string, version: string, summary: string, sections: readonly string[]): string {
  const heading = `.TH ${escape(name).toUpperCase()} 1 "" "denbd ${escape(version)}" "denbd"`;
  return [heading, section("NAME", [`${escape(name)} \\- ${escape(summary)}`]), ...sections].join("\n") +
    "\n";
}

function section(title: string, blocks: readonly string[]): string {
  // A section starts a paragraph by itself.
  return [`.SH ${title}`, ...blocks].join("\n").replace(/^(\.SH .*\n)\.PP\n/, "$1");
}

function exitSection(codes: typeof EXIT_CODES): string {
  return section("EXIT STATUS", codes.map(([code, text]) => tagged(code, text)));
}

function synopsis(usage: string): string {
  return `.PP\n.B denbd\n${escape(usage)}`;
}

function plain(text: string): string {
  return `.PP\n${lines(text)}`;
}

function tagged(tag: string, text: string): string {
  return `.TP\n.B ${escape(tag)}\n${lines(text)}`;
}

function optionEntry([names, text]: readonly [string, string]): string {
  return tagged(names.trim(), text);
}

function lines(text: string): string {
  return wrap(text, 72).map(escape).join("\n");
}

/** Hyphens that can be typed, backslashes as they are, and no line that is taken for a request. */
function escape(text: string): string {
  return text.replaceAll("\\", "\\e").replaceAll("-", "\\-").replace(/^[.']/, "\\&$&");
}
