/**
 * The handshake of the Noise document (revision 34), section 5.3, in the patterns that the channel uses.
 *
 * Both ends have a static key. Which pattern carries them is a choice between XX, in which each end sends its
 * key, and IK or XK, in which the client must know the server's key before it calls. We take XX:
 *
 * - A client that knows the key and one that meets the server for the first time, to remember its key from then
 *   on, run the same messages; there is one path to test and no fall-back that an attacker could provoke.
 * - The client sees the server's key proven before it sends its own, which is encrypted to that server with
 *   forward secrecy. IK sends it at once, readable by whoever ever gets hold of the server's key.
 * - No message of it can be replayed to any effect: IK's first one can.
 * - What IK saves is one round trip. A connection to a disk lives for hours.
 * - The price: whoever connects can learn the server's public key. It is no secret.
 *
 * A pre-shared key, where there is one, makes the pattern XXpsk3: mixed in at the end of the last message, it
 * must be known in addition to the static keys, and it keeps a recorded session secret even if X25519 falls.
 */
import { concat } from "@std/bytes";
import { WireError } from "../wire_error.ts";
import { type CipherName, CipherState, TAG_BYTES } from "./cipher_state.ts";
import { generateKeyPair, KEY_BYTES, type KeyPair, sharedSecret } from "./key_pair.ts";
import { SymmetricState } from "./symmetric_state.ts";

type Bytes = Uint8Array<ArrayBuffer>;
type Token = "e" | "s" | "ee" | "es" | "se" | "psk";

/** The messages of each pattern (sections 7.5 and 9.4); the first is the initiator's, then they take turns. */
const PATTERNS: Readonly<Record<"XX" | "XXpsk3", readonly (readonly Token[])[]>> = {
  XX: [["e"], ["e", "ee", "s", "es"], ["s", "se"]],
  XXpsk3: [["e"], ["e", "ee", "s", "es"], ["s", "se", "psk"]],
};

export interface HandshakeOptions {
  readonly initiator: boolean;
  readonly cipher: CipherName;
  /** What both ends must agree on without having to keep it secret. */
  readonly prologue: Bytes;
  readonly staticKey: KeyPair;
  /** {@linkcode KEY_BYTES} bytes. Its presence makes the pattern XXpsk3. */
  readonly presharedKey?: Bytes;
  /** Where the ephemeral key comes from. Tests give a fixed one; default: a fresh one. */
  readonly generateKeyPair?: () => Promise<KeyPair>;
}

/** One end of a handshake. Its methods are called one at a time. */
export class HandshakeState {
  readonly #options: HandshakeOptions;
  readonly #symmetric: SymmetricState;
  readonly #messages: (readonly Token[])[];
  #ephemeralKey: KeyPair | undefined;
  #remoteEphemeral: Bytes | undefined;
  #remoteStatic: Bytes | undefined;

  private constructor(options: HandshakeOptions, symmetric: SymmetricState) {
    this.#options = options;
    this.#symmetric = symmetric;
    this.#messages = [...PATTERNS[patternName(options)]];
  }

  /** `Initialize(…)`. */
  static async create(options: HandshakeOptions): Promise<HandshakeState> {
    const { cipher, presharedKey, prologue } = options;
    if (presharedKey !== undefined && presharedKey.length !== KEY_BYTES) {
      throw new RangeError(`a pre-shared key has ${KEY_BYTES} bytes, not ${presharedKey.length}`);
    }
    const name = `Noise_${patternName(options)}_25519_${cipher}_SHA256`;
    const symmetric = await SymmetricState.create(name, cipher);
    await symmetric.mixHash(prologue);
    return new HandshakeState(options, symmetric);
  }

  /** The length of the next message, of either end, with an empty payload. */
  get nextMessageBytes(): number {
    let hasKey = this.#symmetric.hasKey;
    let byteCount = 0;
    for (const token of this.#nextTokens()) {
      if (token === "e") byteCount += KEY_BYTES;
      if (token === "s") byteCount += KEY_BYTES + (hasKey ? TAG_BYTES : 0);
      hasKey ||= token !== "e" || this.#options.presharedKey !== undefined;
    }
    return byteCount + (hasKey ? TAG_BYTES : 0);
  }

  /** The peer's static public key; undefined until the message that carries it has been read. */
  get remoteStatic(): Bytes | undefined {
    return this.#remoteStatic;
  }

