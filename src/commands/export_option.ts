/**
 * The value of `--export`: `NAME=DISK`, then what else is to be said of it, after commas.
 *
 * `NAME=DISK[,readonly][,default][,description=TEXT]`; a comma that belongs to a path or text is doubled.
 */
import { quote } from "../base/printable.ts";
import { UsageError } from "./usage_error.ts";

export interface ExportOption {
  readonly name: string;
  /** Path of an image or block device. */
  readonly disk: string;
  readonly readOnly: boolean;
  /** Answers to the empty name. */
  readonly isDefault: boolean;
  readonly description: string;
}

const NAME_BYTES_MAX = 4096;

/**
 * Parses the value of one `--export`.
 *
 * @throws {UsageError} If it says nothing sensible.
 */
export function parseExportOption(text: string): ExportOption {
  const bad = (why: string) => new UsageError(`--export: ${quote(text)} ${why}`);
  const [named, ...rest] = splitAtCommas(text);
  const equals = named.indexOf("=");
  if (equals < 0) throw bad("is no NAME=DISK");
  const name = named.slice(0, equals);
  const disk = named.slice(equals + 1);
  if (disk === "") throw bad("names no disk");
  checkExportName(name);
  let readOnly = false;
  let isDefault = false;
  let description = "";
  for (const word of rest) {
    if (word === "readonly") readOnly = true;
    else if (word === "default") isDefault = true;
    else if (word.startsWith("description=")) {
      description = checkDescription(word.slice("description=".length));
    } else throw bad(`has ${quote(word)}, which is none of readonly, default, description=TEXT`);
  }
  return { name, disk, readOnly, isDefault, description };
}

/** @throws {UsageError} If clients could not ask for an export of this name. */
export function checkExportName(name: string): string {
  if (name.includes("\0") || new TextEncoder().encode(name).length > NAME_BYTES_MAX) {
    throw new UsageError(`an export's name has at most ${NAME_BYTES_MAX} bytes, and no zero byte among them`);
  }
  return name;
}

/** @throws {UsageError} If clients could not be told this description. */
export function checkDescription(description: string): string {
  if (description.includes("\0") || new TextEncoder().encode(description).length > NAME_BYTES_MAX) {
    throw new UsageError(`a description has at most ${NAME_BYTES_MAX} bytes, and no zero byte among them`);
  }
  return description;
}

function splitAtCommas(text: string): string[] {
  const words = [""];
  for (let i = 0; i < text.length; i++) {
    if (text[i] !== ",") words[words.length - 1] += text[i];
    else if (text[i + 1] === ",") words[words.length - 1] += text[i++];
    else words.push("");
  }
  return words;
}
