/**
 * Payloads of reply chunks: whole small chunks for a server, their decoders for a client, and the payload form of
 * BLOCK_STATUS.
 *
 * A client calls {@linkcode checkChunk} on a header before it waits for the payload, then the decoder of its type.
 * Both hold the server's claims against the request; what the request cannot justify is a {@linkcode WireError}.
 *
 * @see NBD proto.md, "Structured reply chunk message", "Structured reply types"
 */
import { WireError } from "../wire_error.ts";
import {
  CHUNK_ERROR_BIT,
  ChunkType,
  Command,
  CommandFlag,
  commandName,
  ERROR_TEXT_BYTES_MAX,
  MAX_STRING_BYTES,
  ReplyFlag,
  STATUS_EXTENTS_MAX,
} from "./constants.ts";
import {
  chunkHeaderBytes,
  encodeChunkHeader,
  getUint64,
  type ReplyHeader,
  type Request,
  setUint64,
} from "./transmission.ts";

/** Bytes of the offset that stands before the data of an OFFSET_DATA chunk. */
export const DATA_OFFSET_BYTES = 8;
const HOLE_BYTES = 12;
const ERROR_FIXED_BYTES = 6;
const ERROR_OFFSET_FIXED_BYTES = 14;
/** A chunk type with the error bit that we do not know may have this much payload. */
const UNKNOWN_ERROR_BYTES_MAX = 64 * 1024;

/** One extent of a metadata context. */
export interface StatusExtent {
  /** In bytes, above zero. */
  readonly length: number;
  /** What it means is the context's business; {@linkcode AllocationStatus} for `base:allocation`. */
  readonly status: number;
}

/** What a chunk is held against. */
export type ChunkRequest = Readonly<Pick<Request, "type" | "flags" | "offset" | "length">>;

// --- Server: whole chunks ---

/** Bytes before the data of an OFFSET_DATA chunk: header and offset. */
export function dataChunkOverhead(extended: boolean): number {
  return chunkHeaderBytes(extended) + DATA_OFFSET_BYTES;
}

/** Bytes of a whole OFFSET_HOLE chunk. */
export function holeChunkBytes(extended: boolean): number {
  return chunkHeaderBytes(extended) + HOLE_BYTES;
}

/** Most bytes that {@linkcode encodeErrorChunk} writes. */
export function errorChunkBytesMax(extended: boolean): number {
  return chunkHeaderBytes(extended) + ERROR_FIXED_BYTES + ERROR_TEXT_BYTES_MAX;
}

/** Bytes of a whole status chunk with `count` extents. */
export function blockStatusChunkBytes(extended: boolean, count: number): number {
  return chunkHeaderBytes(extended) + (extended ? 8 + 16 * count : 4 + 8 * count);
}

/** Encodes a NONE chunk, which ends a reply without an error. Returns the bytes written. */
export function encodeNoneChunk(
  view: DataView,
  at: number,
  extended: boolean,
  cookie: bigint,
  requestOffset: number,
): number {
  return encodeChunkHeader(view, at, extended, ReplyFlag.DONE, ChunkType.NONE, cookie, requestOffset, 0);
}

/**
 * Encodes all of an OFFSET_DATA chunk but its data: header, offset u64.
 *
 * @param offset Where the data stand on the disk.
 * @param dataBytes How many bytes of data follow; above zero.
 * @returns Bytes written: {@linkcode dataChunkOverhead}.
 */
export function encodeDataChunkHeader(
  view: DataView,
  at: number,
  extended: boolean,
  flags: number,
  cookie: bigint,
  requestOffset: number,
  offset: number,
  dataBytes: number,
): number {
  const payloadBytes = DATA_OFFSET_BYTES + dataBytes;
  const type = ChunkType.OFFSET_DATA;
  const header = encodeChunkHeader(view, at, extended, flags, type, cookie, requestOffset, payloadBytes);
  setUint64(view, at + header, offset);
  return header + DATA_OFFSET_BYTES;
}

/** Encodes an OFFSET_HOLE chunk: header, offset u64, length u32 (above zero). Returns the bytes written. */
export function encodeHoleChunk(
  view: DataView,
  at: number,
  extended: boolean,
  flags: number,
  cookie: bigint,
  requestOffset: number,
  offset: number,
  length: number,
): number {
  const type = ChunkType.OFFSET_HOLE;
  const header = encodeChunkHeader(view, at, extended, flags, type, cookie, requestOffset, HOLE_BYTES);
  setUint64(view, at + header, offset);
  view.setUint32(at + header + 8, length);
  return header + HOLE_BYTES;
}

