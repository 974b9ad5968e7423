/**
 * How a channel comes to be, as two conversations.
 *
 * ```
 * client                                   server
 *                                <-        greeting
 * hello, handshake(e)            ->
 *                                <-        handshake(e, ee, s, es)
 * looks at the server's key
 * handshake(s, se [, psk])       ->
 *                                          looks at the client's key
 *                                <-        accepted | refused: why        (the first encrypted frame)
 * ```
 *
 * The client says who it is only to a server whose key it trusts, and the answer, yes or no, is authenticated.
 * A server that gives up earlier (a version it does not know, a pre-shared key that does not fit) says why in a
 * `hint`, for a person to read: nothing proves it, but whoever can forge it could cut the connection as well.
 * Without encryption there are no handshake messages, only hello and answer.
 */
import { printable } from "../../base/printable.ts";
import { type Conversation, need, send, wait } from "../conversation.ts";
import { WireError } from "../wire_error.ts";
import { CIPHER_KEY_BYTES, type CipherName } from "./cipher_state.ts";
import { DirectCipherState, type MakeRecordCipher } from "./direct_cipher_state.ts";
import {
  ChecksumOpener,
  ChecksumSealer,
  decodeStart,
  DirectNoiseOpener,
  DirectNoiseSealer,
  encodePlainFrame,
  FRAME_START_BYTES,
  NoiseOpener,
  NoiseSealer,
  type Opener,
  REASON_BYTES_MAX,
  type RekeyLimits,
  type Sealer,
} from "./frame.ts";
import { HandshakeState } from "./handshake.ts";
import {
  checkGreeting,
  decodeHello,
  encodeGreeting,
  encodeHello,
  GREETING_BYTES,
  type Hello,
  HELLO_BYTES,
  type Protection,
  UnknownHelloError,
} from "./hello.ts";
import type { KeyPair } from "./key_pair.ts";

type Bytes = Uint8Array<ArrayBuffer>;

/** A channel, ready for data in both directions. */
export interface Established {
  readonly protection: Protection;
  readonly sealer: Sealer;
  readonly opener: Opener;
  /** The peer's static public key, proven; a `checksum` channel has none. */
  readonly peerKey?: Bytes;
  /** The same 32 bytes at both ends and in no other channel; a `checksum` channel has none. */
  readonly handshakeHash?: Bytes;
}

/** What an end needs for an encrypted channel. */
export interface NoiseIdentity {
  readonly staticKey: KeyPair;
  /** 32 bytes that the other end must have too. */
  readonly presharedKey?: Bytes;
}

/** What both ends may set. */
export interface EstablishOptions {
  /** Does the work of AESGCM where it can; default Web Crypto. */
  readonly makeRecordCipher?: MakeRecordCipher;
  readonly rekeyLimits?: RekeyLimits;
  /** A clock in milliseconds. */
  readonly now?: () => number;
}

export interface InitiateOptions extends EstablishOptions {
  /** Who the client is; without it the channel has checksums only. */
  readonly identity?: NoiseIdentity;
  /** Default AESGCM. */
  readonly cipher?: CipherName;
  /** Throws if this server key is not to be talked to. Called once, before the client says who it is. */
  readonly trust?: (serverKey: Bytes) => void | Promise<void>;
}

/** Which channels a server gives: with keys only, either, or with checksums only. */
export type EncryptionMode = "require" | "prefer" | "off";

export interface RespondOptions extends EstablishOptions {
  readonly encryption: EncryptionMode;
  /** Needed unless `encryption` is `off`. */
  readonly identity?: NoiseIdentity;
  /** Called before keys are computed with, which is what a handshake costs. */
  readonly computes?: () => void;
  /** Tells why a client with this proven key is not let in, or nothing if it is. */
  readonly refuse: (clientKey: Bytes) => string | undefined;
}

/** The server did not let us in. `proven`: it was the server that said so. */
export class ChannelRefusedError extends WireError {
  constructor(readonly reason: string, readonly proven: boolean) {
    super(
      `the server refused the channel: ${reason}${proven ? "" : " (it could not prove that it said so)"}`,
    );
  }
}

