/** Fuzzers of dnbd3: whatever the bytes, a value that holds what it promises, or a WireError. */
import { assert, assertEquals } from "@std/assert";
import { concat } from "@std/bytes";
import { ConfigError } from "../../src/config/config_error.ts";
import { readAltServers } from "../../src/config/alt_servers.ts";
import { parse, stringify } from "../../src/config/ini.ts";
import { readRpcAcl } from "../../src/config/rpc_acl.ts";
import { readServerConf } from "../../src/config/server_conf.ts";
import type { Conversation } from "../../src/wire/conversation.ts";
import { CacheMap } from "../../src/wire/dnbd3/cache_map.ts";
import {
  ChecksumList,
  checksumListBytes,
  decodeChecksumList,
  encodeChecksumList,
} from "../../src/wire/dnbd3/checksum_list.ts";
import { Command, MAGIC, PAYLOAD_BYTES_MAX, PROTOCOL_VERSION_MIN } from "../../src/wire/dnbd3/constants.ts";
import {
  getBlock,
  getChecksums,
  selectImage,
  selectSameImage,
} from "../../src/wire/dnbd3/handshake_client.ts";
import { hearOpening } from "../../src/wire/dnbd3/handshake_server.ts";
import {
  decodeReply,
  decodeRequest,
  decodeSelectedImage,
  decodeSelection,
  decodeServers,
  encodeReply,
  encodeRequest,
  encodeSelectedImage,
  encodeSelection,
  encodeServers,
} from "../../src/wire/dnbd3/message.ts";
import { WireError } from "../../src/wire/wire_error.ts";
import { carry, newTrace, ScriptEndedError } from "../testing/carry.ts";
import { hex, viewOf } from "../testing/hex.ts";
import { accepts, awkwardU32, awkwardU53, damaged, pick } from "./damage.ts";
import type { Fuzzer, Random } from "./fuzzer.ts";

const NAMES = ["a", "test", "sub/odd", "räume/süd", "x".repeat(987)];

/** Random headers are read as a plain decoder of bigints reads them, and written back as they came. */
export const dnbd3Headers: Fuzzer = {
  name: "dnbd3-headers",
  summary: "request and reply headers: the same values as a plain decoder, the same bytes when encoded again",
  round(random) {
    const at = random.below(9);
    const bytes = random.bytes(at + 24 + random.below(9));
    const view = viewOf(bytes);
    if (random.chance(0.95)) view.setUint16(at, MAGIC, true);
    const right = view.getUint16(at, true) === MAGIC;
    assertEquals(accepts(() => decodeReply(view, at), WireError), right);
    assertEquals(accepts(() => decodeRequest(view, at), WireError), right);
    if (!right) return;
    const request = decodeRequest(view, at);
    const word = view.getBigUint64(at + 8, true);
    assertEquals(request.offset, Number(word & 0xff_ffff_ffff_ffffn));
    assertEquals(request.hops, Number(word >> 56n));
    if (Number.isSafeInteger(request.offset)) {
      assertEquals(hex(encodeRequest(request)), hex(bytes.subarray(at, at + 24)));
    }
    const reply = decodeReply(view, at);
    const again = new Uint8Array(16);
    encodeReply(viewOf(again), 0, reply.command, reply.sizeBytes, reply.handle);
    assertEquals(hex(again), hex(bytes.subarray(at, at + 16)));
  },
};