/**
 * Encodes an ERROR chunk: header, error u32, text length u16, text.
 *
 * @param view Has room for {@linkcode errorChunkBytesMax} bytes from `at`, however short the text.
 * @param error A wire error code, not 0.
 * @param text For people; cut after {@linkcode ERROR_TEXT_BYTES_MAX} bytes at the end of a character.
 * @returns Bytes written, at most {@linkcode errorChunkBytesMax}.
 */
export function encodeErrorChunk(
  view: DataView,
  at: number,
  extended: boolean,
  flags: number,
  cookie: bigint,
  requestOffset: number,
  error: number,
  text: string,
): number {
  const header = chunkHeaderBytes(extended);
  const payloadBytes = encodeErrorPayload(view, at + header, error, text);
  encodeChunkHeader(view, at, extended, flags, ChunkType.ERROR, cookie, requestOffset, payloadBytes);
  return header + payloadBytes;
}

const textEncoder = new TextEncoder();

function encodeErrorPayload(view: DataView, at: number, error: number, text: string): number {
  const room = new Uint8Array(view.buffer, view.byteOffset + at + ERROR_FIXED_BYTES, ERROR_TEXT_BYTES_MAX);
  const { written } = textEncoder.encodeInto(text, room);
  view.setUint32(at, error);
  view.setUint16(at + 4, written);
  return ERROR_FIXED_BYTES + written;
}

/**
 * Encodes a whole status chunk: BLOCK_STATUS (context id u32, then length u32 and status u32 per extent), or with
 * extended headers BLOCK_STATUS_EXT (context id u32, count u32, then length u64 and status u64 per extent).
 *
 * @param extents 1 to {@linkcode STATUS_EXTENTS_MAX}; lengths and statuses below 2^32 unless `extended`.
 * @returns Bytes written: {@linkcode blockStatusChunkBytes}.
 */
export function encodeBlockStatus(
  view: DataView,
  at: number,
  extended: boolean,
  flags: number,
  cookie: bigint,
  requestOffset: number,
  contextId: number,
  extents: readonly StatusExtent[],
): number {
  const header = chunkHeaderBytes(extended);
  const bytes = blockStatusChunkBytes(extended, extents.length);
  const type = extended ? ChunkType.BLOCK_STATUS_EXT : ChunkType.BLOCK_STATUS;
  encodeChunkHeader(view, at, extended, flags, type, cookie, requestOffset, bytes - header);
  view.setUint32(at + header, contextId);
  if (extended) {
    view.setUint32(at + header + 4, extents.length);
    for (let i = 0, to = at + header + 8; i < extents.length; i++, to += 16) {
      setUint64(view, to, extents[i].length);
      setUint64(view, to + 8, extents[i].status);
    }
  } else {
    for (let i = 0, to = at + header + 4; i < extents.length; i++, to += 8) {
      view.setUint32(to, extents[i].length);
      view.setUint32(to + 4, extents[i].status);
    }
  }
  return bytes;
}

// --- Server: the payload form of BLOCK_STATUS ---

/** A range, and the contexts to be told about it. */
export interface StatusQuery {
  /** In bytes. */
  readonly length: number;
  /** Selected ones, each once, at least one. */
  readonly contextIds: readonly number[];
}

/** The longest legal payload of a BLOCK_STATUS: a length and every selected context once. */
export function statusQueryBytesMax(selectedCount: number): number {
  return 8 + 4 * selectedCount;
}

/**
 * Decodes the payload of a BLOCK_STATUS with PAYLOAD_LEN: length u64, then context ids u32.
 *
 * @param payloadBytes As the request claims; that many bytes are at `at`.
 * @param selected Ids of the contexts that were negotiated.
 * @returns `null` if the payload is malformed, or an id is repeated or was not negotiated: answer EINVAL.
 * @see NBD proto.md, "NBD_CMD_BLOCK_STATUS" with NBD_CMD_FLAG_PAYLOAD_LEN
 */
