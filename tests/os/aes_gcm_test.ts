import { assert, assertEquals, assertThrows } from "@std/assert";
import { makeAesGcm } from "../../src/os/aes_gcm.ts";
import { randomFrom } from "../testing/random.ts";

/** Skipped where libcrypto is missing; the channel does without it there. */
function test(name: string, fn: () => void | Promise<void>): void {
  Deno.test({ name, ignore: makeAesGcm(new Uint8Array(32), "seal") === null, fn });
}

test("libcrypto seals what Web Crypto seals, in however many pieces, and opens it", async () => {
  const random = randomFrom(1);
  for (const size of [0, 1, 15, 16, 17, 4096, 69_632, 300_000]) {
    const [key, nonce, ad, data] = [32, 12, random.below(20), size].map((length) => random.bytes(length));
    const cut = random.below(size + 1);
    const sealed = new Uint8Array(size + 16);
    makeAesGcm(key, "seal")!.seal(nonce, ad, [data.subarray(0, cut), data.subarray(cut)], sealed);
    const webKey = await crypto.subtle.importKey("raw", key, "AES-GCM", false, ["encrypt"]);
    const parameters = { name: "AES-GCM", iv: nonce, additionalData: ad };
    assertEquals(
      sealed,
      new Uint8Array(await crypto.subtle.encrypt(parameters, webKey, data)),
      `${size} bytes`,
    );
    const opened = new Uint8Array(size);
    assert(makeAesGcm(key, "open")!.open(nonce, ad, sealed, opened));
    assertEquals(opened, data);
  }
});

test("nothing altered opens: ciphertext, tag, additional data, nonce", () => {
  const random = randomFrom(2);
  const [key, nonce, ad, data] = [32, 12, 4, 40].map((length) => random.bytes(length));
  const sealed = new Uint8Array(data.length + 16);
  makeAesGcm(key, "seal")!.seal(nonce, ad, [data], sealed);
  const cipher = makeAesGcm(key, "open")!;
  const into = new Uint8Array(data.length);
  const flipped = (bytes: Uint8Array<ArrayBuffer>, bit: number) => {
    const copy = bytes.slice();
    copy[bit >> 3] ^= 1 << (bit & 7);
    return copy;
  };
  for (let bit = 0; bit < sealed.length * 8; bit++) {
    assert(!cipher.open(nonce, ad, flipped(sealed, bit), into));
  }
  for (let bit = 0; bit < 32; bit++) assert(!cipher.open(nonce, flipped(ad, bit), sealed, into));
  for (let bit = 0; bit < 96; bit++) assert(!cipher.open(flipped(nonce, bit), ad, sealed, into));
  assert(cipher.open(nonce, ad, sealed, into), "a failure does no harm to what comes after");
  assertEquals(into, data);
});

test("memory that is too small is refused", () => {
  const cipher = makeAesGcm(new Uint8Array(32), "seal")!;
  const nonce = new Uint8Array(12);
  const ad = new Uint8Array(4);
  const data = new Uint8Array(64);
  for (const length of [0, 63, 64, 79]) {
    assertThrows(() => cipher.seal(nonce, ad, [data], new Uint8Array(length)), RangeError);
  }
  const opener = makeAesGcm(new Uint8Array(32), "open")!;
  assertThrows(() => opener.open(nonce, ad, new Uint8Array(80), new Uint8Array(63)), RangeError);
  assertThrows(() => opener.open(nonce, ad, new Uint8Array(15), new Uint8Array(63)), RangeError);
});