/** Payloads of every message, damaged. */
export const dnbd3Messages: Fuzzer = {
  name: "dnbd3-messages",
  summary: "selections, images, server and checksum lists: what is accepted can be, and is encoded again",
  round(random) {
    const name = pick(random, NAMES);
    const revision = random.below(65536);
    const version = random.below(6);
    switch (random.below(4)) {
      case 0: {
        const bytes = damaged(encodeSelection({ version, name, revision, flags: random.below(256) }), random);
        const payload = bytes.subarray(Math.min(24, bytes.length));
        let selection: ReturnType<typeof decodeSelection>;
        if (!accepts(() => selection = decodeSelection(payload), WireError)) return;
        assert(selection!.version >= PROTOCOL_VERSION_MIN && selection!.name !== "");
        // A name may fill the whole payload where everything behind it is left out.
        if (new TextEncoder().encode(selection!.name).length > 994) return;
        assertEquals(decodeSelection(encodeSelection(selection!).subarray(24)), selection!);
        return;
      }
      case 1: {
        const bytes = damaged(
          encodeSelectedImage({ version, name, revision, sizeBytes: awkwardU53(random) }),
          random,
        );
        const payload = bytes.subarray(Math.min(16, bytes.length));
        let image: ReturnType<typeof decodeSelectedImage>;
        if (!accepts(() => image = decodeSelectedImage(payload), WireError)) return;
        assert(image!.version >= PROTOCOL_VERSION_MIN && image!.revision > 0 && image!.sizeBytes > 0);
        assert(Number.isSafeInteger(image!.sizeBytes));
        assertEquals(decodeSelectedImage(encodeSelectedImage(image!).subarray(16)), image!);
        return;
      }
      case 2: {
        const entries = Array.from({ length: random.below(9) }, () => ({
          address: random.bytes(pick(random, [4, 16])),
          port: random.below(65536),
          failures: random.below(256),
        }));
        const payload = damaged(encodeServers(entries), random);
        let servers: ReturnType<typeof decodeServers>;
        if (!accepts(() => servers = decodeServers(payload), WireError)) return;
        assert(servers!.length <= payload.length / 20 && servers!.every(({ port }) => port > 0));
        assertEquals(decodeServers(encodeServers(servers!)), servers!);
        return;
      }
      default: {
        const checksums = Uint32Array.from({ length: 1 + random.below(6) }, () => awkwardU32(random));
        const bytes = encodeChecksumList(new ChecksumList(checksums));
        const wrong = damaged(bytes, random);
        const imageBytes = checksums.length * 16777216 - 4096 * random.below(4096);
        let list: ChecksumList;
        if (!accepts(() => list = decodeChecksumList(wrong, imageBytes), WireError)) return;
        assertEquals(hex(encodeChecksumList(list!)), hex(wrong.subarray(0, checksumListBytes(imageBytes))));
      }
    }
  },
};

const EXPECTED = { version: 3, name: "test", revision: 1, sizeBytes: 67108864 };

/** What a server may answer, mostly sensibly. */
function someAnswers(random: Random): Uint8Array {
  const reply = (command: number, payload: Uint8Array) => {
    const bytes = new Uint8Array(16 + payload.length);
    encodeReply(viewOf(bytes), 0, command, random.chance(0.95) ? payload.length : awkwardU32(random), 0n);
    bytes.set(payload, 16);
    return bytes;
  };
  const answers = [
    encodeSelectedImage(random.chance(0.7) ? EXPECTED : { ...EXPECTED, sizeBytes: awkwardU53(random) || 1 }),
    reply(Command.GetServers, random.bytes(20 * random.below(9))),
    reply(Command.GetChecksums, encodeChecksumList(new ChecksumList(Uint32Array.of(1, 2, 3, 4)))),
    reply(Command.GetBlock, random.bytes(4096)),
  ];
  return damaged(
    concat(random.chance(0.8) ? answers : [pick(random, answers), pick(random, answers)]),
    random,
  );
}

/** A client against a server that may say anything. */
export const dnbd3Client: Fuzzer = {
  name: "dnbd3-client",
  summary: "a client's handshake: a result or a WireError, and never more awaited than its limits",
  round(random) {
    const answers = someAnswers(random);
    let from = 0;
    const step = <T>(conversation: Conversation<T>): T | null => {
      const trace = newTrace();
      let result: T | null = null;
      accepts(
        () => result = carry(conversation, answers.subarray(from), trace).result,
        WireError,
        ScriptEndedError,
      );
      assert(trace.neededBytesMax <= 4096, `${trace.neededBytesMax} bytes awaited`);
      from += trace.takenBytes;
      return result;
    };
    const known = random.chance(0.5);
    const selection = { version: 3, name: "test", revision: random.below(2), flags: 0 };
    const image = step(known ? selectSameImage(EXPECTED, 3) : selectImage(selection));
    if (image !== null && known) assertEquals({ ...image, version: 3 }, EXPECTED);
    const checksums = step(getChecksums(EXPECTED.sizeBytes));
    assert(checksums === null || checksums.checksums.length === 4);
    const block = step(getBlock({ offset: 0, sizeBytes: 4096, hops: 1 }));
    assert(block === null || block.length === 4096);
  },
};

