/** Asking a running server over its control socket. */
import { quote } from "../base/printable.ts";
import {
  type ControlAnswer,
  type ControlRequest,
  decodeAnswer,
  encodeRequest,
} from "../wire/control/message.ts";

/** The most of an answer that is read: the JSON status of thousands of clients has room. */
const ANSWER_BYTES_MAX = 16 * 1024 * 1024;
/** A server that lives answers sooner. */
const ANSWER_MS_MAX = 30_000;
/** Of a path in a message: all of it. */
const PATH_CHARS_MAX = 4096;
const LF = 0x0a;

/**
 * Sends one request and waits for its answer.
 *
 * @param path The control socket.
 * @param options `timeoutMs`: for the whole exchange; default 30 s.
 * @returns The answer, whatever its code.
 * @throws {Error} If the server cannot be reached, does not answer in time, or answers nonsense.
 */
export async function askControl(
  path: string,
  request: ControlRequest,
  options: { timeoutMs?: number } = {},
): Promise<ControlAnswer> {
  const { timeoutMs = ANSWER_MS_MAX } = options;
  const bytes = encodeRequest(request);
  const conn = await connect(path);
  let late = false;
  const close = () => {
    try {
      conn.close();
    } catch {
      // Closed already.
    }
  };
  const timer = setTimeout(() => {
    late = true;
    close();
  }, timeoutMs);
  try {
    let line: string | null;
    try {
      for (let rest = bytes; rest.length > 0;) rest = rest.subarray(await conn.write(rest));
    } catch {
      // A server that refuses without reading may have answered all the same.
    }
    try {
      line = await readLine(conn);
    } catch (error) {
      if (late) throw noAnswer(path, timeoutMs);
      throw new Error(`the server at ${quote(path, PATH_CHARS_MAX)} broke off`, { cause: error });
    }
    if (line === null) {
      throw new Error(`the server at ${quote(path, PATH_CHARS_MAX)} closed without an answer`);
    }
    return decodeAnswer(line);
  } finally {
    clearTimeout(timer);
    close();
  }
}

/**
 * Sends one request as JSON, and reads the answer and the lines that follow it.
 *
 * @param options `timeoutMs`: until the answer; default 30 s.
 * @returns The lines, the answer's first, until the server closes.
 * @throws {Error} If the server cannot be reached, does not answer in time, or breaks off.
 */
export async function* followControl(
  path: string,
  request: Omit<ControlRequest, "form">,
  options: { timeoutMs?: number } = {},
): AsyncGenerator<string, void> {
  const { timeoutMs = ANSWER_MS_MAX } = options;
  // Nobody else needs it, and the program starts faster without.
  const { TextLineStream } = await import("@std/streams");
  using conn = await connect(path);
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(), timeoutMs);
  try {
    for (let rest = encodeRequest({ ...request, form: "json" }); rest.length > 0;) {
      rest = rest.subarray(await conn.write(rest));
    }
    const text = conn.readable.pipeThrough(new TextDecoderStream(), { signal: late.signal });
    const lines: AsyncIterable<string> = text.pipeThrough(new TextLineStream());
    for await (const line of lines) {
      clearTimeout(timer);
      yield line;
    }
  } catch (error) {
    if (late.signal.aborted) throw noAnswer(path, timeoutMs);
    throw new Error(`the server at ${quote(path, PATH_CHARS_MAX)} broke off`, { cause: error });
  } finally {
    clearTimeout(timer);
  }
}

function noAnswer(path: string, timeoutMs: number): Error {
  return new Error(
    `the server at ${quote(path, PATH_CHARS_MAX)} gave no answer within ${timeoutMs / 1000} s`,
  );
}

async function connect(path: string): Promise<Deno.UnixConn> {
  try {
    return await Deno.connect({ transport: "unix", path });
  } catch (error) {
    const why = error instanceof Deno.errors.NotFound
      ? "there is no such file"
      : error instanceof Deno.errors.ConnectionRefused
      ? "no server answers on it"
      : (error as Error).message;
    throw new Error(`cannot connect to the control socket ${quote(path, PATH_CHARS_MAX)}: ${why}`);
  }
}

/** The bytes before the first line end, or before the end of the stream; `null` if there are none. */
async function readLine(conn: Deno.Conn): Promise<string | null> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  const buffer = new Uint8Array(64 * 1024);
  for (let count; (count = await conn.read(buffer)) !== null;) {
    const chunk = buffer.slice(0, count);
    const end = chunk.indexOf(LF);
    chunks.push(end < 0 ? chunk : chunk.subarray(0, end));
    length += count;
    if (end >= 0) break;
    if (length > ANSWER_BYTES_MAX) throw new Error(`its answer is longer than ${ANSWER_BYTES_MAX} bytes`);
  }
  if (length === 0) return null;
  const decoder = new TextDecoder();
  return chunks.map((chunk) => decoder.decode(chunk, { stream: true })).join("") + decoder.decode();
}
