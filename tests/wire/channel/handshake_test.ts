import { assertEquals, assertRejects } from "@std/assert";
import type { CipherName } from "../../../src/wire/channel/cipher_state.ts";
import { HandshakeState } from "../../../src/wire/channel/handshake.ts";
import { generateKeyPair, importKeyPair } from "../../../src/wire/channel/key_pair.ts";
import { WireError } from "../../../src/wire/wire_error.ts";
import { NOISE_VECTORS, type NoiseVector } from "./noise_vectors.ts";

type Bytes = Uint8Array<ArrayBuffer>;
const bytes = (hex: string): Bytes => Uint8Array.fromHex(hex);
const NOTHING = new Uint8Array(0);

async function bothEnds(vector: NoiseVector): Promise<[HandshakeState, HandshakeState]> {
  const cipher = vector.protocol.split("_")[3] as CipherName;
  const presharedKey = vector.presharedKey === undefined ? undefined : bytes(vector.presharedKey);
  const shared = { cipher, prologue: bytes(vector.prologue), presharedKey };
  const initiator = await HandshakeState.create({
    ...shared,
    initiator: true,
    staticKey: await importKeyPair(bytes(vector.initiatorStatic)),
    generateKeyPair: () => importKeyPair(bytes(vector.initiatorEphemeral)),
  });
  const responder = await HandshakeState.create({
    ...shared,
    initiator: false,
    staticKey: await importKeyPair(bytes(vector.responderStatic)),
    generateKeyPair: () => importKeyPair(bytes(vector.responderEphemeral)),
  });
  return [initiator, responder];
}

NOISE_VECTORS.forEach((vector, index) => {
  Deno.test({
    name: `HandshakeState gives the published messages of ${vector.protocol}, vector ${index}`,
    permissions: "none",
    async fn() {
      const [initiator, responder] = await bothEnds(vector);
      for (const [turn, message] of vector.messages.slice(0, 3).entries()) {
        const [writer, reader] = turn % 2 === 0 ? [initiator, responder] : [responder, initiator];
        const expectedBytes = writer.nextMessageBytes + message.payload.length / 2;
        const written = await writer.writeMessage(bytes(message.payload));
        assertEquals(written.toHex(), message.ciphertext);
        assertEquals(written.length, expectedBytes);
        assertEquals((await reader.readMessage(written)).toHex(), message.payload);
      }
      assertEquals(
        initiator.remoteStatic?.toHex(),
        (await importKeyPair(bytes(vector.responderStatic))).publicKey.toHex(),
      );
      assertEquals(
        responder.remoteStatic?.toHex(),
        (await importKeyPair(bytes(vector.initiatorStatic))).publicKey.toHex(),
      );
      assertEquals(initiator.handshakeHash, responder.handshakeHash);
      if (vector.handshakeHash !== undefined) {
        assertEquals(initiator.handshakeHash.toHex(), vector.handshakeHash);
      }
      const ends = [await responder.split(), await initiator.split()];
      for (const [turn, message] of vector.messages.slice(3).entries()) {
        const [writer, reader] = turn % 2 === 0 ? ends : [ends[1], ends[0]];
        const written = await writer.sending.encryptWithAd(NOTHING, bytes(message.payload));
        assertEquals(written.toHex(), message.ciphertext);
        assertEquals((await reader.receiving.decryptWithAd(NOTHING, written)).toHex(), message.payload);
      }
    },
  });
});

Deno.test({
  name: "HandshakeState refuses a message with any bit of a sealed part or of a key flipped",
  permissions: "none",
  async fn() {
    const vector = NOISE_VECTORS[1];
    for (const turn of [1, 2]) {
      const original = bytes(vector.messages[turn].ciphertext);
      for (let bit = 0; bit < original.length * 8; bit += 3) {
        const ends = await bothEnds(vector);
        for (let before = 0; before < turn; before++) {
          const [writer, reader] = before % 2 === 0 ? ends : [ends[1], ends[0]];
          await reader.readMessage(await writer.writeMessage(bytes(vector.messages[before].payload)));
        }
        const flipped = original.slice();
        flipped[bit >> 3] ^= 1 << (bit & 7);
        await assertRejects(() => ends[turn % 2 === 0 ? 1 : 0].readMessage(flipped), WireError);
      }
    }
  },
});

Deno.test({
  name: "HandshakeState refuses a message cut anywhere",
  permissions: "none",
  async fn() {
    const vector = NOISE_VECTORS[1];
    const [initiator] = await bothEnds(vector);
    await initiator.writeMessage(bytes(vector.messages[0].payload));
    const original = bytes(vector.messages[1].ciphertext);
    for (let length = 0; length < initiator.nextMessageBytes; length++) {
      await assertRejects(() => initiator.readMessage(original.slice(0, length)), WireError, "fewer than 96");
    }
  },
});

Deno.test({
  name: "two ends with another prologue, another pre-shared key or one on one side only do not meet",
  permissions: "none",
  async fn() {
    const staticKey = await generateKeyPair();
    const key = (value: number) => new Uint8Array(32).fill(value);
    const cases: { prologues: [Bytes, Bytes]; keys: [Bytes | undefined, Bytes | undefined] }[] = [
      { prologues: [key(1), key(2)], keys: [undefined, undefined] },
      { prologues: [key(1), key(1)], keys: [key(3), key(4)] },
      { prologues: [key(1), key(1)], keys: [key(3), undefined] },
      { prologues: [key(1), key(1)], keys: [undefined, key(3)] },
    ];
    for (const { prologues, keys } of cases) {
      const ends = await Promise.all([0, 1].map((end) =>
        HandshakeState.create({
          initiator: end === 0,
          cipher: "AESGCM",
          prologue: prologues[end],
          staticKey,
          presharedKey: keys[end],
        })
      ));
      await assertRejects(async () => {
        for (const turn of [0, 1, 2]) {
          await ends[1 - turn % 2].readMessage(await ends[turn % 2].writeMessage(NOTHING));
        }
      }, WireError);
    }
  },
});