/** A server against a client that may say anything. */
export const dnbd3Server: Fuzzer = {
  name: "dnbd3-server",
  summary:
    "what a server hears first: a selection, HTTP, or a WireError, and never more awaited than its limit",
  round(random) {
    const flags = random.below(256);
    const opening = encodeSelection({
      version: random.below(5),
      name: pick(random, NAMES),
      revision: 1,
      flags,
    });
    const bytes = random.chance(0.1) ? random.bytes(random.below(64)) : damaged(opening, random);
    const trace = newTrace();
    accepts(() => carry(hearOpening(), bytes, trace), WireError, ScriptEndedError);
    assert(trace.neededBytesMax <= PAYLOAD_BYTES_MAX);
    assertEquals(trace.sent.length, 0);
  },
};

/** Cache maps of any content and length. */
export const dnbd3Maps: Fuzzer = {
  name: "dnbd3-maps",
  summary: "cache maps: as many blocks as bits that count, whatever the file holds",
  round(random) {
    const blocks = 1 + random.below(200);
    const bytes = random.bytes(random.below(30));
    const map = new CacheMap(blocks * 4096, bytes);
    let missing = 0;
    for (let block = 0; block < blocks; block++) {
      const present = ((bytes[block >> 3] ?? 0) & (1 << (block & 7))) !== 0;
      if (!present) missing++;
      assertEquals(map.has(block * 4096, 4096), present);
    }
    assertEquals([map.missingBlocks, map.complete], [missing, missing === 0]);
    const unit = map.nextIncompleteUnit(random.below(30));
    assertEquals(unit === undefined, missing === 0);
    if (unit !== undefined) assert(!map.has(unit * 32768, Math.min(32768, blocks * 4096 - unit * 32768)));
  },
};

const CONFIG_LINES = [
  "[dnbd3]",
  "basePath=/images",
  "[limits]",
  "maxPayload=9M",
  "[10.0.0.1:5003]",
  "[[::1]:5003]",
  "for=client",
  "namespace=a/",
  "  indented=1",
  "10.0.0.0/8 ALL",
  "+10.0.0.1 comment # more",
  "; comment",
  "x: y",
  "",
];

/** Configuration files of any content. */
export const configFiles: Fuzzer = {
  name: "config-files",
  summary: "configuration files: settings or a ConfigError, and sections that are written read as the same",
  round(random) {
    const lines = Array.from({ length: random.below(12) }, () => pick(random, CONFIG_LINES));
    const text = new TextDecoder().decode(damaged(new TextEncoder().encode(lines.join("\n")), random));
    const warn = (error: ConfigError) => assert(error instanceof ConfigError);
    const options = { file: "x", warn };
    readAltServers(text, 5003, options);
    readRpcAcl(text, options);
    const sections = parse(text, { file: "x", onMalformed: warn });
    accepts(() => readServerConf(sections, options), ConfigError);
    for (const section of sections) {
      const entries = section.entries.map(({ key, value }) => [key, value] as const);
      const written: Record<string, string> = Object.fromEntries(entries);
      let again = "";
      if (!accepts(() => again = stringify([[section.name, written]]), RangeError)) continue;
      const read = parse(again, { file: "x" });
      const expected = Object.entries(written);
      if (section.name === "" && expected.length === 0) continue;
      assertEquals(read.map(({ name }) => name), [section.name]);
      assertEquals(read[0].entries.map(({ key, value }) => [key, value]), expected);
    }
  },
};
