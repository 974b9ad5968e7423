/** The server's handshake, row by row, against clients whose every byte is written down here. */
import { assertEquals, assertThrows } from "@std/assert";
import {
  type Agreement,
  type ExportOffer,
  negotiateNewstyle,
  type ServerHall,
} from "../../../src/wire/nbd/handshake_server.ts";
import { TransmissionFlag } from "../../../src/wire/nbd/constants.ts";
import { WireError } from "../../../src/wire/wire_error.ts";
import { type Carried, carry, newTrace, ScriptEndedError } from "../../testing/carry.ts";
import { ALL_FLAGS, anOffer, hallOf } from "../../testing/nbd_hall.ts";
import { ascii, bytes, hex, string, u16, u32 } from "../../testing/hex.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name, permissions: "none", fn });
}

const GREETING = "4e42444d41474943 49484156454f5054 0003";
const FIXED = "00000003";
const EXPORT_NAME = 1, ABORT = 2, LIST = 3, STARTTLS = 5, INFO = 6, GO = 7;
const STRUCTURED_REPLY = 8, LIST_META = 9, SET_META = 10, EXTENDED_HEADERS = 11;
const ACK = 1, SERVER = 2, INFO_REPLY = 3, META = 4;
const UNSUP = 0x80000001, POLICY = 0x80000002, INVALID = 0x80000003, TLS_REQD = 0x80000005;
const UNKNOWN = 0x80000006, SHUTDOWN = 0x80000007, TOO_BIG = 0x80000009, EXT_HEADER_REQD = 0x8000000a;

/** An option in hexadecimal. */
function option(number: number, data = ""): string {
  const digits = data.replaceAll(" ", "");
  return "49484156454f5054" + u32(number) + u32(digits.length / 2) + digits;
}

/** Data of INFO and GO. */
const infoData = (name: string, ...types: number[]) =>
  string(name) + u16(types.length) + types.map(u16).join("");
/** Data of LIST_META_CONTEXT and SET_META_CONTEXT. */
const metaData = (name: string, ...queries: string[]) =>
  string(name) + u32(queries.length) + queries.map(string).join("");

/** A reply as a test reads it. */
interface Reply {
  option: number;
  type: number;
  /** Hexadecimal; of errors: the text. */
  data: string;
}

/** Cuts what the server sent behind its greeting into replies; all of it must be replies. */
function replies(sent: Uint8Array): Reply[] {
  assertEquals(hex(sent.subarray(0, 18)), GREETING.replaceAll(" ", ""));
  const view = new DataView(sent.buffer, sent.byteOffset);
  const found: Reply[] = [];
  for (let at = 18; at < sent.length;) {
    assertEquals(hex(sent.subarray(at, at + 8)), "0003e889045565a9");
    const [number, type, length] = [8, 12, 16].map((field) => view.getUint32(at + field));
    const data = sent.subarray(at + 20, at + 20 + length);
    found.push({ option: number, type, data: type > 2 ** 31 ? new TextDecoder().decode(data) : hex(data) });
    at += 20 + length;
  }
  return found;
}

interface Told {
  replies: Reply[];
  result: Agreement | null;
  carried: Carried<Agreement | null>;
}

/** Runs the server against flags, options and a closing ABORT (unless the last option starts transmission). */
function tell(options: string[], hall: ServerHall = hallOf([anOffer()]), flags = FIXED): Told {
  const carried = carry(negotiateNewstyle(hall), bytes([flags, ...options, option(ABORT)].join("")));
  const all = replies(carried.sent);
  const left = carried.result === null ? [{ option: ABORT, type: ACK, data: "" }] : [];
  assertEquals(all.slice(all.length - left.length), left);
  return { replies: all.slice(0, all.length - left.length), result: carried.result, carried };
}

/** The types of all replies to some options. */
const types = (options: string[], hall?: ServerHall) => tell(options, hall).replies.map(({ type }) => type);

/** The bytes after which a client is thrown out, and what it did. */
function refuses(script: string, message: string, hall: ServerHall = hallOf([anOffer()])): void {
  assertThrows(() => carry(negotiateNewstyle(hall), bytes(script)), WireError, message);
}