  /** Names this handshake, once it is over: equal at both ends and different from every other. */
  get handshakeHash(): Bytes {
    return this.#symmetric.handshakeHash;
  }

  /** `WriteMessage(payload)`. */
  async writeMessage(payload: Bytes): Promise<Bytes> {
    const parts: Bytes[] = [];
    for (const token of this.#takeTokens()) {
      if (token === "e") {
        this.#ephemeralKey = await (this.#options.generateKeyPair ?? generateKeyPair)();
        parts.push(this.#ephemeralKey.publicKey);
        await this.#mixEphemeral(this.#ephemeralKey.publicKey);
      } else if (token === "s") {
        parts.push(await this.#symmetric.encryptAndHash(this.#options.staticKey.publicKey));
      } else {
        await this.#mixSecret(token);
      }
    }
    parts.push(await this.#symmetric.encryptAndHash(payload));
    return concat(parts);
  }

  /**
   * `ReadMessage(message)`.
   *
   * @returns The payload.
   * @throws {WireError} If the message is too short, does not authenticate, or holds a low-order key.
   */
  async readMessage(message: Bytes): Promise<Bytes> {
    if (message.length < this.nextMessageBytes) {
      throw new WireError(
        `the handshake message has ${message.length} bytes, fewer than ${this.nextMessageBytes}`,
      );
    }
    let rest = message;
    const take = (byteCount: number) => {
      const taken = rest.slice(0, byteCount);
      rest = rest.subarray(byteCount);
      return taken;
    };
    for (const token of this.#takeTokens()) {
      if (token === "e") {
        this.#remoteEphemeral = take(KEY_BYTES);
        await this.#mixEphemeral(this.#remoteEphemeral);
      } else if (token === "s") {
        const sealed = take(KEY_BYTES + (this.#symmetric.hasKey ? TAG_BYTES : 0));
        this.#remoteStatic = await this.#symmetric.decryptAndHash(sealed);
      } else {
        await this.#mixSecret(token);
      }
    }
    return await this.#symmetric.decryptAndHash(rest);
  }

  /** `Split()`, after the last message. */
  async split(): Promise<{ sending: CipherState; receiving: CipherState }> {
    const { sending, receiving } = await this.splitKeys();
    const { cipher } = this.#options;
    return {
      sending: await CipherState.create(cipher, sending),
      receiving: await CipherState.create(cipher, receiving),
    };
  }

  /** The keys of what {@linkcode split} gives, for who has a cipher of his own. */
  async splitKeys(): Promise<{ sending: Bytes; receiving: Bytes }> {
    const [initiators, responders] = await this.#symmetric.split();
    return this.#options.initiator
      ? { sending: initiators, receiving: responders }
      : { sending: responders, receiving: initiators };
  }

  get cipher(): CipherName {
    return this.#options.cipher;
  }

  #nextTokens(): readonly Token[] {
    if (this.#messages.length === 0) throw new RangeError("the handshake has no further message");
    return this.#messages[0];
  }

  #takeTokens(): readonly Token[] {
    const tokens = this.#nextTokens();
    this.#messages.shift();
    return tokens;
  }

  async #mixEphemeral(publicKey: Bytes): Promise<void> {
    await this.#symmetric.mixHash(publicKey);
    // Section 9.2: where a pre-shared key is in play, an ephemeral key is mixed into the cipher key too.
    if (this.#options.presharedKey !== undefined) await this.#symmetric.mixKey(publicKey);
  }

  async #mixSecret(token: "ee" | "es" | "se" | "psk"): Promise<void> {
    if (token === "psk") return await this.#symmetric.mixKeyAndHash(this.#options.presharedKey!);
    // The first letter is the initiator's key, the second the responder's.
    const [ours, theirs] = this.#options.initiator ? token : [token[1], token[0]];
    const local = ours === "e" ? this.#ephemeralKey! : this.#options.staticKey;
    const remote = theirs === "e" ? this.#remoteEphemeral! : this.#remoteStatic!;
    await this.#symmetric.mixKey(await sharedSecret(local.privateKey, remote));
  }
}

function patternName({ presharedKey }: HandshakeOptions): keyof typeof PATTERNS {
  return presharedKey === undefined ? "XX" : "XXpsk3";
}
