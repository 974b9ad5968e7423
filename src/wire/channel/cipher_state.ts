/** A key and its counter: the CipherState of the Noise document, section 5.1, over Web Crypto. */
import { WireError } from "../wire_error.ts";

/** Length of a cipher key. */
export const CIPHER_KEY_BYTES = 32;
/** Length by which sealing makes a message longer. */
export const TAG_BYTES = 16;

type Bytes = Uint8Array<ArrayBuffer>;

/** The ciphers of the Noise document that Web Crypto has, by their names there. */
export type CipherName = "AESGCM" | "ChaChaPoly";

/** How Web Crypto calls a cipher, and which way round a counter stands in its nonce (sections 12.3 and 12.4). */
const CIPHERS = {
  AESGCM: { name: "AES-GCM", keyFormat: "raw", littleEndian: false },
  ChaChaPoly: { name: "ChaCha20-Poly1305", keyFormat: "raw-secret", littleEndian: true },
} as const;

/** The counter 2^64-1, which {@linkcode CipherState.rekey} alone uses. */
export const REKEY_NONCE = Uint8Array.of(0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255);
const NOTHING = new Uint8Array(0);

/**
 * Encrypts or decrypts the messages of one direction, each under the next counter.
 *
 * Two things differ from the document, because Web Crypto answers later and several messages may be under way at
 * once. A message takes its counter when it is handed over, not when it is done; so a failed decryption has used
 * its counter up, which costs nothing as a failure ends the connection. And counters end at 2^53 instead of
 * 2^64: at a million messages a second, after 285 years.
 */
export class CipherState {
  readonly #cipher: CipherName;
  /** The key, or the promise of it while a rekey is under way. */
  #key: CryptoKey | Promise<CryptoKey>;
  #counter = 0;

  private constructor(cipher: CipherName, key: CryptoKey) {
    this.#cipher = cipher;
    this.#key = key;
  }

  /** `InitializeKey(key)`: a state with this key, {@linkcode CIPHER_KEY_BYTES} bytes, and the counter at zero. */
  static async create(cipher: CipherName, key: Bytes): Promise<CipherState> {
    return new CipherState(cipher, await importKey(cipher, key));
  }

  /**
   * `EncryptWithAd(ad, plaintext)`.
   *
   * Both arguments are copied before this returns.
   *
   * @returns The ciphertext and its tag: {@linkcode TAG_BYTES} longer than the plaintext.
   */
  encryptWithAd(ad: Bytes, plaintext: Bytes): Promise<Bytes> {
    return this.#whenKeyed(ad, plaintext, async (key, parameters, plaintext) => {
      return new Uint8Array(await crypto.subtle.encrypt(parameters, key, plaintext));
    });
  }

  /**
   * `DecryptWithAd(ad, ciphertext)`.
   *
   * Both arguments are copied before this returns.
   *
   * @throws {WireError} If the message is not the one that was encrypted with this key, counter and `ad`.
   */
  decryptWithAd(ad: Bytes, ciphertext: Bytes): Promise<Bytes> {
    if (ciphertext.length < TAG_BYTES) {
      throw new WireError(`a sealed message has at least ${TAG_BYTES} bytes, not ${ciphertext.length}`);
    }
    const index = this.#counter;
    return this.#whenKeyed(ad, ciphertext, async (key, parameters, ciphertext) => {
      try {
        return new Uint8Array(await crypto.subtle.decrypt(parameters, key, ciphertext));
      } catch (cause) {
        throw new WireError(`sealed message ${index} does not authenticate`, { cause });
      }
    });
  }

  /**
   * `Rekey()`: replaces the key by one that is computed from it and from which it cannot be computed.
   *
   * Messages handed over before keep the old key, those after get the new one; the counter runs on.
   */
  rekey(): Promise<void> {
    const replaced = this.#nextKey(this.#key);
    this.#key = replaced;
    return replaced.then((key) => {
      if (this.#key === replaced) this.#key = key;
    });
  }

  /** `REKEY(k)`, section 4.2: the first 32 bytes of 32 zeroes encrypted under the last counter. */
  async #nextKey(key: CryptoKey | Promise<CryptoKey>): Promise<CryptoKey> {
    const parameters = { name: CIPHERS[this.#cipher].name, iv: REKEY_NONCE, additionalData: NOTHING };
    const zeroes = new Uint8Array(CIPHER_KEY_BYTES);
    const sealed = await crypto.subtle.encrypt(parameters, await key, zeroes);
    return await importKey(this.#cipher, new Uint8Array(sealed, 0, CIPHER_KEY_BYTES));
  }

  /** Gives a message its counter, and hands it to Web Crypto now or as soon as the new key is there. */
  #whenKeyed(
    additionalData: Bytes,
    message: Bytes,
    work: (key: CryptoKey, parameters: AesGcmParams, message: Bytes) => Promise<Bytes>,
  ): Promise<Bytes> {
    if (this.#counter >= Number.MAX_SAFE_INTEGER) throw new RangeError("the key has no counters left");
    const { name, littleEndian } = CIPHERS[this.#cipher];
    const iv = new Uint8Array(12);
    new DataView(iv.buffer).setBigUint64(4, BigInt(this.#counter++), littleEndian);
    // Web Crypto copies what it is given before it returns.
    if (!(this.#key instanceof Promise)) return work(this.#key, { name, iv, additionalData }, message);
    const parameters = { name, iv, additionalData: additionalData.slice() };
    const copy = message.slice();
    return this.#key.then((key) => work(key, parameters, copy));
  }
}

function importKey(cipher: CipherName, key: Bytes): Promise<CryptoKey> {
  const { name, keyFormat } = CIPHERS[cipher];
  // The type declarations know only "raw" with bytes; "raw-secret" is its newer spelling.
  return crypto.subtle.importKey(keyFormat as "raw", key, name, false, ["encrypt", "decrypt"]);
}
