/**
 * What crosses a channel after the hello: frames.
 *
 * A frame is a header and a body. The header begins with a type u8 and the body's length u24, big endian, in
 * sight; what proves them depends on the channel:
 *
 * - encrypted (`noise`): 4 bytes of header, and a body encrypted under the direction's next counter with the
 *   header as additional data. A frame that was altered, dropped, repeated or moved does not authenticate.
 * - checksum only: 12 bytes of header: type, length, CRC32C of the body u32, then CRC32C u32 of the frame's
 *   number u64 and of the eight bytes before. A damaged length is noticed before a single byte of the body is
 *   awaited, and since the number counts, a frame dropped, repeated or moved is noticed like a damaged one. This
 *   finds accidents; whoever wants to forge a frame can.
 *
 * The types stand in sight so that a receiver can have several frames under way on the crypto threads: it knows
 * which key the next frame needs before the last one is proven. A frame counts only once it is, and the frames
 * before it were.
 *
 * An end of the stream counts only after a frame of type `close`: an attacker can cut the connection, but cannot
 * make the cut look like an end.
 */
import { WireError } from "../wire_error.ts";
import { crc32c } from "./checksum.ts";
import { type CipherState, TAG_BYTES } from "./cipher_state.ts";
import type { DirectCipherState } from "./direct_cipher_state.ts";

type Bytes = Uint8Array<ArrayBuffer>;

/** The kinds of frames, by their numbers on the wire. */
export const FRAME_TYPES = {
  /** A handshake message; neither encrypted nor proven by its frame. */
  handshake: 1,
  /** The server ends a handshake that has not got as far as `refused`; the body says why. Proven by nothing. */
  hint: 2,
  /** The first protected frame of the server: the client is let in. Empty. */
  accepted: 3,
  /** Instead of `accepted`: the client is known for who it is, and not let in. The body says why. */
  refused: 4,
  /** A piece of the stream. */
  data: 5,
  /** The sender's frames after this one are under the next key. Empty. */
  rekey: 6,
  /** The sender has finished, and no frame follows. Empty. */
  close: 7,
} as const;

export type FrameType = keyof typeof FRAME_TYPES;
/** The types that a {@linkcode Sealer} makes. */
export type SealedType = Exclude<FrameType, "handshake" | "hint">;

/** Length of the part of the header that all frames share. */
export const FRAME_START_BYTES = 4;
/**
 * The longest body. The Noise document ends messages at 65535 bytes (section 3), for the sake of a 16-bit length;
 * ours has 24 bits, and a block of 64 KiB with the headers of its protocol shall not need two frames.
 */
export const BODY_BYTES_MAX = 68 * 1024;
/** The longest payload of a protected frame, in either kind of channel. */
export const PAYLOAD_BYTES_MAX = BODY_BYTES_MAX - TAG_BYTES;
/** The longest text of a `hint` or `refused` frame, in bytes of UTF-8. */
export const REASON_BYTES_MAX = 1024;

/** A frame ready to be sent, as soon as its body is. */
export interface Frame {
  readonly header: Bytes;
  readonly body: Bytes | Promise<Bytes>;
}

/** A protected frame that was proven. */
export interface Opened {
  readonly type: SealedType;
  readonly payload: Bytes;
}

/** What the header of a protected frame says. */
export interface FrameStart {
  readonly type: SealedType;
  readonly bodyBytes: number;
}

/** Makes the frames of one direction. */
export interface Sealer {
  /**
   * @param payload At most {@linkcode PAYLOAD_BYTES_MAX} bytes; copied before this returns, or itself the body.
   * @returns The frames to send, in this order and after all those made before.
   */
  seal(type: Exclude<SealedType, "rekey">, payload: Bytes): Frame[];
}

/** Proves and opens the frames of one direction. Between its two methods it remembers nothing of a frame. */
export interface Opener {
  readonly headerBytes: number;
  /**
   * Reads a header.
   *
   * @param header Exactly `headerBytes` bytes.
   * @returns The type, not proven yet, and the length of the body, checked against the limits of the type.
   * @throws {WireError} If the type is unknown here, the length is out of bounds, or the header is damaged.
   */
  decodeHeader(header: Bytes): FrameStart;
  /**
   * Opens the next frame. May be called again before the first call's promise is there; what resolves late must
   * not be used before everything that was asked for earlier has resolved.
   *
   * @param header As it was given to `decodeHeader`; copied, like the body, before this returns.
   * @throws {WireError} If the frame is not the one that the peer sealed at this place.
   */
  open(header: Bytes, body: Bytes): Opened | Promise<Opened>;
}