export function decodeStatusQuery(
  view: DataView,
  at: number,
  payloadBytes: number,
  selected: readonly number[],
): StatusQuery | null {
  const idBytes = payloadBytes - 8;
  if (idBytes <= 0 || idBytes % 4 !== 0 || payloadBytes > statusQueryBytesMax(selected.length)) return null;
  const contextIds: number[] = [];
  for (let from = at + 8; from < at + payloadBytes; from += 4) {
    const id = view.getUint32(from);
    if (!selected.includes(id) || contextIds.includes(id)) return null;
    contextIds.push(id);
  }
  return { length: getUint64(view, at), contextIds };
}

// --- Client ---

/**
 * Holds a chunk's header against the request it answers, before its payload is awaited.
 *
 * @param header Of a chunk, not of a simple reply.
 * @param request As it was sent; `length` is the length of the range.
 * @throws {WireError} If the type is unknown and no error, cannot answer this command, has a payload longer or
 *   shorter than the request can justify, or if the server repeats another offset than the request's.
 */
export function checkChunk(header: Readonly<ReplyHeader>, request: ChunkRequest): void {
  const { type, payloadBytes } = header;
  if (header.form === "extended" && header.requestOffset !== request.offset) {
    throw new WireError(`reply repeats offset ${header.requestOffset} for a request at ${request.offset}`);
  }
  switch (type) {
    case ChunkType.NONE:
      if ((header.flags & ReplyFlag.DONE) === 0) throw new WireError("NONE chunk without the DONE flag");
      return expectPayload(type, payloadBytes, 0, 0);
    case ChunkType.OFFSET_DATA:
      expectCommand(type, request, Command.READ);
      return expectPayload(type, payloadBytes, DATA_OFFSET_BYTES + 1, DATA_OFFSET_BYTES + request.length);
    case ChunkType.OFFSET_HOLE:
      expectCommand(type, request, Command.READ);
      return expectPayload(type, payloadBytes, HOLE_BYTES, HOLE_BYTES);
    case ChunkType.BLOCK_STATUS:
      expectCommand(type, request, Command.BLOCK_STATUS);
      if (header.form === "extended") throw new WireError("compact BLOCK_STATUS chunk in extended mode");
      return expectPayload(type, payloadBytes, 4 + 8, 4 + 8 * extentsMax(request));
    case ChunkType.BLOCK_STATUS_EXT:
      expectCommand(type, request, Command.BLOCK_STATUS);
      if (header.form !== "extended") throw new WireError("extended BLOCK_STATUS chunk in compact mode");
      return expectPayload(type, payloadBytes, 8 + 16, 8 + 16 * extentsMax(request));
    case ChunkType.ERROR:
      return expectPayload(type, payloadBytes, ERROR_FIXED_BYTES, ERROR_FIXED_BYTES + MAX_STRING_BYTES);
    case ChunkType.ERROR_OFFSET:
      return expectPayload(
        type,
        payloadBytes,
        ERROR_OFFSET_FIXED_BYTES,
        ERROR_OFFSET_FIXED_BYTES + MAX_STRING_BYTES,
      );
    default:
      if ((type & CHUNK_ERROR_BIT) === 0) throw new WireError(`unknown chunk type ${type}`);
      return expectPayload(type, payloadBytes, ERROR_FIXED_BYTES, UNKNOWN_ERROR_BYTES_MAX);
  }
}

function extentsMax(request: ChunkRequest): number {
  if ((request.flags & CommandFlag.REQ_ONE) !== 0) return 1;
  return Math.min(request.length, STATUS_EXTENTS_MAX);
}

function expectCommand(type: number, request: ChunkRequest, command: number): void {
  if (request.type !== command) {
    throw new WireError(`chunk type ${type} in reply to ${commandName(request.type)}`);
  }
}

function expectPayload(type: number, payloadBytes: number, least: number, most: number): void {
  if (payloadBytes < least || payloadBytes > most) {
    throw new WireError(
      `chunk type ${type} with a payload of ${payloadBytes} bytes, not ${least} to ${most}`,
    );
  }
}

/**
 * Decodes the offset of an OFFSET_DATA chunk: u64; the data follow.
 *
 * @param payloadBytes As the header claims, checked by {@linkcode checkChunk}; only the first
 *   {@linkcode DATA_OFFSET_BYTES} need to be at `at`.
 * @returns Where the data stand on the disk.
 * @throws {WireError} If the data are not inside the request.
 */
export function decodeDataOffset(
  view: DataView,
  at: number,
  payloadBytes: number,
  request: ChunkRequest,
): number {
  const offset = getUint64(view, at);
  expectInside("data", offset, payloadBytes - DATA_OFFSET_BYTES, request);
  return offset;
}