const oneOffer = (changes: Partial<ExportOffer>) => hallOf([anOffer(changes)]);
const SIMPLE_FLAGS = ALL_FLAGS & ~(TransmissionFlag.SEND_DF | TransmissionFlag.BLOCK_STATUS_PAYLOAD);

// --- Styles (HS) ---

test("HS-2 HS-3: the greeting has 18 bytes and offers fixed newstyle without zeroes", () => {
  const trace = newTrace();
  assertThrows(() => carry(negotiateNewstyle(hallOf([])), new Uint8Array(0), trace), ScriptEndedError);
  assertEquals(trace.sent.map(hex).join(""), GREETING.replaceAll(" ", ""));
});

test("HS-2: a client of plain newstyle gets its export by name, with 124 zeroes", () => {
  const { sent, result } = carry(
    negotiateNewstyle(oneOffer({ transmissionFlags: 13 })),
    bytes("00000000" + option(EXPORT_NAME, ascii("disk"))),
  );
  assertEquals(hex(sent.subarray(18)), "0000000004000000" + "000d" + "00".repeat(124));
  assertEquals([result?.style, result?.transmissionFlags], ["newstyle", 13]);
});

test("HS-4: the zeroes are left out where the client agreed to that, and only there", () => {
  const lengths = ["00000000", "00000001", "00000002", "00000003"].map((flags) =>
    carry(negotiateNewstyle(oneOffer({})), bytes(flags + option(EXPORT_NAME, ascii("disk")))).sent.length - 18
  );
  assertEquals(lengths, [134, 134, 10, 10]);
});

test("HS-5: a client flag nobody knows ends the connection", () => {
  for (let bit = 2; bit < 32; bit++) refuses(u32(2 ** bit), "client flags are 0x");
});

test("HS-6: a client flag that was not offered ends the connection", () => {
  const hall = hallOf([anOffer()], { noZeroes: false });
  const { sent } = carry(negotiateNewstyle(hall), bytes("00000001" + option(ABORT)));
  assertEquals(hex(sent.subarray(16, 18)), "0001");
  refuses("00000003", "client flags are 0x3, offered were 0x1", hall);
});

test("HS-7: without fixed newstyle every option but EXPORT_NAME ends the connection", () => {
  for (const number of [ABORT, LIST, STARTTLS, INFO, GO, STRUCTURED_REPLY, LIST_META, SET_META, 99]) {
    refuses("00000002" + option(number), "that did not agree to fixed newstyle");
  }
});

test("HS-8: a wrong option magic ends the connection, at once and later", () => {
  refuses(FIXED + "0003e889045565a9 00000003 00000000", "option magic is 0x3e889045565a9");
  refuses(FIXED + option(LIST) + "00" + option(LIST), "option magic is 0x");
});

// --- Options in general (OP) ---

test("OP-1: an unknown option is read past and answered UNSUP", () => {
  const { replies } = tell([option(0x7654321, "01020304"), option(4), option(LIST)]);
  assertEquals(replies.map(({ option, type }) => [option, type]), [
    [0x7654321, UNSUP],
    [4, UNSUP],
    [LIST, SERVER],
    [LIST, ACK],
  ]);
  assertEquals(replies[0].data, "option 124076833 is not known here");
});

test("OP-1: 16 MiB of data of an unknown option are read past in pieces of 64 KiB at most", () => {
  const length = 16 * 1024 * 1024;
  const script = new Uint8Array(4 + 16 + length + 16);
  script.set(bytes(FIXED + "49484156454f5054 07654321" + u32(length)));
  script.set(bytes(option(ABORT)), script.length - 16);
  const trace = newTrace();
  const { result, sent } = carry(negotiateNewstyle(hallOf([])), script, trace);
  assertEquals(result, null);
  assertEquals(replies(sent).map(({ type }) => type), [UNSUP, ACK]);
  assertEquals(trace.neededBytesMax, 65536);
});

test("an option with more than 16 MiB of data ends the connection before any of it is read", () => {
  for (const number of [0x7654321, ABORT, LIST, GO, SET_META]) {
    const trace = newTrace();
    const script = bytes(FIXED + "49484156454f5054" + u32(number) + "01000001" + "00".repeat(99));
    assertThrows(
      () => carry(negotiateNewstyle(hallOf([])), script, trace),
      WireError,
      "16777217 bytes of data",
    );
    assertEquals(trace.takenBytes, 20);
  }
});

