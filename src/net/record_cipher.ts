/** Which cipher the records of channels go through: Web Crypto's, or that of the system's libcrypto. */
import { aesGcmFault, makeAesGcm } from "../os/aes_gcm.ts";
import type { MakeRecordCipher } from "../wire/channel/direct_cipher_state.ts";
import type { Environment } from "./channel_identity.ts";

/** The environment variable that says it: `webcrypto`, which is the default, or `openssl`. */
const CRYPTO_VARIABLE = "DENBD_CRYPTO";

/**
 * What the environment asks for.
 *
 * @param fault Says why libcrypto cannot be used, or `null`.
 * @returns `undefined` for Web Crypto.
 * @throws {Error} If it asks for what there is not; the message says why.
 */
export function recordCipherFor(env: Environment, fault = aesGcmFault): MakeRecordCipher | undefined {
  const wanted = env(CRYPTO_VARIABLE) ?? "";
  if (wanted === "" || wanted === "webcrypto") return undefined;
  if (wanted !== "openssl") {
    throw new Error(`${CRYPTO_VARIABLE} is "${wanted}": it may be webcrypto (the default) or openssl`);
  }
  const reason = fault();
  if (reason !== null) throw new Error(`${CRYPTO_VARIABLE} is "openssl", but ${reason}`);
  return makeAesGcm;
}
