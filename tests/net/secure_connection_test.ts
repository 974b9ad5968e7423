import { assert, assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import { concat } from "@std/bytes";
import type { Connection } from "../../src/net/connection.ts";
import {
  acceptSecureConnection,
  openSecureConnection,
  SecureConnection,
} from "../../src/net/secure_connection.ts";
import { aesGcmFault, makeAesGcm } from "../../src/os/aes_gcm.ts";
import { REKEY_NONCE } from "../../src/wire/channel/cipher_state.ts";
import { ChannelRefusedError } from "../../src/wire/channel/establish.ts";
import { FRAME_TYPES, PAYLOAD_BYTES_MAX, type RekeyLimits } from "../../src/wire/channel/frame.ts";
import { generateKeyPair } from "../../src/wire/channel/key_pair.ts";
import { WireError } from "../../src/wire/wire_error.ts";
import { connectionPair } from "../testing/connection_pair.ts";

const clientKey = await generateKeyPair();
const serverKey = await generateKeyPair();

/** A transport that keeps what was written to it, alters it on the way, and can be held up. */
class Tap implements Connection {
  readonly written: Uint8Array[] = [];
  /** Given each written piece and where in the stream it begins; what it returns goes on. */
  alter = (bytes: Uint8Array, _at: number): Uint8Array => bytes;
  /** While it is there, writes wait for it. */
  gate: Promise<void> | undefined;
  readCalls = 0;
  #position = 0;
  #onWrite = () => {};

  constructor(private readonly inner: Connection) {}

  get peer() {
    return this.inner.peer;
  }
  get byteCount(): number {
    return this.#position;
  }
  /** Resolves at the next write. */
  grown(): Promise<void> {
    return new Promise((resolve) => this.#onWrite = resolve);
  }
  read(into: Uint8Array) {
    this.readCalls++;
    return this.inner.read(into);
  }
  write(bytes: Uint8Array): void | Promise<void> {
    const altered = this.alter(bytes.slice(), this.#position);
    this.#position += bytes.length;
    this.written.push(bytes.slice());
    this.#onWrite();
    if (this.gate === undefined) return this.inner.write(altered);
    return this.gate.then(() => this.inner.write(altered));
  }
  close(): void {
    this.inner.close();
  }
}

interface Pair {
  readonly client: SecureConnection;
  readonly server: SecureConnection;
  /** Under the client, and under the server. */
  readonly taps: readonly [Tap, Tap];
}

type Protection = "noise" | "noise by libcrypto" | "noise, by libcrypto at one end" | "checksum";
const protections: readonly Protection[] = [
  "noise",
  "noise by libcrypto",
  "noise, by libcrypto at one end",
  "checksum",
];

async function securePair(
  protection: Protection,
  { bytesPerRead, rekeyLimits }: { bytesPerRead?: number; rekeyLimits?: RekeyLimits } = {},
): Promise<Pair> {
  const [near, far] = connectionPair(bytesPerRead);
  const taps = [new Tap(near), new Tap(far)] as const;
  const [client, server] = await Promise.all([
    openSecureConnection(taps[0], {
      identity: protection !== "checksum" ? { staticKey: clientKey } : undefined,
      rekeyLimits,
      ...(protection === "noise by libcrypto" ? byLibcrypto : {}),
    }),
    acceptSecureConnection(taps[1], {
      encryption: "prefer",
      identity: { staticKey: serverKey },
      refuse: () => undefined,
      rekeyLimits,
      ...(protection.includes("by libcrypto") ? byLibcrypto : {}),
    }),
  ]);
  assertInstanceOf(server, SecureConnection);
  return { client, server: server as SecureConnection, taps };
}

/** By OpenSSL where it is installed, else by Web Crypto. */
const byLibcrypto = { makeRecordCipher: makeAesGcm };

/** Bytes that repeat at no power of two. */
function pattern(length: number, seed = 0): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => (index + seed) * 131 + (index >> 7) * 17);
}

/** Writes from the client to the server, and waits until the transport has seen it. */
async function send({ client, taps: [tap] }: Pair, bytes: Uint8Array): Promise<void> {
  const grown = tap.grown();
  await client.write(bytes);
  await grown;
}

/** Reads to the end, and tells how it ended. */
async function readAll(
  connection: Connection,
  chunkBytes = 10_000,
): Promise<{ bytes: Uint8Array; error?: unknown }> {
  const parts: Uint8Array[] = [];
  const chunk = new Uint8Array(chunkBytes);
  try {
    while (true) {
      const count = await connection.read(chunk);
      if (count === null) return { bytes: concat(parts) };
      assert(count > 0);
      parts.push(chunk.slice(0, count));
    }
  } catch (error) {
    return { bytes: concat(parts), error };
  }
}

Deno.test("what is written in one turn goes out in one frame: by Web Crypto", async () => {
  const { client, server, taps } = await securePair("noise");
  const before = taps[0].written.length;
  for (let index = 0; index < 32; index++) assertEquals(client.write(pattern(28, index)), undefined);
  assertEquals(await readOnce(server), 32 * 28);
  assertEquals(taps[0].written.length - before, 1);
  assertEquals(taps[0].written[before].length, 32 * 28 + 4 + 16);
  client.close();
  server.close();
});

for (const protection of protections) {
  for (const bytesPerRead of [1, 7, Infinity]) {
    Deno.test(`bytes arrive in order both ways, then an end: ${protection}, ${bytesPerRead} a read`, async () => {
      const { client, server } = await securePair(protection, { bytesPerRead });
      const sizes = bytesPerRead === 1
        ? [1, 300, 0, 5000]
        : [1, PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MAX + 1, 0, 3, 200_000, 28, 28, 28];
      const sent = sizes.map((size, index) => pattern(size, index));
      const up = Promise.all(sent.map((bytes) => client.write(bytes)));
      const down = Promise.all(sent.toReversed().map((bytes) => server.write(bytes)));
      const received = [readAll(server), readAll(client, 100)];
      await Promise.all([up, down]);
      client.close();
      assertEquals(await received[0], { bytes: concat(sent) });
      server.close();
      // The client has closed: what it had not read by then is gone, and its read has ended.
      const { bytes, error } = await received[1];
      assertEquals(error, undefined);
      assertEquals(bytes, concat(sent.toReversed()).slice(0, bytes.length));
    });
  }

  Deno.test(`a stream cut anywhere ends in an error behind its good part, never in an end: ${protection}`, async () => {
    const text = pattern(500);
    const whole = await securePair(protection);
    const start = whole.taps[0].byteCount;
    await send(whole, text.subarray(0, 250));
    const border = whole.taps[0].byteCount - start;
    await send(whole, text.subarray(250));
    const length = whole.taps[0].byteCount - start;
    whole.client.close();
    assertEquals(await readAll(whole.server), { bytes: text });

    for (const cut of [0, 1, 3, border - 1, border, border + 1, border + 5, length - 1, length]) {
      const pair = await securePair(protection);
      const { client, server, taps } = pair;
      taps[0].alter = (bytes, at) => bytes.subarray(0, Math.max(0, start + cut - at));
      await send(pair, text.subarray(0, 250));
      await send(pair, text.subarray(250));
      client.close();
      const { bytes, error } = await readAll(server);
      assertInstanceOf(error, WireError, `cut at ${cut}`);
      assertEquals((error as Error).message, "the connection was cut: it ended without the peer's close");
      assertEquals(bytes, text.subarray(0, cut < border ? 0 : cut < length ? 250 : 500), `cut at ${cut}`);
      await assertRejects(() => readOnce(server), WireError, "cut");
    }
  });

  Deno.test(`a bit flipped on the way never becomes data, and ends both directions: ${protection}`, async () => {
    const text = pattern(3000);
    for (let round = 0; round < 60; round++) {
      const pair = await securePair(protection);
      const { client, server, taps } = pair;
      const start = taps[0].byteCount;
      taps[0].alter = (bytes, at) => {
        const index = start + 37 * round + 1 - at;
        if (index >= 0 && index < bytes.length) bytes[index] ^= 1 << round % 8;
        return bytes;
      };
      for (let at = 0; at < text.length; at += 500) await send(pair, text.subarray(at, at + 500));
      // Without this, a length made longer would leave the receiver waiting.
      client.close();
      const { bytes, error } = await readAll(server);
      assertInstanceOf(error, WireError);
      assertEquals(bytes, text.subarray(0, bytes.length));
      assertEquals(bytes.length % 500, 0);
      await assertRejects(async () => await server.write(text), WireError);
    }
  });

  const isDirect = protection === "checksum" || protection === "noise by libcrypto" && aesGcmFault() === null;
  const cut = isDirect ? "64 KiB behind one with what is over" : "equal size";
  Deno.test(`a long write is cut into frames of ${cut}: ${protection}`, async () => {
    const { client, server, taps } = await securePair(protection);
    const before = taps[0].byteCount;
    await client.write(pattern(131072 + 16));
    client.close();
    assertEquals((await readAll(server)).bytes.length, 131072 + 16);
    const stream = concat(taps[0].written).subarray(before);
    const lengths: number[] = [];
    for (let at = 0; at < stream.length;) {
      const bodyBytes = new DataView(stream.buffer, stream.byteOffset + at).getUint32(0) & 0xffffff;
      if (stream[at] === FRAME_TYPES.data) lengths.push(bodyBytes);
      at += bodyBytes + (protection !== "checksum" ? 4 : 12);
    }
    const overhead = protection !== "checksum" ? 16 : 0;
    const payloads = isDirect ? [16, 65536, 65536] : [65544, 65544];
    assertEquals(lengths, payloads.map((bytes) => bytes + overhead));
    server.close();
  });

  if (isDirect) {
    Deno.test(`a read ends before a long frame behind a short one: ${protection}`, async () => {
      const { client, server } = await securePair(protection);
      const replyBytes = 32 + 2 * 65536;
      const writing = Promise.all(Array.from({ length: 6 }, () => client.write(pattern(replyBytes))));
      const into = new Uint8Array(3 * replyBytes);
      for (let at = 0; at < 6 * replyBytes;) {
        const count = await server.read(into) ?? 0;
        const start = at % replyBytes;
        assert(start >= 32 || start + count <= 32, `${count} bytes at ${start} of a reply, in one read`);
        at += count;
      }
      await writing;
      client.close();
      server.close();
    });
  }

  Deno.test(`a transport that takes nothing holds the writer up, and loses nothing: ${protection}`, async () => {
    const { client, server, taps } = await securePair(protection);
    const opened = Promise.withResolvers<void>();
    taps[0].gate = opened.promise;
    const before = taps[0].byteCount;
    let finished = 0;
    const parts = Array.from({ length: 40 }, (_, index) => pattern(60_000, index));
    const writes = parts.map((part) => Promise.resolve(client.write(part)).then(() => void finished++));
    const reading = readAll(server, 100_000);
    // The peer's answer passes through the crypto threads as well: they had time for far more than is allowed.
    for (let turn = 0; turn < 3; turn++) {
      const [count] = await Promise.all([readOnce(client), server.write(pattern(1000))]);
      assertEquals(count, 1000);
    }
    // What the crypto threads may hold is taken.
    assert(finished <= 8, `${finished} writes are done`);
    assert(taps[0].byteCount - before <= 9 * 70_000, `${taps[0].byteCount - before} bytes were handed over`);
    taps[0].gate = undefined;
    opened.resolve();
    await Promise.all(writes);
    client.close();
    assertEquals((await reading).bytes, concat(parts));
    server.close();
  });

  Deno.test(`a reader that does not read stops the transport being read: ${protection}`, async () => {
    const { client, server, taps } = await securePair(protection);
    const sent = pattern(4_000_000);
    await client.write(sent);
    client.close();
    const first = new Uint8Array(1);
    assertEquals(await server.read(first), 1);
    // By the time an answer has come through the crypto threads, as much was read as will be.
    await server.write(pattern(10));
    const calls = taps[1].readCalls;
    await server.write(pattern(10));
    assertEquals(taps[1].readCalls, calls);
    assert(calls * 256 * 1024 < sent.length, `${calls} reads`);
    assertEquals(concat([first, (await readAll(server, 65536)).bytes]), sent);
    server.close();
  });

  Deno.test(`what was taken belongs to the writer again, and is followed by a good end: ${protection}`, async () => {
    const { client, server } = await securePair(protection);
    const sent: Uint8Array[] = [];
    const reading = readAll(server);
    for (const size of [100, 20_000, 3, 200_000, 28]) {
      const bytes = pattern(size, size);
      sent.push(bytes.slice());
      const taken = client.write(bytes);
      if (taken !== undefined) await taken;
      bytes.fill(0);
    }
    client.close();
    assertEquals(await reading, { bytes: concat(sent) });
    server.close();
  });

  Deno.test(`close() with something unsent leaves the peer with an error: ${protection}`, async () => {
    const pair = await securePair(protection);
    const { client, server, taps } = pair;
    await send(pair, pattern(10));
    taps[0].gate = Promise.withResolvers<void>().promise;
    const writes = Array.from({ length: 12 }, () => Promise.resolve(client.write(pattern(60_000))));
    const unsent = Promise.all(writes);
    client.close();
    await assertRejects(() => unsent, Error, "closed");
    const { bytes, error } = await readAll(server);
    assertEquals(bytes, pattern(10));
    assertInstanceOf(error, WireError);
    server.close();
  });

  Deno.test(`left waits for the close frame, though the reader is told at once: ${protection}`, async () => {
    const { client, server, taps } = await securePair(protection);
    const gate = Promise.withResolvers<void>();
    taps[0].gate = gate.promise;
    const grown = taps[0].grown();
    const outstanding = client.read(new Uint8Array(10));
    client.close();
    assertEquals(await outstanding, null);
    await grown;
    let left = false;
    const leaving = client.left.then(() => left = true);
    await Promise.resolve();
    assertEquals(left, false, "the transport has not taken the close frame");
    gate.resolve();
    await leaving;
    assertEquals(await readAll(server), { bytes: new Uint8Array(0) });
    server.close();
  });

  Deno.test(`close() ends an outstanding read, and further reads and writes: ${protection}`, async () => {
    const { client, server } = await securePair(protection);
    const outstanding = client.read(new Uint8Array(10));
    client.close();
    client.close();
    assertEquals(await outstanding, null);
    assertEquals(await client.read(new Uint8Array(10)), null);
    await assertRejects(async () => await client.write(pattern(1)), Error, "closed");
    assertEquals(await readAll(server), { bytes: new Uint8Array(0) });
    server.close();
  });
}

for (const protection of protections.filter((each) => each !== "checksum")) {
  Deno.test(`keys are replaced in the middle of a stream that is under way in many frames: ${protection}`, async () => {
    const { client, server, taps } = await securePair(protection, {
      rekeyLimits: { bytes: 100_000, ageMs: Infinity },
    });
    const sent = pattern(3_000_000);
    const reading = readAll(server, 50_000);
    await client.write(sent);
    client.close();
    assertEquals((await reading).bytes, sent);
    const stream = concat(taps[0].written);
    let rekeys = 0;
    let bytesUnderKey = 0;
    for (let at = 16; at < stream.length;) {
      const bodyBytes = new DataView(stream.buffer, at).getUint32(0) & 0xffffff;
      if (stream[at] === FRAME_TYPES.rekey) {
        assert(bytesUnderKey >= 100_000, `a key was replaced after ${bytesUnderKey} bytes`);
        rekeys++;
        bytesUnderKey = 0;
      } else if (stream[at] === FRAME_TYPES.data) {
        assert(bytesUnderKey < 100_000, `a key was kept beyond ${bytesUnderKey} bytes`);
        bytesUnderKey += bodyBytes - 16;
      }
      at += 4 + bodyBytes;
    }
    assert(rekeys >= 20, `${rekeys} keys were replaced`);
    server.close();
  });
}

Deno.test("V43: no key meets a nonce twice, over rekeys, both directions and channels of the same two peers", async () => {
  const { subtle } = crypto;
  const [importKey, encrypt] = [subtle.importKey.bind(subtle), subtle.encrypt.bind(subtle)];
  const keys = new Map<CryptoKey, string>();
  const used: string[] = [];
  const hex = (bytes: BufferSource) =>
    (ArrayBuffer.isView(bytes)
      ? new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength)
      : new Uint8Array(bytes)).toHex();
  // The runtime's own, with somebody who writes down.
  const noted = {
    async importKey(...args: Parameters<typeof importKey>) {
      const secret = args[1];
      const text = ArrayBuffer.isView(secret) || secret instanceof ArrayBuffer ? hex(secret) : "";
      const key = await importKey(...args);
      keys.set(key, text);
      return key;
    },
    encrypt(parameters: AesGcmParams, key: CryptoKey, data: BufferSource) {
      // Under the last counter each end makes the next key for itself; that is never sent.
      if (hex(parameters.iv) !== REKEY_NONCE.toHex()) used.push(`${keys.get(key)} ${hex(parameters.iv)}`);
      return encrypt(parameters, key, data);
    },
  };
  Object.assign(subtle, noted);
  try {
    for (let life = 0; life < 4; life++) {
      const { client, server } = await securePair("noise", { rekeyLimits: { bytes: 1000, ageMs: Infinity } });
      const [up, down] = [readAll(server), readAll(client)];
      for (let index = 0; index < 20; index++) {
        // A frame for each.
        await Promise.all([client.write(pattern(300, index)), server.write(pattern(300, index))]);
      }
      client.close();
      server.close();
      await Promise.all([up, down]);
    }
  } finally {
    for (const name of Object.keys(noted)) Reflect.deleteProperty(subtle, name);
  }
  assert(used.length > 4 * 2 * 20, `${used.length} messages`);
  assertEquals(new Set(used).size, used.length);
  // Four lives, two directions, several keys each.
  assert(new Set(used.map((each) => each.split(" ")[0])).size > 4 * 2 * 4);
});

