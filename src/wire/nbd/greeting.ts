/**
 * The first bytes of a connection: the oldstyle hello, the newstyle greeting, and the client's flags.
 *
 * @see NBD proto.md, "Oldstyle negotiation", "Newstyle negotiation"
 */
import { WireError } from "../wire_error.ts";
import { EXPORT_BYTES_MAX, INIT_PASSWD, OLDSTYLE_MAGIC, OPTION_MAGIC } from "./constants.ts";
import { setUint64 } from "./transmission.ts";

/** Bytes that tell the styles apart: INIT_PASSWD and the magic of a style. */
export const STYLE_BYTES = 16;
/** Bytes of the newstyle greeting, the {@linkcode STYLE_BYTES} included. */
const GREETING_BYTES = 18;
/** Bytes of the handshake flags that end the newstyle greeting. */
export const HANDSHAKE_FLAGS_BYTES = 2;
/** Bytes of the client's flags. */
export const CLIENT_FLAGS_BYTES = 4;
/** Bytes of the oldstyle hello, the {@linkcode STYLE_BYTES} included. */
export const HELLO_BYTES = 152;
/** Bytes of the oldstyle hello behind the {@linkcode STYLE_BYTES}: size, flags, zeroes. */
export const HELLO_REST_BYTES = HELLO_BYTES - STYLE_BYTES;
/** Zeroes at the end of the oldstyle hello and of the answer to EXPORT_NAME. */
export const PADDING_BYTES = 124;
/** Bytes of the answer to EXPORT_NAME without its padding: size, flags. */
export const EXPORT_NAME_REPLY_BYTES = 10;

/** What every style says about an export. */
export interface ExportSummary {
  /** At most 2^53 - 1. */
  readonly sizeBytes: number;
  /** {@linkcode TransmissionFlag}s, unknown ones included. */
  readonly transmissionFlags: number;
}

/** Encodes the oldstyle hello: INIT_PASSWD, magic u64, size u64, flags u32, 124 zeroes. */
export function encodeHello({ sizeBytes, transmissionFlags }: ExportSummary): Uint8Array {
  const bytes = new Uint8Array(HELLO_BYTES);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, INIT_PASSWD);
  view.setBigUint64(8, OLDSTYLE_MAGIC);
  setUint64(view, 16, sizeBytes);
  view.setUint32(24, transmissionFlags);
  return bytes;
}

/**
 * Decodes what follows the style in an oldstyle hello. The upper half of its flags and its padding mean nothing.
 *
 * @param bytes Exactly {@linkcode HELLO_REST_BYTES}; not kept.
 * @throws {WireError} If the size is beyond {@linkcode EXPORT_BYTES_MAX}.
 */
export function decodeHelloRest(bytes: Uint8Array): ExportSummary {
  const view = viewOf(bytes);
  return { sizeBytes: decodeSize(view.getBigUint64(0)), transmissionFlags: view.getUint16(10) };
}

/** Encodes the newstyle greeting: INIT_PASSWD, "IHAVEOPT", {@linkcode HandshakeFlag}s u16. */
export function encodeGreeting(handshakeFlags: number): Uint8Array {
  const bytes = new Uint8Array(GREETING_BYTES);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, INIT_PASSWD);
  view.setBigUint64(8, OPTION_MAGIC);
  view.setUint16(16, handshakeFlags);
  return bytes;
}

/**
 * Tells from the first bytes which style a server speaks.
 *
 * @param bytes Exactly {@linkcode STYLE_BYTES}; not kept.
 * @throws {WireError} If it is not NBD.
 */
export function decodeStyle(bytes: Uint8Array): "oldstyle" | "newstyle" {
  const view = viewOf(bytes);
  const password = view.getBigUint64(0);
  const magic = view.getBigUint64(8);
  if (password !== INIT_PASSWD) throw new WireError(`not an NBD server: it begins with 0x${hex64(password)}`);
  if (magic === OPTION_MAGIC) return "newstyle";
  if (magic === OLDSTYLE_MAGIC) return "oldstyle";
  throw new WireError(`handshake magic is 0x${hex64(magic)}`);
}

/** Decodes the {@linkcode HandshakeFlag}s, unknown ones included: exactly {@linkcode HANDSHAKE_FLAGS_BYTES}. */
export function decodeHandshakeFlags(bytes: Uint8Array): number {
  return viewOf(bytes).getUint16(0);
}

/** Encodes the {@linkcode ClientFlag}s: u32. */
export function encodeClientFlags(flags: number): Uint8Array {
  const bytes = new Uint8Array(CLIENT_FLAGS_BYTES);
  new DataView(bytes.buffer).setUint32(0, flags);
  return bytes;
}

/**
 * Decodes the client's flags.
 *
 * @param bytes Exactly {@linkcode CLIENT_FLAGS_BYTES}; not kept.
 * @param offered The {@linkcode HandshakeFlag}s of the greeting, of which the client's are an echo.
 * @throws {WireError} If the client sets a flag that was not offered, or one that nobody knows.
 */
export function decodeClientFlags(bytes: Uint8Array, offered: number): number {
  const flags = viewOf(bytes).getUint32(0);
  if ((flags & ~offered) !== 0) {
    throw new WireError(`client flags are 0x${flags.toString(16)}, offered were 0x${offered.toString(16)}`);
  }
  return flags;
}

/** Encodes the answer to EXPORT_NAME: size u64, flags u16, and 124 zeroes if `padded`. */
export function encodeExportNameReply(
  { sizeBytes, transmissionFlags }: ExportSummary,
  padded: boolean,
): Uint8Array {
  const bytes = new Uint8Array(EXPORT_NAME_REPLY_BYTES + (padded ? PADDING_BYTES : 0));
  const view = new DataView(bytes.buffer);
  setUint64(view, 0, sizeBytes);
  view.setUint16(8, transmissionFlags);
  return bytes;
}

/**
 * Decodes the answer to EXPORT_NAME.
 *
 * @param bytes The first {@linkcode EXPORT_NAME_REPLY_BYTES}; not kept.
 * @throws {WireError} If the size is beyond {@linkcode EXPORT_BYTES_MAX}.
 */
export function decodeExportNameReply(bytes: Uint8Array): ExportSummary {
  const view = viewOf(bytes);
  return { sizeBytes: decodeSize(view.getBigUint64(0)), transmissionFlags: view.getUint16(8) };
}

/** @throws {WireError} If the size is beyond {@linkcode EXPORT_BYTES_MAX}. */
export function decodeSize(size: bigint): number {
  if (size > BigInt(EXPORT_BYTES_MAX)) throw new WireError(`export size is ${size} bytes`);
  return Number(size);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function hex64(value: bigint): string {
  return value.toString(16).padStart(16, "0");
}
