/** The client's handshake against servers whose every byte is written down here, kind and unkind ones. */
import { assertEquals, assertThrows } from "@std/assert";
import {
  type ClientWishes,
  listContexts,
  listExports,
  negotiateClient,
  REPLIES_BYTES_MAX,
} from "../../../src/wire/nbd/handshake_client.ts";
import { RefusedError } from "../../../src/wire/nbd/refused_error.ts";
import { WireError } from "../../../src/wire/wire_error.ts";
import { carry, newTrace, ScriptEndedError } from "../../testing/carry.ts";
import { ascii, bytes, hex, string, u16, u32 } from "../../testing/hex.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name, permissions: "none", fn });
}

const EXPORT_NAME = 1, ABORT = 2, LIST = 3, INFO = 6, GO = 7;
const STRUCTURED_REPLY = 8, LIST_META = 9, SET_META = 10, EXTENDED_HEADERS = 11;
const ACK = 1, SERVER = 2, INFO_REPLY = 3, META = 4;
const UNSUP = 0x80000001, POLICY = 0x80000002, INVALID = 0x80000003, UNKNOWN = 0x80000006;
const SHUTDOWN = 0x80000007, TLS_REQD = 0x80000005;

const greeting = (flags = 3) => "4e42444d41474943 49484156454f5054" + u16(flags);

/** A reply in hexadecimal. */
function reply(number: number, type: number, data = ""): string {
  const digits = data.replaceAll(" ", "");
  return "0003e889045565a9" + u32(number) + u32(type) + u32(digits.length / 2) + digits;
}

/** An option in hexadecimal, without spaces. */
function option(number: number, data = ""): string {
  return "49484156454f5054" + u32(number) + u32(data.length / 2) + data;
}

const SIZE_AND_FLAGS = "0000 0000000004000000 000d";
const BLOCK_SIZES = "0003 00000200 00001000 02000000";
/** What a server answers to GO of any export. */
const granted = (number = GO) =>
  reply(number, INFO_REPLY, SIZE_AND_FLAGS) + reply(number, INFO_REPLY, BLOCK_SIZES) + reply(number, ACK);

/** What GO of `name` looks like: name, description and block sizes are asked for. */
const goOption = (name: string, number = GO) =>
  option(number, string(name) + "0003" + "0001" + "0002" + "0003");
const metaOption = (number: number, name: string, ...queries: string[]) =>
  option(number, string(name) + u32(queries.length) + queries.map(string).join(""));

const modest: ClientWishes = { exportName: "disk", structured: false, extended: false, contexts: [] };
const eager: ClientWishes = { exportName: "disk", contexts: ["base:allocation"] };

/** Runs the client against a server that says this; what it sent is in hexadecimal. */
function hear(wishes: ClientWishes, ...script: string[]) {
  const { result, sent, rest } = carry(negotiateClient(wishes), bytes(script.join("")));
  return { result, sent: hex(sent), rest: hex(rest) };
}

/** How the client refuses a server that says this. */
function rejects(wishes: ClientWishes, message: string, ...script: string[]): void {
  assertThrows(() => carry(negotiateClient(wishes), bytes(script.join(""))), WireError, message);
}

/** The refusal that a client of a server that says this ends in, and all that it sent. */
function refusal(wishes: ClientWishes, ...script: string[]): { error: RefusedError; sent: string } {
  const trace = newTrace();
  try {
    carry(negotiateClient(wishes), bytes(script.join("")), trace);
  } catch (error) {
    if (error instanceof RefusedError) return { error, sent: trace.sent.map(hex).join("") };
    throw error;
  }
  throw new Error("not refused");
}

// --- Kind servers ---

