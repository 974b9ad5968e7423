import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { concat } from "@std/bytes";
import { createCipheriv, createDecipheriv } from "node:crypto";
import { CipherState, TAG_BYTES } from "../../../src/wire/channel/cipher_state.ts";
import { DirectCipherState, type MakeRecordCipher } from "../../../src/wire/channel/direct_cipher_state.ts";
import {
  BODY_BYTES_MAX,
  ChecksumOpener,
  ChecksumSealer,
  decodeStart,
  DirectNoiseOpener,
  DirectNoiseSealer,
  encodePlainFrame,
  NoiseOpener,
  NoiseSealer,
  type Opener,
  PAYLOAD_BYTES_MAX,
  type Sealer,
} from "../../../src/wire/channel/frame.ts";
import { WireError } from "../../../src/wire/wire_error.ts";

type Bytes = Uint8Array<ArrayBuffer>;
const KEY = new Uint8Array(32).fill(9);
const text = (value: string): Bytes => new TextEncoder().encode(value);

/** AES-256-GCM that needs no permission. */
const makeNodeCipher: MakeRecordCipher = (key) => ({
  seal(nonce, ad, parts, into) {
    const cipher = createCipheriv("aes-256-gcm", key, nonce).setAAD(ad);
    into.set(concat([...parts.map((part) => cipher.update(part)), cipher.final(), cipher.getAuthTag()]));
  },
  open(nonce, ad, sealed, into) {
    const cipher = createDecipheriv("aes-256-gcm", key, nonce).setAAD(ad).setAuthTag(
      sealed.slice(-TAG_BYTES),
    );
    into.set(cipher.update(sealed.slice(0, -TAG_BYTES)));
    try {
      cipher.final();
      return true;
    } catch {
      return false;
    }
  },
});

const protections: { name: string; pair: () => Promise<{ sealer: Sealer; opener: Opener }> }[] = [
  {
    name: "noise",
    pair: async () => ({
      sealer: new NoiseSealer(await CipherState.create("AESGCM", KEY)),
      opener: new NoiseOpener(await CipherState.create("AESGCM", KEY)),
    }),
  },
  {
    name: "noise, at once",
    pair: () =>
      Promise.resolve({
        sealer: new DirectNoiseSealer(new DirectCipherState(makeNodeCipher, KEY.slice(), "seal")),
        opener: new DirectNoiseOpener(new DirectCipherState(makeNodeCipher, KEY.slice(), "open")),
      }),
  },
  {
    name: "checksum",
    pair: () => Promise.resolve({ sealer: new ChecksumSealer(), opener: new ChecksumOpener() }),
  },
];

/** Seals texts as data and a close behind them; each frame in one piece. */
async function sealAll(sealer: Sealer, texts: string[]): Promise<Bytes[]> {
  const frames = texts.flatMap((value) => sealer.seal("data", text(value)));
  frames.push(...sealer.seal("close", new Uint8Array(0)));
  return await Promise.all(frames.map(async ({ header, body }) => concat([header, await body])));
}

/** Opens a stream as far as it is good; `error` says why it ended early, `cut` that bytes were missing. */
async function openAll(
  opener: Opener,
  stream: Bytes,
): Promise<{ opened: string[]; error?: Error; cut: boolean }> {
  const opened: string[] = [];
  try {
    while (stream.length > 0) {
      if (stream.length < opener.headerBytes) return { opened, cut: true };
      const header = stream.slice(0, opener.headerBytes);
      const end = header.length + opener.decodeHeader(header).bodyBytes;
      if (stream.length < end) return { opened, cut: true };
      const { type, payload } = await opener.open(header, stream.slice(header.length, end));
      opened.push(type === "data" ? new TextDecoder().decode(payload) : type);
      stream = stream.slice(end);
    }
    return { opened, cut: false };
  } catch (error) {
    return { opened, error: error as Error, cut: false };
  }
}