/** A sealer that needs no other thread. */
export interface DirectSealer extends Sealer {
  /** By how much what {@linkcode sealInto} makes may be longer than the payload. */
  readonly overheadBytesMax: number;
  /**
   * As {@linkcode seal}, at once.
   *
   * @param parts The payload, in pieces.
   * @param into Where the frames go; does not overlap the payload, and has room for it and the overhead.
   * @returns How long the frames are.
   */
  sealInto(type: Exclude<SealedType, "rekey">, parts: readonly Bytes[], into: Bytes): number;
}

/** An opener that needs no other thread. */
export interface DirectOpener extends Opener {
  /** By how much a body is longer than its payload. */
  readonly overheadBytes: number;
  /**
   * Opens the next frame at once.
   *
   * @param into Where the payload goes, as long as that or longer; does not overlap. It holds anything on failure.
   * @returns The length of the payload.
   * @throws {WireError} If the frame is not the one that the peer sealed at this place.
   */
  openInto(header: Bytes, body: Bytes, into: Bytes): number;
}

/** Whether frames can be made and opened at once. */
export function isDirect(
  channel: { readonly sealer: Sealer; readonly opener: Opener },
): channel is { readonly sealer: DirectSealer; readonly opener: DirectOpener } {
  return "sealInto" in channel.sealer && "openInto" in channel.opener;
}

/** A plain frame: a `handshake` message or a `hint`. */
export function encodePlainFrame(type: "handshake" | "hint", body: Bytes): Bytes {
  const frame = new Uint8Array(FRAME_START_BYTES + body.length);
  encodeStart(frame, type, body.length);
  frame.set(body, FRAME_START_BYTES);
  return frame;
}

/**
 * @param bytes At least {@linkcode FRAME_START_BYTES} bytes.
 * @throws {WireError} If the type is unknown or the length is longer than any body.
 */
export function decodeStart(bytes: Uint8Array): { type: FrameType; bodyBytes: number } {
  const type = TYPES_BY_NUMBER.at(bytes[0]);
  if (type === undefined) throw new WireError(`frame type ${bytes[0]} is unknown`);
  const bodyBytes = bytes[1] << 16 | bytes[2] << 8 | bytes[3];
  if (bodyBytes > BODY_BYTES_MAX) {
    throw new WireError(`a ${type} frame of ${bodyBytes} bytes is longer than ${BODY_BYTES_MAX}`);
  }
  return { type, bodyBytes };
}

const TYPES_BY_NUMBER: (FrameType | undefined)[] = [];
for (const [type, number] of Object.entries(FRAME_TYPES)) TYPES_BY_NUMBER[number] = type as FrameType;

function encodeStart(header: Uint8Array, type: FrameType, bodyBytes: number): void {
  header[0] = FRAME_TYPES[type];
  header[1] = bodyBytes >>> 16;
  header[2] = bodyBytes >>> 8;
  header[3] = bodyBytes;
}

/** Reads what all protected headers share. `overheadBytes`: by how much a body is longer than its payload. */
function decodeProtectedStart(
  header: Uint8Array,
  overheadBytes: number,
): { type: SealedType; bodyBytes: number } {
  const { type, bodyBytes } = decodeStart(header);
  if (type === "handshake" || type === "hint") {
    throw new WireError(`a ${type} frame has no place after the handshake`);
  }
  const payloadBytes = bodyBytes - overheadBytes;
  const fits = type === "data"
    ? payloadBytes > 0 && payloadBytes <= PAYLOAD_BYTES_MAX
    : type === "refused"
    ? payloadBytes >= 0 && payloadBytes <= REASON_BYTES_MAX
    : payloadBytes === 0;
  if (!fits) throw new WireError(`a ${type} frame cannot have a body of ${bodyBytes} bytes`);
  return { type, bodyBytes };
}

/** When a sender goes on to its next key. */
export interface RekeyLimits {
  /** Bytes under one key. */
  readonly bytes: number;
  /** Age of a key in milliseconds, looked at when there is something to send. */
  readonly ageMs: number;
}

