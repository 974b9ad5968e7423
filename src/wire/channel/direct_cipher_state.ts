/** A key and its counter like {@linkcode CipherState}, over a cipher that answers at once, in the caller's memory. */
import { WireError } from "../wire_error.ts";
import { CIPHER_KEY_BYTES, REKEY_NONCE, TAG_BYTES } from "./cipher_state.ts";

type Bytes = Uint8Array<ArrayBuffer>;

/** AES-256-GCM under one key, in one direction. */
export interface RecordCipher {
  /** Encrypts the pieces of a message; `into` is longer than they are by the tag, and does not overlap them. */
  seal(nonce: Bytes, ad: Bytes, parts: readonly Bytes[], into: Bytes): void;
  /** Decrypts; tells whether the message authenticates. If not, `into` holds anything. */
  open(nonce: Bytes, ad: Bytes, sealed: Bytes, into: Bytes): boolean;
}

/** Makes a cipher, or `null` where there is none that answers at once. */
export type MakeRecordCipher = (key: Bytes, direction: "seal" | "open") => RecordCipher | null;

const NOTHING = new Uint8Array(0);

export class DirectCipherState {
  readonly #make: MakeRecordCipher;
  readonly #direction: "seal" | "open";
  #key: Bytes;
  #cipher: RecordCipher;
  #counter = 0;
  readonly #nonce = new Uint8Array(12);
  readonly #nonceView = new DataView(this.#nonce.buffer);

  /**
   * @param key {@linkcode CIPHER_KEY_BYTES} bytes, which are this state's from now on.
   * @throws {Error} If there is no cipher.
   */
  constructor(make: MakeRecordCipher, key: Bytes, direction: "seal" | "open") {
    this.#make = make;
    this.#direction = direction;
    this.#key = key;
    this.#cipher = this.#made(key, direction);
  }

  /** `EncryptWithAd(ad, plaintext)`; `into` is longer than the plaintext by {@linkcode TAG_BYTES}. */
  encryptInto(ad: Bytes, parts: readonly Bytes[], into: Bytes): void {
    this.#countOn();
    this.#cipher.seal(this.#nonce, ad, parts, into);
  }

  /**
   * `DecryptWithAd(ad, ciphertext)`; `into` is shorter by {@linkcode TAG_BYTES}, or longer than that.
   *
   * @throws {WireError} If the message is not the one that was encrypted with this key, counter and `ad`.
   */
  decryptInto(ad: Bytes, ciphertext: Bytes, into: Bytes): void {
    if (ciphertext.length < TAG_BYTES) {
      throw new WireError(`a sealed message has at least ${TAG_BYTES} bytes, not ${ciphertext.length}`);
    }
    const index = this.#counter;
    this.#countOn();
    if (!this.#cipher.open(this.#nonce, ad, ciphertext, into)) {
      throw new WireError(`sealed message ${index} does not authenticate`);
    }
  }

  /** `Rekey()`: see {@linkcode CipherState.rekey}. */
  rekey(): void {
    const sealed = new Uint8Array(CIPHER_KEY_BYTES + TAG_BYTES);
    this.#made(this.#key, "seal").seal(REKEY_NONCE, NOTHING, [new Uint8Array(CIPHER_KEY_BYTES)], sealed);
    this.#key.fill(0);
    this.#key = sealed.slice(0, CIPHER_KEY_BYTES);
    sealed.fill(0);
    this.#cipher = this.#made(this.#key, this.#direction);
  }

  /** Puts the counter into the nonce (section 12.4), once. */
  #countOn(): void {
    if (this.#counter >= Number.MAX_SAFE_INTEGER) throw new RangeError("the key has no counters left");
    this.#nonceView.setUint32(4, Math.floor(this.#counter / 2 ** 32));
    this.#nonceView.setUint32(8, this.#counter);
    this.#counter++;
  }

  #made(key: Bytes, direction: "seal" | "open"): RecordCipher {
    const cipher = this.#make(key, direction);
    if (cipher === null) throw new Error("there is no cipher that answers at once");
    return cipher;
  }
}