test("CL-1: a client asks for extended headers, its contexts and GO, one after the other's answer", () => {
  const { result, sent, rest } = hear(
    eager,
    greeting(),
    reply(EXTENDED_HEADERS, ACK),
    reply(SET_META, META, u32(7) + ascii("base:allocation")) + reply(SET_META, ACK),
    granted(),
    "6e8a278c",
  );
  assertEquals(
    sent,
    "00000003" + option(EXTENDED_HEADERS) + metaOption(SET_META, "disk", "base:allocation") +
      goOption("disk"),
  );
  assertEquals(result, {
    style: "fixed-newstyle",
    structured: true,
    extended: true,
    contexts: [{ id: 7, name: "base:allocation" }],
    sizeBytes: 1 << 26,
    transmissionFlags: 13,
    blockSizes: { minimum: 512, preferred: 4096, maximumPayload: 33554432 },
  });
  assertEquals(rest, "6e8a278c");
});

test("CL-1: without extended headers a client asks for structured replies", () => {
  const { result, sent } = hear(
    eager,
    greeting(),
    reply(EXTENDED_HEADERS, UNSUP),
    reply(STRUCTURED_REPLY, ACK),
    reply(SET_META, ACK),
    granted(),
  );
  const SET = metaOption(SET_META, "disk", "base:allocation");
  assertEquals(
    sent,
    "00000003" + option(EXTENDED_HEADERS) + option(STRUCTURED_REPLY) + SET + goOption("disk"),
  );
  assertEquals([result.structured, result.extended, result.contexts], [true, false, []]);
});

test("CL-1: each wish may be refused without harm, whatever the error", () => {
  for (const error of [UNSUP, POLICY, INVALID, TLS_REQD, 0x8000ffff]) {
    const { result } = hear(
      eager,
      greeting(),
      reply(EXTENDED_HEADERS, error, ascii("no")),
      reply(STRUCTURED_REPLY, error),
      granted(),
    );
    assertEquals([result.structured, result.extended, result.contexts], [false, false, []]);
    const { result: withoutContexts } = hear(
      eager,
      greeting(),
      reply(EXTENDED_HEADERS, ACK) + reply(SET_META, META, u32(1) + ascii("base:allocation")) +
        reply(SET_META, error),
      granted(),
    );
    assertEquals([withoutContexts.extended, withoutContexts.contexts], [true, []]);
  }
});

test("a client without wishes asks for GO alone", () => {
  assertEquals(hear(modest, greeting(), granted()).sent, "00000003" + goOption("disk"));
});

test("a client with structured replies but no contexts does not ask for contexts", () => {
  const { sent } = hear({ ...eager, contexts: [] }, greeting(), reply(EXTENDED_HEADERS, ACK), granted());
  assertEquals(sent, "00000003" + option(EXTENDED_HEADERS) + goOption("disk"));
});

test("CL-2: unknown handshake flags are neither minded nor echoed", () => {
  assertEquals(hear(modest, greeting(0xffff), granted()).sent.slice(0, 8), "00000003");
  assertEquals(hear(modest, greeting(0xfffd), granted()).sent.slice(0, 8), "00000001");
});

test("a server of plain newstyle is asked by EXPORT_NAME, with and without zeroes", () => {
  const answer = "0000000004000000 000d";
  for (const [flags, zeroes] of [[0, "00".repeat(124)], [2, ""]] as const) {
    const { result, sent, rest } = hear(eager, greeting(flags), answer + zeroes + "67446698");
    assertEquals(sent, u32(flags) + option(EXPORT_NAME, ascii("disk")));
    assertEquals([result.style, result.sizeBytes, result.transmissionFlags], ["newstyle", 1 << 26, 13]);
    assertEquals([result.structured, result.extended, result.contexts], [false, false, []]);
    assertEquals(rest, "67446698");
  }
});

test("CL-3: a server without GO is asked by EXPORT_NAME", () => {
  const { result, sent } = hear(
    { ...eager, extended: false },
    greeting(1),
    reply(STRUCTURED_REPLY, ACK) + reply(SET_META, META, u32(0) + ascii("base:allocation")) +
      reply(SET_META, ACK),
    reply(GO, UNSUP),
    "0000000004000000 000d" + "00".repeat(124),
  );
  assertEquals(sent.endsWith(goOption("disk") + option(EXPORT_NAME, ascii("disk"))), true);
  assertEquals(result, {
    style: "fixed-newstyle",
    structured: true,
    extended: false,
    contexts: [{ id: 0, name: "base:allocation" }],
    sizeBytes: 1 << 26,
    transmissionFlags: 13,
  });
});

