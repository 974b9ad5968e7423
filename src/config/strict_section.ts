/**
 * Sections of our own files, in which nothing is overlooked: a key that nobody knows, a key that comes twice where one
 * value counts, and a value that cannot be used are errors with their line.
 */
import { printable } from "../base/printable.ts";
import { ConfigError } from "./config_error.ts";
import type { IniSection } from "./ini.ts";

/** Makes a value of a text. Throws an Error whose message says what is wrong. */
export type ValueParser<V> = (text: string) => V;

/** What a section may hold, by key. `many`: the key may be repeated, and its value is an array. */
export type SectionKeys = Readonly<
  Record<string, { readonly parse: ValueParser<unknown>; readonly many?: boolean }>
>;

/** A value and its place. */
export interface Placed<V> {
  readonly value: V;
  /** Counted from 1. */
  readonly line: number;
}

/** What stands in a section: for keys with `many` an array, for the others the value, or `undefined`. */
export type SectionValues<K extends SectionKeys> = {
  readonly [key in keyof K]: K[key] extends { many: true } ? readonly Placed<ReturnType<K[key]["parse"]>>[]
    : Placed<ReturnType<K[key]["parse"]>> | undefined;
};

/**
 * Reads a section.
 *
 * @throws {ConfigError} About the first line that is wrong.
 */
export function readSection<const K extends SectionKeys>(
  section: IniSection,
  keys: K,
  file: string,
): SectionValues<K> {
  const values: Record<string, Placed<unknown>[]> = {};
  for (const key of Object.keys(keys)) values[key] = [];
  for (const { key, value: text, line, continued } of section.entries) {
    const bad = (reason: string) => new ConfigError(file, line, reason);
    if (!Object.hasOwn(keys, key)) {
      throw bad(
        `unknown key ${printable(key, 40)} in [${printable(section.name, 40)}]: there are ${
          Object.keys(keys).join(", ")
        }`,
      );
    }
    if (continued && looksLikeItsOwn(text, keys)) {
      throw bad(
        `indented, and so read as another value of ${key}: sections and keys begin at the start of the line`,
      );
    }
    if (!keys[key].many && values[key].length > 0) {
      throw bad(`${key} has a value already, in line ${values[key][0].line}`);
    }
    try {
      values[key].push({ value: keys[key].parse(text), line });
    } catch (error) {
      throw bad(`${key}: ${(error as Error).message}`);
    }
  }
  return Object.fromEntries(
    Object.entries(keys).map(([key, { many }]) => [key, many ? values[key] : values[key][0]]),
  ) as SectionValues<K>;
}

/** Whether a line that continues a key was meant as a section or a key: rights read otherwise would be the wrong ones. */
function looksLikeItsOwn(text: string, keys: SectionKeys): boolean {
  const [, word, sign] = /^(\w+)\s*([=:])/.exec(text) ?? [];
  return /^\[.*\]$/.test(text) || sign === "=" || sign === ":" && Object.hasOwn(keys, word);
}

/** Any text but none. */
export function parseText(text: string): string {
  if (text === "") throw new SyntaxError("a value is missing");
  if (text.includes("\0")) throw new SyntaxError("it has a zero byte");
  return text;
}

/** `true`, `yes`, `false` or `no`. */
export function parseYesNo(text: string): boolean {
  if (text === "true" || text === "yes") return true;
  if (text === "false" || text === "no") return false;
  throw new SyntaxError(`"${printable(text, 40)}" is neither true nor false`);
}

/** One of some words. */
export function oneOf<const W extends readonly string[]>(...words: W): ValueParser<W[number]> {
  return (text) => {
    if (words.includes(text)) return text;
    throw new SyntaxError(`"${printable(text, 40)}" is not one of ${words.join(", ")}`);
  };
}

/** A whole number within limits, both included. */
export function integerWithin(min: number, max: number): ValueParser<number> {
  return (text) => {
    const value = /^\d{1,15}$/.test(text) ? Number(text) : NaN;
    if (!(value >= min && value <= max)) {
      throw new RangeError(`"${printable(text, 40)}" is not a whole number from ${min} to ${max}`);
    }
    return value;
  };
}

/** A path, relative ones from a directory. */
export function pathFrom(directory: string): ValueParser<string> {
  return (text) => {
    const path = parseText(text);
    return path.startsWith("/") ? path : `${directory}/${path}`;
  };
}
