import { assertEquals, assertThrows } from "@std/assert";
import {
  blockStatusChunkBytes,
  checkChunk,
  type ChunkRequest,
  dataChunkOverhead,
  decodeBlockStatusPayload,
  decodeDataOffset,
  decodeErrorPayload,
  decodeHolePayload,
  decodeStatusQuery,
  encodeBlockStatus,
  encodeDataChunkHeader,
  encodeErrorChunk,
  encodeHoleChunk,
  encodeNoneChunk,
  errorChunkBytesMax,
  holeChunkBytes,
} from "../../../src/wire/nbd/chunk.ts";
import { ChunkType, Command, CommandFlag, ReplyFlag } from "../../../src/wire/nbd/constants.ts";
import { decodeReplyHeader, type ReplyHeader } from "../../../src/wire/nbd/transmission.ts";
import { WireError } from "../../../src/wire/wire_error.ts";
import { bytes, hex, viewOf } from "../../testing/hex.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name, permissions: "none", fn });
}

const COOKIE = 0x0123456789abcdefn;
const STRUCTURED = "668e33ef";
const EXTENDED = "6e8a278c";
const ASKED = 0x100000000; // the request's offset
const readRequest: ChunkRequest = { type: Command.READ, flags: 0, offset: ASKED, length: 4096 };
const statusRequest: ChunkRequest = { type: Command.BLOCK_STATUS, flags: 0, offset: ASKED, length: 4096 };

/** What an encoder writes into 1 KiB at offset 3, with its result checked against the length. */
function written(encode: (view: DataView, at: number) => number, expected: string): void {
  const room = new Uint8Array(1024).fill(0xee);
  const digits = expected.replace(/\s+/g, "");
  assertEquals(encode(viewOf(room), 3), digits.length / 2);
  assertEquals(hex(room.subarray(0, 3 + digits.length / 2)), "eeeeee" + digits);
}

function header(changes: Partial<ReplyHeader>): ReplyHeader {
  const base = { form: "structured", cookie: COOKIE, error: 0, flags: 0, type: 0, payloadBytes: 0 } as const;
  return { ...base, requestOffset: changes.form === "extended" ? ASKED : 0, ...changes };
}

// --- Literal bytes ---

test("encodeNoneChunk() writes an empty last chunk", () => {
  written(
    (v, at) => encodeNoneChunk(v, at, false, COOKIE, ASKED),
    `${STRUCTURED} 0001 0000 0123456789abcdef 00000000`,
  );
  written(
    (v, at) => encodeNoneChunk(v, at, true, COOKIE, ASKED),
    `${EXTENDED} 0001 0000 0123456789abcdef 0000000100000000 0000000000000000`,
  );
});

test("encodeDataChunkHeader() writes all but the data", () => {
  written(
    (v, at) => encodeDataChunkHeader(v, at, false, 0, COOKIE, ASKED, ASKED + 512, 1024),
    `${STRUCTURED} 0000 0001 0123456789abcdef 00000408 0000000100000200`,
  );
  written(
    (v, at) => encodeDataChunkHeader(v, at, true, ReplyFlag.DONE, COOKIE, ASKED, ASKED + 512, 1024),
    `${EXTENDED} 0001 0001 0123456789abcdef 0000000100000000 0000000000000408 0000000100000200`,
  );
  assertEquals([dataChunkOverhead(false), dataChunkOverhead(true)], [28, 40]);
});

test("encodeHoleChunk() writes offset and length", () => {
  written(
    (v, at) => encodeHoleChunk(v, at, false, ReplyFlag.DONE, COOKIE, ASKED, ASKED + 512, 1024),
    `${STRUCTURED} 0001 0002 0123456789abcdef 0000000c 0000000100000200 00000400`,
  );
  written(
    (v, at) => encodeHoleChunk(v, at, true, 0, COOKIE, ASKED, ASKED + 512, 1024),
    `${EXTENDED} 0000 0002 0123456789abcdef 0000000100000000 000000000000000c 0000000100000200 00000400`,
  );
  assertEquals([holeChunkBytes(false), holeChunkBytes(true)], [32, 44]);
});

