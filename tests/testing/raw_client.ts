/**
 * An NBD client that says exactly what it is told to, sensible or not, and shows what comes back chunk by chunk.
 */
import { assert, assertEquals } from "@std/assert";
import type { Connection } from "../../src/net/connection.ts";
import { converse } from "../../src/net/converse.ts";
import { checkChunk } from "../../src/wire/nbd/chunk.ts";
import {
  type ClientAgreement,
  type ClientWishes,
  negotiateClient,
} from "../../src/wire/nbd/handshake_client.ts";
import { ChunkType, Command, ReplyFlag } from "../../src/wire/nbd/constants.ts";
import {
  decodeReplyHeader,
  emptyReplyHeader,
  encodeRequest,
  type ReplyHeader,
  replyHeaderBytes,
  type Request,
} from "../../src/wire/nbd/transmission.ts";

/** A reply, or one chunk of it. */
export interface RawReply {
  readonly header: ReplyHeader;
  readonly payload: Uint8Array<ArrayBuffer>;
}

/** A whole answer: error 0 or a wire code, and the data of a READ put together. */
export interface Answer {
  readonly error: number;
  readonly text: string;
  readonly data: Uint8Array<ArrayBuffer>;
  readonly chunks: readonly RawReply[];
}

export class RawClient {
  #received: Uint8Array;
  #cookie = 0x1234_5678_9abc_def0n;
  /** Requests that are not completely answered. */
  readonly #pending = new Map<bigint, Request>();
  readonly #sent = new Map<bigint, Request>();
  /** Replies that came while another one was waited for. */
  readonly #early = new Map<bigint, RawReply[]>();

  constructor(
    readonly connection: Connection,
    readonly agreement: ClientAgreement,
    received: Uint8Array,
  ) {
    this.#received = received;
  }

  /** Negotiates and is ready for transmission. */
  static async open(connection: Connection, wishes: Partial<ClientWishes> = {}): Promise<RawClient> {
    const all = { exportName: "", contexts: [], ...wishes };
    const { result, rest } = await converse(negotiateClient(all), connection);
    return new RawClient(connection, result, rest);
  }

  /** Sends a request and returns its cookie. */
  async send(request: Partial<Request>, payload?: Uint8Array): Promise<bigint> {
    const cookie = request.cookie ?? this.#cookie++;
    const whole = { flags: 0, type: 0, offset: 0, length: 0, ...request, cookie };
    const { extended } = this.agreement;
    const bytes = new Uint8Array((extended ? 32 : 28) + (payload?.length ?? 0));
    const header = encodeRequest(new DataView(bytes.buffer), 0, extended, whole);
    if (payload !== undefined) bytes.set(payload, header);
    this.#pending.set(cookie, whole);
    this.#sent.set(cookie, whole);
    await this.connection.write(bytes);
    return cookie;
  }

  /** Replies to this request will come although it was not sent by {@linkcode send}. */
  expect(request: Partial<Request> & { cookie: bigint }): void {
    this.#pending.set(request.cookie, { flags: 0, type: 0, offset: 0, length: 0, ...request });
  }

  /** The next reply or chunk; `null` at the end of the stream. */
  async receive(): Promise<RawReply | null> {
    const start = await this.#take(4);
    if (start === null) return null;
    const headerBytes = replyHeaderBytes(new DataView(start.buffer), 0, this.agreement);
    const rest = must(await this.#take(headerBytes - 4), "the stream ends inside a header");
    const bytes = new Uint8Array([...start, ...rest]);
    const header = emptyReplyHeader();
    decodeReplyHeader(new DataView(bytes.buffer), 0, header);
    const request = must(this.#pending.get(header.cookie), `unknown cookie ${header.cookie}`);
    let payloadBytes = header.payloadBytes;
    if (header.form === "simple") {
      if (request.type === Command.READ && header.error === 0) payloadBytes = request.length;
    } else {
      checkChunk(header, request);
    }
    const payload = must(await this.#take(payloadBytes), "the stream ends inside a payload");
    if (header.form === "simple" || (header.flags & ReplyFlag.DONE) !== 0) {
      this.#pending.delete(header.cookie);
    }
    return { header, payload };
  }

  /** Reads replies until that of `cookie` is complete; others that arrive before are kept for later. */
  async answer(cookie: bigint): Promise<Answer> {
    const request = this.#sent.get(cookie)!;
    const data = new Uint8Array(
      request.type === Command.READ && request.length < 1 << 27 ? request.length : 0,
    );
    const covered: [number, number][] = [];
    const chunks: RawReply[] = [];
    let error = 0;
    let text = "";
    const early = this.#early.get(cookie) ?? [];
    while (early.length > 0 || this.#pending.has(cookie)) {
      const reply = early.shift() ?? must(await this.receive(), "the connection ended before the reply");
      if (reply.header.cookie !== cookie) {
        const others = this.#early.get(reply.header.cookie) ?? [];
        this.#early.set(reply.header.cookie, [...others, reply]);
        continue;
      }
      chunks.push(reply);
      const { header, payload } = reply;
      const view = new DataView(payload.buffer);
      if (header.form === "simple") {
        error = header.error;
        if (error === 0 && payload.length > 0) {
          data.set(payload);
          covered.push([0, data.length]);
        }
      } else if (header.type === ChunkType.OFFSET_DATA || header.type === ChunkType.OFFSET_HOLE) {
        const isHole = header.type === ChunkType.OFFSET_HOLE;
        const at = Number(view.getBigUint64(0)) - request.offset;
        const length = isHole ? view.getUint32(8) : payload.length - 8;
        assert(at >= 0 && at + length <= data.length, "a chunk lies outside the request");
        covered.push([at, at + length]);
        if (!isHole) data.set(payload.subarray(8), at);
      } else if (header.type === ChunkType.ERROR) {
        error = view.getUint32(0);
        text = new TextDecoder().decode(payload.subarray(6, 6 + view.getUint16(4)));
      }
    }
    let end = 0;
    for (const [from, to] of covered.sort(([a], [b]) => a - b)) {
      assert(from >= end, "chunks overlap");
      if (error === 0) assertEquals(from, end, "the chunks do not cover the request");
      end = to;
    }
    if (error === 0) assertEquals(end, data.length, "the chunks do not cover the request");
    return { error, text, data, chunks };
  }

  /** Sends a request and waits for its answer. */
  async ask(request: Partial<Request>, payload?: Uint8Array): Promise<Answer> {
    return await this.answer(await this.send(request, payload));
  }

  async read(offset: number, length: number, flags = 0): Promise<Answer> {
    return await this.ask({ type: Command.READ, offset, length, flags });
  }

  async write(offset: number, payload: Uint8Array, flags = 0): Promise<Answer> {
    return await this.ask({ type: Command.WRITE, offset, length: payload.length, flags }, payload);
  }

  async #take(byteCount: number): Promise<Uint8Array<ArrayBuffer> | null> {
    const bytes = new Uint8Array(byteCount);
    let filled = Math.min(byteCount, this.#received.length);
    bytes.set(this.#received.subarray(0, filled));
    this.#received = this.#received.subarray(filled);
    while (filled < byteCount) {
      const count = await this.connection.read(bytes.subarray(filled));
      if (count === null) {
        assertEquals(filled, 0, "the stream ends in the middle of a message");
        return null;
      }
      filled += count;
    }
    return bytes;
  }
}

function must<T>(value: T | null | undefined, otherwise: string): T {
  if (value === null || value === undefined) throw new Error(otherwise);
  return value;
}
