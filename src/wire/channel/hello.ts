/**
 * The first bytes of a channel, which both ends send without waiting for each other.
 *
 * The server's, 16 bytes: magic 8, its highest version u8, seven zeroes that a client ignores. They commit to
 * nothing, but who has the wrong port finds out at once instead of waiting for the other to begin; an NBD client
 * looks at its server's first 16 bytes.
 *
 * The client's, 16 bytes: magic 8, version u8, protection u8, cipher u8, flags u8, CRC32C of the twelve bytes before u32 (big
 * endian). The magic and the place of the version are for ever; the rest is version 1's. In an encrypted channel
 * these bytes are also the handshake's prologue, so that whoever alters them on the way ends it.
 */
import { WireError } from "../wire_error.ts";
import { crc32c } from "./checksum.ts";
import type { CipherName } from "./cipher_state.ts";

export const HELLO_BYTES = 16;
export const CHANNEL_VERSION = 1;

/** What a channel protects: `noise` encrypts and authenticates, `checksum` detects accidents only. */
export type Protection = "noise" | "checksum";

export interface Hello {
  readonly protection: Protection;
  /** Of a `noise` channel; a `checksum` channel has none, and says `AESGCM`'s number 0. */
  readonly cipher: CipherName;
  /** The client holds a pre-shared key. */
  readonly presharedKey: boolean;
}

/** A hello of a later version, or with a choice that this version does not know: a fit answer is a refusal. */
export class UnknownHelloError extends WireError {}

const MAGIC = new TextEncoder().encode("DENBDCHN");
const NBD_MAGIC = new TextEncoder().encode("NBDMAGIC");
const PROTECTIONS: readonly Protection[] = ["noise", "checksum"];
const CIPHERS: readonly CipherName[] = ["AESGCM", "ChaChaPoly"];
const FLAG_PRESHARED_KEY = 1;

/** Length of the server's first bytes. */
export const GREETING_BYTES = 16;

export function encodeGreeting(): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(GREETING_BYTES);
  bytes.set(MAGIC);
  bytes[MAGIC.length] = CHANNEL_VERSION;
  return bytes;
}

/**
 * @param bytes Exactly {@linkcode GREETING_BYTES} bytes.
 * @throws {WireError} If the server is none of channels.
 */
export function checkGreeting(bytes: Uint8Array): void {
  if (startsWith(bytes, MAGIC)) return;
  if (startsWith(bytes, NBD_MAGIC)) {
    throw new WireError("the server speaks plain NBD on this port, not the channel's protocol");
  }
  throw new WireError("the server does not speak the channel's protocol: the magic is wrong");
}

export function encodeHello(hello: Hello): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(HELLO_BYTES);
  bytes.set(MAGIC);
  bytes[8] = CHANNEL_VERSION;
  bytes[9] = PROTECTIONS.indexOf(hello.protection);
  bytes[10] = CIPHERS.indexOf(hello.cipher);
  bytes[11] = hello.presharedKey ? FLAG_PRESHARED_KEY : 0;
  new DataView(bytes.buffer).setUint32(12, crc32c(bytes.subarray(0, 12)));
  return bytes;
}

/**
 * @param bytes Exactly {@linkcode HELLO_BYTES} bytes; not kept.
 * @throws {UnknownHelloError} If this program is too old for it.
 * @throws {WireError} If it is no hello, or a damaged one.
 */
export function decodeHello(bytes: Uint8Array): Hello {
  if (!startsWith(bytes, MAGIC)) {
    throw new WireError("the client does not speak the channel's protocol: the magic is wrong");
  }
  if (bytes[8] !== CHANNEL_VERSION) {
    throw new UnknownHelloError(
      `channel version ${bytes[8]} is unknown here, only ${CHANNEL_VERSION} is known`,
    );
  }
  const checksum = new DataView(bytes.buffer, bytes.byteOffset).getUint32(12);
  if (checksum !== crc32c(bytes.subarray(0, 12))) {
    throw new WireError("the channel's first message was damaged on the way: the checksum is wrong");
  }
  const protection = PROTECTIONS.at(bytes[9]);
  const cipher = CIPHERS.at(bytes[10]);
  if (protection === undefined) throw new UnknownHelloError(`channel protection ${bytes[9]} is unknown here`);
  if (cipher === undefined) throw new UnknownHelloError(`channel cipher ${bytes[10]} is unknown here`);
  if (bytes[11] > FLAG_PRESHARED_KEY) {
    throw new UnknownHelloError(`channel flags ${bytes[11]} are unknown here`);
  }
  return { protection, cipher, presharedKey: bytes[11] === FLAG_PRESHARED_KEY };
}

function startsWith(bytes: Uint8Array, start: Uint8Array): boolean {
  return start.every((byte, index) => bytes[index] === byte);
}
