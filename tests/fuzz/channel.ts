/** Fuzzers of the channel: of its first bytes, and of whole streams that are damaged on the way. */
import { assert, assertEquals } from "@std/assert";
import { concat } from "@std/bytes";
import {
  acceptSecureConnection,
  openSecureConnection,
  SecureConnection,
} from "../../src/net/secure_connection.ts";
import { decodeStart } from "../../src/wire/channel/frame.ts";
import { decodeHello, encodeHello } from "../../src/wire/channel/hello.ts";
import { generateKeyPair } from "../../src/wire/channel/key_pair.ts";
import { WireError } from "../../src/wire/wire_error.ts";
import { connectionPair } from "../testing/connection_pair.ts";
import { accepts, damaged, pick } from "./damage.ts";
import type { Fuzzer } from "./fuzzer.ts";
import { TamperedConnection } from "./tampered_connection.ts";

const staticKey = await generateKeyPair();
/** More than the handshake takes in either direction. */
const HANDSHAKE_BYTES = 200;

export const channelHellos: Fuzzer = {
  name: "channel-hellos",
  summary: "a channel's first bytes and frame starts: what was meant, or a WireError",
  round(random) {
    const hello = {
      protection: pick(random, ["noise", "checksum"] as const),
      cipher: pick(random, ["AESGCM", "ChaChaPoly"] as const),
      presharedKey: random.chance(0.5),
    };
    const bytes = new Uint8Array(16);
    bytes.set(damaged(encodeHello(hello), random).subarray(0, 16));
    accepts(() => assertEquals(encodeHello(decodeHello(bytes)), bytes), WireError);
    accepts(() => assert(decodeStart(random.bytes(4)).bodyBytes <= 69632), WireError);
  },
};

export const channelStreams: Fuzzer = {
  name: "channel-streams",
  summary:
    "a channel over a connection that damages and cuts: a prefix of what was sent, an end only behind all",
  async round(random) {
    const [near, far] = connectionPair();
    const tampered = new TamperedConnection(far, random, {
      damagePerByte: pick(random, [0, 1e-5, 1e-3]),
      quietBytes: HANDSHAKE_BYTES,
      endsAfterBytes: random.chance(0.3) ? HANDSHAKE_BYTES + random.below(100_000) : Infinity,
    });
    const identity = random.chance(0.1) ? { staticKey } : undefined;
    const rekeyLimits = { bytes: 1 + random.below(100_000), ageMs: Infinity };
    const [client, accepted] = await Promise.all([
      openSecureConnection(near, { identity, rekeyLimits }),
      acceptSecureConnection(tampered, {
        encryption: "prefer",
        identity: { staticKey },
        refuse: () => undefined,
        rekeyLimits,
      }),
    ]);
    if (!(accepted instanceof SecureConnection)) throw new Error(accepted.refused);
    const server = accepted;
    const sent = Array.from({ length: random.below(8) }, () => random.bytes(random.below(40_000)));
    const sending = (async () => {
      for (const bytes of sent) {
        const taken = client.write(bytes);
        if (random.chance(0.5)) await taken;
        else taken?.catch(() => {});
      }
      await client.write(new Uint8Array(1));
      client.close();
    })().catch(() => client.close());

    const whole = concat([...sent, new Uint8Array(1)]);
    const received: Uint8Array[] = [];
    let error: unknown;
    try {
      const chunk = new Uint8Array(1 + random.below(50_000));
      for (let count; (count = await server.read(chunk)) !== null;) received.push(chunk.slice(0, count));
    } catch (caught) {
      error = caught;
    }
    server.close();
    await sending;
    const bytes = concat(received);
    assertEquals(bytes, whole.subarray(0, bytes.length));
    if (error === undefined) assertEquals(bytes.length, whole.length);
    else assert(error instanceof WireError, String(error));
  },
};