/**
 * The volume is a thousandth of what AES-GCM bears at this frame size; the age bounds what a key that leaks from
 * memory opens, as keys before it cannot be computed from it.
 */
const REKEY_LIMITS: RekeyLimits = { bytes: 2 ** 32, ageMs: 10 * 60_000 };

/** Knows when a key has done enough. */
class RekeySchedule {
  readonly #limits: RekeyLimits;
  readonly #now: () => number;
  #keyedAt: number;
  #bytes = 0;

  constructor(limits: RekeyLimits, now: () => number) {
    this.#limits = limits;
    this.#now = now;
    this.#keyedAt = now();
  }

  /** Whether the next frame, with a payload this long, is to be under the next key. */
  isDue(payloadBytes: number): boolean {
    const now = this.#now();
    const due = this.#bytes >= this.#limits.bytes || now - this.#keyedAt >= this.#limits.ageMs;
    if (due) {
      this.#bytes = 0;
      this.#keyedAt = now;
    }
    this.#bytes += payloadBytes;
    return due;
  }
}

/** Encrypts frames. */
export class NoiseSealer implements Sealer {
  readonly #cipherState: CipherState;
  readonly #schedule: RekeySchedule;

  /** @param now A clock in milliseconds. */
  constructor(cipherState: CipherState, limits: RekeyLimits = REKEY_LIMITS, now = () => performance.now()) {
    this.#cipherState = cipherState;
    this.#schedule = new RekeySchedule(limits, now);
  }

  seal(type: Exclude<SealedType, "rekey">, payload: Bytes): Frame[] {
    const frames: Frame[] = [];
    if (this.#schedule.isDue(payload.length)) {
      frames.push(this.#seal("rekey", new Uint8Array(0)));
      // Only the promise of the key is needed here: a failure shows in the frames that wait for it.
      this.#cipherState.rekey().catch(() => {});
    }
    frames.push(this.#seal(type, payload));
    return frames;
  }

  #seal(type: SealedType, payload: Bytes): Frame {
    const header = new Uint8Array(FRAME_START_BYTES);
    encodeStart(header, type, payload.length + TAG_BYTES);
    return { header, body: this.#cipherState.encryptWithAd(header, payload) };
  }
}

/** Encrypts frames, at once. */
export class DirectNoiseSealer implements DirectSealer {
  readonly overheadBytesMax = 2 * (FRAME_START_BYTES + TAG_BYTES);
  readonly #cipherState: DirectCipherState;
  readonly #schedule: RekeySchedule;

  /** @param now A clock in milliseconds. */
  constructor(
    cipherState: DirectCipherState,
    limits: RekeyLimits = REKEY_LIMITS,
    now = () => performance.now(),
  ) {
    this.#cipherState = cipherState;
    this.#schedule = new RekeySchedule(limits, now);
  }

  seal(type: Exclude<SealedType, "rekey">, payload: Bytes): Frame[] {
    const header = new Uint8Array(payload.length + this.overheadBytesMax);
    return [{ header: header.subarray(0, this.sealInto(type, [payload], header)), body: new Uint8Array(0) }];
  }

  sealInto(type: Exclude<SealedType, "rekey">, parts: readonly Bytes[], into: Bytes): number {
    let payloadBytes = 0;
    for (const { length } of parts) payloadBytes += length;
    let filled = 0;
    if (this.#schedule.isDue(payloadBytes)) {
      filled = this.#seal("rekey", [], 0, into);
      this.#cipherState.rekey();
    }
    return filled + this.#seal(type, parts, payloadBytes, into.subarray(filled));
  }

  #seal(type: SealedType, parts: readonly Bytes[], payloadBytes: number, into: Bytes): number {
    const header = into.subarray(0, FRAME_START_BYTES);
    encodeStart(header, type, payloadBytes + TAG_BYTES);
    const end = FRAME_START_BYTES + payloadBytes + TAG_BYTES;
    this.#cipherState.encryptInto(header, parts, into.subarray(FRAME_START_BYTES, end));
    return end;
  }
}

/** Decrypts frames, at once. */
export class DirectNoiseOpener implements DirectOpener {
  readonly headerBytes = FRAME_START_BYTES;
  readonly overheadBytes = TAG_BYTES;
  readonly #cipherState: DirectCipherState;

