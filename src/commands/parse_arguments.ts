/**
 * Command line words → option values, with the habits of GNU getopt_long.
 *
 * `--name=value`, `--name value`, `-n value`, `-nvalue`, several flags in one word (`-dk`), unambiguous
 * abbreviations of long names, options and positional words mixed, `--` ends the options. The word after an
 * option that takes a value is its value whatever it starts with, so `--offset -1` is a bad offset and no
 * unknown option. An option that implies a value takes another one only from its own word. Of an option given twice
 * the last counts.
 */
import type { Command } from "./command.ts";
import { nearest } from "./nearest.ts";
import { longName, type Option, type OptionTable, parseValue } from "./options.ts";
import { UsageError } from "./usage_error.ts";

/** An option as it was found: its key, and its text unless it is a flag. */
export interface Found {
  readonly key: string;
  readonly option: Option;
  /** As the user wrote it, without the value. */
  readonly spelling: string;
  readonly text: string | null;
}

export interface Words {
  /** In the order of the command line. */
  readonly found: readonly Found[];
  readonly args: readonly string[];
}

/**
 * Splits a command line into options and positional words; values are not looked at.
 *
 * @throws {UsageError} On an unknown or ambiguous option, a missing value, or a value for a flag.
 */
export function splitWords(words: readonly string[], table: OptionTable): Words {
  const found: Found[] = [];
  const args: string[] = [];
  let position = 0;
  const takeValue = (spelling: string) => {
    if (position >= words.length) throw new UsageError(`option '${spelling}' requires an argument`);
    return words[position++];
  };
  while (position < words.length) {
    const word = words[position++];
    if (word === "--") {
      args.push(...words.slice(position));
      break;
    }
    if (word.startsWith("--")) {
      const equals = word.indexOf("=");
      const name = equals < 0 ? word.slice(2) : word.slice(2, equals);
      const given = equals < 0 ? null : word.slice(equals + 1);
      const key = findLong(name, table);
      const option = table[key];
      const spelling = `--${longName(key)}`;
      if (option.type !== "flag") {
        found.push({ key, option, spelling, text: given ?? option.implied ?? takeValue(spelling) });
      } else {
        if (given !== null && !option.ignoresValue) {
          throw new UsageError(`option '${spelling}' doesn't allow an argument`);
        }
        found.push({ key, option, spelling, text: null });
      }
    } else if (word.startsWith("-") && word.length > 1) {
      for (let index = 1; index < word.length; index++) {
        const letter = word[index];
        const key = Object.keys(table).find((key) => table[key].short === letter);
        if (key === undefined) throw new UsageError(`invalid option -- '${letter}'`);
        const option = table[key];
        const spelling = `-${letter}`;
        if (option.type === "flag") {
          found.push({ key, option, spelling, text: null });
          continue;
        }
        const rest = word.slice(index + 1);
        const text = rest !== "" ? rest : option.implied ?? takeValue(spelling);
        found.push({ key, option, spelling, text });
        break;
      }
    } else {
      args.push(word);
    }
  }
  return { found, args };
}

/** The key of the option with this long name, or the only one whose name starts so. */
function findLong(name: string, table: OptionTable): string {
  const candidates: string[] = [];
  for (const [key, option] of Object.entries(table)) {
    const names = [longName(key), ...option.aliases ?? []];
    if (names.includes(name)) return key;
    if (name !== "" && names.some((each) => each.startsWith(name))) candidates.push(key);
  }
  if (candidates.length === 1) return candidates[0];
  const shown = candidates.filter((key) => !table[key].hidden).map((key) => `'--${longName(key)}'`);
  if (candidates.length > 1) {
    throw new UsageError(`option '--${name}' is ambiguous; possibilities: ${shown.join(" ")}`);
  }
  const offered = Object.entries(table).filter(([, option]) => !option.hidden).map(([key]) => longName(key));
  const near = nearest(name, offered);
  const hint = near === null ? "" : `; did you mean '--${near}'?`;
  throw new UsageError(`unrecognized option '--${name}'${hint}`);
}

/**
 * Makes the option values of a command out of what was found on its command line.
 *
 * @throws {UsageError} If a value is wrong, a required option is missing, or the positional words are too few or
 *   too many.
 */
export function readOptions(command: Command, words: Words): Record<string, unknown> {
  const values: Record<string, unknown> = {};
  for (const [key, option] of Object.entries(command.options)) {
    if (option.type === "flag") values[key] = false;
    else if (option.repeat) values[key] = [];
    else if (option.default !== undefined) values[key] = option.default;
  }
  for (const { key, option, spelling, text } of words.found) {
    if (!(key in command.options)) continue;
    if (option.type === "flag") {
      values[key] = true;
      continue;
    }
    const value = parseValue(spelling, option, text ?? "");
    if (option.repeat) (values[key] as unknown[]).push(value);
    else values[key] = value;
  }
  const missing = new Set<string>();
  for (const [key, option] of Object.entries(command.options)) {
    if (option.type === "flag" || !option.required || words.found.some((each) => each.key === key)) continue;
    missing.add(option.required === true ? `--${longName(key)} is required.` : option.required);
  }
  if (missing.size > 0) throw new UsageError([...missing].join("\n"));
  checkPositional(command, words.args);
  return values;
}

function checkPositional(command: Command, args: readonly string[]): void {
  const { name = "", min = 0, max = command.positional === undefined ? 0 : Infinity } = command.positional ??
    {};
  if (args.length > max) throw new UsageError(`unexpected argument '${args[max]}'`);
  if (args.length < min) {
    const names = name.split(" ");
    throw new UsageError(`${names[args.length] ?? name} is missing`);
  }
}