test("OP-2: forbidden data is read past and answered INVALID", () => {
  for (const number of [LIST, STARTTLS, STRUCTURED_REPLY, EXTENDED_HEADERS]) {
    assertEquals(types([option(number, "00000000"), option(LIST)]), [INVALID, SERVER, ACK]);
    assertEquals(types([option(number, "00".repeat(70000)), option(LIST)]), [INVALID, SERVER, ACK]);
  }
});

test("OP-2: forbidden data leaves nothing agreed", () => {
  const { result } = tell([
    option(STRUCTURED_REPLY, "00"),
    option(EXTENDED_HEADERS, "00"),
    option(GO, infoData("disk")),
  ]);
  assertEquals([result?.structured, result?.extended], [false, false]);
});

test("OP-4: an option that is on already is INVALID the second time", () => {
  assertEquals(types([option(STRUCTURED_REPLY), option(STRUCTURED_REPLY)]), [ACK, INVALID]);
  assertEquals(types([option(EXTENDED_HEADERS), option(EXTENDED_HEADERS)]), [ACK, INVALID]);
});

test("OP-5: while shutting down every option but ABORT is answered SHUTDOWN", () => {
  const hall = hallOf([anOffer()], { shuttingDown: () => "shutting down" });
  const all = [LIST, STARTTLS, INFO, GO, STRUCTURED_REPLY, LIST_META, SET_META, EXTENDED_HEADERS, 99];
  const { replies } = tell(all.map((number) => option(number)), hall);
  assertEquals(replies, all.map((option) => ({ option, type: SHUTDOWN, data: "shutting down" })));
  refuses(FIXED + option(EXPORT_NAME, ascii("disk")), "shutting down", hall);
});

test("OP-6 OP-7: a policy is told with its reason, on every option that it concerns", () => {
  const refused = { refused: "policy", reason: "not from this address" } as const;
  const hall = hallOf([], { list: () => refused, find: () => refused });
  const { replies } = tell(
    [
      option(LIST),
      option(INFO, infoData("disk")),
      option(GO, infoData("disk")),
      option(LIST_META, metaData("disk")),
      option(STRUCTURED_REPLY),
      option(SET_META, metaData("disk", "base:allocation")),
    ],
    hall,
  );
  assertEquals(
    replies.map(({ type, data }) => [type, data]),
    [LIST, INFO, GO, LIST_META].map((): [number, string] => [POLICY, "not from this address"])
      .concat([[ACK, ""], [POLICY, "not from this address"]]),
  );
});

test("refusals are reported with option, export and reason", () => {
  const heard: string[][] = [];
  const hall = hallOf([anOffer()], { refused: (...report) => heard.push(report) });
  tell([option(GO, infoData("no\n")), option(LIST, "00"), option(99), option(STARTTLS)], hall);
  refuses(FIXED + option(EXPORT_NAME, ascii("no\n")), 'EXPORT_NAME of "no\\n" is refused', hall);
  assertEquals(heard, [
    ["GO", "no\n", "no such export"],
    ["LIST", "", "the option takes no data"],
    ["option 99", "", "option 99 is not known here"],
    ["STARTTLS", "", "TLS is off"],
    ["EXPORT_NAME", "no\n", "no such export"],
  ]);
});

// --- EXPORT_NAME, ABORT, LIST, STARTTLS ---

test("EN-1: EXPORT_NAME starts transmission in fixed newstyle too, after other options", () => {
  const { sent, result, rest } = carry(
    negotiateNewstyle(hallOf([anOffer()])),
    bytes(FIXED + option(STRUCTURED_REPLY) + option(EXPORT_NAME, ascii("disk")) + "25609513"),
  );
  const flags = ALL_FLAGS & ~TransmissionFlag.BLOCK_STATUS_PAYLOAD;
  assertEquals(hex(sent.subarray(18 + 20)), "0000000004000000" + u16(flags));
  assertEquals([result?.style, result?.structured, result?.transmissionFlags], [
    "fixed-newstyle",
    true,
    flags,
  ]);
  assertEquals(hex(rest), "25609513");
});