for (const { name, pair } of protections) {
  Deno.test({
    name: `frames open to what was sealed, ${name}`,
    permissions: "none",
    async fn() {
      const { sealer, opener } = await pair();
      const longest = "x".repeat(PAYLOAD_BYTES_MAX);
      const stream = concat(await sealAll(sealer, ["a", longest, "c"]));
      assertEquals(await openAll(opener, stream), { opened: ["a", longest, "c", "close"], cut: false });
    },
  });

  Deno.test({
    name: `every bit flipped in a stream of frames is noticed and nothing from there on is opened, ${name}`,
    permissions: "none",
    async fn() {
      const texts = ["first", "second", "third"];
      const frames = await sealAll((await pair()).sealer, texts);
      const stream = concat(frames);
      const starts = frames.map((_, index) => concat(frames.slice(0, index)).length);
      for (let bit = 0; bit < stream.length * 8; bit++) {
        const flipped = stream.slice();
        flipped[bit >> 3] ^= 1 << (bit & 7);
        const hit = starts.findLastIndex((start) => start <= bit >> 3);
        const { opened, error, cut } = await openAll((await pair()).opener, flipped);
        assertEquals(opened, texts.slice(0, hit), `bit ${bit}`);
        // A longer length may leave the receiver waiting for bytes; it has no close, so the end is no good end.
        assert(error instanceof WireError || (cut && name !== "checksum"), `bit ${bit}: ${error}`);
      }
    },
  });

  Deno.test({
    name:
      `a frame dropped, repeated, moved or cut off is noticed and nothing from there on is opened, ${name}`,
    permissions: "none",
    async fn() {
      const texts = ["0", "1", "2", "3"];
      const [a, b, c, d, close] = await sealAll((await pair()).sealer, texts);
      const cases: [string, Bytes[], string[]][] = [
        ["dropped", [a, c, d, close], ["0"]],
        ["repeated", [a, b, b, c, d, close], ["0", "1"]],
        ["repeated later", [a, b, c, a, d, close], ["0", "1", "2"]],
        ["moved", [a, c, b, d, close], ["0"]],
        ["close too early", [a, b, close], ["0", "1"]],
        ["first dropped", [b, c, d, close], []],
      ];
      for (const [what, frames, expected] of cases) {
        const { opened, error } = await openAll((await pair()).opener, concat(frames));
        assertEquals(opened, expected, what);
        assert(error instanceof WireError, what);
      }
      const stream = concat([a, b, c, d, close]);
      for (let length = 0; length < stream.length; length++) {
        const { opened } = await openAll((await pair()).opener, stream.slice(0, length));
        assert(!opened.includes("close"), `cut at ${length}`);
        assertEquals(opened, texts.slice(0, opened.length));
      }
    },
  });

  Deno.test({
    name: `a length that no frame of its type has is refused before its body is awaited, ${name}`,
    permissions: "none",
    async fn() {
      const cases: ["data" | "close" | "accepted" | "refused", number][] = [
        ["data", 0],
        ["close", 1],
        ["accepted", 1],
        ["refused", 1025],
      ];
      for (const [type, length] of cases) {
        const { sealer, opener } = await pair();
        const [{ header, body }] = sealer.seal(type, new Uint8Array(length));
        await body;
        assertThrows(() => opener.decodeHeader(header), WireError, `a ${type} frame cannot have a body of`);
      }
    },
  });
}

Deno.test({
  name: "decodeStart() refuses unknown types and bodies above the maximum",
  permissions: "none",
  fn() {
    for (const type of [0, 8, 78, 255]) {
      assertThrows(
        () => decodeStart(Uint8Array.of(type, 0, 0, 0)),
        WireError,
        `frame type ${type} is unknown`,
      );
    }
    assertEquals(decodeStart(Uint8Array.of(5, 1, 0x10, 0)), { type: "data", bodyBytes: BODY_BYTES_MAX });
    assertThrows(
      () => decodeStart(Uint8Array.of(5, 1, 0x10, 1)),
      WireError,
      "69633 bytes is longer than 69632",
    );
    assertThrows(() => decodeStart(Uint8Array.of(5, 255, 255, 255)), WireError, "16777215");
    assertEquals([...encodePlainFrame("hint", text("no"))], [2, 0, 0, 2, 110, 111]);
  },
});

Deno.test({
  name:
    "a sealed frame is exactly header, then AES-256-GCM under counter 0 with the header as additional data",
  permissions: "none",
  async fn() {
    const [{ header, body }] = (await protections[0].pair()).sealer.seal("data", text("disk"));
    assertEquals([...header], [5, 0, 0, 20]);
    const key = await crypto.subtle.importKey("raw", KEY, "AES-GCM", false, ["encrypt"]);
    const expected = await crypto.subtle.encrypt(
      { name: "AES-GCM", iv: new Uint8Array(12), additionalData: header },
      key,
      text("disk"),
    );
    assertEquals(await body, new Uint8Array(expected));
  },
});