Deno.test("V35: no 8 bytes of a known text stand on the wire of an encrypted channel, as they do without", async () => {
  const text = new TextEncoder().encode("The quick brown fox jumps over the lazy dog. ".repeat(2000));
  const runs = new Set<string>();
  for (let at = 0; at + 8 <= 53; at++) runs.add(text.subarray(at, at + 8).toHex());
  for (const protection of protections) {
    const { client, server, taps } = await securePair(protection);
    const reading = readAll(server);
    await client.write(text);
    await server.write(text);
    client.close();
    assertEquals((await reading).bytes, text);
    const wire = concat([...taps[0].written, ...taps[1].written]);
    let found = 0;
    for (let at = 0; at + 8 <= wire.length; at++) if (runs.has(wire.subarray(at, at + 8).toHex())) found++;
    assertEquals(found > 0, protection === "checksum", `${protection}: ${found} runs`);
    server.close();
  }
});

Deno.test("the peer of a channel carries the key that it has proven, and what protects it", async () => {
  const { client, server } = await securePair("noise");
  const key = clientKey.publicKey.toBase64();
  const { peer } = connectionPair()[0];
  const text = `${peer.text} (key ${key})`;
  assertEquals(server.peer, { ...peer, key, text, protection: "noise" });
  assertEquals(client.peer.key, serverKey.publicKey.toBase64());
  assertEquals(client.handshakeHash, server.handshakeHash);
  assertEquals((await securePair("checksum")).client.peer.key, undefined);
  const { server: direct } = await securePair("noise by libcrypto");
  assertEquals(direct.peer.protection, aesGcmFault() === null ? "noise by libcrypto" : "noise");
  client.close();
  server.close();
});