/** How {@linkcode respond} ended when it let nobody in; the client has been told. */
export interface Refusal {
  readonly refused: string;
  /** The key of the client, if it came as far as proving one. */
  readonly peerKey?: Bytes;
}

const NOTHING = new Uint8Array(0);

/**
 * The client's end.
 *
 * @throws {ChannelRefusedError} If the server says no.
 * @throws {WireError} If it breaks the protocol or fails to prove its key.
 * @throws What `trust` throws.
 */
export function* initiate(options: InitiateOptions): Conversation<Established> {
  const { identity, cipher = "AESGCM" } = options;
  const prologue = encodeHello({
    protection: identity === undefined ? "checksum" : "noise",
    cipher,
    presharedKey: identity?.presharedKey !== undefined,
  });
  yield* send(prologue.slice());
  let channel: Established;
  if (identity === undefined) {
    checkGreeting(yield* need(GREETING_BYTES));
    channel = { protection: "checksum", sealer: new ChecksumSealer(), opener: new ChecksumOpener() };
  } else {
    const handshake = yield* wait(HandshakeState.create({ initiator: true, cipher, prologue, ...identity }));
    yield* sendMessage(handshake);
    checkGreeting(yield* need(GREETING_BYTES));
    yield* receiveMessage(handshake);
    const serverKey = handshake.remoteStatic!;
    yield* wait(Promise.resolve(options.trust?.(serverKey)));
    yield* sendMessage(handshake);
    channel = yield* establish(handshake, serverKey, options);
  }
  yield* receiveAnswer(channel.opener);
  return channel;
}

/**
 * The server's end.
 *
 * @returns The channel, or why there is none.
 * @throws {WireError} If what arrives is no channel's beginning, or was damaged on the way.
 */
export function* respond(options: RespondOptions): Conversation<Established | Refusal> {
  yield* send(encodeGreeting());
  const prologue = (yield* need(HELLO_BYTES)) as Bytes;
  let hello: Hello;
  try {
    hello = decodeHello(prologue);
  } catch (error) {
    if (error instanceof UnknownHelloError) return yield* hint(error.message);
    throw error;
  }
  const mismatch = whyNot(hello, options);
  if (mismatch !== undefined) return yield* hint(mismatch);

  if (hello.protection === "checksum") {
    const channel = {
      protection: hello.protection,
      sealer: new ChecksumSealer(),
      opener: new ChecksumOpener(),
    };
    yield* sendSealed(channel.sealer, "accepted", NOTHING);
    return channel;
  }
  const handshake = yield* wait(HandshakeState.create({
    initiator: false,
    cipher: hello.cipher,
    prologue,
    ...options.identity!,
  }));
  let channel: Established;
  try {
    yield* receiveMessage(handshake);
    options.computes?.();
    yield* sendMessage(handshake);
    yield* receiveMessage(handshake);
    channel = yield* establish(handshake, handshake.remoteStatic!, options);
  } catch (error) {
    if (!(error instanceof WireError) || error.cause === undefined) throw error;
    // Something did not authenticate. After the first message that is most likely the pre-shared key.
    return yield* hint(
      hello.presharedKey && handshake.remoteStatic !== undefined
        ? "the pre-shared keys are not the same"
        : `the handshake failed: ${error.message}`,
    );
  }
  const refused = options.refuse(channel.peerKey!);
  if (refused === undefined) {
    yield* sendSealed(channel.sealer, "accepted", NOTHING);
    return channel;
  }
  yield* sendSealed(channel.sealer, "refused", encodeReason(refused));
  return { refused, peerKey: channel.peerKey };
}

/** What both ends must agree on before there are keys. */
function whyNot(hello: Hello, { encryption, identity }: RespondOptions): string | undefined {
  if (hello.protection === "checksum") {
    return encryption === "require" ? "it asks for encryption, and checksums alone were offered" : undefined;
  }
  if (encryption === "off" || identity === undefined) return "it has no key; it offers checksums only";
  if (hello.presharedKey !== (identity.presharedKey !== undefined)) {
    return hello.presharedKey
      ? "it has no pre-shared key, and one was offered"
      : "it asks for a pre-shared key, and none was offered";
  }
  return undefined;
}