test("CL-3: a server without GO that agreed to extended headers is left", () => {
  const { error, sent } = refusal(
    { ...eager, contexts: [] },
    greeting(),
    reply(EXTENDED_HEADERS, ACK) + reply(GO, UNSUP) + reply(ABORT, ACK),
  );
  assertEquals([error.option, error.reply], [GO, UNSUP]);
  assertEquals(sent.endsWith(option(ABORT)), true);
});

test("CL-4: information comes in any order, unknown kinds of it and repeated ones are ignored", () => {
  const { result } = hear(
    modest,
    greeting(),
    reply(GO, INFO_REPLY, "0004 ff"),
    reply(GO, INFO_REPLY, BLOCK_SIZES),
    reply(GO, INFO_REPLY, "0002" + ascii("text")),
    reply(GO, INFO_REPLY, "ffff"),
    reply(GO, INFO_REPLY, "0001" + ascii("canonical")),
    reply(GO, INFO_REPLY, SIZE_AND_FLAGS),
    reply(GO, INFO_REPLY, SIZE_AND_FLAGS),
    reply(GO, ACK),
  );
  assertEquals([result.canonicalName, result.description, result.sizeBytes], ["canonical", "text", 1 << 26]);
  assertEquals(result.blockSizes?.minimum, 512);
});

test("a size of 0 is believed", () => {
  const { result } = hear(
    modest,
    greeting(),
    reply(GO, INFO_REPLY, "0000 0000000000000000 0001") + reply(GO, ACK),
  );
  assertEquals([result.sizeBytes, result.transmissionFlags, result.blockSizes], [0, 1, undefined]);
});

test("a context that is told twice is one, and names that differ from the query are kept", () => {
  const { result } = hear(
    { ...eager, contexts: ["x-denbd:session=1", "base:allocation"] },
    greeting(),
    reply(EXTENDED_HEADERS, ACK),
    reply(SET_META, META, u32(1) + ascii("base:allocation")),
    reply(SET_META, META, u32(9) + ascii("x-denbd:instance=7")),
    reply(SET_META, META, u32(1) + ascii("base:allocation")),
    reply(SET_META, ACK),
    granted(),
  );
  assertEquals(result.contexts, [{ id: 1, name: "base:allocation" }, { id: 9, name: "x-denbd:instance=7" }]);
});

// --- Refusals ---

test("a refused GO tells option, export, error and reason, and the client leaves", () => {
  const { error, sent } = refusal(
    modest,
    greeting(),
    reply(GO, UNKNOWN, ascii("no such\nexport")),
    reply(ABORT, ACK),
  );
  assertEquals(error.message, 'the server refused GO of export "disk": ERR_UNKNOWN (no such\\nexport)');
  assertEquals([error.option, error.reply, error.reason, error.exportName], [
    GO,
    UNKNOWN,
    "no such\\nexport",
    "disk",
  ]);
  assertEquals(sent, "00000003" + goOption("disk") + option(ABORT));
});

test("information before a refusal does not make an agreement", () => {
  const { error } = refusal(modest, greeting(), reply(GO, INFO_REPLY, SIZE_AND_FLAGS), reply(GO, POLICY));
  assertEquals(error.message, 'the server refused GO of export "disk": ERR_POLICY');
});

test("a server that closes without acknowledging ABORT changes nothing", () => {
  assertEquals(refusal(modest, greeting(), reply(GO, UNKNOWN)).error.reply, UNKNOWN);
  assertEquals(refusal(modest, greeting(), reply(GO, UNKNOWN), "00ff").error.reply, UNKNOWN);
});

