import { assert, assertEquals, assertInstanceOf, assertNotEquals, assertStringIncludes } from "@std/assert";
import {
  ChannelRefusedError,
  type Established,
  initiate,
  type InitiateOptions,
  respond,
  type RespondOptions,
} from "../../../src/wire/channel/establish.ts";
import { generateKeyPair, type KeyPair } from "../../../src/wire/channel/key_pair.ts";
import { WireError } from "../../../src/wire/wire_error.ts";
import { type Alter, play, type Played, PlayedOutError } from "./play.ts";

const alice: KeyPair = await generateKeyPair();
const server: KeyPair = await generateKeyPair();
const psk = (value: number) => new Uint8Array(32).fill(value);
const letIn = () => undefined;
const untouched: Alter = (_from, bytes) => bytes;

function meet(client: InitiateOptions, other: Partial<RespondOptions> = {}, alter: Alter = untouched) {
  return play(
    initiate(client),
    respond({ encryption: "require", identity: { staticKey: server }, refuse: letIn, ...other }),
    alter,
  );
}

function established<B>(played: Played<Established, B>): [Established, Established] {
  if (played.client.status === "rejected") throw played.client.reason;
  if (played.server.status === "rejected") throw played.server.reason;
  assert("sealer" in (played.server.value as object));
  return [played.client.value, played.server.value as unknown as Established];
}

function clientError<A, B>(played: Played<A, B>): Error {
  assertEquals(played.client.status, "rejected");
  return (played.client as PromiseRejectedResult).reason;
}

function clientRefusal<A, B>(played: Played<A, B>): ChannelRefusedError {
  const error = clientError(played);
  assertInstanceOf(error, ChannelRefusedError);
  return error as ChannelRefusedError;
}

/** Sends one data frame each way. */
async function exchange(from: Established, to: Established, text: string): Promise<void> {
  for (const [sender, receiver] of [[from, to], [to, from]]) {
    const [frame] = sender.sealer.seal("data", new TextEncoder().encode(text));
    receiver.opener.decodeHeader(frame.header);
    const opened = await receiver.opener.open(frame.header, await frame.body);
    assertEquals([opened.type, new TextDecoder().decode(opened.payload)], ["data", text]);
  }
}

for (const cipher of ["AESGCM", "ChaChaPoly"] as const) {
  for (const presharedKey of [undefined, psk(7)]) {
    const how = `${cipher}, ${presharedKey === undefined ? "no" : "a"} pre-shared key`;
    Deno.test({
      name: `an encrypted channel proves both keys and carries data both ways: ${how}`,
      permissions: "none",
      async fn() {
        const seen: Uint8Array[] = [];
        const played = await meet(
          { identity: { staticKey: alice, presharedKey }, cipher, trust: (key) => void seen.push(key) },
          { identity: { staticKey: server, presharedKey } },
        );
        const [ours, theirs] = established(played);
        assertEquals(seen, [server.publicKey]);
        assertEquals(ours.peerKey, server.publicKey);
        assertEquals(theirs.peerKey, alice.publicKey);
        assertEquals(ours.handshakeHash, theirs.handshakeHash);
        await exchange(ours, theirs, "as written");
        // Neither end's key crosses the wire in clear.
        for (const sent of [played.sent.client, played.sent.server]) {
          assert(!sent.toHex().includes(alice.publicKey.toHex()));
          assert(!sent.toHex().includes(server.publicKey.toHex()));
        }
      },
    });
  }
}

Deno.test({
  name: "two channels of the same two peers have nothing in common",
  permissions: "none",
  async fn() {
    const [first] = established(await meet({ identity: { staticKey: alice } }));
    const [second] = established(await meet({ identity: { staticKey: alice } }));
    assertNotEquals(first.handshakeHash, second.handshakeHash);
    const frames = [first, second].map(({ sealer }) => sealer.seal("data", psk(1))[0].body);
    assertNotEquals(await frames[0], await frames[1]);
  },
});

Deno.test({
  name: "a client that does not trust the server's key ends before it has said who it is",
  permissions: "none",
  async fn() {
    const refused = new Error("not this key");
    const played = await meet({
      identity: { staticKey: alice },
      trust: () => {
        throw refused;
      },
    });
    assertEquals(clientError(played), refused);
    assertEquals(played.sent.client.length, 16 + 4 + 32);
    assertInstanceOf((played.server as PromiseRejectedResult).reason, PlayedOutError);
  },
});

Deno.test({
  name: "a server that does not know the client's key says so, and proves that it said so",
  permissions: "none",
  async fn() {
    const played = await meet({ identity: { staticKey: alice } }, { refuse: () => "who is\nthis?" });
    const error = clientRefusal(played);
    assert(error.proven);
    assertEquals(error.message, "the server refused the channel: who is\\nthis?");
    assertEquals(played.server, {
      status: "fulfilled",
      value: { refused: "who is\nthis?", peerKey: alice.publicKey },
    });
  },
});

