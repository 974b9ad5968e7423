/** Fuzzers of the NBD handshakes, both sides. */
import { assert, assertEquals } from "@std/assert";
import { concat } from "@std/bytes";
import {
  HandshakeFlag,
  InfoType,
  Option,
  OptionReply,
  TransmissionFlag,
} from "../../src/wire/nbd/constants.ts";
import { encodeClientFlags, encodeGreeting, encodeHello } from "../../src/wire/nbd/greeting.ts";
import { type ClientWishes, listExports, negotiateClient } from "../../src/wire/nbd/handshake_client.ts";
import { type ExportOffer, negotiateNewstyle, type ServerHall } from "../../src/wire/nbd/handshake_server.ts";
import {
  decodeOptionReplyHeader,
  encodeInfo,
  encodeInfoRequest,
  encodeListedName,
  encodeMetaContext,
  encodeMetaRequest,
  encodeOption,
  encodeOptionReply,
} from "../../src/wire/nbd/option.ts";
import { RefusedError } from "../../src/wire/nbd/refused_error.ts";
import { WireError } from "../../src/wire/wire_error.ts";
import { carry, newTrace, play, ScriptEndedError } from "../testing/carry.ts";
import { anOffer, hallOf } from "../testing/nbd_hall.ts";
import { accepts, awkwardU32, damaged, pick } from "./damage.ts";
import type { Fuzzer, Random } from "./fuzzer.ts";

const NAMES = ["", "a", "b", "disk", "é", "nosuch", "x".repeat(4096)];
const QUERIES = ["base:allocation", "base:", "qemu:", "qemu:dirty-bitmap:b0", "x-denbd:a", "", "nonsense"];
const NEEDED_BYTES_MAX = 64 * 1024;

/** A server's exports: some refused, some with contexts of their own. */
function someHall(random: Random): ServerHall {
  const offers = NAMES.slice(1, 1 + random.below(5)).map((name) =>
    anOffer({
      name,
      description: random.chance(0.5) ? "described" : "",
      transmissionFlags: random.below(65536),
      contextsFor: (query) => query.startsWith("x-denbd:") ? [query + "=1"] : [],
    })
  );
  const refused = pick(random, ["unknown", "policy", "tls-required", "shutdown"] as const);
  const find = (name: string): ExportOffer => offers.find((offer) => offer.name === name) ?? offers[0];
  const reason = "because";
  return hallOf(offers, {
    noZeroes: random.chance(0.9),
    ...(random.chance(0.1) ? { list: () => ({ refused, reason }) } : {}),
    find: (name) => (name === "nosuch" || offers.length === 0) ? { refused, reason } : find(name),
    ...(random.chance(0.05) ? { shuttingDown: () => reason } : {}),
  });
}

/** What a client may say: options in any order, mostly sensible, data mostly theirs. */
function someClient(random: Random): Uint8Array {
  const flags = random.chance(0.9) ? HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES : random.below(4);
  const said = [encodeClientFlags(flags)];
  for (let count = random.below(12); count > 0; count--) {
    const option = random.chance(0.95) ? pick(random, Object.values(Option)) : awkwardU32(random);
    said.push(encodeOption(option, someOptionData(random, option)));
  }
  if (random.chance(0.5)) said.push(encodeOption(Option.GO, someOptionData(random, Option.GO)));
  return concat(said);
}

function someOptionData(random: Random, option: number): Uint8Array {
  const exportName = pick(random, NAMES);
  if (random.chance(0.02)) return new Uint8Array(random.below(200_000));
  switch (random.chance(0.95) ? option : random.below(12)) {
    case Option.EXPORT_NAME:
      return new TextEncoder().encode(exportName);
    case Option.INFO:
    case Option.GO:
      return encodeInfoRequest({
        exportName,
        types: Array.from({ length: random.below(6) }, () => random.below(5)),
      });
    case Option.LIST_META_CONTEXT:
    case Option.SET_META_CONTEXT: {
      const count = random.chance(0.95) ? random.below(5) : random.below(100);
      return encodeMetaRequest({
        exportName,
        queries: Array.from({ length: count }, () => pick(random, QUERIES)),
      });
    }
    default:
      return random.chance(0.9) ? new Uint8Array(0) : random.bytes(random.below(64));
  }
}