test("encodeErrorChunk() writes error, text length and text", () => {
  written(
    (v, at) => encodeErrorChunk(v, at, false, ReplyFlag.DONE, COOKIE, ASKED, 22, "no"),
    `${STRUCTURED} 0001 8001 0123456789abcdef 00000008 00000016 0002 6e6f`,
  );
  written(
    (v, at) => encodeErrorChunk(v, at, true, ReplyFlag.DONE, COOKIE, ASKED, 5, ""),
    `${EXTENDED} 0001 8001 0123456789abcdef 0000000100000000 0000000000000006 00000005 0000`,
  );
});

test("encodeBlockStatus() writes 32-bit extents, and 64-bit ones with their count when extended", () => {
  const extents = [{ length: 512, status: 3 }, { length: 3584, status: 0 }];
  written(
    (v, at) => encodeBlockStatus(v, at, false, ReplyFlag.DONE, COOKIE, ASKED, 9, extents),
    `${STRUCTURED} 0001 0005 0123456789abcdef 00000014 00000009 00000200 00000003 00000e00 00000000`,
  );
  written(
    (v, at) =>
      encodeBlockStatus(v, at, true, 0, COOKIE, ASKED, 9, [{ length: 2 ** 33, status: 2 ** 32 + 1 }]),
    `${EXTENDED} 0000 0006 0123456789abcdef 0000000100000000 0000000000000018
     00000009 00000001 0000000200000000 0000000100000001`,
  );
  assertEquals([blockStatusChunkBytes(false, 2), blockStatusChunkBytes(true, 1)], [40, 56]);
});

test("error texts are cut between characters, and never outgrow errorChunkBytesMax()", () => {
  for (const extended of [false, true]) {
    for (const text of ["é".repeat(300), "x" + "é".repeat(300), "👍".repeat(100), "x".repeat(9999)]) {
      const room = new Uint8Array(errorChunkBytesMax(extended));
      const byteCount = encodeErrorChunk(viewOf(room), 0, extended, 1, 1n, ASKED, 5, text);
      assertEquals(byteCount <= room.length, true);
      const read = header({});
      decodeReplyHeader(viewOf(room), 0, read);
      const at = extended ? 32 : 20;
      assertEquals(read.payloadBytes, byteCount - at);
      const decoded = decodeErrorPayload(viewOf(room), at, read.type, read.payloadBytes, readRequest);
      assertEquals(text.startsWith(decoded.text), true);
      assertEquals(decoded.text.length > 0, true);
    }
  }
});

// --- The payload of BLOCK_STATUS ---

test("decodeStatusQuery() reads a length and the contexts asked for", () => {
  const payload = bytes("0000000200000000 00000002 00000001");
  assertEquals(decodeStatusQuery(viewOf(payload), 0, 16, [1, 2, 3]), { length: 2 ** 33, contextIds: [2, 1] });
  const shifted = bytes("eeee 0000000000000200 00000003 ffff");
  assertEquals(decodeStatusQuery(viewOf(shifted), 2, 12, [1, 2, 3]), { length: 512, contextIds: [3] });
});

test("decodeStatusQuery() refuses unknown and repeated contexts, none at all, and every wrong length", () => {
  const length = "0000000000000200";
  assertEquals(decodeStatusQuery(viewOf(bytes(`${length} 00000004`)), 0, 12, [1, 2]), null);
  assertEquals(decodeStatusQuery(viewOf(bytes(`${length} 00000001 00000001`)), 0, 16, [1, 2]), null);
  assertEquals(decodeStatusQuery(viewOf(bytes(`${length} 00000001`)), 0, 12, []), null);
  const long = viewOf(bytes(`${length} 00000001 00000002 00000003`));
  for (let byteCount = 0; byteCount <= 20; byteCount++) {
    const expected = byteCount === 12 || byteCount === 16;
    assertEquals(decodeStatusQuery(long, 0, byteCount, [1, 2]) !== null, expected, `${byteCount} bytes`);
  }
});

// --- What a client accepts ---