test("an unknown error is a refusal; its reason is cut and escaped", () => {
  const { error } = refusal(modest, greeting(), reply(GO, 0x800000ff, "1b" + "61".repeat(60000) + "ff"));
  assertEquals(error.reply, 0x800000ff);
  assertEquals(error.reason, "\\x1b" + "a".repeat(255) + "…");
});

test("a server that goes down is left at the first option", () => {
  const { error, sent } = refusal(
    eager,
    greeting(),
    reply(EXTENDED_HEADERS, SHUTDOWN, ascii("bye")),
    reply(ABORT, ACK),
  );
  assertEquals([error.option, error.reply, error.reason], [EXTENDED_HEADERS, SHUTDOWN, "bye"]);
  assertEquals(sent, "00000003" + option(EXTENDED_HEADERS) + option(ABORT));
});

test("a name that NBD cannot carry is refused before anything is said", () => {
  for (
    const wishes of [{ ...modest, exportName: "é".repeat(2049) }, { ...eager, contexts: ["x".repeat(4097)] }]
  ) {
    assertThrows(
      () => carry(negotiateClient(wishes), bytes(greeting())),
      RangeError,
      "longer than NBD allows",
    );
  }
  hear({ ...modest, exportName: "é".repeat(2048) }, greeting(), granted());
});

// --- Unkind servers ---

test("what is not NBD is refused", () => {
  rejects(modest, "not an NBD server", ascii("HTTP/1.1 400 Bad Request"));
  rejects(modest, "handshake magic is 0x", "4e42444d41474943 0000000000000000");
});

test("CL-4: an ACK of GO without size and flags is refused", () => {
  rejects(
    modest,
    "ACK of GO without size and flags",
    greeting(),
    reply(GO, INFO_REPLY, BLOCK_SIZES),
    reply(GO, ACK),
  );
});

test("CL-7: a size beyond 2^53 - 1 is refused, in every style", () => {
  for (const size of ["0020000000000000", "7fffffffffffffff", "8000000000000000", "ffffffffffffffff"]) {
    const message = `export size is ${BigInt("0x" + size)} bytes`;
    rejects(modest, message, greeting(), reply(GO, INFO_REPLY, `0000 ${size} 0001`));
    rejects(modest, message, greeting(0), size + "0001" + "00".repeat(124));
    rejects(modest, message, "4e42444d41474943 0000420281861253" + size + "00".repeat(128));
  }
});

test("CL-8: a reply with more than 64 KiB is refused before any of it is awaited", () => {
  const trace = newTrace();
  const script = bytes(
    greeting() + "0003e889045565a9" + u32(GO) + u32(UNKNOWN) + "00010001" + "00".repeat(99),
  );
  assertThrows(
    () => carry(negotiateClient(modest), script, trace),
    WireError,
    "ERR_UNKNOWN reply with 65537 bytes",
  );
  assertEquals(trace.takenBytes, 18 + 20);
});

test("a server that never comes to an end is refused", () => {
  const one = bytes(reply(GO, INFO_REPLY, "ffff" + "00".repeat(65534)));
  const count = Math.ceil(REPLIES_BYTES_MAX / one.length);
  const script = new Uint8Array(18 + count * one.length);
  script.set(bytes(greeting()));
  for (let i = 0; i < count; i++) script.set(one, 18 + i * one.length);
  assertThrows(
    () => carry(negotiateClient(modest), script),
    WireError,
    "more than 16777216 bytes of replies to options",
  );
});