const identity = { staticKey: alice };
const mismatches: [string, InitiateOptions, Partial<RespondOptions>, string][] = [
  ["checksums offered to a server that asks for encryption", {}, {}, "asks for encryption"],
  ["encryption asked of a server without", { identity }, { encryption: "off" }, "checksums only"],
  ["another pre-shared key", { identity: { ...identity, presharedKey: psk(1) } }, {
    identity: { staticKey: server, presharedKey: psk(2) },
  }, "the pre-shared keys are not the same"],
  ["a pre-shared key at the client only", { identity: { ...identity, presharedKey: psk(1) } }, {}, "none"],
  ["a pre-shared key at the server only", { identity }, {
    identity: { staticKey: server, presharedKey: psk(2) },
  }, "it asks for a pre-shared key"],
];
for (const [what, client, other, reason] of mismatches) {
  Deno.test({
    name: `a mismatch is one clear error at both ends: ${what}`,
    permissions: "none",
    async fn() {
      const played = await meet(client, other);
      const error = clientRefusal(played);
      assertStringIncludes(error.message, reason === "none" ? "it has no pre-shared key" : reason);
      assertEquals(error.proven, false);
      assertEquals(played.server.status, "fulfilled");
      assert("refused" in (played.server as PromiseFulfilledResult<object>).value);
    },
  });
}

Deno.test({
  name: "encryption prefer gives both kinds of channel, off gives checksums",
  permissions: "none",
  async fn() {
    for (
      const [client, encryption, protection] of [
        [{}, "prefer", "checksum"],
        [{}, "off", "checksum"],
        [{ identity }, "prefer", "noise"],
      ] as const
    ) {
      const [ours, theirs] = established(await meet(client, { encryption }));
      assertEquals([ours.protection, theirs.protection], [protection, protection]);
      await exchange(ours, theirs, "either");
    }
  },
});

for (
  const [field, at, value, text] of [
    ["version", 8, 2, "channel version 2 is unknown here, only 1 is known"],
    ["version 0", 8, 0, "channel version 0"],
  ] as const
) {
  Deno.test({
    name: `V56: a server that does not know the ${field} says so, and which it knows`,
    permissions: "none",
    async fn() {
      const played = await meet({ identity }, {}, (from, bytes, position) => {
        if (from === "client" && position === 0) bytes[at] = value;
        return bytes;
      });
      assertStringIncludes(clientError(played).message, text);
    },
  });
}

Deno.test({
  name: "the first bytes of both ends are these",
  permissions: "none",
  async fn() {
    const { sent } = await meet({ identity }, {});
    const magic = new TextEncoder().encode("DENBDCHN");
    assertEquals([...sent.server.slice(0, 16)], [...magic, 1, 0, 0, 0, 0, 0, 0, 0]);
    assertEquals(sent.client.slice(0, 8), magic);
    // Version 1, noise, AESGCM, no pre-shared key; the checksum; a handshake frame of 32 bytes.
    assertEquals([...sent.client.slice(8, 20)], [1, 0, 0, 0, 0xe7, 0xd2, 0x58, 0x09, 1, 0, 0, 32]);
  },
});

Deno.test({
  name: "a client that reached a plain NBD server says so",
  permissions: "none",
  async fn() {
    for (const client of [{ identity }, {}]) {
      const played = await meet(client, {}, (from, bytes) => {
        return from === "server" ? new TextEncoder().encode("NBDMAGICIHAVEOPT") : bytes;
      });
      assertStringIncludes(clientError(played).message, "plain NBD");
    }
  },
});

Deno.test({
  name: "every single bit flipped in an establishment ends it at one end or the other, and nobody hangs",
  permissions: "none",
  async fn() {
    for (const client of [{ identity }, {}]) {
      const whole = await meet(client, { encryption: "prefer" });
      established(whole);
      for (const from of ["client", "server"] as const) {
        const byteCount = whole.sent[from].length;
        for (let bit = 0; bit < byteCount * 8; bit += client.identity === undefined ? 1 : 5) {
          const played = await meet(client, { encryption: "prefer" }, (sender, bytes, at) => {
            const index = (bit >> 3) - at;
            if (sender !== from || index < 0 || index >= bytes.length) return bytes;
            const flipped = bytes.slice();
            flipped[index] ^= 1 << (bit & 7);
            return flipped;
          });
          // What the server says of its version in its first bytes, and the zeroes behind, are for later clients.
          if (from === "server" && bit >= 8 * 8 && bit < 16 * 8) continue;
          const failures = [played.client, played.server].filter((end) =>
            end.status === "rejected" || "refused" in end.value
          );
          assert(failures.length > 0, `bit ${bit} from the ${from} went unnoticed`);
          for (const end of [played.client, played.server]) {
            if (end.status === "fulfilled") continue;
            assert(
              end.reason instanceof WireError || end.reason instanceof PlayedOutError,
              String(end.reason),
            );
          }
        }
      }
    }
  },
});
