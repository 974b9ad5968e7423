/**
 * The messages of dnbd3 as values.
 *
 * A connection carries one image. The client speaks first and selects it; after that, requests of 24 bytes go one
 * way and replies of 16 bytes with a payload the other. Only GET_BLOCK and ERROR replies carry the handle of their
 * request: those of other commands hold whatever a server leaves there, so clients ignore it.
 */
import { WireError } from "../wire_error.ts";
import {
  AddressFamily,
  BLOCK_BYTES,
  Command,
  HASH_BLOCK_BYTES,
  IMAGE_BYTES_MAX,
  MAGIC,
  PAYLOAD_BYTES_MAX,
  PROTOCOL_VERSION,
  PROTOCOL_VERSION_MIN,
  REPLY_HEADER_BYTES,
  REQUEST_HEADER_BYTES,
  REVISION_MAX,
  SERVER_ENTRY_BYTES,
} from "./constants.ts";

export interface Request {
  /** A {@linkcode Command}, or a number we do not know. */
  readonly command: number;
  /** GET_BLOCK: bytes wanted. Otherwise: bytes of payload that follow. u32. */
  readonly sizeBytes: number;
  /** First byte wanted; 56 bits, so above 2^53 rounded, which is beyond any image. */
  readonly offset: number;
  /** See {@linkcode Hops}; 0 towards servers of version 2. */
  readonly hops: number;
  /** Opaque, 64 bits. */
  readonly handle: bigint;
}

export interface Reply {
  readonly command: number;
  /** Bytes of payload that follow. u32. */
  readonly sizeBytes: number;
  readonly handle: bigint;
}

/** What a client wants to read. */
export interface Selection {
  readonly version: number;
  readonly name: string;
  /** 0: the newest. */
  readonly revision: number;
  /** Bits of {@linkcode SelectFlag}. */
  readonly flags: number;
}

/** What a server offers under the selected name. */
export interface SelectedImage {
  readonly version: number;
  readonly name: string;
  /** From 1 to 65535. */
  readonly revision: number;
  /** A multiple of {@linkcode BLOCK_BYTES} from every server known. */
  readonly sizeBytes: number;
}

/** An address of a server, as the protocol tells it. */
export interface ServerEntry {
  /** 4 or 16 bytes, network order. */
  readonly address: Uint8Array;
  readonly port: number;
  /** Servers send 0. */
  readonly failures: number;
}

/**
 * Encodes a request header, 24 bytes: magic u16, command u16, size u32, offset u56, hops u8, handle u64.
 *
 * @param into Where to put it; by default a new array.
 */
export function encodeRequest(request: Request, into = new Uint8Array(REQUEST_HEADER_BYTES)): Uint8Array {
  const view = new DataView(into.buffer, into.byteOffset, REQUEST_HEADER_BYTES);
  view.setUint16(0, MAGIC, true);
  view.setUint16(2, request.command, true);
  view.setUint32(4, request.sizeBytes, true);
  view.setUint32(8, request.offset % 2 ** 32, true);
  view.setUint32(12, (request.hops << 24) | Math.floor(request.offset / 2 ** 32), true);
  view.setBigUint64(16, request.handle, true);
  return into;
}

/**
 * Decodes a request header.
 *
 * @param view At least 24 bytes from `at`; not kept.
 * @returns The request; an unknown command is returned as it is.
 * @throws {WireError} If the magic is wrong.
 */
export function decodeRequest(view: DataView, at = 0): Request {
  checkMagic(view, at);
  return {
    command: view.getUint16(at + 2, true),
    sizeBytes: view.getUint32(at + 4, true),
    offset: view.getUint32(at + 8, true) + (view.getUint32(at + 12, true) & 0xffffff) * 2 ** 32,
    hops: view.getUint8(at + 15),
    handle: view.getBigUint64(at + 16, true),
  };
}

/** Encodes a reply header in place, 16 bytes: magic u16, command u16, size u32, handle u64. */
export function encodeReply(
  view: DataView,
  at: number,
  command: number,
  sizeBytes: number,
  handle: bigint,
): void {
  view.setUint16(at, MAGIC, true);
  view.setUint16(at + 2, command, true);
  view.setUint32(at + 4, sizeBytes, true);
  view.setBigUint64(at + 8, handle, true);
}

/**
 * Decodes a reply header.
 *
 * @param view At least 16 bytes from `at`; not kept.
 * @throws {WireError} If the magic is wrong.
 */