test("a reply to another option, or of a kind that does not fit, is refused", () => {
  rejects(modest, "reply to LIST when GO was asked", greeting(), reply(LIST, ACK));
  rejects(modest, "SERVER in reply to GO", greeting(), reply(GO, SERVER, string("a")));
  rejects(modest, "reply 77 in reply to GO", greeting(), reply(GO, 77));
  rejects(modest, "ACK of GO with 1 bytes of data", greeting(), reply(GO, ACK, "00"));
  rejects(modest, "option reply magic is 0x", greeting(), "0003e889045565aa" + u32(GO) + u32(ACK) + u32(0));
  rejects(
    eager,
    "INFO in reply to EXTENDED_HEADERS",
    greeting(),
    reply(EXTENDED_HEADERS, INFO_REPLY, SIZE_AND_FLAGS),
  );
  const sr = greeting() + reply(EXTENDED_HEADERS, ACK);
  rejects(eager, "INFO in reply to SET_META_CONTEXT", sr, reply(SET_META, INFO_REPLY, SIZE_AND_FLAGS));
  rejects(
    eager,
    "metadata context id 1 is given twice",
    sr,
    reply(SET_META, META, u32(1) + ascii("a:b")) + reply(SET_META, META, u32(1) + ascii("a:c")),
  );
});

test("information of the wrong length, texts that are no strings, and impossible block sizes are refused", () => {
  for (
    const [info, message] of [
      ["", "ends early"],
      ["00", "ends early"],
      ["0000", "in 2 bytes, not 12"],
      ["0000 0000000004000000 000d 00", "in 13 bytes, not 12"],
      ["0001 610062", "holds a NUL"],
      ["0002 ff", "is not UTF-8"],
      ["0001" + "61".repeat(4097), "4097 bytes long"],
      ["0003 00000200 00001000", "in 10 bytes, not 14"],
      ["0003 00000000 00001000 02000000", "minimum block size is 0"],
    ]
  ) {
    rejects(modest, message, greeting(), reply(GO, INFO_REPLY, info));
  }
});

// --- LIST ---

const listing = greeting() + reply(EXTENDED_HEADERS, UNSUP) + reply(STRUCTURED_REPLY, ACK) +
  reply(LIST, SERVER, string("a") + ascii("first")) + reply(LIST, SERVER, string("")) + reply(LIST, ACK);

test("listExports() asks LIST, then INFO and LIST_META_CONTEXT of each, and leaves", () => {
  const { result, sent } = carry(
    listExports(),
    bytes(
      listing +
        granted(INFO) + reply(LIST_META, META, u32(0) + ascii("base:allocation")) + reply(LIST_META, ACK) +
        reply(INFO, INFO_REPLY, SIZE_AND_FLAGS) + reply(INFO, INFO_REPLY, "0002" + ascii("second")) +
        reply(INFO, ACK) + reply(LIST_META, UNSUP) +
        reply(ABORT, ACK),
    ),
  );
  assertEquals(result, {
    style: "fixed-newstyle",
    structured: true,
    extended: false,
    exports: [
      {
        name: "a",
        description: "first",
        sizeBytes: 1 << 26,
        transmissionFlags: 13,
        blockSizes: { minimum: 512, preferred: 4096, maximumPayload: 33554432 },
        contexts: ["base:allocation"],
      },
      { name: "", description: "second", sizeBytes: 1 << 26, transmissionFlags: 13 },
    ],
  });
  assertEquals(
    hex(sent),
    "00000003" + option(EXTENDED_HEADERS) + option(STRUCTURED_REPLY) + option(LIST) +
      goOption("a", INFO) + metaOption(LIST_META, "a") + goOption("", INFO) + metaOption(LIST_META, "") +
      option(ABORT),
  );
});

test("listExports() survives a server that closes instead of acknowledging ABORT", () => {
  const script = greeting() + reply(LIST, SERVER, string("a")) + reply(LIST, ACK);
  assertEquals(carry(listExports({ details: false }), bytes(script)).result.exports.length, 1);
});

test("listExports() of a server without INFO tells names and why no more", () => {
  const { result } = carry(
    listExports(),
    bytes(listing + reply(INFO, UNSUP) + reply(INFO, UNSUP) + reply(ABORT, ACK)),
  );
  assertEquals(result.exports.map(({ name, refused }) => [name, refused?.reply]), [["a", UNSUP], [
    "",
    UNSUP,
  ]]);
});