test("EN-1: EXPORT_NAME without a name is the default export", () => {
  const { result } = carry(
    negotiateNewstyle(hallOf([anOffer({ name: "first" })])),
    bytes(FIXED + option(EXPORT_NAME)),
  );
  assertEquals(result?.offer.name, "first");
});

test("EN-2: EXPORT_NAME that is refused ends the connection without an answer", () => {
  const trace = newTrace();
  const script = bytes(FIXED + option(EXPORT_NAME, ascii("nosuch")));
  assertThrows(
    () => carry(negotiateNewstyle(hallOf([])), script, trace),
    WireError,
    'EXPORT_NAME of "nosuch" is refused: no such export',
  );
  assertEquals(trace.sent.length, 1);
});

test("EXPORT_NAME with a name that is too long or no string ends the connection", () => {
  refuses(
    FIXED + "49484156454f5054 00000001 00001001" + "61".repeat(4097),
    "EXPORT_NAME with 4097 bytes of data",
  );
  refuses(FIXED + "49484156454f5054 00000001 ffffffff", "EXPORT_NAME with 4294967295 bytes of data");
  refuses(FIXED + option(EXPORT_NAME, "610062"), "export name holds a NUL");
  refuses(FIXED + option(EXPORT_NAME, "ff"), "export name is not UTF-8");
});

test("AB-1: ABORT is acknowledged and ends without an agreement, whatever data it has", () => {
  for (const data of ["", "00", "ff".repeat(5000), "ff".repeat(100000)]) {
    const { result, sent } = carry(negotiateNewstyle(hallOf([])), bytes(FIXED + option(ABORT, data)));
    assertEquals([result, hex(sent.subarray(18))], [
      null,
      "0003e889045565a9" + "00000002" + "00000001" + "00000000",
    ]);
  }
});

test("LS-1 LS-2 LS-4: LIST tells name and description of every export, then ACK", () => {
  const hall = hallOf([anOffer({ name: "a", description: "one" }), anOffer({ name: "é" })]);
  assertEquals(tell([option(LIST)], hall).replies, [
    { option: LIST, type: SERVER, data: "00000001" + "61" + ascii("one") },
    { option: LIST, type: SERVER, data: "00000002" + "c3a9" },
    { option: LIST, type: ACK, data: "" },
  ]);
});

test("LS-1: LIST of nothing is a bare ACK", () => assertEquals(types([option(LIST)], hallOf([])), [ACK]));

test("STARTTLS is refused by policy and may be followed by anything", () => {
  const { replies } = tell([option(STARTTLS), option(LIST)], hallOf([]));
  assertEquals(replies.map(({ type, data }) => [type, data]), [[POLICY, "TLS is off"], [ACK, ""]]);
});

// --- INFO and GO ---

test("INFO tells size and flags and block sizes, and no more than that, unasked", () => {
  assertEquals(tell([option(INFO, infoData("disk"))]).replies, [
    { option: INFO, type: INFO_REPLY, data: "0000" + "0000000004000000" + u16(SIMPLE_FLAGS) },
    { option: INFO, type: INFO_REPLY, data: "0003" + "00000001" + "00001000" + "02000000" },
    { option: INFO, type: ACK, data: "" },
  ]);
});

test("GO-9: what is asked for comes in the order size, name, description, block sizes", () => {
  const hall = oneOffer({ description: "text" });
  const { replies, result } = tell([option(GO, infoData("disk", 3, 2, 1, 0, 77, 2))], hall);
  assertEquals(replies.map(({ type, data }) => type === INFO_REPLY ? data.slice(0, 4) : type), [
    "0000",
    "0001",
    "0002",
    "0003",
    ACK,
  ]);
  assertEquals([replies[1].data, replies[2].data], ["0001" + ascii("disk"), "0002" + ascii("text")]);
  assertEquals([result?.style, result?.offer.name], ["fixed-newstyle", "disk"]);
});

test("an export without a description tells none, even when asked", () => {
  const { replies } = tell([option(INFO, infoData("disk", 2))]);
  assertEquals(replies.map(({ data }) => data.slice(0, 4)), ["0000", "0003", ""]);
});

