/**
 * Options of the newstyle handshake and the replies to them, with all their payloads.
 *
 * Decoders throw {@linkcode WireError}; a server answers that of an option's payload with ERR_INVALID.
 *
 * @see NBD proto.md, "Option haggling", "Option types", "Option reply types"
 */
import { ByteReader } from "../../base/byte_reader.ts";
import { WireError } from "../wire_error.ts";
import {
  InfoType,
  MAX_STRING_BYTES,
  MINIMUM_BLOCK_BYTES_MAX,
  OPTION_MAGIC,
  OPTION_REPLY_MAGIC,
} from "./constants.ts";
import { decodeSize, type ExportSummary } from "./greeting.ts";
import { setUint64 } from "./transmission.ts";

/** Bytes of an option's header. */
export const OPTION_HEADER_BYTES = 16;
/** Bytes of a reply's header. */
export const OPTION_REPLY_HEADER_BYTES = 20;

/** Size constraints in bytes. */
export interface BlockSizes {
  /** A power of two. */
  readonly minimum: number;
  /** A power of two. */
  readonly preferred: number;
  /** 2^32 - 1: no fixed limit. */
  readonly maximumPayload: number;
}

/** A metadata context as it was agreed: replies name it by id. */
export interface MetaContext {
  readonly id: number;
  readonly name: string;
}

// --- Headers ---

/** Encodes an option: "IHAVEOPT", option u32, payload length u32, payload. */
export function encodeOption(option: number, payload: Uint8Array = noBytes): Uint8Array {
  const bytes = new Uint8Array(OPTION_HEADER_BYTES + payload.length);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, OPTION_MAGIC);
  view.setUint32(8, option);
  view.setUint32(12, payload.length);
  bytes.set(payload, OPTION_HEADER_BYTES);
  return bytes;
}

/**
 * Decodes an option's header; see {@linkcode encodeOption} for its shape.
 *
 * @param bytes Exactly {@linkcode OPTION_HEADER_BYTES}; not kept.
 * @returns `payloadBytes` is still only a claim.
 * @throws {WireError} If the magic is wrong.
 */
export function decodeOptionHeader(bytes: Uint8Array): { option: number; payloadBytes: number } {
  const reader = read(bytes, "option header");
  const magic = reader.u64();
  if (magic !== OPTION_MAGIC) throw new WireError(`option magic is 0x${magic.toString(16)}`);
  return { option: reader.u32(), payloadBytes: reader.u32() };
}

/** Encodes a reply: magic u64, option u32, {@linkcode OptionReply} u32, payload length u32, payload. */
export function encodeOptionReply(option: number, type: number, payload: Uint8Array = noBytes): Uint8Array {
  const bytes = new Uint8Array(OPTION_REPLY_HEADER_BYTES + payload.length);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, OPTION_REPLY_MAGIC);
  view.setUint32(8, option);
  view.setUint32(12, type);
  view.setUint32(16, payload.length);
  bytes.set(payload, OPTION_REPLY_HEADER_BYTES);
  return bytes;
}

/**
 * Decodes a reply's header; see {@linkcode encodeOptionReply} for its shape.
 *
 * @param bytes Exactly {@linkcode OPTION_REPLY_HEADER_BYTES}; not kept.
 * @returns `payloadBytes` is still only a claim.
 * @throws {WireError} If the magic is wrong.
 */
export function decodeOptionReplyHeader(
  bytes: Uint8Array,
): { option: number; type: number; payloadBytes: number } {
  const reader = read(bytes, "option reply header");
  const magic = reader.u64();
  if (magic !== OPTION_REPLY_MAGIC) throw new WireError(`option reply magic is 0x${magic.toString(16)}`);
  return { option: reader.u32(), type: reader.u32(), payloadBytes: reader.u32() };
}

// --- Strings ---

const noBytes = new Uint8Array(0);
const textEncoder = new TextEncoder();
const strictDecoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Encodes a text for people, cut at the end of a character so that it fits in {@linkcode MAX_STRING_BYTES}. */
export function encodeText(text: string): Uint8Array {
  const bytes = textEncoder.encode(text);
  if (bytes.length <= MAX_STRING_BYTES) return bytes;
  const cut = new Uint8Array(MAX_STRING_BYTES);
  return cut.subarray(0, textEncoder.encodeInto(text, cut).written);
}

/**
 * Decodes a string: all of `bytes`.
 *
 * @param what What it is, for the error.
 * @throws {WireError} If it is longer than {@linkcode MAX_STRING_BYTES}, has a NUL inside, or is not UTF-8.
 */
