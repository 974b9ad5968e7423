import { assertEquals, assertThrows } from "@std/assert";
import { recordCipherFor } from "../../src/net/record_cipher.ts";
import { makeAesGcm } from "../../src/os/aes_gcm.ts";

const set = (value: string | undefined) => (name: string) => name === "DENBD_CRYPTO" ? value : undefined;
const none = () => null;

Deno.test("records go through Web Crypto unless libcrypto is asked for", () => {
  for (const value of [undefined, "", "webcrypto"]) {
    assertEquals(recordCipherFor(set(value), none), undefined);
  }
  assertEquals(recordCipherFor(set("openssl"), none), makeAesGcm);
});

Deno.test("a cipher that is not known, or not there, is refused and not replaced by another", () => {
  const unknown = 'DENBD_CRYPTO is "OpenSSL": it may be webcrypto (the default) or openssl';
  assertThrows(() => recordCipherFor(set("OpenSSL"), none), Error, unknown);
  const missing = 'DENBD_CRYPTO is "openssl", but libcrypto.so.3 cannot be opened: no such file';
  const fault = () => "libcrypto.so.3 cannot be opened: no such file";
  assertThrows(() => recordCipherFor(set("openssl"), fault), Error, missing);
});