test("GO-3: the default export is told by its name", () => {
  const { replies } = tell([option(INFO, infoData(""))]);
  assertEquals(replies[1].data, "0001" + ascii("disk"));
});

test("GO-1: an unknown export is UNKNOWN, with nothing before it", () => {
  for (const number of [INFO, GO]) {
    assertEquals(tell([option(number, infoData("nosuch"))]).replies, [
      { option: number, type: UNKNOWN, data: "no such export" },
    ]);
  }
});

test("a hall may say that an export needs TLS", () => {
  const hall = hallOf([], { find: () => ({ refused: "tls-required", reason: "TLS first" }) });
  assertEquals(types([option(GO, infoData("disk"))], hall), [TLS_REQD]);
});

test("GO-2: INFO and GO tell the same", () => {
  for (const before of [[], [option(STRUCTURED_REPLY)], [option(EXTENDED_HEADERS)]]) {
    const told = (number: number) =>
      tell([...before, option(number, infoData("disk", 1, 2))]).replies.slice(before.length)
        .map(({ data }) => data);
    assertEquals(told(INFO), told(GO));
  }
});

test("GO-5: a name of 4096 bytes is UNKNOWN, a longer one or one with NUL or not UTF-8 is INVALID", () => {
  const name = (bytes: number) => u32(bytes) + "61".repeat(bytes) + "0000";
  const data = [name(4096), name(4097), "00000003 610062 0000", "00000001 ff 0000"];
  assertEquals(types(data.map((data) => option(INFO, data))), [UNKNOWN, INVALID, INVALID, INVALID]);
});

test("INFO and GO whose lengths do not add up are INVALID, and the next option is read", () => {
  const broken = [
    "",
    "000000",
    "00000004 6469736b",
    "00000004 6469736b 00",
    "00000005 6469736b 0000",
    "00000003 6469736b 0000",
    "00000004 6469736b 0001",
    "00000004 6469736b 0001 00",
    "00000004 6469736b 0001 0003 00",
    "00000004 6469736b 0000 0003",
    "ffffffff 6469736b 0000",
  ];
  for (const number of [INFO, GO]) {
    const { replies } = tell([...broken.map((data) => option(number, data)), option(INFO, infoData("disk"))]);
    assertEquals(replies.map(({ type }) => type), [
      ...broken.map(() => INVALID),
      INFO_REPLY,
      INFO_REPLY,
      ACK,
    ]);
  }
});

test("INFO with more data than is held is TOO_BIG, and the next option is read", () => {
  const types70000 = u32(4) + ascii("disk") + u16(35000) + "0003".repeat(35000);
  assertEquals(types([option(INFO, types70000), option(LIST)], hallOf([])), [TOO_BIG, ACK]);
});

test("GO-7: after a GO that failed more options are answered", () => {
  const { replies, result } = tell([option(GO, infoData("nosuch")), option(GO, infoData("disk"))]);
  assertEquals(replies.map(({ type }) => type), [UNKNOWN, INFO_REPLY, INFO_REPLY, ACK]);
  assertEquals(result?.offer.name, "disk");
});

test("what a client sends behind GO is left for transmission", () => {
  const script = bytes(FIXED + option(GO, infoData("disk")) + "25609513 0000");
  assertEquals(hex(carry(negotiateNewstyle(hallOf([anOffer()])), script).rest), "256095130000");
});

// --- Transmission flags ---

test("flags that need more than was agreed are not told, and agree with the agreement", () => {
  const { SEND_DF, BLOCK_STATUS_PAYLOAD } = TransmissionFlag;
  const cases: [string[], number][] = [
    [[], ALL_FLAGS & ~(SEND_DF | BLOCK_STATUS_PAYLOAD)],
    [[option(STRUCTURED_REPLY)], ALL_FLAGS & ~BLOCK_STATUS_PAYLOAD],
    [
      [option(STRUCTURED_REPLY), option(SET_META, metaData("disk", "base:allocation"))],
      ALL_FLAGS & ~BLOCK_STATUS_PAYLOAD,
    ],
    [[option(EXTENDED_HEADERS)], ALL_FLAGS & ~BLOCK_STATUS_PAYLOAD],
    [
      [option(EXTENDED_HEADERS), option(SET_META, metaData("disk", "base:nope"))],
      ALL_FLAGS & ~BLOCK_STATUS_PAYLOAD,
    ],
    [[option(EXTENDED_HEADERS), option(SET_META, metaData("disk", "base:allocation"))], ALL_FLAGS],
  ];
  for (const [before, flags] of cases) {
    const { replies, result } = tell([...before, option(GO, infoData("disk"))]);
    const told = replies.find(({ type }) => type === INFO_REPLY)!.data;
    assertEquals([told.slice(-4), result?.transmissionFlags], [u16(flags), flags]);
  }
});