export function decodeString(bytes: Uint8Array, what: string): string {
  if (bytes.length > MAX_STRING_BYTES) throw new WireError(`${what} is ${bytes.length} bytes long`);
  if (bytes.includes(0)) throw new WireError(`${what} holds a NUL`);
  try {
    return strictDecoder.decode(bytes);
  } catch {
    throw new WireError(`${what} is not UTF-8`);
  }
}

// --- INFO and GO ---

/** What a client asks about an export. */
export interface InfoRequest {
  readonly exportName: string;
  /** {@linkcode InfoType}s, unknown and repeated ones included. */
  readonly types: readonly number[];
}

/** Encodes the payload of INFO or GO: name length u32, name, count u16, then that many types u16. */
export function encodeInfoRequest({ exportName, types }: InfoRequest): Uint8Array {
  const name = textEncoder.encode(exportName);
  const bytes = new Uint8Array(4 + name.length + 2 + 2 * types.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, name.length);
  bytes.set(name, 4);
  view.setUint16(4 + name.length, types.length);
  types.forEach((type, i) => view.setUint16(6 + name.length + 2 * i, type));
  return bytes;
}

/**
 * Decodes the payload of INFO or GO; see {@linkcode encodeInfoRequest} for its shape.
 *
 * @throws {WireError} If the lengths do not add up or the name is no string.
 */
export function decodeInfoRequest(payload: Uint8Array): InfoRequest {
  const reader = read(payload, "export information request");
  const exportName = decodeString(reader.bytes(reader.u32()), "export name");
  const count = reader.u16();
  if (reader.leftBytes !== 2 * count) {
    throw new WireError(`${count} information types in ${reader.leftBytes} bytes`);
  }
  return { exportName, types: Array.from({ length: count }, () => reader.u16()) };
}

/** One piece of information about an export; `null` in its place is a type we do not know. */
export type Info =
  | ({ readonly type: typeof InfoType.EXPORT } & ExportSummary)
  | { readonly type: typeof InfoType.NAME; readonly name: string }
  | { readonly type: typeof InfoType.DESCRIPTION; readonly description: string }
  | { readonly type: typeof InfoType.BLOCK_SIZE; readonly blockSizes: BlockSizes };

/**
 * Encodes the payload of an INFO reply: type u16, then size u64 and flags u16, or a string, or minimum u32,
 * preferred u32 and maximum payload u32.
 */
export function encodeInfo(info: Info): Uint8Array {
  let bytes: Uint8Array;
  switch (info.type) {
    case InfoType.EXPORT: {
      bytes = new Uint8Array(12);
      const view = new DataView(bytes.buffer);
      setUint64(view, 2, info.sizeBytes);
      view.setUint16(10, info.transmissionFlags);
      break;
    }
    case InfoType.NAME:
    case InfoType.DESCRIPTION: {
      const text = encodeText(info.type === InfoType.NAME ? info.name : info.description);
      bytes = new Uint8Array(2 + text.length);
      bytes.set(text, 2);
      break;
    }
    case InfoType.BLOCK_SIZE: {
      bytes = new Uint8Array(14);
      const view = new DataView(bytes.buffer);
      view.setUint32(2, info.blockSizes.minimum);
      view.setUint32(6, info.blockSizes.preferred);
      view.setUint32(10, info.blockSizes.maximumPayload);
      break;
    }
  }
  new DataView(bytes.buffer).setUint16(0, info.type);
  return bytes;
}

/**
 * Decodes the payload of an INFO reply; see {@linkcode encodeInfo} for its shape.
 *
 * @returns `null` if the type is unknown: ignore it.
 * @throws {WireError} If the length does not fit the type, a text is no string, or sizes are what no export has.
 */
export function decodeInfo(payload: Uint8Array): Info | null {
  const reader = read(payload, "export information");
  const type = reader.u16();
  switch (type) {
    case InfoType.EXPORT: {
      expectLength(payload, 12, "export size and flags");
      return { type, sizeBytes: decodeSize(reader.u64()), transmissionFlags: reader.u16() };
    }
    case InfoType.NAME:
      return { type, name: decodeString(reader.bytes(reader.leftBytes), "canonical export name") };
    case InfoType.DESCRIPTION:
      return { type, description: decodeString(reader.bytes(reader.leftBytes), "export description") };
    case InfoType.BLOCK_SIZE: {
      expectLength(payload, 14, "block sizes");
      const blockSizes = { minimum: reader.u32(), preferred: reader.u32(), maximumPayload: reader.u32() };
      checkBlockSizes(blockSizes);
      return { type, blockSizes };
    }
    default:
      return null;
  }
}