test("checkChunk() accepts what the request can justify, at both ends of each range", () => {
  const zero: ChunkRequest = { type: Command.WRITE, flags: 0, offset: ASKED, length: 4096 };
  const one = { ...statusRequest, flags: CommandFlag.REQ_ONE };
  const cases: [Partial<ReplyHeader>, ChunkRequest][] = [
    [{ type: ChunkType.NONE, flags: ReplyFlag.DONE }, zero],
    [{ type: ChunkType.OFFSET_DATA, payloadBytes: 9 }, readRequest],
    [{ type: ChunkType.OFFSET_DATA, payloadBytes: 8 + 4096 }, readRequest],
    [{ type: ChunkType.OFFSET_DATA, payloadBytes: 8 + 4096, form: "extended" }, readRequest],
    [{ type: ChunkType.OFFSET_HOLE, payloadBytes: 12 }, readRequest],
    [{ type: ChunkType.BLOCK_STATUS, payloadBytes: 12 }, one],
    [{ type: ChunkType.BLOCK_STATUS, payloadBytes: 4 + 8 * 4096 }, statusRequest],
    [{ type: ChunkType.BLOCK_STATUS, payloadBytes: 4 + 8 * 2 ** 20 }, { ...statusRequest, length: 2 ** 40 }],
    [{ type: ChunkType.BLOCK_STATUS_EXT, payloadBytes: 24, form: "extended" }, one],
    [{ type: ChunkType.BLOCK_STATUS_EXT, payloadBytes: 8 + 16 * 4096, form: "extended" }, statusRequest],
    [{ type: ChunkType.ERROR, payloadBytes: 6 }, zero],
    [{ type: ChunkType.ERROR, payloadBytes: 6 + 4096 }, zero],
    [{ type: ChunkType.ERROR_OFFSET, payloadBytes: 14 }, zero],
    [{ type: ChunkType.ERROR_OFFSET, payloadBytes: 14 + 4096 }, zero],
    [{ type: 0xffff, payloadBytes: 6 }, zero],
    [{ type: 0x8003, payloadBytes: 65536 }, zero],
  ];
  for (const [changes, request] of cases) checkChunk(header(changes), request);
});

test("checkChunk() refuses lengths that the request cannot justify", () => {
  const one = { ...statusRequest, flags: CommandFlag.REQ_ONE };
  const cases: [Partial<ReplyHeader>, ChunkRequest, string][] = [
    [{ type: ChunkType.NONE, flags: ReplyFlag.DONE, payloadBytes: 1 }, readRequest, "payload of 1 bytes"],
    [{ type: ChunkType.OFFSET_DATA, payloadBytes: 8 }, readRequest, "payload of 8 bytes, not 9 to 4104"],
    [{ type: ChunkType.OFFSET_DATA, payloadBytes: 4105 }, readRequest, "payload of 4105 bytes"],
    [{ type: ChunkType.OFFSET_DATA, payloadBytes: 0xffffffff }, readRequest, "payload of 4294967295 bytes"],
    [{ type: ChunkType.OFFSET_HOLE, payloadBytes: 11 }, readRequest, "payload of 11 bytes"],
    [{ type: ChunkType.OFFSET_HOLE, payloadBytes: 13 }, readRequest, "payload of 13 bytes"],
    [{ type: ChunkType.BLOCK_STATUS, payloadBytes: 11 }, statusRequest, "payload of 11 bytes"],
    [{ type: ChunkType.BLOCK_STATUS, payloadBytes: 20 }, one, "payload of 20 bytes"],
    [{ type: ChunkType.BLOCK_STATUS, payloadBytes: 4 + 8 * 4097 }, statusRequest, "payload of 32780 bytes"],
    [
      { type: ChunkType.BLOCK_STATUS, payloadBytes: 12 + 8 * 2 ** 20 },
      { ...statusRequest, length: 2 ** 40 },
      "payload of 8388620 bytes",
    ],
    [
      { type: ChunkType.BLOCK_STATUS_EXT, payloadBytes: 23, form: "extended" },
      statusRequest,
      "payload of 23 bytes",
    ],
    [
      { type: ChunkType.BLOCK_STATUS_EXT, payloadBytes: 2 ** 63, form: "extended" },
      statusRequest,
      "payload of 9223372036854776000 bytes",
    ],
    [{ type: ChunkType.ERROR, payloadBytes: 5 }, readRequest, "payload of 5 bytes"],
    [{ type: ChunkType.ERROR, payloadBytes: 6 + 4097 }, readRequest, "payload of 4103 bytes"],
    [{ type: ChunkType.ERROR_OFFSET, payloadBytes: 13 }, readRequest, "payload of 13 bytes"],
    [{ type: 0x8003, payloadBytes: 5 }, readRequest, "payload of 5 bytes"],
    [{ type: 0x8003, payloadBytes: 65537 }, readRequest, "payload of 65537 bytes"],
  ];
  for (const [changes, request, message] of cases) {
    assertThrows(() => checkChunk(header(changes), request), WireError, message);
  }
});

