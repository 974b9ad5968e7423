/** The texts made from the declarations: help of the program and of a command. */
import type { Command } from "./command.ts";
import { defaultText, longName, type Option, valueName } from "./options.ts";
import { GLOBAL_OPTIONS } from "./global_options.ts";

const WIDTH = 80;

/** What exit codes mean, for the manual. */
export const EXIT_CODES: readonly (readonly [string, string])[] = [
  ["0", "It was done."],
  ["1", "It failed; one line on stderr says what could not be done and why."],
  ["2", "It was misused; a line says how, and another the usage."],
];

/** The description's paragraphs, each one line. */
export function paragraphs(text: string | undefined): string[] {
  if (text === undefined) return [];
  return text.trim().split(/\n\s*\n/).map((paragraph) => paragraph.trim().replace(/\s+/g, " "));
}

/** Shown by `denbd help` and `denbd` alone. */
export function programHelp(commands: readonly Command[]): string {
  const rows = commands.filter((each) => !each.hidden).map((each) => [each.name, each.summary] as const);
  return [
    "usage: denbd COMMAND [OPTIONS] [ARGUMENTS]",
    "",
    "Network block storage: serves, reads, writes, copies and watches disks.",
    "",
    "Commands:",
    columns(rows),
    "",
    "denbd help COMMAND tells more; denbd --version shows the version.",
    "",
  ].join("\n");
}

/** Shown by `denbd help COMMAND` and `denbd COMMAND --help`. */
export function commandHelp(command: Command): string {
  const lines = command.usage.map((usage, index) => `${index === 0 ? "usage:" : "      "} denbd ${usage}`);
  lines.push("", `${command.summary}.`);
  for (const paragraph of paragraphs(command.description)) lines.push("", ...wrap(paragraph, WIDTH));
  if (command.positional !== undefined) {
    lines.push("", "Arguments:", columns([[command.positional.name, command.positional.help]]));
  }
  const own = optionRows(command.options);
  if (own.length > 0) lines.push("", "Options:", columns(own));
  lines.push("", "Options of every command:", columns(optionRows(GLOBAL_OPTIONS)));
  if (command.exitCodes !== undefined) lines.push("", "Exit codes:", columns(command.exitCodes));
  if (command.examples !== undefined && command.examples.length > 0) {
    lines.push("", "Examples:");
    for (const example of command.examples) lines.push(`  ${example.text}:`, `    ${example.command}`);
  }
  return lines.join("\n") + "\n";
}

/** The table of commands in the README, in Markdown. */
export function readmeTable(commands: readonly Command[]): string {
  const rows = commands.filter((each) => !each.hidden).map(({ name, summary }) =>
    `| \`${name}\` | ${summary} |`
  );
  return ["| command | does |", "| --- | --- |", ...rows].join("\n") + "\n";
}

/** The names and the text of each option that is shown. */
export function optionRows(options: Command["options"]): [string, string][] {
  return Object.entries(options)
    .filter(([, option]) => !option.hidden)
    .map(([key, option]) => [optionNames(key, option), optionText(option)]);
}

function optionNames(key: string, option: Option): string {
  const value = valueName(key, option);
  const short = option.short === undefined ? "    " : `-${option.short}, `;
  const implied = option.type !== "flag" && option.implied !== undefined;
  return `${short}--${longName(key)}${value === null ? "" : implied ? `[=${value}]` : ` ${value}`}`;
}

/** The help phrase with what the declaration adds to it. */
export function optionText(option: Option): string {
  if (option.type === "flag") return option.help;
  const notes: string[] = [];
  if (option.required) notes.push("required");
  const byDefault = defaultText(option);
  if (byDefault !== null) notes.push(`default ${byDefault}`);
  if (option.repeat) notes.push("may be repeated");
  return notes.length === 0 ? option.help : `${option.help} (${notes.join("; ")})`;
}

/** Two columns, the second wrapped. */
function columns(rows: readonly (readonly [string, string])[]): string {
  const left = Math.min(Math.max(...rows.map(([name]) => name.length)), 30);
  const lines: string[] = [];
  for (const [name, text] of rows) {
    const wrapped = wrap(text, WIDTH - left - 4);
    if (name.length > left) lines.push(`  ${name}`, `  ${"".padEnd(left)}  ${wrapped[0]}`);
    else lines.push(`  ${name.padEnd(left)}  ${wrapped[0]}`);
    for (const line of wrapped.slice(1)) lines.push(`  ${"".padEnd(left)}  ${line}`);
  }
  return lines.join("\n");
}

/** Lines of at most `width` characters, unless a word is longer. */
export function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(/\s+/)) {
    if (line !== "" && line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else {
      line = line === "" ? word : `${line} ${word}`;
    }
  }
  return [...lines, line];
}
