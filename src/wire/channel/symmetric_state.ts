/** The running hash and chaining key of a handshake: the SymmetricState of the Noise document, section 5.2. */
import { concat } from "@std/bytes";
import { type CipherName, CipherState } from "./cipher_state.ts";

/** Length of a SHA-256 hash, `HASHLEN` of the document. */
const HASH_BYTES = 32;

type Bytes = Uint8Array<ArrayBuffer>;

/** Its methods are called one at a time: a handshake is a sequence. */
export class SymmetricState {
  readonly #cipher: CipherName;
  #hash: Bytes;
  #chainingKey: Bytes;
  #cipherState: CipherState | undefined;

  private constructor(cipher: CipherName, hash: Bytes) {
    this.#cipher = cipher;
    this.#hash = hash;
    this.#chainingKey = hash;
  }

  /** `InitializeSymmetric(protocol_name)`, for a name such as `Noise_XX_25519_AESGCM_SHA256`. */
  static async create(protocolName: string, cipher: CipherName): Promise<SymmetricState> {
    const name = new TextEncoder().encode(protocolName);
    if (name.length > HASH_BYTES) return new SymmetricState(cipher, await sha256(name));
    const hash = new Uint8Array(HASH_BYTES);
    hash.set(name);
    return new SymmetricState(cipher, hash);
  }

  /** `HasKey()` of the inner cipher state: whether what is hashed next is also encrypted. */
  get hasKey(): boolean {
    return this.#cipherState !== undefined;
  }

  /** `GetHandshakeHash()`: equal at both ends of one handshake, and of no other. */
  get handshakeHash(): Bytes {
    return this.#hash;
  }

  async mixHash(data: Uint8Array): Promise<void> {
    this.#hash = await sha256(concat([this.#hash, data]));
  }

  async mixKey(inputKeyMaterial: Bytes): Promise<void> {
    const [chainingKey, key] = await hkdf(this.#chainingKey, inputKeyMaterial, 2);
    this.#chainingKey = chainingKey;
    this.#cipherState = await CipherState.create(this.#cipher, key);
  }

  async mixKeyAndHash(inputKeyMaterial: Bytes): Promise<void> {
    const [chainingKey, hash, key] = await hkdf(this.#chainingKey, inputKeyMaterial, 3);
    this.#chainingKey = chainingKey;
    await this.mixHash(hash);
    this.#cipherState = await CipherState.create(this.#cipher, key);
  }

  async encryptAndHash(plaintext: Bytes): Promise<Bytes> {
    const ciphertext = await this.#cipherState?.encryptWithAd(this.#hash, plaintext) ?? plaintext;
    await this.mixHash(ciphertext);
    return ciphertext;
  }

  /** @throws {WireError} If the ciphertext does not authenticate. */
  async decryptAndHash(ciphertext: Bytes): Promise<Bytes> {
    const plaintext = await this.#cipherState?.decryptWithAd(this.#hash, ciphertext) ?? ciphertext;
    await this.mixHash(ciphertext);
    return plaintext;
  }

  /** `Split()`: the key of the initiator's sending state, then the responder's. */
  async split(): Promise<[Bytes, Bytes]> {
    const [first, second] = await hkdf(this.#chainingKey, new Uint8Array(0), 2);
    return [first, second];
  }
}

async function sha256(data: Bytes): Promise<Bytes> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", data));
}

/** `HKDF(chaining_key, input_key_material, num_outputs)`, section 4.3: RFC 5869 with the chaining key as salt. */
async function hkdf(salt: Bytes, inputKeyMaterial: Bytes, count: 2 | 3): Promise<Bytes[]> {
  const key = await crypto.subtle.importKey("raw", inputKeyMaterial, "HKDF", false, ["deriveBits"]);
  const parameters = { name: "HKDF", hash: "SHA-256", salt, info: new Uint8Array(0) };
  const bits = await crypto.subtle.deriveBits(parameters, key, count * HASH_BYTES * 8);
  return Array.from(
    { length: count },
    (_, index) => new Uint8Array(bits, index * HASH_BYTES, HASH_BYTES).slice(),
  );
}