test("listExports() of plain newstyle is refused", () => {
  assertThrows(() => carry(listExports(), bytes(greeting(0))), RefusedError, "it speaks plain newstyle");
});

test("LS-2: a listed name that runs past its reply is refused", () => {
  assertThrows(
    () => carry(listExports({ details: false }), bytes(greeting() + reply(LIST, SERVER, "00000002 61"))),
    WireError,
    "listed export of 5 bytes ends early",
  );
});

// --- The whole stream ---

const everything = greeting() + reply(EXTENDED_HEADERS, UNSUP, ascii("no")) + reply(STRUCTURED_REPLY, ACK) +
  reply(SET_META, META, u32(7) + ascii("base:allocation")) + reply(SET_META, ACK) +
  reply(GO, INFO_REPLY, SIZE_AND_FLAGS) + reply(GO, INFO_REPLY, "0001" + ascii("disk")) +
  reply(GO, INFO_REPLY, "0002" + ascii("text")) + reply(GO, INFO_REPLY, BLOCK_SIZES) + reply(GO, ACK);

test("a server cut off anywhere has heard a part of what the whole server hears, and nothing is agreed", () => {
  const script = bytes(everything);
  const whole = hear(eager, everything).sent;
  for (let length = 0; length < script.length; length++) {
    const trace = newTrace();
    assertThrows(() => carry(negotiateClient(eager), script.slice(0, length), trace), ScriptEndedError);
    assertEquals(whole.startsWith(trace.sent.map(hex).join("")), true, `cut at ${length}`);
  }
});

test("a server with any byte wrong is believed, refused or waited for, and nothing else", () => {
  const script = bytes(everything);
  const endings = { agreed: 0, waiting: 0, refused: 0, broken: 0 };
  for (let at = 0; at < script.length; at++) {
    for (const flip of [0x01, 0x80, 0xff]) {
      const wrong = script.slice();
      wrong[at] ^= flip;
      const trace = newTrace();
      try {
        carry(negotiateClient(eager), wrong, trace);
        endings.agreed++;
      } catch (error) {
        if (error instanceof ScriptEndedError) endings.waiting++;
        else if (error instanceof RefusedError) endings.refused++;
        else if (error instanceof WireError) endings.broken++;
        else throw error;
      }
      assertEquals(trace.neededBytesMax <= 65536, true);
    }
  }
  assertEquals(Object.values(endings).every((count) => count > 0), true, JSON.stringify(endings));
});

test("listContexts() asks LIST_META_CONTEXT of one export, and leaves", () => {
  const { result, sent, rest } = carry(
    listContexts("disk"),
    bytes([
      greeting(),
      reply(EXTENDED_HEADERS, UNSUP),
      reply(STRUCTURED_REPLY, ACK),
      reply(LIST_META, META, "00000000" + ascii("base:allocation")),
      reply(LIST_META, META, "00000000" + ascii("qemu:dirty-bitmap:b")),
      reply(LIST_META, ACK),
      reply(ABORT, ACK),
    ].join("")),
  );
  assertEquals(result, ["base:allocation", "qemu:dirty-bitmap:b"]);
  assertEquals(
    hex(sent),
    "00000003" + option(EXTENDED_HEADERS) + option(STRUCTURED_REPLY) + metaOption(LIST_META, "disk") +
      option(ABORT),
  );
  assertEquals(rest.length, 0);
});

test("listContexts() tells nothing where the server does not", () => {
  const refusing = [
    greeting(),
    reply(EXTENDED_HEADERS, UNSUP),
    reply(STRUCTURED_REPLY, ACK),
    reply(LIST_META, UNSUP),
    reply(ABORT, ACK),
  ];
  const old = [greeting(), reply(EXTENDED_HEADERS, UNSUP), reply(STRUCTURED_REPLY, UNSUP), reply(ABORT, ACK)];
  for (const script of [refusing, old, [greeting(0)]]) {
    assertEquals(carry(listContexts("disk"), bytes(script.join(""))).result, null);
  }
});
