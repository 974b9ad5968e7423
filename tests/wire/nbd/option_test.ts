import { assertEquals, assertThrows } from "@std/assert";
import {
  decodeInfo,
  decodeInfoRequest,
  decodeListedName,
  decodeMetaContext,
  decodeMetaRequest,
  decodeOptionHeader,
  decodeOptionReplyHeader,
  decodeString,
  encodeInfo,
  encodeInfoRequest,
  encodeListedName,
  encodeMetaContext,
  encodeMetaRequest,
  encodeOption,
  encodeOptionReply,
  encodeText,
  type Info,
} from "../../../src/wire/nbd/option.ts";
import { InfoType, Option, OptionReply } from "../../../src/wire/nbd/constants.ts";
import { WireError } from "../../../src/wire/wire_error.ts";
import { bytes, hex } from "../../testing/hex.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name, permissions: "none", fn });
}

/** Every payload of a message that is well-formed, in hexadecimal, with its decoder. */
const payloads: Record<string, [(payload: Uint8Array) => unknown, string, unknown]> = {
  "INFO without types": [decodeInfoRequest, "00000001 61 0000", { exportName: "a", types: [] }],
  "GO with types, one of them twice": [
    decodeInfoRequest,
    "00000002 c3a9 0003 0003 ffff 0003",
    { exportName: "é", types: [3, 0xffff, 3] },
  ],
  "GO of the default export": [decodeInfoRequest, "00000000 0001 0003", { exportName: "", types: [3] }],
  "a context request without queries": [decodeMetaRequest, "00000001 61 00000000", {
    exportName: "a",
    queries: [],
  }],
  "a context request": [
    decodeMetaRequest,
    "00000001 61 00000003 00000005 626173653a 00000000 00000001 78",
    { exportName: "a", queries: ["base:", "", "x"] },
  ],
  "EXPORT information": [
    decodeInfo,
    "0000 0000000004000000 000d",
    { type: 0, sizeBytes: 1 << 26, transmissionFlags: 13 },
  ],
  "BLOCK_SIZE information": [
    decodeInfo,
    "0003 00000200 00001000 02000000",
    { type: 3, blockSizes: { minimum: 512, preferred: 4096, maximumPayload: 33554432 } },
  ],
};

/** Those with an open end, where every cut leaves another well-formed message. */
const openPayloads: Record<string, [(payload: Uint8Array) => unknown, string, number, unknown]> = {
  "a listed export": [decodeListedName, "00000001 61 6f6e65", 5, { name: "a", description: "one" }],
  "a context": [decodeMetaContext, "00000007 783a79", 4, { id: 7, name: "x:y" }],
  "NAME information": [decodeInfo, "0001 6162", 2, { type: 1, name: "ab" }],
  "DESCRIPTION information": [decodeInfo, "0002 6162", 2, { type: 2, description: "ab" }],
};

// --- Literal bytes ---

test("encodeOption() writes magic, option, length and data", () => {
  assertEquals(hex(encodeOption(Option.ABORT)), "49484156454f5054" + "00000002" + "00000000");
  assertEquals(
    hex(encodeOption(Option.GO, bytes("abcd"))),
    "49484156454f5054" + "00000007" + "00000002" + "abcd",
  );
});

test("decodeOptionHeader() keeps unknown options and claims of any length", () => {
  assertEquals(decodeOptionHeader(bytes("49484156454f5054 07654321 ffffffff")), {
    option: 0x7654321,
    payloadBytes: 0xffffffff,
  });
});

test("decodeOptionHeader() refuses every other magic", () => {
  for (let at = 0; at < 8; at++) {
    const header = encodeOption(Option.LIST);
    header[at] ^= 0x20;
    assertThrows(() => decodeOptionHeader(header), WireError, "option magic is 0x");
  }
});

test("encodeOptionReply() writes magic, option, type, length and data", () => {
  assertEquals(
    hex(encodeOptionReply(Option.GO, OptionReply.ERR_UNKNOWN, bytes("6e6f"))),
    "0003e889045565a9" + "00000007" + "80000006" + "00000002" + "6e6f",
  );
  assertEquals(decodeOptionReplyHeader(bytes("0003e889045565a9 00000007 80000006 ffffffff")), {
    option: Option.GO,
    type: OptionReply.ERR_UNKNOWN,
    payloadBytes: 0xffffffff,
  });
});

test("decodeOptionReplyHeader() refuses every other magic", () => {
  for (let at = 0; at < 8; at++) {
    const header = encodeOptionReply(Option.LIST, OptionReply.ACK);
    header[at] ^= 0x01;
    assertThrows(() => decodeOptionReplyHeader(header), WireError, "option reply magic is 0x");
  }
});

for (const [what, [decode, payload, value]] of Object.entries(payloads)) {
  test(`${what} is decoded`, () => assertEquals(decode(bytes(payload)), value));

  test(`${what} is refused when cut anywhere or followed by anything`, () => {
    const whole = bytes(payload);
    for (let length = 0; length < whole.length; length++) {
      assertThrows(() => decode(whole.slice(0, length)), WireError, undefined, `cut at ${length}`);
    }
    assertThrows(() => decode(bytes(payload + "00")), WireError);
  });
}

