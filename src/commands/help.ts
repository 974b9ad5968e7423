/** The texts made from the declarations: help of the program and of a command. */
import type { Command } from "./command.ts";
import { longName, type Option, valueName } from "./options.ts";
import { GLOBAL_OPTIONS } from "./global_options.ts";

const WIDTH = 80;

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
  if (command.description !== undefined) {
    for (const paragraph of command.description.trim().split(/\n\s*\n/)) {
      lines.push("", ...wrap(paragraph, WIDTH));
    }
  }
  if (command.positional !== undefined) {
    lines.push("", "Arguments:", columns([[command.positional.name, command.positional.help]]));
  }
  const own = optionRows(command.options);
  if (own.length > 0) lines.push("", "Options:", columns(own));
  lines.push("", "Options of every command:", columns(optionRows(GLOBAL_OPTIONS)));
  if (command.examples !== undefined && command.examples.length > 0) {
    lines.push("", "Examples:");
    for (const example of command.examples) lines.push(`  ${example.text}:`, `    ${example.command}`);
  }
  return lines.join("\n") + "\n";
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
  return `${short}--${longName(key)}${value === null ? "" : ` ${value}`}`;
}

/** The help phrase with what the declaration adds to it. */
export function optionText(option: Option): string {
  if (option.type === "flag") return option.help;
  const notes: string[] = [];
  if (option.required) notes.push("required");
  if (option.default !== undefined) notes.push(`default ${option.default}`);
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

function wrap(text: string, width: number): string[] {
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