test("FAST_ZERO is not told without WRITE_ZEROES, and HAS_FLAGS always is", () => {
  const hall = oneOffer({ transmissionFlags: TransmissionFlag.SEND_FAST_ZERO });
  assertEquals(tell([option(GO, infoData("disk"))], hall).result?.transmissionFlags, 1);
});

// --- STRUCTURED_REPLY and EXTENDED_HEADERS ---

test("SR-1 EH-1: structured replies and extended headers are agreed to", () => {
  for (const [number, extended] of [[STRUCTURED_REPLY, false], [EXTENDED_HEADERS, true]] as const) {
    const { replies, result } = tell([option(number), option(GO, infoData("disk"))]);
    assertEquals(replies[0], { option: number, type: ACK, data: "" });
    assertEquals([result?.structured, result?.extended], [true, extended]);
  }
});

test("EH-13: STRUCTURED_REPLY after EXTENDED_HEADERS is EXT_HEADER_REQD, the other order is fine", () => {
  const [SR, EH] = [option(STRUCTURED_REPLY), option(EXTENDED_HEADERS)];
  assertEquals(types([EH, SR]), [ACK, EXT_HEADER_REQD]);
  const { result } = tell([SR, EH, option(GO, infoData("disk"))]);
  assertEquals([result?.structured, result?.extended], [true, true]);
});

test("EH-13: EXPORT_NAME after EXTENDED_HEADERS ends the connection", () => {
  refuses(FIXED + option(EXTENDED_HEADERS) + option(EXPORT_NAME, ascii("disk")), "after EXTENDED_HEADERS");
});

// --- Metadata contexts (MC) ---

const contextNames = (replies: Reply[]) =>
  replies.filter(({ type }) => type === META).map(({ data }) =>
    new TextDecoder().decode(bytes(data.slice(8)))
  );
const threeContexts = oneOffer({
  contexts: ["base:allocation", "qemu:dirty-bitmap:a", "qemu:dirty-bitmap:b"],
});

test("MC-1 MC-10: LIST_META_CONTEXT without queries tells every context with id 0", () => {
  assertEquals(tell([option(LIST_META, metaData("disk"))]).replies, [
    { option: LIST_META, type: META, data: "00000000" + ascii("base:allocation") },
    { option: LIST_META, type: META, data: "00000000" + ascii("qemu:dirty-bitmap:b0") },
    { option: LIST_META, type: ACK, data: "" },
  ]);
});

test("MC-2: LIST_META_CONTEXT knows wildcards and names, each context once", () => {
  const list = (...queries: string[]) =>
    contextNames(tell([option(LIST_META, metaData("disk", ...queries))], threeContexts).replies);
  assertEquals(list("base:"), ["base:allocation"]);
  assertEquals(list("qemu:"), ["qemu:dirty-bitmap:a", "qemu:dirty-bitmap:b"]);
  assertEquals(list("qemu:dirty-bitmap:"), ["qemu:dirty-bitmap:a", "qemu:dirty-bitmap:b"]);
  assertEquals(list("qemu:dirty-bitmap:b", "base:", "qemu:"), [
    "base:allocation",
    "qemu:dirty-bitmap:a",
    "qemu:dirty-bitmap:b",
  ]);
  for (const nothing of ["base", "base:alloc", "x-foo:", "", "qemu:dirty"]) assertEquals(list(nothing), []);
});