/**
 * Decodes the payload of an OFFSET_HOLE chunk: offset u64, length u32.
 *
 * @throws {WireError} If the hole is empty or not inside the request.
 */
export function decodeHolePayload(
  view: DataView,
  at: number,
  request: ChunkRequest,
): { offset: number; length: number } {
  const offset = getUint64(view, at);
  const length = view.getUint32(at + 8);
  if (length === 0) throw new WireError("hole of 0 bytes");
  expectInside("hole", offset, length, request);
  return { offset, length };
}

function expectInside(what: string, offset: number, length: number, request: ChunkRequest): void {
  const from = offset - request.offset;
  if (from < 0 || from > request.length || length > request.length - from) {
    throw new WireError(
      `${what} of ${length} bytes at ${offset} outside the request of ${request.length} at ${request.offset}`,
    );
  }
}

/** What an error chunk says. */
export interface ChunkError {
  /** A wire error code, not 0. */
  readonly error: number;
  /** The server's text, as it came: escape it before showing it. */
  readonly text: string;
  /** Where it failed: ERROR_OFFSET only. */
  readonly offset?: number;
}

const textDecoder = new TextDecoder();

/**
 * Decodes the payload of an ERROR or ERROR_OFFSET chunk, or of an unknown type with the error bit, whose rest
 * is skipped: error u32, text length u16, text; ERROR_OFFSET: offset u64.
 *
 * @param type The chunk's type.
 * @param payloadBytes As the header claims, checked by {@linkcode checkChunk}.
 * @throws {WireError} If the error is 0, the text is longer than the payload or shorter than its rest, or the
 *   offset is outside the request.
 */
export function decodeErrorPayload(
  view: DataView,
  at: number,
  type: number,
  payloadBytes: number,
  request: ChunkRequest,
): ChunkError {
  const error = view.getUint32(at);
  const textBytes = view.getUint16(at + 4);
  if (error === 0) throw new WireError("error chunk with error 0");
  const hasOffset = type === ChunkType.ERROR_OFFSET;
  const rest = payloadBytes - (hasOffset ? ERROR_OFFSET_FIXED_BYTES : ERROR_FIXED_BYTES) - textBytes;
  const known = hasOffset || type === ChunkType.ERROR;
  if (rest < 0 || known && rest > 0) {
    throw new WireError(`error text of ${textBytes} bytes in a payload of ${payloadBytes}`);
  }
  const text = textDecoder.decode(
    new Uint8Array(view.buffer, view.byteOffset + at + ERROR_FIXED_BYTES, textBytes),
  );
  if (!hasOffset) return { error, text };
  const offset = getUint64(view, at + ERROR_FIXED_BYTES + textBytes);
  expectInside("error", offset, 0, request);
  return { error, text, offset };
}

/**
 * Decodes the payload of a status chunk; its shapes are those of {@linkcode encodeBlockStatus}.
 *
 * The last extent may run past the request, as the protocol allows.
 *
 * @param payloadBytes As the header claims, checked by {@linkcode checkChunk}.
 * @throws {WireError} If the length is no whole number of extents or contradicts the count, an extent is empty,
 *   or another follows one that reached the end of the request.
 */
export function decodeBlockStatusPayload(
  view: DataView,
  at: number,
  extended: boolean,
  payloadBytes: number,
  request: ChunkRequest,
): { contextId: number; extents: StatusExtent[] } {
  const fixed = extended ? 8 : 4;
  const each = extended ? 16 : 8;
  const count = (payloadBytes - fixed) / each;
  if (!Number.isInteger(count)) {
    throw new WireError(`status payload of ${payloadBytes} bytes is no whole number of extents`);
  }
  if (extended && view.getUint32(at + 4) !== count) {
    throw new WireError(`status chunk counts ${view.getUint32(at + 4)} extents and has ${count}`);
  }
  const extents: StatusExtent[] = [];
  let covered = 0;
  for (let from = at + fixed; from < at + payloadBytes; from += each) {
    const length = extended ? getUint64(view, from) : view.getUint32(from);
    const status = extended ? getUint64(view, from + 8) : view.getUint32(from + 4);
    if (length === 0) throw new WireError("status extent of 0 bytes");
    if (covered >= request.length) {
      throw new WireError(`status extent begins ${covered} bytes into a request of ${request.length}`);
    }
    extents.push({ length, status });
    covered += length;
  }
  return { contextId: view.getUint32(at), extents };
}
