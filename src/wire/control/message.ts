/**
 * What is said over the control socket.
 *
 * Two forms. *Lines*, as flexnbd speaks: a command and its arguments, one a line, ended by an empty line or by
 * the end of the stream; the answer is one line, `<code>: <text>`, 0 for success. *JSON*: a line that starts
 * with `{` is a whole request; the answer is one line of JSON, and further requests may follow.
 *
 * @see spec: flexnbd section 10
 */
import { printable } from "../../base/printable.ts";
import { WireError } from "../wire_error.ts";

/** The version of the JSON form. Requests and answers carry it; a request without it means this one. */
const CONTROL_VERSION = 1;
/** A request, whatever its form, arguments included. Room for tens of thousands of access list entries. */
export const REQUEST_BYTES_MAX = 1024 * 1024;
/** A command or argument in the form of lines. */
export const LINE_BYTES_MAX = 4096;

export interface ControlRequest {
  readonly form: "lines" | "json";
  /** Empty if nothing was said. */
  readonly command: string;
  readonly args: readonly string[];
}

export interface ControlAnswer {
  /** 0 for success; otherwise the exit code of whoever asked. */
  readonly code: number;
  /** One line. */
  readonly text: string;
  /** What JSON asked for, beyond the text. */
  readonly result?: unknown;
}

/** One of the lines of JSON that may follow an answer. */
export function encodeLine(value: unknown): Uint8Array {
  return encoder.encode(JSON.stringify(value) + "\n");
}

const LF = 0x0a;
const encoder = new TextEncoder();

/** Makes requests of the bytes of one connection, however they are cut. */
export class RequestDecoder {
  #buffer = new Uint8Array(1024);
  #length = 0;
  /** Bytes in which no line end was found yet. */
  #scanned = 0;
  #lines: string[] = [];
  #lineBytes = 0;
  /** The form of the first request; the whole connection keeps to it. */
  #form: "lines" | "json" | null = null;

  /** How to answer: as the last line looked. */
  get form(): "lines" | "json" {
    return this.#form ?? "lines";
  }