/** Options, damaged or not, told to the server. */
export const nbdServerHandshake: Fuzzer = {
  name: "nbd-server-handshake",
  summary: "a server hears damaged options: its replies stay in step, its needs stay small, it never fails",
  round(random) {
    const script = random.chance(0.05) ? random.bytes(random.below(200)) : someClient(random);
    const heard = random.chance(0.3) ? script : damaged(script, random);
    const trace = newTrace();
    let agreed = false, byName = false;
    accepts(
      () => {
        const { result } = carry(negotiateNewstyle(someHall(random)), heard, trace);
        agreed = result !== null;
        byName = agreed && !endsInAck(trace.sent);
      },
      WireError,
      ScriptEndedError,
    );
    assert(trace.neededBytesMax <= NEEDED_BYTES_MAX, `${trace.neededBytesMax} bytes needed at once`);
    // All but the greeting and an answer to EXPORT_NAME are replies, each in one piece.
    const replies = trace.sent.slice(1, byName ? -1 : undefined);
    for (const reply of replies) {
      const { payloadBytes } = decodeOptionReplyHeader(reply.subarray(0, 20));
      assertEquals(reply.length, 20 + payloadBytes);
    }
    if (byName) assert([10, 134].includes(trace.sent.at(-1)!.length));
  },
};

function endsInAck(sent: readonly Uint8Array[]): boolean {
  const last = sent.at(-1)!;
  return last.length === 20 && decodeOptionReplyHeader(last).type === OptionReply.ACK;
}

/** What a server may say: a greeting, then replies to the options that a client asks in this order. */
function someServer(random: Random, options: readonly number[]): Uint8Array {
  const greeting = random.chance(0.05)
    ? encodeHello({ sizeBytes: random.below(2 ** 40), transmissionFlags: random.below(65536) })
    : encodeGreeting(random.chance(0.9) ? 3 : random.below(65536));
  const said = [greeting];
  for (const option of options) {
    for (let count = random.below(5); count > 0; count--) {
      const fitting = Math.min(option, 10) >= Option.LIST_META_CONTEXT
        ? OptionReply.META_CONTEXT
        : option === Option.LIST
        ? OptionReply.SERVER
        : OptionReply.INFO;
      const type = random.chance(0.98) ? fitting : pick(random, Object.values(OptionReply));
      const bare = option === Option.STRUCTURED_REPLY || option === Option.EXTENDED_HEADERS;
      if (!bare || random.chance(0.02)) {
        said.push(encodeOptionReply(option, type, someReplyData(random, type)));
      }
    }
    if (option === Option.GO || option === Option.INFO) {
      const info = { type: InfoType.EXPORT, sizeBytes: random.below(2 ** 40), transmissionFlags: 13 };
      said.push(encodeOptionReply(option, OptionReply.INFO, encodeInfo(info)));
    }
    const last = random.chance(0.7) ? OptionReply.ACK : pick(random, Object.values(OptionReply));
    said.push(encodeOptionReply(option, last, last >= 0x80000000 ? someReplyData(random, last) : undefined));
  }
  return concat(said);
}

function someReplyData(random: Random, type: number): Uint8Array {
  if (random.chance(0.02)) return new Uint8Array(random.below(100_000));
  switch (type) {
    case OptionReply.SERVER:
      return encodeListedName({ name: pick(random, NAMES), description: pick(random, NAMES) });
    case OptionReply.META_CONTEXT:
      return encodeMetaContext({ id: random.below(8), name: pick(random, QUERIES) });
    case OptionReply.INFO:
      return pick(random, [
        encodeInfo({ type: InfoType.NAME, name: pick(random, NAMES) }),
        encodeInfo({ type: InfoType.DESCRIPTION, description: pick(random, NAMES) }),
        encodeInfo({
          type: InfoType.BLOCK_SIZE,
          blockSizes: { minimum: 1 << random.below(10), preferred: 1 << 12, maximumPayload: 1 << 25 },
        }),
        random.bytes(2 + random.below(20)),
      ]);
    default:
      return random.bytes(random.below(300));
  }
}