test("checkChunk() refuses chunks that cannot answer the command, or are of the other form", () => {
  const cases: [Partial<ReplyHeader>, ChunkRequest, string][] = [
    [{ type: ChunkType.NONE }, readRequest, "without the DONE flag"],
    [{ type: ChunkType.OFFSET_DATA, payloadBytes: 520 }, statusRequest, "in reply to BLOCK_STATUS"],
    [{ type: ChunkType.OFFSET_HOLE, payloadBytes: 12 }, statusRequest, "in reply to BLOCK_STATUS"],
    [{ type: ChunkType.BLOCK_STATUS, payloadBytes: 12 }, readRequest, "in reply to READ"],
    [
      { type: ChunkType.BLOCK_STATUS_EXT, payloadBytes: 24, form: "extended" },
      readRequest,
      "in reply to READ",
    ],
    [{ type: ChunkType.BLOCK_STATUS, payloadBytes: 12, form: "extended" }, statusRequest, "in extended mode"],
    [{ type: ChunkType.BLOCK_STATUS_EXT, payloadBytes: 24 }, statusRequest, "in compact mode"],
    [{ type: 3, payloadBytes: 6 }, readRequest, "unknown chunk type 3"],
    [{ type: 0x7fff, payloadBytes: 6 }, readRequest, "unknown chunk type 32767"],
    [
      { type: ChunkType.ERROR, payloadBytes: 6, form: "extended", requestOffset: 1 },
      readRequest,
      "repeats offset 1",
    ],
  ];
  for (const [changes, request, message] of cases) {
    assertThrows(() => checkChunk(header(changes), request), WireError, message);
  }
});

test("decodeDataOffset() accepts data inside the request and no other", () => {
  const offset = (at: number) => {
    const view = new DataView(new ArrayBuffer(8));
    view.setBigUint64(0, BigInt(at));
    return view;
  };
  const decode = (at: number, dataBytes: number) =>
    decodeDataOffset(offset(at), 0, 8 + dataBytes, readRequest);
  assertEquals(decode(ASKED, 4096), ASKED);
  assertEquals(decode(ASKED + 4095, 1), ASKED + 4095);
  for (
    const [at, dataBytes] of [[ASKED - 1, 1], [ASKED + 1, 4096], [ASKED + 4096, 1], [0, 1], [2 ** 53, 1]]
  ) {
    assertThrows(() => decode(at, dataBytes), WireError, `data of ${dataBytes} bytes at ${at} outside`);
  }
  assertThrows(() => decodeDataOffset(viewOf(bytes("ffffffffffffffff")), 0, 9, readRequest), WireError);
});

test("decodeHolePayload() accepts a hole inside the request and no other", () => {
  const decode = (payload: string) => decodeHolePayload(viewOf(bytes(payload)), 0, readRequest);
  assertEquals(decode("0000000100000000 00001000"), { offset: ASKED, length: 4096 });
  assertEquals(decode("0000000100000fff 00000001"), { offset: ASKED + 4095, length: 1 });
  assertThrows(() => decode("0000000100000000 00000000"), WireError, "hole of 0 bytes");
  assertThrows(() => decode("0000000100000001 00001000"), WireError, "outside");
  assertThrows(() => decode("0000000000000000 00001000"), WireError, "outside");
  assertThrows(() => decode("0000000100000000 ffffffff"), WireError, "outside");
});