Deno.test("a client that is not let in is told why, and both transports are closed", async () => {
  const [near, far] = connectionPair();
  const [opened, accepted] = await Promise.allSettled([
    openSecureConnection(near, { identity: { staticKey: clientKey } }),
    acceptSecureConnection(far, {
      encryption: "require",
      identity: { staticKey: serverKey },
      refuse: () => "its key is not known here",
    }),
  ]);
  assertInstanceOf((opened as PromiseRejectedResult).reason, ChannelRefusedError);
  assertEquals(accepted, {
    status: "fulfilled",
    value: { refused: "its key is not known here", peerKey: clientKey.publicKey },
  });
  for (const transport of [near, far]) assertEquals(await transport.read(new Uint8Array(1)), null);
});

Deno.test("a handshake that takes too long is ended by its signal", async () => {
  const [near, far] = connectionPair();
  const limit = new AbortController();
  const accepting = acceptSecureConnection(far, {
    encryption: "require",
    identity: { staticKey: serverKey },
    refuse: () => undefined,
    signal: limit.signal,
  });
  near.write(new TextEncoder().encode("DENBD"));
  limit.abort(new Error("too slow"));
  await assertRejects(() => accepting, Error, "too slow");
  assertEquals(await near.read(new Uint8Array(1)), null);
});

/** Reads once, into something large enough. */
async function readOnce(connection: Connection): Promise<number | null> {
  return await connection.read(new Uint8Array(5000));
}
