/** HTTP over one of our connections: requests without a body, one after the other, each with its answer. */
import type { Clock } from "../os/clock.ts";
import { encodeHttpReply, HEAD_BYTES_MAX, type HttpRequest, parseHttpRequest } from "../wire/dnbd3/http.ts";
import { WireError } from "../wire/wire_error.ts";
import type { Connection } from "./connection.ts";

export interface HttpAnswer {
  /** `200 OK` */
  readonly status: string;
  /** Without the character set, which is UTF-8. */
  readonly contentType: string;
  readonly body: Uint8Array;
  /** No more requests are taken behind it. */
  readonly last?: boolean;
}

export interface HttpExchangeOptions {
  readonly clock: Clock;
  /** For each request, from the end of the one before to the last byte of its answer. */
  readonly timeoutMs: number;
  /** What has been read of the first request. */
  readonly received?: Uint8Array;
}

/**
 * Answers requests until the client leaves, is silent for too long, or sends nonsense. The caller closes the
 * connection.
 */
export async function answerHttp(
  connection: Connection,
  { clock, timeoutMs, received = new Uint8Array() }: HttpExchangeOptions,
  answer: (request: HttpRequest) => HttpAnswer | Promise<HttpAnswer>,
): Promise<void> {
  const buffer = new Uint8Array(HEAD_BYTES_MAX);
  buffer.set(received.subarray(0, HEAD_BYTES_MAX));
  let length = Math.min(received.length, HEAD_BYTES_MAX);
  while (true) {
    using _timer = clock.timer(timeoutMs, () => connection.close());
    let request: HttpRequest | null;
    try {
      while ((request = parseHttpRequest(buffer.subarray(0, length))) === null) {
        const count = await connection.read(buffer.subarray(length));
        if (count === null) return;
        length += count;
      }
    } catch (error) {
      if (!(error instanceof WireError)) throw error;
      if (length < HEAD_BYTES_MAX) await sendHttp(connection, plainText("400 Bad Request", error.message));
      return;
    }
    buffer.copyWithin(0, request.byteCount, length);
    length -= request.byteCount;
    const given = await answer(request);
    const last = request.closes || given.last === true;
    await sendHttp(connection, { ...given, last });
    if (last) return;
  }
}

/** Sends one answer, the last one unless it says otherwise. */
export function sendHttp(connection: Connection, answer: HttpAnswer): void | Promise<void> {
  const { status, contentType, body, last = true } = answer;
  return connection.write(encodeHttpReply(status, contentType, body, !last));
}

export function plainText(status: string, words: string): HttpAnswer {
  return { status, contentType: "text/plain", body: new TextEncoder().encode(words) };
}