test("MC-2 MC-3: SET_META_CONTEXT selects names only, and ignores what it does not know", () => {
  const set = (...queries: string[]) => {
    const told = tell(
      [option(STRUCTURED_REPLY), option(SET_META, metaData("disk", ...queries))],
      threeContexts,
    );
    assertEquals(told.replies.at(-1), { option: SET_META, type: ACK, data: "" });
    return contextNames(told.replies);
  };
  assertEquals(set("base:"), []);
  assertEquals(set("qemu:dirty-bitmap:"), []);
  assertEquals(set(), []);
  assertEquals(set("x-foo:bar", "base:nope", "base:allocation"), ["base:allocation"]);
});

test("MC-7 MC-10: selected contexts have ids of their own, one each", () => {
  const queries = ["qemu:dirty-bitmap:b", "base:allocation", "qemu:dirty-bitmap:b"];
  const options = [
    option(EXTENDED_HEADERS),
    option(SET_META, metaData("disk", ...queries)),
    option(GO, infoData("disk")),
  ];
  const { replies, result } = tell(options, threeContexts);
  assertEquals(replies.slice(1, 4), [
    { option: SET_META, type: META, data: "00000001" + ascii("qemu:dirty-bitmap:b") },
    { option: SET_META, type: META, data: "00000002" + ascii("base:allocation") },
    { option: SET_META, type: ACK, data: "" },
  ]);
  assertEquals(result?.contexts, [{ id: 1, name: "qemu:dirty-bitmap:b" }, {
    id: 2,
    name: "base:allocation",
  }]);
});

test("queries that are no names are answered by the export", () => {
  const asked: string[] = [];
  const hall = oneOffer({
    contextsFor: (query) => {
      asked.push(query);
      return query === "x-denbd:session=7" ? ["x-denbd:instance=42"] : [];
    },
  });
  const set = metaData("disk", "x-denbd:session=7", "base:allocation", "base:", "x-denbd:session=7");
  const { result } = tell(
    [option(STRUCTURED_REPLY), option(SET_META, set), option(GO, infoData("disk"))],
    hall,
  );
  assertEquals(result?.contexts.map(({ name }) => name), ["x-denbd:instance=42", "base:allocation"]);
  assertEquals(asked.includes("base:allocation"), false);
});

const selection = (options: string[], hall = threeContexts) =>
  tell([option(STRUCTURED_REPLY), ...options, option(GO, infoData("disk"))], hall).result?.contexts.map((
    { name },
  ) => name);
const setDisk = option(SET_META, metaData("disk", "base:allocation"));

test("MC-4: SET_META_CONTEXT replaces the earlier selection", () => {
  assertEquals(selection([setDisk]), ["base:allocation"]);
  assertEquals(selection([setDisk, option(SET_META, metaData("disk", "qemu:dirty-bitmap:a"))]), [
    "qemu:dirty-bitmap:a",
  ]);
  assertEquals(selection([setDisk, option(SET_META, metaData("disk"))]), []);
});

test("MC-4: SET_META_CONTEXT drops the earlier selection even when it fails", () => {
  const failing = [
    option(SET_META, metaData("nosuch", "base:allocation")),
    option(SET_META, "00"),
    option(SET_META, metaData("disk", ...Array.from({ length: 65 }, () => "base:allocation"))),
    option(SET_META, "00".repeat(70000)),
  ];
  for (const option of failing) assertEquals(selection([setDisk, option]), []);
});

test("LIST_META_CONTEXT and a failing STRUCTURED_REPLY leave the selection alone", () => {
  assertEquals(selection([setDisk, option(LIST_META, metaData("disk")), option(STRUCTURED_REPLY)]), [
    "base:allocation",
  ]);
});

test("MC-5: SET_META_CONTEXT before structured replies is INVALID, LIST_META_CONTEXT is answered", () => {
  assertEquals(types([setDisk, option(LIST_META, metaData("disk", "base:"))]), [INVALID, META, ACK]);
});

test("MC-6: queries whose lengths do not add up are INVALID", () => {
  const broken = [
    "",
    "00000004 6469736b",
    "00000004 6469736b 000000",
    "00000004 6469736b 00000001",
    "00000004 6469736b 00000001 00000002 61",
    "00000004 6469736b 00000001 ffffffff 61",
    "00000004 6469736b ffffffff 00000001 61",
    "00000004 6469736b 00000000 00",
    "00000004 6469736b 00000001 00000001 61 00",
    "00000009 6469736b 00000000",
    "00000004 6469736b 00000001 00000001 00",
    "00000004 6469736b 00000001" + "00001001" + "61".repeat(4097),
  ];
  for (const number of [LIST_META, SET_META]) {
    const told = types([
      option(STRUCTURED_REPLY),
      ...broken.map((data) => option(number, data)),
      option(LIST),
    ]);
    assertEquals(told, [ACK, ...broken.map(() => INVALID), SERVER, ACK]);
  }
});

