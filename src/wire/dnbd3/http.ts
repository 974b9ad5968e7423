/**
 * As much of HTTP as dnbd3 speaks: requests without a body, answers with one.
 *
 * Any method that begins with G or P is taken alike.
 */
import { WireError } from "../wire_error.ts";

/** A request's line and headers, with their line ends. */
export const HEAD_BYTES_MAX = 3000;
const HEADERS_MAX = 100;
const FIELDS_MAX = 10;

export interface HttpRequest {
  /** The path, without its query. */
  readonly path: string;
  /** Names and values of the query, decoded, in order. */
  readonly fields: readonly (readonly [name: string, value: string])[];
  /** What the client takes the server for, with a port or without one; `null` if it does not say. */
  readonly host: string | null;
  /** The client will not ask again. */
  readonly closes: boolean;
  /** Bytes that the request took. */
  readonly byteCount: number;
}

/**
 * Parses the first request in the bytes.
 *
 * @returns The request, or null if more bytes are needed.
 * @throws {WireError} If it is none, or too long.
 */
export function parseHttpRequest(bytes: Uint8Array): HttpRequest | null {
  const text = new TextDecoder("latin1").decode(bytes.subarray(0, HEAD_BYTES_MAX));
  const end = /\r?\n\r?\n/.exec(text);
  if (end === null) {
    if (bytes.length >= HEAD_BYTES_MAX) {
      throw new WireError(`request head of more than ${HEAD_BYTES_MAX} bytes`);
    }
    return null;
  }
  const [line, ...headers] = text.slice(0, end.index).split(/\r?\n/);
  const match = /^[GP][A-Z]* (\S+) HTTP\/1\.([01])$/.exec(line);
  if (match === null) throw new WireError("malformed request line");
  if (headers.length > HEADERS_MAX) throw new WireError(`${headers.length} headers`);
  const isClose = (header: string) => /^connection:\s*close\s*$/i.test(header);
  if (headers.some((header) => !/^[^\s:]+:/.test(header))) throw new WireError("malformed header");
  const question = match[1].indexOf("?");
  return {
    path: question < 0 ? match[1] : match[1].slice(0, question),
    fields: question < 0 ? [] : parseFields(match[1].slice(question + 1)),
    host: headers.map((header) => /^host:\s*(.*?)\s*$/i.exec(header)?.[1]).find((it) => it !== undefined) ??
      null,
    closes: match[2] === "0" || headers.some(isClose),
    byteCount: end.index + end[0].length,
  };
}

function parseFields(query: string): [string, string][] {
  return query.split("&").slice(0, FIELDS_MAX).map((field) => {
    const equals = field.indexOf("=");
    return equals < 0
      ? [decode(field), ""]
      : [decode(field.slice(0, equals)), decode(field.slice(equals + 1))];
  });
}

function decode(text: string): string {
  const plain = text.replaceAll("+", " ");
  try {
    return decodeURIComponent(plain);
  } catch {
    return plain;
  }
}

/** Encodes a whole answer. */
export function encodeHttpReply(
  status: string,
  contentType: string,
  body: Uint8Array,
  keepAlive: boolean,
): Uint8Array {
  const head = new TextEncoder().encode(
    `HTTP/1.1 ${status}\r\nConnection: ${keepAlive ? "Keep-Alive" : "Close"}\r\n` +
      `Content-Type: ${contentType}; charset=utf-8\r\nContent-Length: ${body.length}\r\n\r\n`,
  );
  const bytes = new Uint8Array(head.length + body.length);
  bytes.set(head);
  bytes.set(body, head.length);
  return bytes;
}

/** What an answer may hold. Numbers of more than 53 bits are bigints. */
export type Json = null | boolean | number | bigint | string | readonly Json[] | {
  readonly [key: string]: Json;
};

/** Writes JSON as dnbd3 does: a blank behind each comma and colon. */
export function formatJson(value: Json): string {
  if (typeof value === "bigint") return value.toString();
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map((each: Json) => formatJson(each)).join(", ")}]`;
  const pairs = Object.entries(value).map(([key, each]) => `${JSON.stringify(key)}: ${formatJson(each)}`);
  return `{${pairs.join(", ")}}`;
}