export function decodeReply(view: DataView, at = 0): Reply {
  checkMagic(view, at);
  return {
    command: view.getUint16(at + 2, true),
    sizeBytes: view.getUint32(at + 4, true),
    handle: view.getBigUint64(at + 8, true),
  };
}

function checkMagic(view: DataView, at: number): void {
  const magic = view.getUint16(at, true);
  if (magic !== MAGIC) throw new WireError(`wrong magic 0x${magic.toString(16).padStart(4, "0")}`);
}

/**
 * Encodes a whole SELECT_IMAGE request: header, then version u16, name, NUL, revision u16, flags u8.
 *
 * @throws {RangeError} If the name is too long for the protocol, empty, or holds a NUL.
 */
export function encodeSelection(selection: Selection): Uint8Array {
  const name = encodeName(selection.name);
  const payloadBytes = 2 + name.length + 1 + 2 + 1;
  if (payloadBytes > PAYLOAD_BYTES_MAX) {
    throw new RangeError(`image name of ${name.length} bytes is too long`);
  }
  const bytes = new Uint8Array(REQUEST_HEADER_BYTES + payloadBytes);
  encodeRequest(
    { command: Command.SelectImage, sizeBytes: payloadBytes, offset: 0, hops: 0, handle: 0n },
    bytes,
  );
  const view = new DataView(bytes.buffer, REQUEST_HEADER_BYTES);
  view.setUint16(0, selection.version, true);
  bytes.set(name, REQUEST_HEADER_BYTES + 2);
  view.setUint16(2 + name.length + 1, selection.revision, true);
  view.setUint8(2 + name.length + 3, selection.flags);
  return bytes;
}

/** A view of a header that was received as bytes. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

/**
 * Checks the size of a SELECT_IMAGE request before its payload is awaited.
 *
 * @throws {WireError} If it cannot hold a selection.
 */
export function checkSelectionSize(sizeBytes: number): void {
  if (sizeBytes < 3 || sizeBytes > PAYLOAD_BYTES_MAX) throw new WireError(`selection of ${sizeBytes} bytes`);
}

/**
 * Decodes the payload of a SELECT_IMAGE request.
 *
 * As forgiving as the servers in the field: a missing revision or flags byte counts as 0, the name may end with
 * the payload, and what follows the flags is ignored.
 *
 * @param payload All of it; not kept.
 * @throws {WireError} If the size is impossible, the client too old, or the name not UTF-8.
 */
export function decodeSelection(payload: Uint8Array): Selection {
  checkSelectionSize(payload.length);
  const view = viewOf(payload);
  const version = view.getUint16(0, true);
  if (version < PROTOCOL_VERSION_MIN) throw new WireError(`client of protocol version ${version}`);
  const end = payload.indexOf(0, 2);
  const nameEnd = end < 0 ? payload.length : end;
  return {
    version,
    name: decodeName(payload.subarray(2, nameEnd)),
    revision: nameEnd + 3 <= payload.length ? view.getUint16(nameEnd + 1, true) : 0,
    flags: nameEnd + 4 <= payload.length ? payload[nameEnd + 3] : 0,
  };
}

/**
 * Encodes a whole SELECT_IMAGE reply: header, then version u16, name, NUL, revision u16, size u64.
 *
 * @throws {RangeError} If the name is too long for a reply: 987 bytes.
 */
export function encodeSelectedImage(image: SelectedImage): Uint8Array {
  const name = encodeName(image.name);
  const payloadBytes = 2 + name.length + 1 + 2 + 8;
  if (payloadBytes > PAYLOAD_BYTES_MAX) {
    throw new RangeError(`image name of ${name.length} bytes is too long`);
  }
  const bytes = new Uint8Array(REPLY_HEADER_BYTES + payloadBytes);
  const view = new DataView(bytes.buffer);
  encodeReply(view, 0, Command.SelectImage, payloadBytes, 0n);
  view.setUint16(REPLY_HEADER_BYTES, image.version, true);
  bytes.set(name, REPLY_HEADER_BYTES + 2);
  const after = REPLY_HEADER_BYTES + 2 + name.length + 1;
  view.setUint16(after, image.revision, true);
  view.setBigUint64(after + 2, BigInt(image.sizeBytes), true);
  return bytes;
}

/**
 * Decodes the payload of a SELECT_IMAGE reply. Bytes after the size are ignored.
 *
 * @param payload All of it, at most {@linkcode PAYLOAD_BYTES_MAX} bytes; not kept.
 * @throws {WireError} If it is cut short, or says something no image can have.
 */