Deno.test({
  name: "a checksummed frame has these bytes",
  permissions: "none",
  async fn() {
    const { sealer } = await protections[2].pair();
    const [{ header, body }] = sealer.seal("data", text("123456789"));
    assertEquals([...header.subarray(0, 8)], [5, 0, 0, 9, 0xe3, 0x06, 0x92, 0x83]);
    assertEquals(await body, text("123456789"));
  },
});

for (
  const { why, limits, step } of [
    { why: "volume", limits: { bytes: 10, ageMs: Infinity }, step: 0 },
    { why: "age", limits: { bytes: Infinity, ageMs: 100 }, step: 50 },
  ]
) {
  Deno.test({
    name: `a key is replaced by ${why}, on both sides at the same frame, with frames under way around it`,
    permissions: "none",
    async fn() {
      let now = 1000;
      const sending = await CipherState.create("AESGCM", KEY);
      const sealer = new NoiseSealer(sending, limits, () => now);
      const opener = new NoiseOpener(await CipherState.create("AESGCM", KEY));
      const stale = new NoiseOpener(await CipherState.create("AESGCM", KEY));
      const sealed = ["12345", "67890", "abcde", "fghij", "k"].flatMap((value) => {
        const frames = sealer.seal("data", text(value));
        now += step;
        return frames;
      });
      const frames = await Promise.all(
        sealed.map(async ({ header, body }) => ({ header, body: await body })),
      );
      const opened = await Promise.all(frames.map(({ header, body }) => opener.open(header, body)));
      assertEquals(opened.map(({ type }) => type), [
        ...["data", "data", "rekey", "data", "data", "rekey", "data"],
      ]);
      assertEquals(new TextDecoder().decode(opened[6].payload), "k");

      // Without the rekey frame, or with it altered, what follows stays shut.
      await stale.open(frames[0].header, frames[0].body);
      await stale.open(frames[1].header, frames[1].body);
      const altered = frames[2].body.slice();
      altered[3] ^= 4;
      const rekey = stale.open(frames[2].header, altered);
      await assertRejects(() => rekey, WireError, "message 2");
      await assertRejects(
        async () => {
          const early = new NoiseOpener(await CipherState.create("AESGCM", KEY));
          for (const index of [0, 1, 3]) await early.open(frames[index].header, frames[index].body);
        },
        WireError,
        "message 2",
      );
    },
  });
}

Deno.test({
  name: "no counter is used twice under one key in a run with rekeys",
  permissions: "none",
  async fn() {
    const sealer = new NoiseSealer(await CipherState.create("AESGCM", KEY), { bytes: 3, ageMs: Infinity });
    const bodies = new Set<string>();
    const frames = Array.from({ length: 40 }, () => sealer.seal("data", text("same"))).flat();
    for (const { body } of frames) bodies.add((await body).toHex());
    assertEquals(bodies.size, frames.length);
  },
});

Deno.test({
  name: "what is sealed at once is what Web Crypto seals, rekeys included, and opens there and back",
  permissions: "none",
  async fn() {
    const limits = { bytes: 30, ageMs: Infinity };
    const slow = new NoiseSealer(await CipherState.create("AESGCM", KEY), limits);
    const fast = new DirectNoiseSealer(new DirectCipherState(makeNodeCipher, KEY.slice(), "seal"), limits);
    const openers = [
      new NoiseOpener(await CipherState.create("AESGCM", KEY)),
      new DirectNoiseOpener(new DirectCipherState(makeNodeCipher, KEY.slice(), "open")),
    ];
    const into = new Uint8Array(200);
    for (let round = 0; round < 10; round++) {
      const payload = text("round ".repeat(3) + round);
      const frames = slow.seal("data", payload);
      const expected = await Promise.all(
        frames.map(async ({ header, body }) => concat([header, await body])),
      );
      const length = fast.sealInto("data", [payload.subarray(0, 5), payload.subarray(5)], into);
      assertEquals(into.slice(0, length), concat(expected), `round ${round}`);
      for (const frame of expected) {
        for (const opener of openers) {
          const { type, payload: opened } = await opener.open(frame.slice(0, 4), frame.slice(4));
          assertEquals(opened, type === "data" ? payload : new Uint8Array(0));
        }
      }
    }
  },
});
