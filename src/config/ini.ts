/**
 * INI text in dnbd3's dialect, which all configuration files share.
 *
 * - `[section]`; the name may hold balanced brackets, so `[[::1]:5003]` works. A section may come more than once
 *   and may have no keys.
 * - `key = value` or `key: value`; a key may be repeated, and each occurrence is kept, in order.
 * - `;` or `#` at the start of a line, or after white space anywhere in it, starts a comment. (dnbd3-server itself
 *   knows `#` only at the start of a line and takes `isProxy=true # yes` for false, though its own documentation
 *   is written that way. Where a value is prose, `In room #7`, its way is the better one.)
 * - An indented line after a key continues that key: it is one more occurrence of it, the whole line being the
 *   value. An operator who indents keys for looks is in for a surprise, so entries made that way are marked and
 *   whoever reads them can say so.
 * - Lines end in LF or CR LF; a byte order mark in front is skipped.
 *
 * Every section and entry knows its line, so whoever finds a value wrong can say where it stands.
 */
import { printable } from "../base/printable.ts";
import { ConfigError } from "./config_error.ts";

/** One `key = value` line. */
export interface IniEntry {
  readonly key: string;
  readonly value: string;
  /** The value of a key that holds prose: a `#` in it is part of it, and only `;` starts a comment. */
  readonly prose: string;
  /** Counted from 1. */
  readonly line: number;
  /** The line was indented and so continues the key before it. */
  readonly continued: boolean;
}

/** A `[name]` line and the entries below it. Entries in front of the first section stand in one named "". */
export interface IniSection {
  readonly name: string;
  /** Counted from 1; 0 for the entries in front of the first section. */
  readonly line: number;
  readonly entries: readonly IniEntry[];
}

export interface ParseOptions {
  /** Name of the file for error messages. */
  file: string;
  /** Called with each malformed line, which is then skipped. Default: the error is thrown. */
  onMalformed?: (error: ConfigError) => void;
}

/**
 * Parses INI text.
 *
 * @returns The sections in order, repeated ones as often as they occur.
 * @throws {ConfigError} At the first line that is neither a section, nor an entry, nor a comment, unless
 *   `onMalformed` takes it.
 */
export function parse(text: string, options: ParseOptions): IniSection[] {
  const top = { name: "", line: 0, entries: [] as IniEntry[] };
  const sections = [top];
  let section = top;
  let previousKey: string | undefined;
  const malformed = (line: number, reason: string) => {
    const error = new ConfigError(options.file, line, reason);
    if (!options.onMalformed) throw error;
    options.onMalformed(error);
  };

  text.replace(/^\uFEFF/, "").split("\n").forEach((raw, index) => {
    const line = index + 1;
    const content = stripComment(raw).trim();
    if (content === "") return;
    const whole = raw.replace(/\s;.*$/s, "").trim();
    if (previousKey !== undefined && /^\s/.test(raw)) {
      section.entries.push({ key: previousKey, value: content, prose: whole, line, continued: true });
    } else if (content.startsWith("[")) {
      const name = sectionName(content);
      if (name === undefined) {
        return malformed(line, `section without its closing bracket: ${printable(content, 60)}`);
      }
      section = { name, line, entries: [] };
      sections.push(section);
      previousKey = undefined;
    } else {
      const separator = content.includes("=") ? content.indexOf("=") : content.indexOf(":");
      const key = content.slice(0, Math.max(separator, 0)).trim();
      if (separator < 0) {
        return malformed(line, `neither a [section] nor key=value: ${printable(content, 60)}`);
      }
      if (key === "") return malformed(line, `value without a key: ${printable(content, 60)}`);
      const [value, prose] = [content, whole].map((text) => text.slice(separator + 1).trim());
      section.entries.push({ key, value, prose, line, continued: false });
      previousKey = key;
    }
  });
  return top.entries.length === 0 ? sections.slice(1) : sections;
}

/**
 * Formats sections as text that {@linkcode parse} reads back.
 *
 * @param sections Pairs of a section's name and its entries as pairs of key and value; an entry whose value is
 *   an array is written once for each element. A section named "" has no header and must come first.
 * @throws {RangeError} If a name, key or value has no spelling in this dialect: line breaks, comment signs after
 *   white space, white space at either end.
 */
export function stringify(
  sections: Iterable<readonly [name: string, entries: Record<string, string | readonly string[]>]>,
): string {
  const parts: string[] = [];
  for (const [name, entries] of sections) {
    if (name !== "") {
      if (!plain(name) || sectionName(`[${name}]`) !== name) {
        throw new RangeError(`cannot write the section name ${quote(name)}`);
      }
      parts.push(`[${name}]\n`);
    }
    for (const [key, values] of Object.entries(entries)) {
      if (!plain(key) || key === "" || /^[[;#]|[=:]/.test(key)) {
        throw new RangeError(`cannot write the key ${quote(key)}`);
      }
      for (const value of typeof values === "string" ? [values] : values) {
        // The separator in front decides whether a leading ";" or "#" starts a comment: it does not.
        if (value.trim() !== value || !plain(`=${value}`)) {
          throw new RangeError(`cannot write the value of ${key}: ${quote(value)}`);
        }
        parts.push(`${key}=${value}\n`);
      }
    }
  }
  return parts.join("");
}

function stripComment(raw: string): string {
  const start = raw.search(/(^|\s)[;#]/);
  return start < 0 ? raw : raw.slice(0, start);
}

/** The name in `[name]`, or undefined where the bracket that closes it is not the last character. */
function sectionName(content: string): string | undefined {
  let depth = 0;
  for (let at = 0; at < content.length; at++) {
    if (content[at] === "[") depth++;
    if (content[at] === "]" && --depth === 0) {
      return at === content.length - 1 ? content.slice(1, -1).trim() : undefined;
    }
  }
  return undefined;
}

function plain(text: string): boolean {
  return text.trim() === text && !/[\r\n]/.test(text) && stripComment(text) === text;
}

function quote(text: string): string {
  return JSON.stringify(text);
}
