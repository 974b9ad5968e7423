/**
 * Headers of the transmission phase: requests and replies, compact (28 and 16 or 20 bytes) and extended (32).
 *
 * Everything works at an offset in a `DataView`, so that many messages live in one buffer and none is copied.
 * The caller has made sure that the bytes are there. The payloads of reply chunks are in `chunk.ts`.
 *
 * Offsets and lengths are `number`: a 64-bit value that rounds is beyond any disk, so the range check refuses it.
 *
 * @see NBD proto.md, "Transmission phase"
 */
import { WireError } from "../wire_error.ts";
import {
  EXTENDED_REPLY_MAGIC,
  EXTENDED_REQUEST_MAGIC,
  REQUEST_MAGIC,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from "./constants.ts";

/** Bytes of a compact request. */
export const REQUEST_BYTES = 28;
/** Bytes of an extended request. */
export const EXTENDED_REQUEST_BYTES = 32;
/** Bytes of a simple reply without its data. */
export const SIMPLE_REPLY_BYTES = 16;
/** Bytes of the header of a structured reply chunk. */
const STRUCTURED_HEADER_BYTES = 20;
/** Bytes of the header of an extended reply chunk. */
const EXTENDED_HEADER_BYTES = 32;
/** Bytes that decide which header a reply has; see {@linkcode replyHeaderBytes}. */
export const REPLY_MAGIC_BYTES = 4;

const TWO_TO_32 = 0x100000000;

/** One request header. */
export interface Request {
  /** {@linkcode CommandFlag}s, unknown ones included. */
  flags: number;
  /** A {@linkcode Command}, or whatever the client sent: answering it is the server's business. */
  type: number;
  /** Opaque; goes back bit for bit. */
  cookie: bigint;
  /** In bytes. */
  offset: number;
  /** In bytes: of the payload for WRITE and with PAYLOAD_LEN, else of the range. */
  length: number;
}

/** What a client has agreed about replies. */
export interface ReplyForms {
  readonly structured: boolean;
  readonly extended: boolean;
}

/** The header of one reply, or of one chunk of a reply. */
export interface ReplyHeader {
  form: "simple" | "structured" | "extended";
  cookie: bigint;
  /** Of a simple reply: 0 or a wire error code; of a chunk: 0. */
  error: number;
  /** {@linkcode ReplyFlag}s of a chunk; 0 in a simple reply, which always is the last. */
  flags: number;
  /** {@linkcode ChunkType} of a chunk; 0 in a simple reply. */
  type: number;
  /** The request's offset as the server repeats it: extended only, else 0. */
  requestOffset: number;
  /** Bytes that follow in this chunk; 0 in a simple reply, whose data only the request knows. */
  payloadBytes: number;
}

/** A header to decode into. */
export function emptyReplyHeader(): ReplyHeader {
  return { form: "simple", cookie: 0n, error: 0, flags: 0, type: 0, requestOffset: 0, payloadBytes: 0 };
}

/** Reads a u64; values above 2^53 round. */
export function getUint64(view: DataView, at: number): number {
  return view.getUint32(at) * TWO_TO_32 + view.getUint32(at + 4);
}

/** Writes a whole number from 0 to 2^53 as a u64. */
export function setUint64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / TWO_TO_32));
  view.setUint32(at + 4, value >>> 0);
}

/** Bytes of a request header: {@linkcode REQUEST_BYTES} or {@linkcode EXTENDED_REQUEST_BYTES}. */
export function requestBytes(extended: boolean): number {
  return extended ? EXTENDED_REQUEST_BYTES : REQUEST_BYTES;
}

/** Bytes of a chunk's header: {@linkcode STRUCTURED_HEADER_BYTES} or {@linkcode EXTENDED_HEADER_BYTES}. */
export function chunkHeaderBytes(extended: boolean): number {
  return extended ? EXTENDED_HEADER_BYTES : STRUCTURED_HEADER_BYTES;
}

/**
 * Decodes one request header.
 *
 * Big endian: magic u32, flags u16, type u16, cookie u64, offset u64, length u32 (extended: u64).
 *
 * @param view Holds at least {@linkcode requestBytes} bytes from `at`.
 * @param at Where the header starts.
 * @param extended Whether EXTENDED_HEADERS was agreed.
 * @param into Filled; allocate it once.
 * @throws {WireError} If the magic is wrong.
 * @see NBD proto.md, "Request message", "Extended request message"
 */
export function decodeRequest(view: DataView, at: number, extended: boolean, into: Request): void {
  const magic = view.getUint32(at);
  if (magic !== (extended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC)) {
    throw new WireError(`request magic is 0x${hex32(magic)}`);
  }
  into.flags = view.getUint16(at + 4);
  into.type = view.getUint16(at + 6);
  into.cookie = view.getBigUint64(at + 8);
  into.offset = getUint64(view, at + 16);
  into.length = extended ? getUint64(view, at + 24) : view.getUint32(at + 24);
}

