import { parseDuration } from "../base/duration_text.ts";
import { parseAddressOption } from "../base/ip_address.ts";
import { printable, quote } from "../base/printable.ts";
import { parseSize } from "../base/size_text.ts";
import { UsageError } from "./usage_error.ts";

interface Named {
  /** One phrase, without a full stop. */
  readonly help: string;
  /** One letter. */
  readonly short?: string;
  /** Further long names, accepted and not shown. */
  readonly aliases?: readonly string[];
  /** Accepted, and shown nowhere. */
  readonly hidden?: boolean;
}

interface Valued<V> extends Named {
  /** What the help shows in the value's place. See {@linkcode namesPath}. */
  readonly valueName?: string;
  readonly default?: V;
  /** `true`, or the line to say when it is missing; options with the same line say it once. */
  readonly required?: boolean | string;
  /** The value of the option when it is given without one. Another one then needs the `=`: `--name=value`. */
  readonly implied?: string;
  /** May be given several times; the value is an array, empty if it was not given. */
  readonly repeat?: boolean;
}

interface Limited {
  readonly min?: number;
  readonly max?: number;
}

/**
 * One option of a command. Its key in the declaration, in camelCase, gives its long name: `defaultDeny` is
 * `--default-deny`.
 */
export type Option =
  /** `true` if given. `ignoresValue`: `--name=anything` is the same as `--name`. */
  | (Named & { readonly type: "flag"; readonly ignoresValue?: boolean })
  | (Valued<string> & { readonly type: "string" })
  /** Bytes: `4k`, `1G`, `64MiB`. `min` and `max` in bytes. */
  | (Valued<number> & Limited & { readonly type: "size" })
  | (Valued<number> & Limited & { readonly type: "integer" })
  /** 0 to 65535. */
  | (Valued<number> & { readonly type: "port" })
  /** An IPv4 or IPv6 address, no name: `0` is `0.0.0.0`, brackets are taken off. */
  | (Valued<string> & { readonly type: "address" })
  | (Valued<string> & { readonly type: "enum"; readonly values: readonly string[] })
  /** Milliseconds: `500ms`, `30s`, `2m`. `min` and `max` in milliseconds. */
  | (Valued<number> & Limited & { readonly type: "duration" });

/** The options of a command by their camelCase names. */
export type OptionTable = Readonly<Record<string, Option>>;

type ValueOf<O extends Option> = O extends { type: "flag" } ? boolean
  : O extends { type: "size" | "integer" | "port" | "duration" } ? number
  : O extends { type: "enum"; values: readonly (infer V)[] } ? V
  : string;

type Given<O extends Option> = O extends { type: "flag" } ? boolean
  : O extends { repeat: true } ? readonly ValueOf<O>[]
  : O extends { required: true | string } ? ValueOf<O>
  : O extends { default: string | number } ? ValueOf<O>
  : ValueOf<O> | undefined;

/** What a command gets for its declaration. */
export type OptionValues<T extends OptionTable> = { readonly [K in keyof T]: Given<T[K]> };

/** `defaultDeny` → `default-deny`. */
export function longName(key: string): string {
  return key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

/** What the help shows in the value's place, or `null` for a flag. */
export function valueName(key: string, option: Option): string | null {
  if (option.type === "flag") return null;
  if (option.valueName !== undefined) return option.valueName;
  switch (option.type) {
    case "address":
      return "ADDR";
    case "port":
      return "PORT";
    case "size":
      return "SIZE";
    case "integer":
      return "N";
    case "duration":
      return "TIME";
    case "enum":
      return option.values.join("|");
    case "string":
      return longName(key).toUpperCase();
  }
}

/** The default of an option as one would type it, or `null` if there is none to speak of. */
export function defaultText(option: Exclude<Option, { type: "flag" }>): string | null {
  const { type, default: value } = option;
  if (value === undefined || value === "") return null;
  if (type === "duration") return inUnits(value, [["h", 3_600_000], ["m", 60_000], ["s", 1000], ["ms", 1]]);
  if (type === "size") return inUnits(value, [["G", 2 ** 30], ["M", 2 ** 20], ["K", 1024], ["", 1]]);
  return String(value);
}

/** In the largest unit that divides it; the last one divides all. */
function inUnits(value: number, units: readonly (readonly [name: string, size: number])[]): string {
  const [name, size] = units.find(([, size]) => value % size === 0)!;
  return value === 0 ? "0" : `${value / size}${name}`;
}

/** Whether what stands for a value in the help stands for a path. */
export function namesPath(name: string): boolean {
  return /^(FILE|DIR|SOCK|PATH|DISK|IMAGE|SOURCE|DESTINATION)\b/.test(name);
}

/**
 * Parses the value of one option.
 *
 * @param spelling How the user wrote the option, for the message.
 * @throws {UsageError} If the value is not of the option's type.
 */
export function parseValue(
  spelling: string,
  option: Exclude<Option, { type: "flag" }>,
  text: string,
): string | number {
  switch (option.type) {
    case "string":
      if (text === "" && namesPath(option.valueName ?? "")) {
        throw new UsageError(`${spelling}: a path is missing`);
      }
      return text;
    case "enum":
      if (option.values.includes(text)) return text;
      throw new UsageError(`${spelling}: ${quote(text)} is not one of ${option.values.join(", ")}`);
    case "address": {
      const address = parseAddressOption(text);
      if (address === null) throw new UsageError(`${spelling}: ${quote(text)} is not an IP address`);
      return address;
    }
    case "port":
      return parseInteger(spelling, text, 0, 65535);
    case "integer":
      return parseInteger(spelling, text, option.min ?? 0, option.max ?? Number.MAX_SAFE_INTEGER);
    case "size":
      return within(spelling, text, option, parsed(spelling, text, parseSize));
    case "duration":
      return within(spelling, text, option, parsed(spelling, text, parseDuration));
  }
}

function parsed(spelling: string, text: string, parse: (text: string) => number): number {
  try {
    return parse(text);
  } catch (error) {
    throw new UsageError(`${spelling}: ${(error as Error).message}`);
  }
}

function within(spelling: string, text: string, limits: Limited, value: number): number {
  if (limits.min !== undefined && value < limits.min) {
    throw new UsageError(`${spelling}: ${quote(text)} is too small (at least ${limits.min})`);
  }
  if (limits.max !== undefined && value > limits.max) {
    throw new UsageError(`${spelling}: ${quote(text)} is too large (at most ${limits.max})`);
  }
  return value;
}

function parseInteger(spelling: string, text: string, min: number, max: number): number {
  const value = Number(text);
  if (!/^-?\d+$/.test(text)) throw new UsageError(`${spelling}: ${quote(text)} is not a whole number`);
  if (value < min || value > max) {
    throw new UsageError(`${spelling}: ${printable(text, 64)} is out of range (${min} to ${max})`);
  }
  return value;
}