function checkBlockSizes({ minimum, preferred, maximumPayload }: BlockSizes): void {
  if (!isPowerOfTwo(minimum) || minimum > MINIMUM_BLOCK_BYTES_MAX) {
    throw new WireError(`minimum block size is ${minimum}`);
  }
  if (!isPowerOfTwo(preferred) || preferred < minimum) {
    throw new WireError(`preferred block size is ${preferred} beside a minimum of ${minimum}`);
  }
  if (maximumPayload < preferred) {
    throw new WireError(`maximum payload is ${maximumPayload} beside a preferred block size of ${preferred}`);
  }
}

function isPowerOfTwo(value: number): boolean {
  return value > 0 && Number.isInteger(Math.log2(value));
}

// --- LIST ---

/** One export as LIST tells it. */
export interface ListedName {
  readonly name: string;
  /** For people; may be empty. */
  readonly description: string;
}

/** Encodes the payload of a SERVER reply: name length u32, name, description. */
export function encodeListedName({ name, description }: ListedName): Uint8Array {
  const nameBytes = textEncoder.encode(name);
  const text = encodeText(description);
  const bytes = new Uint8Array(4 + nameBytes.length + text.length);
  new DataView(bytes.buffer).setUint32(0, nameBytes.length);
  bytes.set(nameBytes, 4);
  bytes.set(text, 4 + nameBytes.length);
  return bytes;
}

/**
 * Decodes the payload of a SERVER reply; see {@linkcode encodeListedName} for its shape.
 *
 * @throws {WireError} If the name runs past the payload, or name or description are no strings.
 */
export function decodeListedName(payload: Uint8Array): ListedName {
  const reader = read(payload, "listed export");
  const name = decodeString(reader.bytes(reader.u32()), "export name");
  return { name, description: decodeString(reader.bytes(reader.leftBytes), "export description") };
}

// --- Metadata contexts ---

/** What a client asks about metadata contexts. */
export interface MetaRequest {
  readonly exportName: string;
  readonly queries: readonly string[];
}

/**
 * Encodes the payload of LIST_META_CONTEXT or SET_META_CONTEXT: name length u32, name, count u32, then per query
 * length u32 and text.
 */
export function encodeMetaRequest({ exportName, queries }: MetaRequest): Uint8Array {
  const name = textEncoder.encode(exportName);
  const texts = queries.map((query) => textEncoder.encode(query));
  const bytes = new Uint8Array(8 + name.length + texts.reduce((sum, text) => sum + 4 + text.length, 0));
  const view = new DataView(bytes.buffer);
  let at = putString(bytes, view, 0, name);
  view.setUint32(at, texts.length);
  at += 4;
  for (const text of texts) at = putString(bytes, view, at, text);
  return bytes;
}

function putString(bytes: Uint8Array, view: DataView, at: number, text: Uint8Array): number {
  view.setUint32(at, text.length);
  bytes.set(text, at + 4);
  return at + 4 + text.length;
}

/**
 * Decodes the payload of LIST_META_CONTEXT or SET_META_CONTEXT; see {@linkcode encodeMetaRequest} for its shape.
 *
 * @throws {WireError} If the lengths do not add up, or the name or a query is no string.
 */
export function decodeMetaRequest(payload: Uint8Array): MetaRequest {
  const reader = read(payload, "metadata context request");
  const exportName = decodeString(reader.bytes(reader.u32()), "export name");
  const count = reader.u32();
  const queries: string[] = [];
  // A count beyond what is there ends at the first query that is missing.
  while (queries.length < count) queries.push(decodeString(reader.bytes(reader.u32()), "query"));
  if (reader.leftBytes > 0) throw new WireError(`${reader.leftBytes} bytes behind ${count} queries`);
  return { exportName, queries };
}

/** Encodes the payload of a META_CONTEXT reply: id u32, name. */
export function encodeMetaContext({ id, name }: MetaContext): Uint8Array {
  const text = encodeText(name);
  const bytes = new Uint8Array(4 + text.length);
  new DataView(bytes.buffer).setUint32(0, id);
  bytes.set(text, 4);
  return bytes;
}

/**
 * Decodes the payload of a META_CONTEXT reply; see {@linkcode encodeMetaContext} for its shape.
 *
 * @throws {WireError} If it is too short or the name is no string.
 */
export function decodeMetaContext(payload: Uint8Array): MetaContext {
  const reader = read(payload, "metadata context");
  return { id: reader.u32(), name: decodeString(reader.bytes(reader.leftBytes), "metadata context name") };
}

function read(bytes: Uint8Array, what: string): ByteReader {
  return new ByteReader(
    bytes,
    (wanted, left) =>
      new WireError(`${what} of ${bytes.length} bytes ends early: ${wanted} more wanted, ${left} left`),
  );
}

function expectLength(payload: Uint8Array, byteCount: number, what: string): void {
  if (payload.length !== byteCount) {
    throw new WireError(`${what} in ${payload.length} bytes, not ${byteCount}`);
  }
}