function* sendMessage(handshake: HandshakeState): Conversation<void> {
  yield* send(encodePlainFrame("handshake", yield* wait(handshake.writeMessage(NOTHING))));
}

function* receiveMessage(handshake: HandshakeState): Conversation<void> {
  const start = yield* need(FRAME_START_BYTES);
  const { type, bodyBytes } = decodeStart(start);
  if (type === "hint") yield* failWithHint(bodyBytes);
  if (type !== "handshake" || bodyBytes !== handshake.nextMessageBytes) {
    throw new WireError(
      `expected a handshake frame of ${handshake.nextMessageBytes} bytes, got ${type} of ${bodyBytes}`,
    );
  }
  yield* wait(handshake.readMessage((yield* need(bodyBytes)) as Bytes));
}

function* establish(
  handshake: HandshakeState,
  peerKey: Bytes,
  { makeRecordCipher: make, rekeyLimits, now }: EstablishOptions,
): Conversation<Established> {
  const { handshakeHash } = handshake;
  // Asked with a key that does not matter: is there such a cipher?
  if (handshake.cipher === "AESGCM" && make?.(new Uint8Array(CIPHER_KEY_BYTES), "seal")) {
    const { sending, receiving } = yield* wait(handshake.splitKeys());
    const sealer = new DirectNoiseSealer(new DirectCipherState(make, sending, "seal"), rekeyLimits, now);
    const opener = new DirectNoiseOpener(new DirectCipherState(make, receiving, "open"));
    return { protection: "noise", sealer, opener, peerKey, handshakeHash };
  }
  const { sending, receiving } = yield* wait(handshake.split());
  const sealer = new NoiseSealer(sending, rekeyLimits, now);
  const opener = new NoiseOpener(receiving);
  return { protection: "noise", sealer, opener, peerKey, handshakeHash };
}

/** Awaits the first protected frame. */
function* receiveAnswer(opener: Opener): Conversation<void> {
  const start = (yield* need(FRAME_START_BYTES)) as Bytes;
  const { type, bodyBytes } = decodeStart(start);
  if (type === "hint") yield* failWithHint(bodyBytes);
  const header = new Uint8Array(opener.headerBytes);
  header.set(start);
  header.set(yield* need(opener.headerBytes - FRAME_START_BYTES), FRAME_START_BYTES);
  const body = (yield* need(opener.decodeHeader(header).bodyBytes)) as Bytes;
  const answer = yield* wait(Promise.resolve(opener.open(header, body)));
  if (answer.type === "refused") throw new ChannelRefusedError(decodeReason(answer.payload), true);
  if (answer.type !== "accepted") {
    throw new WireError(`expected accepted or refused, got a ${answer.type} frame`);
  }
}

function* sendSealed(sealer: Sealer, type: "accepted" | "refused", payload: Bytes): Conversation<void> {
  for (const { header, body } of sealer.seal(type, payload)) {
    yield* send(header);
    yield* send(yield* wait(Promise.resolve(body)));
  }
}

function* hint(reason: string): Conversation<Refusal> {
  yield* send(encodePlainFrame("hint", encodeReason(reason)));
  return { refused: reason };
}

function* failWithHint(bodyBytes: number): Conversation<never> {
  if (bodyBytes > REASON_BYTES_MAX) {
    throw new WireError(`a reason of ${bodyBytes} bytes is longer than ${REASON_BYTES_MAX}`);
  }
  throw new ChannelRefusedError(decodeReason(yield* need(bodyBytes)), false);
}

function encodeReason(reason: string): Bytes {
  const bytes = new Uint8Array(REASON_BYTES_MAX);
  return bytes.slice(0, new TextEncoder().encodeInto(reason, bytes).written);
}

function decodeReason(bytes: Uint8Array): string {
  return printable(new TextDecoder().decode(bytes), REASON_BYTES_MAX);
}
