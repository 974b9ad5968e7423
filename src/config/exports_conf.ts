/**
 * `exports.conf`: the NBD exports of a configuration directory, a section for each, named like the export.
 *
 * ```ini
 * [root]
 * disk = /srv/disks/root.img        ; a path (relative ones from the directory), or the URI of a remote disk
 * description = the root disk
 * default = true                    ; answers to the empty name too
 * [tools]
 * disk = tools.img
 * readonly = true
 * [scratch]
 * disk = /dev/vg0/scratch
 * discard = ignore                  ; what TRIM does: unmap or ignore
 * writers = any                     ; any number of writing sessions, or one-session (the default)
 * ```
 */
import { type DiskLocator, parseDiskLocator } from "../base/uri.ts";
import { printable } from "../base/printable.ts";
import { ConfigError } from "./config_error.ts";
import { parse } from "./ini.ts";
import { oneOf, parseText, parseYesNo, readSection, type SectionKeys } from "./strict_section.ts";

/** What a section says. */
export interface ExportSettings {
  readonly name: string;
  /** Of its section. */
  readonly line: number;
  /** Paths are absolute, or from where the program runs if the directory was named so. */
  readonly disk: DiskLocator;
  readonly readOnly: boolean;
  readonly isDefault: boolean;
  readonly description: string;
  readonly discard: "unmap" | "ignore" | undefined;
  readonly writers: "any" | "one-session";
}

/** What NBD allows a name and a description. */
const STRING_BYTES_MAX = 4096;

const KEYS = {
  disk: { parse: parseDisk },
  readonly: { parse: parseYesNo },
  default: { parse: parseYesNo },
  description: { parse: parseShortText },
  discard: { parse: oneOf("unmap", "ignore") },
  writers: { parse: oneOf("any", "one-session") },
} satisfies SectionKeys;

/**
 * Parses the file.
 *
 * @param text The whole of it.
 * @param options `directory`: where relative paths begin.
 * @throws {ConfigError} About the first thing that is wrong.
 */
export function parseExportsConf(
  text: string,
  { file, directory }: { readonly file: string; readonly directory: string },
): ExportSettings[] {
  const exports: ExportSettings[] = [];
  for (const section of parse(text, { file })) {
    const { name, line } = section;
    const bad = (line: number, reason: string) => new ConfigError(file, line, reason);
    if (line === 0) throw bad(section.entries[0].line, "a key in front of the first [export]");
    if (name === "") {
      throw bad(line, "an export needs a name; default = true lets it answer to the empty one");
    }
    if (!isShort(name)) throw bad(line, `the name of an export has at most ${STRING_BYTES_MAX} bytes`);
    const before = exports.find((each) => each.name === name);
    if (before !== undefined) {
      throw bad(line, `export "${printable(name)}" is in line ${before.line} already`);
    }
    const values = readSection(section, KEYS, file);
    if (values.disk === undefined) throw bad(line, `export "${printable(name)}" has no disk`);
    const { value: locator, line: diskLine } = values.disk;
    const isFile = locator.kind === "file";
    if (!isFile && values.discard !== undefined) {
      throw bad(values.discard.line, "discard is for files and block devices; a server decides for itself");
    }
    const readOnly = values.readonly?.value ?? false;
    if (locator.kind === "image" && !readOnly) {
      throw bad(diskLine, "an image of dnbd3 is to be readonly = true");
    }
    const isDefault = values.default?.value ?? false;
    const first = isDefault ? exports.find((each) => each.isDefault) : undefined;
    if (first !== undefined) {
      throw bad(values.default!.line, `the default export is "${printable(first.name)}" already`);
    }
    exports.push({
      name,
      line,
      disk: isFile && !locator.path.startsWith("/")
        ? { kind: "file", path: `${directory}/${locator.path}` }
        : locator,
      readOnly,
      isDefault,
      description: values.description?.value ?? "",
      discard: values.discard?.value,
      writers: values.writers?.value ?? "one-session",
    });
  }
  return exports;
}

function parseDisk(text: string): DiskLocator {
  return parseDiskLocator(parseText(text));
}

function parseShortText(text: string): string {
  if (!isShort(text)) {
    throw new RangeError(`it has at most ${STRING_BYTES_MAX} bytes, and no zero byte among them`);
  }
  return text;
}

function isShort(text: string): boolean {
  return !text.includes("\0") && new TextEncoder().encode(text).length <= STRING_BYTES_MAX;
}
