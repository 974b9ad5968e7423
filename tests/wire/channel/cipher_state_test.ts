import { assertEquals, assertNotEquals, assertRejects, assertThrows } from "@std/assert";
import { CipherState } from "../../../src/wire/channel/cipher_state.ts";
import { WireError } from "../../../src/wire/wire_error.ts";

const KEY = new Uint8Array(32).map((_, index) => index);
const AD = Uint8Array.of(1, 2, 3, 4);
const NOTHING = new Uint8Array(0);
const text = (value: string) => new TextEncoder().encode(value);

for (const cipher of ["AESGCM", "ChaChaPoly"] as const) {
  Deno.test({
    name:
      `CipherState refuses a message repeated, skipped, altered or under other additional data, ${cipher}`,
    permissions: "none",
    async fn() {
      const sender = await CipherState.create(cipher, KEY);
      const messages = await Promise.all(
        ["one", "two", "three"].map((m) => sender.encryptWithAd(AD, text(m))),
      );
      const receiver = async (after: number) => {
        const state = await CipherState.create(cipher, KEY);
        for (let i = 0; i < after; i++) await state.decryptWithAd(AD, messages[i]);
        return state;
      };
      await assertRejects(
        async () => (await receiver(1)).decryptWithAd(AD, messages[0]),
        WireError,
        "message 1",
      );
      await assertRejects(async () => (await receiver(1)).decryptWithAd(AD, messages[2]), WireError);
      await assertRejects(async () => (await receiver(1)).decryptWithAd(NOTHING, messages[1]), WireError);
      const altered = messages[1].slice();
      altered[0] ^= 1;
      await assertRejects(async () => (await receiver(1)).decryptWithAd(AD, altered), WireError);
      const state = await receiver(2);
      assertEquals(await state.decryptWithAd(AD, messages[2]), text("three"));
      assertThrows(() => state.decryptWithAd(AD, new Uint8Array(15)), WireError, "at least 16 bytes");
    },
  });

  Deno.test({
    name: `CipherState.rekey() changes the key between two messages that are under way together, ${cipher}`,
    permissions: "none",
    async fn() {
      const sender = await CipherState.create(cipher, KEY);
      const receiver = await CipherState.create(cipher, KEY);
      const stale = await CipherState.create(cipher, KEY);
      const first = sender.encryptWithAd(AD, text("old"));
      const rekeyed = sender.rekey();
      const buffer = text("new");
      const second = sender.encryptWithAd(AD, buffer);
      buffer.fill(0);
      await rekeyed;
      const third = sender.encryptWithAd(AD, text("also new"));

      const opened = [receiver.decryptWithAd(AD, await first)];
      void receiver.rekey();
      opened.push(receiver.decryptWithAd(AD, await second), receiver.decryptWithAd(AD, await third));
      assertEquals(await Promise.all(opened), [text("old"), text("new"), text("also new")]);

      await stale.decryptWithAd(AD, await first);
      await assertRejects(async () => await stale.decryptWithAd(AD, await second), WireError);
    },
  });
}

// The new key is the first 32 bytes of 32 zeroes encrypted under the counter 2^64-1 (section 4.2).
Deno.test({
  name: "CipherState.rekey() computes the key that the Noise document says",
  permissions: "none",
  async fn() {
    const web = await crypto.subtle.importKey("raw", KEY, "AES-GCM", false, ["encrypt"]);
    const iv = Uint8Array.of(0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255);
    const expected = new Uint8Array(
      await crypto.subtle.encrypt({ name: "AES-GCM", iv }, web, new Uint8Array(32)),
    ).slice(0, 32);
    const rekeyed = await CipherState.create("AESGCM", KEY);
    await rekeyed.rekey();
    const fresh = await CipherState.create("AESGCM", expected);
    const message = await rekeyed.encryptWithAd(AD, text("same"));
    assertEquals(message, await fresh.encryptWithAd(AD, text("same")));
    assertNotEquals(message, await (await CipherState.create("AESGCM", KEY)).encryptWithAd(AD, text("same")));
  },
});
