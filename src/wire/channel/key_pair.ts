/**
 * X25519 keys (RFC 7748) as Web Crypto holds them: the public half as 32 bytes, the private half as a key that
 * cannot be read back.
 */
import { WireError } from "../wire_error.ts";

/** Length of a private key, a public key and a shared secret. */
export const KEY_BYTES = 32;

export interface KeyPair {
  /** {@linkcode KEY_BYTES} bytes. */
  readonly publicKey: Uint8Array<ArrayBuffer>;
  readonly privateKey: CryptoKey;
}

/** What stands before the 32 bytes of a private key in its PKCS #8 form (RFC 8410, section 7). */
const PKCS8_PREFIX = Uint8Array.of(
  ...[0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06],
  ...[0x03, 0x2b, 0x65, 0x6e, 0x04, 0x22, 0x04, 0x20],
);
/** The u-coordinate 9: a private key times this is its public key. */
const BASE_POINT = new Uint8Array(KEY_BYTES).fill(9, 0, 1);

/** Makes {@linkcode KEY_BYTES} bytes that nobody can guess: a private key, or a pre-shared one. */
export function generateKey(): Uint8Array<ArrayBuffer> {
  return crypto.getRandomValues(new Uint8Array(KEY_BYTES));
}

/** Makes a fresh key pair. */
export async function generateKeyPair(): Promise<KeyPair> {
  return await importKeyPair(generateKey());
}

/**
 * Makes a key pair of a private key.
 *
 * @param privateKey Exactly {@linkcode KEY_BYTES} bytes, any value; not kept.
 * @throws {RangeError} If the length is wrong.
 */
export async function importKeyPair(privateKey: Uint8Array): Promise<KeyPair> {
  if (privateKey.length !== KEY_BYTES) {
    throw new RangeError(`a private key has ${KEY_BYTES} bytes, not ${privateKey.length}`);
  }
  const pkcs8 = new Uint8Array(PKCS8_PREFIX.length + KEY_BYTES);
  pkcs8.set(PKCS8_PREFIX);
  pkcs8.set(privateKey, PKCS8_PREFIX.length);
  const key = await crypto.subtle.importKey("pkcs8", pkcs8, "X25519", false, ["deriveBits"]);
  pkcs8.fill(0);
  return { publicKey: await sharedSecret(key, BASE_POINT), privateKey: key };
}

/**
 * The Diffie-Hellman function, `DH(key_pair, public_key)` of the Noise document.
 *
 * @throws {WireError} If the public key is a point of low order: the secret would be all zeroes whatever the
 *   private key, so such a peer proves nothing. The Noise document leaves the check to us; RFC 7748, section 6.1
 *   recommends it.
 */
export async function sharedSecret(
  privateKey: CryptoKey,
  publicKey: Uint8Array<ArrayBuffer>,
): Promise<Uint8Array<ArrayBuffer>> {
  const point = await crypto.subtle.importKey("raw", publicKey, "X25519", false, []);
  let bits: ArrayBuffer;
  try {
    bits = await crypto.subtle.deriveBits({ name: "X25519", public: point }, privateKey, KEY_BYTES * 8);
  } catch (cause) {
    // Web Crypto itself refuses the all-zero result, with an OperationError.
    throw new WireError("the peer's public key is a point of low order", { cause });
  }
  return new Uint8Array(bits);
}