function someWishes(random: Random): ClientWishes {
  return {
    exportName: pick(random, NAMES),
    structured: random.chance(0.8),
    extended: random.chance(0.6),
    contexts: Array.from({ length: random.below(4) }, () => pick(random, QUERIES)),
  };
}

/** Replies, damaged or not, told to the client. */
export const nbdClientHandshake: Fuzzer = {
  name: "nbd-client-handshake",
  summary: "a client hears damaged replies: it agrees, is refused or gives up, and its needs stay small",
  round(random) {
    const { EXTENDED_HEADERS, STRUCTURED_REPLY, SET_META_CONTEXT, GO, LIST, INFO, LIST_META_CONTEXT } =
      Option;
    const wishes = someWishes(random);
    const lists = random.chance(0.3);
    const asked = lists
      ? [EXTENDED_HEADERS, STRUCTURED_REPLY, LIST, INFO, LIST_META_CONTEXT, INFO, LIST_META_CONTEXT]
      : [EXTENDED_HEADERS, STRUCTURED_REPLY, SET_META_CONTEXT, GO];
    const skipped = asked.filter((option) =>
      !(option === EXTENDED_HEADERS && !lists && !wishes.extended) &&
      !(option === STRUCTURED_REPLY && random.chance(0.5)) &&
      !(option === SET_META_CONTEXT && wishes.contexts.length === 0)
    );
    const script = random.chance(0.05) ? random.bytes(random.below(200)) : someServer(random, skipped);
    const heard = random.chance(0.3) ? script : damaged(script, random);
    const trace = newTrace();
    accepts(
      () => {
        if (lists) {
          for (const { sizeBytes } of carry(listExports(), heard, trace).result.exports) {
            assert(sizeBytes === undefined || Number.isSafeInteger(sizeBytes));
          }
        } else {
          const { sizeBytes, contexts, structured, extended } =
            carry(negotiateClient(wishes), heard, trace).result;
          assert(Number.isSafeInteger(sizeBytes) && sizeBytes >= 0);
          assert(structured || contexts.length === 0);
          assert((wishes.extended || !extended) && (!extended || structured));
          assertEquals(new Set(contexts.map(({ id }) => id)).size, contexts.length);
        }
      },
      WireError,
      RefusedError,
      ScriptEndedError,
    );
    assert(trace.neededBytesMax <= NEEDED_BYTES_MAX, `${trace.neededBytesMax} bytes needed at once`);
  },
};

/** Our client and our server, left alone, with anything to wish for and anything to offer. */
export const nbdHandshakes: Fuzzer = {
  name: "nbd-handshakes",
  summary: "client and server agree on the same, or the client is refused; neither waits for ever",
  round(random) {
    const wishes = someWishes(random);
    const { client, server } = play(negotiateClient(wishes), negotiateNewstyle(someHall(random)));
    if (client.error !== undefined) {
      if (!(client.error instanceof RefusedError)) throw client.error;
      assertEquals(server.result, null);
      return;
    }
    if (server.error !== undefined) throw server.error;
    const told = client.result!, agreed = server.result!;
    assertEquals([told.style, told.structured, told.extended], [
      agreed.style,
      agreed.structured,
      agreed.extended,
    ]);
    assertEquals([told.sizeBytes, told.transmissionFlags], [
      agreed.offer.sizeBytes,
      agreed.transmissionFlags,
    ]);
    assertEquals([told.contexts, told.blockSizes], [agreed.contexts, agreed.offer.blockSizes]);
    assertEquals([told.structured, told.extended], [
      wishes.structured! || wishes.extended!,
      wishes.extended!,
    ]);
    const needy = TransmissionFlag.SEND_DF | TransmissionFlag.BLOCK_STATUS_PAYLOAD;
    assert(told.structured || (told.transmissionFlags & needy) === 0);
  },
};
