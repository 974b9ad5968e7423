import { assertEquals, assertThrows } from "@std/assert";
import {
  decodeReplyHeader,
  decodeRequest,
  emptyReplyHeader,
  encodeChunkHeader,
  encodeRequest,
  encodeSimpleReply,
  EXTENDED_REQUEST_BYTES,
  replyHeaderBytes,
  type Request,
  REQUEST_BYTES,
  requestBytes,
  setUint64,
} from "../../../src/wire/nbd/transmission.ts";
import { Command, CommandFlag } from "../../../src/wire/nbd/constants.ts";
import { WireError } from "../../../src/wire/wire_error.ts";
import { bytes, hex, viewOf } from "../../testing/hex.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name, permissions: "none", fn });
}

const COMPACT_WRITE = "25609513 0001 0001 0123456789abcdef 0000000100000200 00001000";
const EXTENDED_TRIM = "21e41c71 0000 0004 fedcba9876543210 0000000000000200 0000000200000000";
const emptyRequest = (): Request => ({ flags: 0, type: 0, cookie: 0n, offset: 0, length: 0 });

test("decodeRequest() reads a compact request", () => {
  const request = emptyRequest();
  decodeRequest(viewOf(bytes(COMPACT_WRITE)), 0, false, request);
  assertEquals(request, {
    flags: CommandFlag.FUA,
    type: Command.WRITE,
    cookie: 0x0123456789abcdefn,
    offset: 0x100000200,
    length: 4096,
  });
});

test("decodeRequest() reads an extended request", () => {
  const request = emptyRequest();
  decodeRequest(viewOf(bytes(EXTENDED_TRIM)), 0, true, request);
  assertEquals(request, {
    flags: 0,
    type: Command.TRIM,
    cookie: 0xfedcba9876543210n,
    offset: 512,
    length: 0x200000000,
  });
});

test("decodeRequest() reads at an offset of a view that is itself at an offset", () => {
  const all = new Uint8Array(100).fill(0xee);
  all.set(bytes(COMPACT_WRITE), 30);
  const request = emptyRequest();
  decodeRequest(new DataView(all.buffer, 10), 20, false, request);
  assertEquals(request.cookie, 0x0123456789abcdefn);
  assertEquals(request.length, 4096);
});

test("decodeRequest() keeps unknown flags, unknown types and every cookie", () => {
  const request = emptyRequest();
  decodeRequest(
    viewOf(bytes("25609513 ffff ffff ffffffffffffffff 00000000000000ff ffffffff")),
    0,
    false,
    request,
  );
  assertEquals(request, {
    flags: 0xffff,
    type: 0xffff,
    cookie: 0xffffffffffffffffn,
    offset: 255,
    length: 0xffffffff,
  });
});

test("decodeRequest() rounds what no number holds to something no smaller than 2^53", () => {
  const request = emptyRequest();
  for (const value of ["0020000000000000", "7fffffffffffffff", "8000000000000000", "ffffffffffffffff"]) {
    decodeRequest(viewOf(bytes(`21e41c71 0000 0000 0000000000000000 ${value} ${value}`)), 0, true, request);
    assertEquals(request.offset, Number(BigInt("0x" + value)));
    assertEquals(request.length, Number(BigInt("0x" + value)));
    assertEquals(request.offset >= 2 ** 53, true);
  }
});

test("decodeRequest() refuses every magic but the one agreed", () => {
  const magics = [
    "25609513",
    "21e41c71",
    "67446698",
    "668e33ef",
    "12560953",
    "25609514",
    "00000000",
    "15609513",
  ];
  for (const extended of [false, true]) {
    const right = extended ? "21e41c71" : "25609513";
    for (const magic of magics.filter((magic) => magic !== right)) {
      const error = assertThrows(
        () => decodeRequest(viewOf(bytes(magic + "00".repeat(28))), 0, extended, emptyRequest()),
        WireError,
      );
      assertEquals(error.message, `request magic is 0x${magic}`);
    }
  }
});

test("encodeRequest() writes the literal bytes and says how many", () => {
  const room = new Uint8Array(40);
  const compact = encodeRequest(viewOf(room), 3, false, {
    flags: CommandFlag.FUA,
    type: Command.WRITE,
    cookie: 0x0123456789abcdefn,
    offset: 0x100000200,
    length: 4096,
  });
  assertEquals(compact, REQUEST_BYTES);
  assertEquals(hex(room), "000000" + COMPACT_WRITE.replaceAll(" ", "") + "00".repeat(9));
  room.fill(0);
  const extended = encodeRequest(viewOf(room), 0, true, {
    flags: 0,
    type: Command.TRIM,
    cookie: 0xfedcba9876543210n,
    offset: 512,
    length: 0x200000000,
  });
  assertEquals(extended, EXTENDED_REQUEST_BYTES);
  assertEquals(hex(room), EXTENDED_TRIM.replaceAll(" ", "") + "00".repeat(8));
});

