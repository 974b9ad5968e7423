/** Fuzzers of the NBD decoders: whatever the bytes, a value that holds what it promises, or a WireError. */
import { assert, assertEquals } from "@std/assert";
import {
  checkChunk,
  type ChunkRequest,
  decodeBlockStatusPayload,
  decodeDataOffset,
  decodeErrorPayload,
  decodeHolePayload,
  decodeStatusQuery,
} from "../../src/wire/nbd/chunk.ts";
import {
  ChunkType,
  Command,
  CommandFlag,
  EXTENDED_REPLY_MAGIC,
  EXTENDED_REQUEST_MAGIC,
  PAYLOAD_BYTES_ADVERTISED,
  REQUEST_MAGIC,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from "../../src/wire/nbd/constants.ts";
import {
  decodeClientFlags,
  decodeExportNameReply,
  decodeHandshakeFlags,
  decodeHelloRest,
  decodeStyle,
  encodeGreeting,
  encodeHello,
  HELLO_REST_BYTES,
  STYLE_BYTES,
} from "../../src/wire/nbd/greeting.ts";
import {
  decodeInfo,
  decodeInfoRequest,
  decodeListedName,
  decodeMetaContext,
  decodeMetaRequest,
  decodeOptionHeader,
  decodeOptionReplyHeader,
  decodeString,
  encodeInfo,
  encodeInfoRequest,
  encodeListedName,
  encodeMetaContext,
  encodeMetaRequest,
  encodeOption,
  encodeOptionReply,
  encodeText,
} from "../../src/wire/nbd/option.ts";
import {
  decodeReplyHeader,
  decodeRequest,
  emptyReplyHeader,
  encodeRequest,
  type ReplyHeader,
  replyHeaderBytes,
  type Request,
  requestBytes,
} from "../../src/wire/nbd/transmission.ts";
import { WireError } from "../../src/wire/wire_error.ts";
import { hex, viewOf } from "../testing/hex.ts";
import { accepts, awkwardU32, awkwardU53, damaged, pick } from "./damage.ts";
import type { Fuzzer, Random } from "./fuzzer.ts";

/** Random requests are read as a plain decoder of bigints reads them, and written back as they came. */
export const nbdRequests: Fuzzer = {
  name: "nbd-requests",
  summary: "request headers: the same values as a plain decoder, the same bytes when encoded again",
  round(random) {
    const extended = random.chance(0.5);
    const at = random.below(9);
    const bytes = random.bytes(at + requestBytes(extended) + random.below(9));
    const view = viewOf(bytes);
    if (random.chance(0.9)) view.setUint32(at, extended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC);
    if (random.chance(0.5)) view.setBigUint64(at + 16, BigInt(awkwardU53(random)));
    if (extended && random.chance(0.5)) view.setBigUint64(at + 24, BigInt(awkwardU53(random)));
    const request: Request = { flags: 0, type: 0, cookie: 0n, offset: 0, length: 0 };
    const right = view.getUint32(at) === (extended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC);
    assertEquals(accepts(() => decodeRequest(view, at, extended, request), WireError), right);
    if (!right) return;
    const offset = view.getBigUint64(at + 16);
    const length = extended ? view.getBigUint64(at + 24) : BigInt(view.getUint32(at + 24));
    assertEquals([request.flags, request.type], [view.getUint16(at + 4), view.getUint16(at + 6)]);
    assertEquals([request.offset, request.length], [Number(offset), Number(length)]);
    if (!Number.isSafeInteger(request.offset) || !Number.isSafeInteger(request.length)) return;
    const again = new Uint8Array(requestBytes(extended));
    assertEquals(encodeRequest(viewOf(again), 0, extended, request), again.length);
    assertEquals(hex(again), hex(bytes.subarray(at, at + again.length)));
  },
};

function someRequest(random: Random): ChunkRequest {
  return {
    type: random.chance(0.7)
      ? pick(random, [Command.READ, Command.BLOCK_STATUS])
      : pick(random, Object.values(Command)),
    flags: random.chance(0.3) ? CommandFlag.REQ_ONE : 0,
    offset: random.chance(0.5) ? random.below(2 ** 20) : awkwardU53(random),
    length: random.chance(0.7) ? 1 + random.below(65536) : 1 + random.below(PAYLOAD_BYTES_ADVERTISED),
  };
}

const CHUNK_MAGICS = [STRUCTURED_REPLY_MAGIC, EXTENDED_REPLY_MAGIC];

/** A reply of any kind, with fields that nearly fit the request. */
function someReply(random: Random, request: ChunkRequest): Uint8Array<ArrayBuffer> {
  const bytes = random.bytes(32);
  const view = viewOf(bytes);
  const magic = pick(random, [SIMPLE_REPLY_MAGIC, ...CHUNK_MAGICS, ...CHUNK_MAGICS, ...CHUNK_MAGICS]);
  view.setUint32(0, random.chance(0.98) ? magic : awkwardU32(random));
  if (magic === SIMPLE_REPLY_MAGIC) return bytes;
  view.setUint16(4, random.below(4));
  view.setUint16(6, random.chance(0.9) ? pick(random, Object.values(ChunkType)) : random.below(65536));
  const lengths = [
    0,
    6,
    8 + request.length,
    9,
    12,
    14,
    24,
    4 + 8 * (1 + random.below(8)),
    8 + 16 * (1 + random.below(8)),
  ];
  const length = random.chance(0.7) ? pick(random, lengths) + random.below(2) : awkwardU53(random);
  if (magic === STRUCTURED_REPLY_MAGIC) view.setUint32(16, length);
  else {
    view.setBigUint64(16, BigInt(random.chance(0.9) ? request.offset : awkwardU53(random)));
    view.setBigUint64(24, BigInt(length));
  }
  return bytes;
}

/** The payload of a chunk, with fields that nearly fit the request. */
function somePayload(random: Random, header: ReplyHeader, request: ChunkRequest): Uint8Array<ArrayBuffer> {
  const bytes = random.bytes(header.payloadBytes);
  const view = viewOf(bytes);
  const inside = BigInt(Math.min(Number.MAX_SAFE_INTEGER, request.offset + random.below(request.length + 1)));
  switch (header.type) {
    case ChunkType.OFFSET_DATA:
      view.setBigUint64(0, random.chance(0.5) ? BigInt(request.offset) : inside);
      break;
    case ChunkType.OFFSET_HOLE:
      view.setBigUint64(0, inside);
      view.setUint32(8, random.chance(0.9) ? random.below(request.length + 1) : awkwardU32(random));
      break;
    case ChunkType.BLOCK_STATUS:
      for (let at = 4; at + 4 <= bytes.length && random.chance(0.95); at += 8) {
        view.setUint32(at, random.chance(0.05) ? 0 : random.below(request.length));
      }
      break;
    case ChunkType.BLOCK_STATUS_EXT:
      view.setUint32(4, (bytes.length - 8) / 16);
      for (let at = 8; at + 8 <= bytes.length && random.chance(0.95); at += 16) {
        view.setBigUint64(at, BigInt(random.chance(0.05) ? 0 : random.below(request.length)));
      }
      break;
    case ChunkType.ERROR:
      view.setUint16(4, bytes.length - 6 + (random.chance(0.1) ? random.below(3) - 1 : 0));
      break;
    case ChunkType.ERROR_OFFSET:
      view.setUint16(4, bytes.length - 14 + (random.chance(0.1) ? random.below(3) - 1 : 0));
      view.setBigUint64(bytes.length - 8, inside);
      break;
    default:
      if (bytes.length >= 6 && random.chance(0.5)) view.setUint16(4, random.below(bytes.length));
  }
  return bytes;
}

/** Replies that nearly fit a request: what a client accepts lies inside the request. */
export const nbdReplies: Fuzzer = {
  name: "nbd-replies",
  summary: "reply headers and chunks: what is accepted lies inside the request and within its limits",
  round(random) {
    const request = someRequest(random);
    const reply = someReply(random, request);
    const view = viewOf(reply);
    const fitting = { structured: true, extended: view.getUint32(0) === EXTENDED_REPLY_MAGIC };
    const agreed = random.chance(0.9)
      ? fitting
      : { structured: random.chance(0.5), extended: random.chance(0.5) };
    const header = emptyReplyHeader();
    let headerBytes = 0;
    if (!accepts(() => headerBytes = replyHeaderBytes(view, 0, agreed), WireError)) {
      // A wrong magic is refused by both.
      accepts(() => decodeReplyHeader(view, 0, header), WireError);
      return;
    }
    decodeReplyHeader(new DataView(reply.buffer, 0, headerBytes), 0, header);
    assertEquals(header.form, agreed.extended ? "extended" : headerBytes === 16 ? "simple" : "structured");
    if (header.form === "simple") return;
    if (!accepts(() => checkChunk(header, request), WireError)) return;
    const extents = Math.min(request.length, 2 ** 20);
    const limit = header.type === ChunkType.OFFSET_DATA
      ? 8 + request.length
      : request.type === Command.BLOCK_STATUS && (header.type & 0x8000) === 0
      ? 8 + 16 * extents
      : 65536;
    assert(header.payloadBytes <= limit, `payload of ${header.payloadBytes} bytes is accepted`);
    const payload = somePayload(random, header, request);
    accepts(() => checkPayload(viewOf(payload), header, request), WireError);
  },
};

/** Decodes a payload as a client does, and holds the values against the request. */
function checkPayload(view: DataView, header: ReplyHeader, request: ChunkRequest): void {
  const { type, payloadBytes } = header;
  const from = request.offset, to = request.offset + request.length;
  switch (type) {
    case ChunkType.NONE:
      return;
    case ChunkType.OFFSET_DATA: {
      const offset = decodeDataOffset(view, 0, payloadBytes, request);
      return assert(offset >= from && offset + payloadBytes - 8 <= to, "data outside the request");
    }
    case ChunkType.OFFSET_HOLE: {
      const { offset, length } = decodeHolePayload(view, 0, request);
      return assert(length > 0 && offset >= from && offset + length <= to, "hole outside the request");
    }
    case ChunkType.BLOCK_STATUS:
    case ChunkType.BLOCK_STATUS_EXT: {
      const extended = type === ChunkType.BLOCK_STATUS_EXT;
      const { extents } = decodeBlockStatusPayload(view, 0, extended, payloadBytes, request);
      const sum = extents.slice(0, -1).reduce((sum, { length }) => sum + length, 0);
      return assert(extents.length > 0 && sum < request.length && extents.every(({ length }) => length > 0));
    }
    default: {
      const { error, offset } = decodeErrorPayload(view, 0, type, payloadBytes, request);
      const known = type === ChunkType.ERROR ? 6 : type === ChunkType.ERROR_OFFSET ? 14 : null;
      assert(known === null || known + view.getUint16(4) === payloadBytes, "a text of another length");
      return assert(error !== 0 && (offset === undefined || offset >= from && offset <= to));
    }
  }
}

/** Payloads of BLOCK_STATUS against a list of contexts. */
export const nbdStatusQueries: Fuzzer = {
  name: "nbd-status-queries",
  summary: "payloads of BLOCK_STATUS: what is accepted names selected contexts, each once",
  round(random) {
    const selected = Array.from({ length: random.below(5) }, (_, i) => i + 1);
    const bytes = random.bytes(random.below(40));
    const view = viewOf(bytes);
    for (let at = 8; at + 4 <= bytes.length; at += 4) {
      if (random.chance(0.9)) view.setUint32(at, random.below(6));
    }
    const query = decodeStatusQuery(view, 0, bytes.length, selected);
    if (query === null) return;
    assertEquals(8 + 4 * query.contextIds.length, bytes.length);
    assert(query.contextIds.length > 0 && new Set(query.contextIds).size === query.contextIds.length);
    assert(query.contextIds.every((id) => selected.includes(id)));
  },
};

function someText(random: Random): string {
  if (random.chance(0.05)) return "é".repeat(2040 + random.below(10));
  return pick(random, ["", "a", "disk", "base:", "base:allocation", "é", "\ufeffx", "x-denbd:a=b", "a/b\nc"]);
}

/** A message of the handshake: how it is decoded, and if it has one form only, encoded again. */
interface Message {
  readonly bytes: Uint8Array;
  readonly decode: (bytes: Uint8Array) => unknown;
  // deno-lint-ignore no-explicit-any
  readonly encode?: (value: any) => Uint8Array;
}

function someMessage(random: Random): Message {
  const exportName = someText(random);
  const number = () => awkwardU32(random) & 0xffff;
  switch (random.below(9)) {
    case 0: {
      const types = Array.from({ length: random.below(6) }, number);
      return {
        bytes: encodeInfoRequest({ exportName, types }),
        decode: decodeInfoRequest,
        encode: encodeInfoRequest,
      };
    }
    case 1: {
      const queries = Array.from({ length: random.below(6) }, () => someText(random));
      const bytes = encodeMetaRequest({ exportName, queries });
      return { bytes, decode: decodeMetaRequest, encode: encodeMetaRequest };
    }
    case 2: {
      const bytes = encodeListedName({ name: exportName, description: someText(random) });
      return { bytes, decode: decodeListedName, encode: encodeListedName };
    }
    case 3: {
      const bytes = encodeMetaContext({ id: awkwardU32(random), name: exportName });
      return { bytes, decode: decodeMetaContext, encode: encodeMetaContext };
    }
    case 4: {
      const bytes = pick(random, [
        encodeInfo({ type: 0, sizeBytes: awkwardU53(random), transmissionFlags: number() }),
        encodeInfo({ type: 1, name: exportName }),
        encodeInfo({ type: 2, description: exportName }),
        encodeInfo({ type: 3, blockSizes: { minimum: 1, preferred: 4096, maximumPayload: 33554432 } }),
        random.bytes(2 + random.below(20)),
      ]);
      return { bytes, decode: decodeInfo, encode: (value) => value === null ? bytes : encodeInfo(value) };
    }
    case 5:
      return {
        bytes: encodeText(exportName),
        decode: (bytes) => decodeString(bytes, "text"),
        encode: encodeText,
      };
    case 6:
      return { bytes: encodeOption(number()), decode: exactly(16, decodeOptionHeader) };
    case 7:
      return { bytes: encodeOptionReply(number(), number()), decode: exactly(20, decodeOptionReplyHeader) };
    default: {
      const bytes = pick(random, [
        encodeGreeting(number()),
        encodeHello({ sizeBytes: awkwardU53(random), transmissionFlags: number() }),
      ]);
      return {
        bytes,
        decode: (bytes) => {
          exactly(STYLE_BYTES, decodeStyle)(bytes);
          exactly(HELLO_REST_BYTES, decodeHelloRest)(bytes.subarray(STYLE_BYTES));
          exactly(10, decodeExportNameReply)(bytes.subarray(STYLE_BYTES));
          exactly(2, decodeHandshakeFlags)(bytes.subarray(STYLE_BYTES));
          exactly(4, (bytes) => decodeClientFlags(bytes, 3))(bytes);
        },
      };
    }
  }
}

/** A decoder of so many bytes, which its caller makes sure are there. */
function exactly<T>(byteCount: number, decode: (bytes: Uint8Array) => T): (bytes: Uint8Array) => T | null {
  return (bytes) => bytes.length < byteCount ? null : decode(bytes.subarray(0, byteCount));
}

/** Every message of the handshake, damaged. */
export const nbdMessages: Fuzzer = {
  name: "nbd-messages",
  summary: "payloads of options and replies, greetings: what is accepted is encoded again to the same bytes",
  round(random) {
    const { bytes, decode, encode } = someMessage(random);
    const wrong = random.chance(0.1) ? random.bytes(random.below(64)) : damaged(bytes, random);
    let value: unknown;
    if (!accepts(() => value = decode(wrong), WireError) || encode === undefined || value === null) return;
    assertEquals(hex(encode(value)), hex(wrong));
    assert(!JSON.stringify(value).includes("\\u0000"), "a string with a NUL");
  },
};