test("64 queries are answered, 65 are TOO_BIG", () => {
  const queries = (count: number) =>
    metaData("disk", ...Array.from({ length: count }, () => "base:allocation"));
  for (const number of [LIST_META, SET_META]) {
    const SR = option(STRUCTURED_REPLY);
    assertEquals(types([SR, option(number, queries(64))]), [ACK, META, ACK]);
    assertEquals(types([SR, option(number, queries(65)), option(LIST)], hallOf([anOffer()])).slice(0, 2), [
      ACK,
      TOO_BIG,
    ]);
    assertEquals(types([SR, option(number, queries(6000))]), [ACK, TOO_BIG]);
  }
});

test("MC-8: a selection for another export does not hold, and GO for another drops it", () => {
  const hall = hallOf([anOffer({ name: "disk" }), anOffer({ name: "other" })]);
  assertEquals(selection([option(SET_META, metaData("other", "base:allocation"))], hall), []);
  assertEquals(selection([setDisk, option(GO, infoData("nosuch"))], hall), []);
  assertEquals(selection([setDisk, option(INFO, infoData("other"))], hall), ["base:allocation"]);
  const byName = (name: string) =>
    carry(
      negotiateNewstyle(hall),
      bytes(FIXED + option(STRUCTURED_REPLY) + setDisk + option(EXPORT_NAME, ascii(name))),
    )
      .result?.contexts.length;
  assertEquals([byName("disk"), byName("other")], [1, 0]);
});

test("MC-9: contexts of an unknown export are UNKNOWN", () => {
  const told = types([
    option(STRUCTURED_REPLY),
    option(LIST_META, metaData("nosuch")),
    option(SET_META, metaData("nosuch", "base:allocation")),
  ]);
  assertEquals(told, [ACK, UNKNOWN, UNKNOWN]);
});

// --- The whole stream ---

/** A client that uses every option. */
const everything = [
  FIXED,
  option(LIST),
  option(STARTTLS),
  option(99, "0102"),
  option(INFO, infoData("disk", 1, 2, 3)),
  option(STRUCTURED_REPLY),
  option(EXTENDED_HEADERS),
  option(LIST_META, metaData("disk")),
  option(SET_META, metaData("disk", "base:allocation")),
  option(GO, infoData("disk", 3)),
].join("");

test("a client cut off anywhere has heard a part of what the whole client hears, and nothing is agreed", () => {
  const script = bytes(everything);
  const whole = hex(carry(negotiateNewstyle(hallOf([anOffer()])), script).sent);
  for (let length = 0; length < script.length; length++) {
    const trace = newTrace();
    assertThrows(
      () => carry(negotiateNewstyle(hallOf([anOffer()])), script.slice(0, length), trace),
      ScriptEndedError,
    );
    assertEquals(whole.startsWith(trace.sent.map(hex).join("")), true, `cut at ${length}`);
  }
});

test("a client with any byte wrong is answered, waited for or thrown out, and nothing else", () => {
  const script = bytes(everything);
  const endings = { agreed: 0, waiting: 0, closed: 0 };
  for (let at = 0; at < script.length; at++) {
    for (const flip of [0x01, 0x80, 0xff]) {
      const wrong = script.slice();
      wrong[at] ^= flip;
      const trace = newTrace();
      try {
        carry(negotiateNewstyle(hallOf([anOffer()])), wrong, trace);
        endings.agreed++;
      } catch (error) {
        if (error instanceof ScriptEndedError) endings.waiting++;
        else if (error instanceof WireError) endings.closed++;
        else throw error;
      }
      assertEquals(trace.neededBytesMax <= 65536, true);
    }
  }
  assertEquals(Object.values(endings).every((count) => count > 0), true, JSON.stringify(endings));
});