test("a request survives encodeRequest() and decodeRequest(), whatever its fields", () => {
  const numbers = [0, 1, 511, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 32 + 1, 2 ** 52 + 1, 2 ** 53 - 1];
  for (const extended of [false, true]) {
    const view = new DataView(new ArrayBuffer(requestBytes(extended)));
    const decoded = emptyRequest();
    for (const offset of numbers) {
      for (const length of numbers.filter((length) => extended || length < 2 ** 32)) {
        const request = { flags: 0x2a, type: 7, cookie: BigInt(offset) * 3n, offset, length };
        encodeRequest(view, 0, extended, request);
        decodeRequest(view, 0, extended, decoded);
        assertEquals(decoded, request);
      }
    }
  }
});

test("setUint64() writes what a bigint would", () => {
  const view = new DataView(new ArrayBuffer(8));
  for (const value of [0, 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 40 + 12345, 2 ** 53 - 1]) {
    setUint64(view, 0, value);
    assertEquals(view.getBigUint64(0), BigInt(value));
  }
});

test("encodeSimpleReply() writes the literal bytes", () => {
  const room = new Uint8Array(20);
  assertEquals(encodeSimpleReply(viewOf(room), 2, 0x0123456789abcdefn, 28), 16);
  assertEquals(hex(room), "0000 67446698 0000001c 0123456789abcdef 0000".replaceAll(" ", ""));
});

test("encodeChunkHeader() writes the literal bytes, compact and extended", () => {
  const room = new Uint8Array(32);
  assertEquals(encodeChunkHeader(viewOf(room), 0, false, 1, 0x8001, 5n, 999, 6), 20);
  assertEquals(hex(room.subarray(0, 20)), "668e33ef 0001 8001 0000000000000005 00000006".replaceAll(" ", ""));
  assertEquals(encodeChunkHeader(viewOf(room), 0, true, 1, 6, 5n, 2 ** 32 + 1, 24), 32);
  assertEquals(
    hex(room),
    "6e8a278c 0001 0006 0000000000000005 0000000100000001 0000000000000018".replaceAll(" ", ""),
  );
});

test("replyHeaderBytes() knows each agreed form and refuses the others", () => {
  const forms = { simple: "67446698", structured: "668e33ef", extended: "6e8a278c" };
  const cases: { structured: boolean; extended: boolean; sizes: Record<string, number> }[] = [
    { structured: false, extended: false, sizes: { simple: 16 } },
    { structured: true, extended: false, sizes: { simple: 16, structured: 20 } },
    { structured: false, extended: true, sizes: { extended: 32 } },
    { structured: true, extended: true, sizes: { extended: 32 } },
  ];
  for (const { sizes, ...agreed } of cases) {
    for (const [form, magic] of Object.entries(forms)) {
      const size = sizes[form];
      const ask = () => replyHeaderBytes(viewOf(bytes(magic)), 0, agreed);
      if (!(form in sizes)) assertThrows(ask, WireError, `reply magic is 0x${magic}`);
      else assertEquals(ask(), size);
    }
  }
  assertThrows(
    () => replyHeaderBytes(viewOf(bytes("96744668")), 0, { structured: true, extended: false }),
    WireError,
  );
});

test("decodeReplyHeader() reads all three forms and leaves nothing of the one before", () => {
  const into = emptyReplyHeader();
  const extended = "6e8a278c 0001 0006 0000000000000005 0000000100000001 0000000000000018";
  const structured = "668e33ef 0001 8001 0000000000000006 00000006";
  const simple = "67446698 00000005 0000000000000007";
  decodeReplyHeader(viewOf(bytes(extended)), 0, into);
  assertEquals(into, {
    form: "extended",
    cookie: 5n,
    error: 0,
    flags: 1,
    type: 6,
    requestOffset: 2 ** 32 + 1,
    payloadBytes: 24,
  });
  decodeReplyHeader(viewOf(bytes(structured)), 0, into);
  assertEquals(into, {
    ...emptyReplyHeader(),
    form: "structured",
    cookie: 6n,
    flags: 1,
    type: 0x8001,
    payloadBytes: 6,
  });
  decodeReplyHeader(viewOf(bytes(extended)), 0, into);
  decodeReplyHeader(viewOf(bytes(simple)), 0, into);
  assertEquals(into, { ...emptyReplyHeader(), cookie: 7n, error: 5 });
  decodeReplyHeader(viewOf(bytes(structured)), 0, into);
  assertEquals(into.error, 0);
});

test("decodeReplyHeader() refuses a wrong magic", () => {
  assertThrows(
    () => decodeReplyHeader(viewOf(bytes("25609513" + "00".repeat(28))), 0, emptyReplyHeader()),
    WireError,
    "reply magic is 0x25609513",
  );
});