test("decodeErrorPayload() reads error, text and offset", () => {
  const decode = (type: number, payload: string) => {
    const all = bytes("ee" + payload);
    return decodeErrorPayload(viewOf(all), 1, type, all.length - 1, readRequest);
  };
  assertEquals(decode(ChunkType.ERROR, "00000016 0002 6e6f"), { error: 22, text: "no" });
  assertEquals(decode(ChunkType.ERROR, "00000016 0000"), { error: 22, text: "" });
  assertEquals(decode(ChunkType.ERROR, "00000016 0001 ff"), { error: 22, text: "\ufffd" });
  assertEquals(decode(ChunkType.ERROR_OFFSET, "00000005 0001 78 0000000100000200"), {
    error: 5,
    text: "x",
    offset: ASKED + 512,
  });
  assertEquals(decode(0x8042, "00000005 0001 78 0123456789"), { error: 5, text: "x" });
});

test("decodeErrorPayload() refuses error 0, texts of the wrong length, and offsets outside", () => {
  const decode = (type: number, payload: string) => {
    const all = bytes(payload);
    return decodeErrorPayload(viewOf(all), 0, type, all.length, readRequest);
  };
  assertThrows(() => decode(ChunkType.ERROR, "00000000 0000"), WireError, "error 0");
  assertThrows(() => decode(ChunkType.ERROR, "00000005 0001"), WireError, "text of 1 bytes");
  assertThrows(() => decode(ChunkType.ERROR, "00000005 ffff 00"), WireError, "text of 65535 bytes");
  assertThrows(() => decode(ChunkType.ERROR, "00000005 0000 00"), WireError, "text of 0 bytes");
  assertThrows(() => decode(0x8042, "00000005 0001"), WireError, "text of 1 bytes");
  const offset = "0000000100000000";
  assertThrows(() => decode(ChunkType.ERROR_OFFSET, `00000005 0001 ${offset}`), WireError, "text of 1 bytes");
  assertThrows(
    () => decode(ChunkType.ERROR_OFFSET, `00000005 0000 00 ${offset}`),
    WireError,
    "text of 0 bytes",
  );
  assertThrows(() => decode(ChunkType.ERROR_OFFSET, "00000005 0000 0000000000000000"), WireError, "outside");
});

test("decodeBlockStatusPayload() reads both forms; the last extent may run past the request", () => {
  const compact = bytes("00000009 00000200 00000003 00001000 00000000");
  assertEquals(decodeBlockStatusPayload(viewOf(compact), 0, false, 20, statusRequest), {
    contextId: 9,
    extents: [{ length: 512, status: 3 }, { length: 4096, status: 0 }],
  });
  const extended = bytes("ee 00000009 00000001 0000000200000000 0000000100000001");
  assertEquals(decodeBlockStatusPayload(viewOf(extended), 1, true, 24, statusRequest), {
    contextId: 9,
    extents: [{ length: 2 ** 33, status: 2 ** 32 + 1 }],
  });
});

test("decodeBlockStatusPayload() refuses broken extents", () => {
  const decode = (extended: boolean, payload: string) => {
    const all = bytes(payload);
    return decodeBlockStatusPayload(viewOf(all), 0, extended, all.length, statusRequest);
  };
  assertThrows(() => decode(false, "00000009 00000200 00000003 00"), WireError, "no whole number");
  assertThrows(() => decode(true, `00000009 00000001 ${"00".repeat(20)}`), WireError, "no whole number");
  assertThrows(() => decode(false, "00000009 00000000 00000003"), WireError, "extent of 0 bytes");
  assertThrows(
    () => decode(true, `00000009 00000002 ${"00".repeat(16)}`),
    WireError,
    "counts 2 extents and has 1",
  );
  assertThrows(
    () => decode(true, `00000009 00000000 ${"00".repeat(16)}`),
    WireError,
    "counts 0 extents and has 1",
  );
  assertThrows(
    () => decode(false, "00000009 00001000 00000003 00000200 00000000"),
    WireError,
    "begins 4096 bytes into a request of 4096",
  );
});