export function decodeSelectedImage(payload: Uint8Array): SelectedImage {
  if (payload.length < 3 || payload.length > PAYLOAD_BYTES_MAX) {
    throw new WireError(`selected image of ${payload.length} bytes`);
  }
  const view = viewOf(payload);
  const version = view.getUint16(0, true);
  if (version < PROTOCOL_VERSION_MIN) throw new WireError(`server of protocol version ${version}`);
  const nameEnd = payload.indexOf(0, 2);
  if (nameEnd < 0) throw new WireError("image name without its end");
  if (nameEnd + 11 > payload.length) {
    throw new WireError(`selected image cut short at ${payload.length} bytes`);
  }
  const revision = view.getUint16(nameEnd + 1, true);
  if (revision === 0) throw new WireError("selected image of revision 0");
  const sizeBytes = view.getBigUint64(nameEnd + 3, true);
  if (sizeBytes === 0n || sizeBytes > BigInt(IMAGE_BYTES_MAX)) {
    throw new WireError(`selected image of ${sizeBytes} bytes`);
  }
  return { version, name: decodeName(payload.subarray(2, nameEnd)), revision, sizeBytes: Number(sizeBytes) };
}

/** The version to answer a client with: its own, up to ours. */
export function answeredVersion(clientVersion: number): number {
  return Math.min(clientVersion, PROTOCOL_VERSION);
}

/**
 * Encodes the payload of a GET_SERVERS reply, 20 bytes each: address, 16 bytes; port u16 big-endian; family u8;
 * failures u8.
 */
export function encodeServers(entries: readonly ServerEntry[]): Uint8Array {
  const bytes = new Uint8Array(entries.length * SERVER_ENTRY_BYTES);
  const view = new DataView(bytes.buffer);
  entries.forEach(({ address, port, failures }, index) => {
    const at = index * SERVER_ENTRY_BYTES;
    bytes.set(address, at);
    view.setUint16(at + 16, port, false);
    bytes[at + 18] = address.length === 4 ? AddressFamily.Ipv4 : AddressFamily.Ipv6;
    bytes[at + 19] = failures;
  });
  return bytes;
}

/**
 * Decodes the payload of a GET_SERVERS reply. Empty entries and families we do not know are left out.
 *
 * @param payload All of it, at most {@linkcode PAYLOAD_BYTES_MAX} bytes; not kept.
 * @throws {WireError} If the size is no number of entries.
 */
export function decodeServers(payload: Uint8Array): ServerEntry[] {
  if (payload.length > PAYLOAD_BYTES_MAX || payload.length % SERVER_ENTRY_BYTES !== 0) {
    throw new WireError(`server list of ${payload.length} bytes`);
  }
  const view = viewOf(payload);
  const entries: ServerEntry[] = [];
  for (let at = 0; at < payload.length; at += SERVER_ENTRY_BYTES) {
    const family = payload[at + 18];
    const port = view.getUint16(at + 16, false);
    if ((family !== AddressFamily.Ipv4 && family !== AddressFamily.Ipv6) || port === 0) continue;
    const addressBytes = family === AddressFamily.Ipv4 ? 4 : 16;
    entries.push({ address: payload.slice(at, at + addressBytes), port, failures: payload[at + 19] });
  }
  return entries;
}

/** An image's size as everybody sees it: that of its file, filled up with zeroes to whole blocks. */
export function virtualSize(fileBytes: number): number {
  return Math.ceil(fileBytes / BLOCK_BYTES) * BLOCK_BYTES;
}

/** How many checksums an image of this size has. */
export function hashBlockCount(sizeBytes: number): number {
  return Math.ceil(sizeBytes / HASH_BLOCK_BYTES);
}

/** Whether a revision is one an image can have, 0 being the wish for the newest. */
export function isRevision(revision: number): boolean {
  return Number.isInteger(revision) && revision >= 1 && revision <= REVISION_MAX;
}

function encodeName(name: string): Uint8Array {
  if (name === "" || name.includes("\0")) {
    throw new RangeError(`impossible image name ${JSON.stringify(name)}`);
  }
  return new TextEncoder().encode(name);
}

/** Names are bytes to the protocol and UTF-8 to us: another encoding has no spelling in our file names. */
function decodeName(bytes: Uint8Array): string {
  if (bytes.length === 0) throw new WireError("empty image name");
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new WireError("image name that is not UTF-8");
  }
}