/**
 * Encodes one request header; see {@linkcode decodeRequest} for its shape.
 *
 * @param request `length` is below 2^32 unless `extended`.
 * @returns Bytes written.
 */
export function encodeRequest(
  view: DataView,
  at: number,
  extended: boolean,
  request: Readonly<Request>,
): number {
  view.setUint32(at, extended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC);
  view.setUint16(at + 4, request.flags);
  view.setUint16(at + 6, request.type);
  view.setBigUint64(at + 8, request.cookie);
  setUint64(view, at + 16, request.offset);
  if (extended) {
    setUint64(view, at + 24, request.length);
    return EXTENDED_REQUEST_BYTES;
  }
  view.setUint32(at + 24, request.length);
  return REQUEST_BYTES;
}

/**
 * Encodes a simple reply: magic u32, error u32, cookie u64. The data of a successful READ follow it.
 *
 * @param error A wire error code, or 0.
 * @returns Bytes written.
 */
export function encodeSimpleReply(view: DataView, at: number, cookie: bigint, error: number): number {
  view.setUint32(at, SIMPLE_REPLY_MAGIC);
  view.setUint32(at + 4, error);
  view.setBigUint64(at + 8, cookie);
  return SIMPLE_REPLY_BYTES;
}

/**
 * Encodes the header of a reply chunk.
 *
 * Structured: magic u32, flags u16, type u16, cookie u64, payload length u32. Extended: the request's offset u64
 * stands before a payload length u64.
 *
 * @param flags {@linkcode ReplyFlag}s.
 * @param type A {@linkcode ChunkType}.
 * @param requestOffset The offset of the request, not of the chunk; used only if `extended`.
 * @param payloadBytes Bytes that will follow.
 * @returns Bytes written.
 */
export function encodeChunkHeader(
  view: DataView,
  at: number,
  extended: boolean,
  flags: number,
  type: number,
  cookie: bigint,
  requestOffset: number,
  payloadBytes: number,
): number {
  view.setUint32(at, extended ? EXTENDED_REPLY_MAGIC : STRUCTURED_REPLY_MAGIC);
  view.setUint16(at + 4, flags);
  view.setUint16(at + 6, type);
  view.setBigUint64(at + 8, cookie);
  if (extended) {
    setUint64(view, at + 16, requestOffset);
    setUint64(view, at + 24, payloadBytes);
    return EXTENDED_HEADER_BYTES;
  }
  view.setUint32(at + 16, payloadBytes);
  return STRUCTURED_HEADER_BYTES;
}

/**
 * Tells from the first {@linkcode REPLY_MAGIC_BYTES} bytes of a reply how long its header is.
 *
 * @param agreed What was negotiated: simple replies always, chunks of 20 bytes with `structured`, and nothing but
 *   chunks of 32 bytes with `extended`.
 * @throws {WireError} If the magic is none that was agreed.
 */
export function replyHeaderBytes(view: DataView, at: number, agreed: ReplyForms): number {
  const magic = view.getUint32(at);
  if (agreed.extended) {
    if (magic === EXTENDED_REPLY_MAGIC) return EXTENDED_HEADER_BYTES;
  } else if (magic === SIMPLE_REPLY_MAGIC) {
    return SIMPLE_REPLY_BYTES;
  } else if (magic === STRUCTURED_REPLY_MAGIC && agreed.structured) {
    return STRUCTURED_HEADER_BYTES;
  }
  throw new WireError(`reply magic is 0x${hex32(magic)}`);
}

/**
 * Decodes the header of a reply; its shapes are those of {@linkcode encodeSimpleReply} and
 * {@linkcode encodeChunkHeader}.
 *
 * The payload length of a chunk is still a claim: `checkChunk` of `chunk.ts` holds it against the request
 * before anybody waits for it.
 *
 * @param view Holds as many bytes from `at` as {@linkcode replyHeaderBytes} said.
 * @param into Filled; allocate it once.
 * @throws {WireError} If the magic is none of a reply.
 */
export function decodeReplyHeader(view: DataView, at: number, into: ReplyHeader): void {
  const magic = view.getUint32(at);
  into.cookie = view.getBigUint64(at + 8);
  if (magic === SIMPLE_REPLY_MAGIC) {
    into.form = "simple";
    into.error = view.getUint32(at + 4);
    into.flags =
      into.type =
      into.requestOffset =
      into.payloadBytes =
        0;
    return;
  }
  into.error = 0;
  into.flags = view.getUint16(at + 4);
  into.type = view.getUint16(at + 6);
  if (magic === STRUCTURED_REPLY_MAGIC) {
    into.form = "structured";
    into.requestOffset = 0;
    into.payloadBytes = view.getUint32(at + 16);
  } else if (magic === EXTENDED_REPLY_MAGIC) {
    into.form = "extended";
    into.requestOffset = getUint64(view, at + 16);
    into.payloadBytes = getUint64(view, at + 24);
  } else {
    throw new WireError(`reply magic is 0x${hex32(magic)}`);
  }
}

function hex32(value: number): string {
  return value.toString(16).padStart(8, "0");
}