  /**
   * Takes the next bytes of the stream; they are copied.
   *
   * @throws {WireError} If the request is longer than {@linkcode REQUEST_BYTES_MAX}.
   */
  push(bytes: Uint8Array): void {
    const length = this.#length + bytes.length;
    if (length > REQUEST_BYTES_MAX) {
      throw new WireError(`the request is longer than ${REQUEST_BYTES_MAX} bytes`);
    }
    if (length > this.#buffer.length) {
      const larger = new Uint8Array(Math.max(length, 2 * this.#buffer.length));
      larger.set(this.#buffer.subarray(0, this.#length));
      this.#buffer = larger;
    }
    this.#buffer.set(bytes, this.#length);
    this.#length = length;
  }

  /**
   * Takes a request out, if a whole one is there.
   *
   * @throws {WireError} If a line is too long or no UTF-8, or a JSON line is no request.
   */
  next(): ControlRequest | null {
    for (let line; (line = this.#takeLine()) !== null;) {
      if (this.#lines.length === 0 && line.startsWith("{")) {
        this.#form = "json";
        return parseJsonRequest(line);
      }
      if (this.#form === "json") {
        if (line === "") continue;
        throw new WireError(`a JSON request starts with "{", not ${JSON.stringify(printable(line[0]))}`);
      }
      this.#form = "lines";
      if (line === "") return this.#takeRequest();
      this.#lines.push(line);
    }
    return null;
  }

  /**
   * Takes the request that the end of the stream ends, if there is one.
   *
   * A last line without its end is dropped, for it may be half an address; JSON shows itself whether it is whole.
   *
   * @throws {WireError} As {@linkcode next}.
   */
  end(): ControlRequest | null {
    const rest = this.#buffer.subarray(0, this.#length);
    if (this.#lines.length === 0 && rest[0] === 0x7b) {
      this.#form = "json";
      this.#length = 0;
      return parseJsonRequest(decodeText(rest));
    }
    if (this.#form === "json") return null;
    this.#form = "lines";
    return this.#takeRequest();
  }

  #takeRequest(): ControlRequest {
    const [command = "", ...args] = this.#lines;
    this.#lines = [];
    this.#lineBytes = 0;
    return { form: "lines", command, args };
  }

  #takeLine(): string | null {
    const end = this.#buffer.subarray(0, this.#length).indexOf(LF, this.#scanned);
    const json = this.#lines.length === 0 && this.#buffer[0] === 0x7b;
    if ((end < 0 ? this.#length : end) > LINE_BYTES_MAX && !json) {
      throw new WireError(`a line is longer than ${LINE_BYTES_MAX} bytes`);
    }
    if (end < 0) {
      this.#scanned = this.#length;
      return null;
    }
    const line = decodeText(this.#buffer.subarray(0, end));
    this.#lineBytes += end + 1;
    this.#buffer.copyWithin(0, end + 1, this.#length);
    this.#length -= end + 1;
    this.#scanned = 0;
    if (this.#lineBytes > REQUEST_BYTES_MAX && !json) {
      throw new WireError(`the request is longer than ${REQUEST_BYTES_MAX} bytes`);
    }
    return line.endsWith("\r") ? line.slice(0, -1) : line;
  }
}

function decodeText(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new WireError("the request is no UTF-8");
  }
}

function parseJson(text: string, what: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new WireError(`the ${what} is no JSON`);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new WireError(`the ${what} is no JSON object`);
  }
  const { version = CONTROL_VERSION } = value as { version?: unknown };
  if (version !== CONTROL_VERSION) {
    throw new WireError(
      `the ${what} has version ${printable(JSON.stringify(version))}, not ${CONTROL_VERSION}`,
    );
  }
  return value as Record<string, unknown>;
}

function parseJsonRequest(text: string): ControlRequest {
  const { command, arguments: args = [] } = parseJson(text, "request");
  if (typeof command !== "string") throw new WireError(`the request's "command" is no string`);
  if (!Array.isArray(args) || !args.every((each) => typeof each === "string")) {
    throw new WireError(`the request's "arguments" are no array of strings`);
  }
  return { form: "json", command, args };
}

/**
 * Encodes a request.
 *
 * @throws {RangeError} In the form of lines, if a word is empty or has a line break: it could not be told apart
 *   from the end of the request or from two words.
 */
export function encodeRequest({ form, command, args }: ControlRequest): Uint8Array {
  if (form === "json") {
    return encoder.encode(JSON.stringify({ version: CONTROL_VERSION, command, arguments: args }) + "\n");
  }
  const words = [command, ...args];
  for (const word of words) {
    if (word === "" || /[\r\n]/.test(word)) {
      throw new RangeError(
        `cannot send "${printable(word)}" over the control socket: empty, or with a line break`,
      );
    }
  }
  return encoder.encode(words.map((word) => `${word}\n`).join("") + "\n");
}

/** Encodes an answer; line breaks in its text become spaces. */
export function encodeAnswer(answer: ControlAnswer, form: "lines" | "json"): Uint8Array {
  const text = answer.text.replace(/[\r\n]+/g, " ");
  if (form === "lines") return encoder.encode(`${answer.code}: ${text}\n`);
  const { code, result } = answer;
  // The status line has a trailing space, which is of no use here.
  return encoder.encode(
    JSON.stringify({ version: CONTROL_VERSION, code, text: text.trimEnd(), result }) + "\n",
  );
}

/**
 * Decodes an answer in either form.
 *
 * @param line Without its LF.
 * @throws {WireError} If it is none.
 */
export function decodeAnswer(line: string): ControlAnswer {
  if (line.startsWith("{")) {
    const { code, text, result } = parseJson(line, "answer");
    if (typeof code !== "number" || typeof text !== "string") {
      throw new WireError(`the answer lacks "code" or "text"`);
    }
    return { code, text, result };
  }
  const match = /^(\d{1,3}): ?(.*)$/.exec(line);
  if (match === null) throw new WireError(`the answer "${printable(line, 80)}" is not CODE: TEXT`);
  return { code: Number(match[1]), text: match[2] };
}