  constructor(cipherState: DirectCipherState) {
    this.#cipherState = cipherState;
  }

  decodeHeader(header: Bytes): FrameStart {
    return decodeProtectedStart(header, TAG_BYTES);
  }

  open(header: Bytes, body: Bytes): Opened {
    const { type } = this.decodeHeader(header);
    const payload = new Uint8Array(Math.max(0, body.length - TAG_BYTES));
    this.openInto(header, body, payload);
    return { type, payload };
  }

  openInto(header: Bytes, body: Bytes, into: Bytes): number {
    this.#cipherState.decryptInto(header, body, into);
    if (this.decodeHeader(header).type === "rekey") this.#cipherState.rekey();
    return body.length - TAG_BYTES;
  }
}

/** Decrypts frames. */
export class NoiseOpener implements Opener {
  readonly headerBytes = FRAME_START_BYTES;
  readonly #cipherState: CipherState;

  constructor(cipherState: CipherState) {
    this.#cipherState = cipherState;
  }

  decodeHeader(header: Bytes): FrameStart {
    return decodeProtectedStart(header, TAG_BYTES);
  }

  open(header: Bytes, body: Bytes): Promise<Opened> {
    const { type } = decodeProtectedStart(header, TAG_BYTES);
    const decrypted = this.#cipherState.decryptWithAd(header, body);
    if (type === "rekey") this.#cipherState.rekey().catch(() => {});
    return decrypted.then((payload) => ({ type, payload }));
  }
}

const CHECKSUM_HEADER_BYTES = 12;

/** The checksum that ends the header of frame `number`. */
function headerChecksum(header: Uint8Array, number: number): number {
  const counted = new Uint8Array(8);
  new DataView(counted.buffer).setBigUint64(0, BigInt(number));
  return crc32c(header.subarray(0, 8), crc32c(counted));
}

/** Puts checksums on frames. */
export class ChecksumSealer implements DirectSealer {
  readonly overheadBytesMax = CHECKSUM_HEADER_BYTES;
  #number = 0;

  seal(type: Exclude<SealedType, "rekey">, payload: Bytes): Frame[] {
    const header = new Uint8Array(CHECKSUM_HEADER_BYTES);
    this.#encodeHeader(header, type, payload);
    return [{ header, body: payload }];
  }

  sealInto(type: Exclude<SealedType, "rekey">, parts: readonly Bytes[], into: Bytes): number {
    let filled = CHECKSUM_HEADER_BYTES;
    for (const part of parts) {
      into.set(part, filled);
      filled += part.length;
    }
    this.#encodeHeader(into, type, into.subarray(CHECKSUM_HEADER_BYTES, filled));
    return filled;
  }

  #encodeHeader(header: Bytes, type: SealedType, payload: Bytes): void {
    encodeStart(header, type, payload.length);
    const view = new DataView(header.buffer, header.byteOffset);
    view.setUint32(4, crc32c(payload));
    view.setUint32(8, headerChecksum(header, this.#number++));
  }
}

/** Compares the checksums of frames. */
export class ChecksumOpener implements DirectOpener {
  readonly headerBytes = CHECKSUM_HEADER_BYTES;
  readonly overheadBytes = 0;
  #number = 0;

  decodeHeader(header: Bytes): FrameStart {
    const view = new DataView(header.buffer, header.byteOffset);
    if (view.getUint32(8) !== headerChecksum(header, this.#number)) {
      throw new WireError(`frame ${this.#number} has a damaged header, or is not the next one`);
    }
    const start = decodeProtectedStart(header, 0);
    if (start.type === "rekey") throw new WireError("a channel without keys has no rekey frame");
    return start;
  }

  open(header: Bytes, body: Bytes): Opened {
    const { type } = decodeProtectedStart(header, 0);
    const payload = new Uint8Array(body.length);
    this.openInto(header, body, payload);
    return { type, payload };
  }

  openInto(header: Bytes, body: Bytes, into: Bytes): number {
    if (new DataView(header.buffer, header.byteOffset).getUint32(4) !== crc32c(body)) {
      throw new WireError(`frame ${this.#number} was damaged on the way: the checksum of its body is wrong`);
    }
    this.#number++;
    into.set(body);
    return body.length;
  }
}
