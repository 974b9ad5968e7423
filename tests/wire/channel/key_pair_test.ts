import { assertEquals, assertNotEquals, assertRejects } from "@std/assert";
import { generateKeyPair, importKeyPair, sharedSecret } from "../../../src/wire/channel/key_pair.ts";
import { WireError } from "../../../src/wire/wire_error.ts";

// RFC 7748, section 6.1.
const ALICE_PRIVATE = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a";
const ALICE_PUBLIC = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a";
const BOB_PRIVATE = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb";
const BOB_PUBLIC = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f";
const SHARED_SECRET = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742";

/** Every 32-byte encoding of a point whose order divides 8, without those that only set the ignored top bit. */
const LOW_ORDER_POINTS = [
  "0000000000000000000000000000000000000000000000000000000000000000",
  "0100000000000000000000000000000000000000000000000000000000000000",
  "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
  "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
  "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
  "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
  "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

Deno.test({
  name: "importKeyPair() and sharedSecret() give the numbers of RFC 7748",
  permissions: "none",
  async fn() {
    const alice = await importKeyPair(Uint8Array.fromHex(ALICE_PRIVATE));
    const bob = await importKeyPair(Uint8Array.fromHex(BOB_PRIVATE));
    assertEquals(alice.publicKey.toHex(), ALICE_PUBLIC);
    assertEquals(bob.publicKey.toHex(), BOB_PUBLIC);
    assertEquals((await sharedSecret(alice.privateKey, bob.publicKey)).toHex(), SHARED_SECRET);
    assertEquals((await sharedSecret(bob.privateKey, alice.publicKey)).toHex(), SHARED_SECRET);
  },
});

Deno.test({
  name: "sharedSecret() refuses points of low order",
  permissions: "none",
  async fn() {
    const { privateKey } = await generateKeyPair();
    for (const point of LOW_ORDER_POINTS) {
      await assertRejects(() => sharedSecret(privateKey, Uint8Array.fromHex(point)), WireError, "low order");
      const topBitSet = Uint8Array.fromHex(point);
      topBitSet[31] |= 0x80;
      await assertRejects(() => sharedSecret(privateKey, topBitSet), WireError, "low order");
    }
  },
});

Deno.test({
  name: "generateKeyPair() gives another key each time, and a private half that cannot be exported",
  permissions: "none",
  async fn() {
    const first = await generateKeyPair();
    const second = await generateKeyPair();
    assertNotEquals(first.publicKey, second.publicKey);
    await assertRejects(() => crypto.subtle.exportKey("pkcs8", first.privateKey));
  },
});

Deno.test({
  name: "importKeyPair() refuses a private key of another length",
  permissions: "none",
  async fn() {
    for (const length of [0, 31, 33, 64]) {
      await assertRejects(() => importKeyPair(new Uint8Array(length)), RangeError, `not ${length}`);
    }
  },
});