for (const [what, [decode, payload, fixedBytes, value]] of Object.entries(openPayloads)) {
  test(`${what} is decoded`, () => assertEquals(decode(bytes(payload)), value));

  test(`${what} is refused when cut before its text`, () => {
    const whole = bytes(payload);
    decode(whole.slice(0, fixedBytes));
    for (let length = 0; length < fixedBytes; length++) {
      assertThrows(() => decode(whole.slice(0, length)), WireError, undefined, `cut at ${length}`);
    }
  });
}

test("every encoder writes what its decoder was given", () => {
  const literal = (what: string) => payloads[what][1].replaceAll(" ", "");
  assertEquals(
    hex(encodeInfoRequest({ exportName: "é", types: [3, 0xffff, 3] })),
    literal("GO with types, one of them twice"),
  );
  assertEquals(
    hex(encodeMetaRequest({ exportName: "a", queries: ["base:", "", "x"] })),
    literal("a context request"),
  );
  assertEquals(hex(encodeListedName({ name: "a", description: "one" })), "00000001616f6e65");
  assertEquals(hex(encodeMetaContext({ id: 7, name: "x:y" })), "00000007783a79");
  const infos: Info[] = [
    { type: InfoType.EXPORT, sizeBytes: 2 ** 40 + 512, transmissionFlags: 0xffff },
    { type: InfoType.NAME, name: "ä" },
    { type: InfoType.DESCRIPTION, description: "" },
    { type: InfoType.BLOCK_SIZE, blockSizes: { minimum: 1, preferred: 65536, maximumPayload: 0xffffffff } },
  ];
  for (const info of infos) assertEquals(decodeInfo(encodeInfo(info)), info);
});

// --- Strings ---

test("decodeString() takes 4096 bytes and no more", () => {
  assertEquals(decodeString(new Uint8Array(4096).fill(0x61), "name"), "a".repeat(4096));
  assertThrows(
    () => decodeString(new Uint8Array(4097).fill(0x61), "name"),
    WireError,
    "name is 4097 bytes long",
  );
});

test("decodeString() refuses NUL and what is not UTF-8, and keeps a byte order mark", () => {
  assertThrows(() => decodeString(bytes("610062"), "query"), WireError, "query holds a NUL");
  for (const broken of ["ff", "c3", "c328", "eda080", "f8888080"]) {
    assertThrows(() => decodeString(bytes(broken), "query"), WireError, "query is not UTF-8");
  }
  assertEquals(decodeString(bytes("efbbbf61"), "query"), "\ufeffa");
});

test("a name or query with a wrong length inside is refused", () => {
  assertThrows(() => decodeInfoRequest(bytes("00000005 61 0000")), WireError, "ends early");
  assertThrows(() => decodeInfoRequest(bytes("ffffffff 61 0000")), WireError, "ends early");
  assertThrows(() => decodeMetaRequest(bytes("00000001 61 00000001 00000009 78")), WireError, "ends early");
  assertThrows(() => decodeMetaRequest(bytes("00000001 61 ffffffff 00000001 78")), WireError, "ends early");
  assertThrows(() => decodeListedName(bytes("00000002 61")), WireError, "ends early");
  assertThrows(
    () => decodeInfoRequest(bytes(`00001001 ${"61".repeat(4097)} 0000`)),
    WireError,
    "4097 bytes long",
  );
});

test("encodeText() cuts at 4096 bytes between characters", () => {
  assertEquals(encodeText("x".repeat(4096)).length, 4096);
  assertEquals(new TextDecoder().decode(encodeText("x" + "é".repeat(4000))), "x" + "é".repeat(2047));
});

// --- Information ---

test("decodeInfo() does not know other types, whatever they hold", () => {
  assertEquals(decodeInfo(bytes("0004")), null);
  assertEquals(decodeInfo(bytes("ffff 00ff00")), null);
});

test("decodeInfo() refuses block sizes that no export has", () => {
  const blockSizes = (minimum: number, preferred: number, maximumPayload: number) =>
    decodeInfo(encodeInfo({ type: InfoType.BLOCK_SIZE, blockSizes: { minimum, preferred, maximumPayload } }));
  for (
    const [sizes, message] of [
      [[0, 4096, 33554432], "minimum block size is 0"],
      [[3, 4096, 33554432], "minimum block size is 3"],
      [[131072, 131072, 33554432], "minimum block size is 131072"],
      [[512, 256, 33554432], "preferred block size is 256"],
      [[512, 0, 33554432], "preferred block size is 0"],
      [[512, 1000, 33554432], "preferred block size is 1000"],
      [[512, 4096, 2048], "maximum payload is 2048"],
    ] as const
  ) {
    assertThrows(() => blockSizes(sizes[0], sizes[1], sizes[2]), WireError, message);
  }
  for (const sizes of [[1, 1, 1], [65536, 65536, 65536], [1, 2 ** 31, 0xffffffff]] as const) {
    blockSizes(sizes[0], sizes[1], sizes[2]);
  }
});
