import { assertEquals, assertThrows } from "@std/assert";
import {
  decodeClientFlags,
  decodeExportNameReply,
  decodeHandshakeFlags,
  decodeHelloRest,
  decodeStyle,
  encodeClientFlags,
  encodeExportNameReply,
  encodeGreeting,
  encodeHello,
  HELLO_BYTES,
  STYLE_BYTES,
} from "../../../src/wire/nbd/greeting.ts";
import { TransmissionFlag } from "../../../src/wire/nbd/constants.ts";
import { greetOldstyle } from "../../../src/wire/nbd/handshake_server.ts";
import { negotiateClient } from "../../../src/wire/nbd/handshake_client.ts";
import { WireError } from "../../../src/wire/wire_error.ts";
import { carry } from "../../testing/carry.ts";
import { anOffer } from "../../testing/nbd_hall.ts";
import { bytes, hex } from "../../testing/hex.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name, permissions: "none", fn });
}

/** The whole hello of a flexnbd server with a disk of 64 MiB: has flags, FLUSH, FUA. */
const FLEXNBD_HELLO = bytes(
  `4e42444d41474943 0000420281861253 0000000004000000 0000000d ${"00".repeat(124)}`,
);
const FLEXNBD_FLAGS = TransmissionFlag.HAS_FLAGS | TransmissionFlag.SEND_FLUSH | TransmissionFlag.SEND_FUA;

test("encodeHello() writes exactly flexnbd's 152 bytes", () => {
  assertEquals(FLEXNBD_HELLO.length, HELLO_BYTES);
  assertEquals(
    hex(encodeHello({ sizeBytes: 1 << 26, transmissionFlags: FLEXNBD_FLAGS })),
    hex(FLEXNBD_HELLO),
  );
});

test("greetOldstyle() says exactly flexnbd's 152 bytes for an export with its abilities, and asks nothing", () => {
  const { result, sent } = carry(
    greetOldstyle(anOffer({ transmissionFlags: FLEXNBD_FLAGS })),
    new Uint8Array(0),
  );
  assertEquals(hex(sent), hex(FLEXNBD_HELLO));
  assertEquals([result.style, result.structured, result.extended, result.contexts], [
    "oldstyle",
    false,
    false,
    [],
  ]);
});

test("negotiateClient() takes flexnbd's hello and says nothing", () => {
  const { result, sent, rest } = carry(negotiateClient({ exportName: "", contexts: [] }), FLEXNBD_HELLO);
  assertEquals([result.style, result.sizeBytes, result.transmissionFlags], [
    "oldstyle",
    1 << 26,
    FLEXNBD_FLAGS,
  ]);
  assertEquals([sent.length, rest.length], [0, 0]);
});

test("decodeHelloRest() ignores the upper flags and what stands in the padding", () => {
  const hello = FLEXNBD_HELLO.slice(STYLE_BYTES);
  hello.set([0xff, 0xff], 8);
  hello.fill(0xff, 12);
  assertEquals(decodeHelloRest(hello), { sizeBytes: 1 << 26, transmissionFlags: FLEXNBD_FLAGS });
});

test("a size is accepted up to 2^53 - 1 and refused beyond", () => {
  const hello = (size: string) => bytes(`${size} 0000000d ${"00".repeat(124)}`);
  assertEquals(decodeHelloRest(hello("001fffffffffffff")).sizeBytes, Number.MAX_SAFE_INTEGER);
  for (const size of ["0020000000000000", "8000000000000000", "ffffffffffffffff"]) {
    assertThrows(
      () => decodeHelloRest(hello(size)),
      WireError,
      `export size is ${BigInt("0x" + size)} bytes`,
    );
    assertThrows(() => decodeExportNameReply(bytes(`${size} 0000`)), WireError, "export size is");
  }
});

test("encodeGreeting() writes 18 bytes", () => {
  assertEquals(hex(encodeGreeting(3)), "4e42444d41474943" + "49484156454f5054" + "0003");
  assertEquals(decodeHandshakeFlags(bytes("fffe")), 0xfffe);
});

test("decodeStyle() tells the styles apart and refuses strangers", () => {
  assertEquals(decodeStyle(bytes("4e42444d41474943 49484156454f5054")), "newstyle");
  assertEquals(decodeStyle(FLEXNBD_HELLO.subarray(0, STYLE_BYTES)), "oldstyle");
  const ssh = new TextEncoder().encode("SSH-2.0-OpenSSH_");
  assertThrows(() => decodeStyle(ssh), WireError, "not an NBD server: it begins with 0x5353482d322e302d");
  assertThrows(
    () => decodeStyle(bytes("4e42444d41474943 0000420281861254")),
    WireError,
    "0x0000420281861254",
  );
});

test("decodeClientFlags() accepts any echo of what was offered", () => {
  for (const flags of [0, 1, 2, 3]) assertEquals(decodeClientFlags(encodeClientFlags(flags), 3), flags);
  assertEquals(hex(encodeClientFlags(3)), "00000003");
});

test("decodeClientFlags() refuses every bit that was not offered", () => {
  assertThrows(
    () => decodeClientFlags(bytes("00000002"), 1),
    WireError,
    "client flags are 0x2, offered were 0x1",
  );
  for (let bit = 2; bit < 32; bit++) {
    assertThrows(
      () => decodeClientFlags(encodeClientFlags(2 ** bit + 1), 3),
      WireError,
      "client flags are 0x",
    );
  }
});

test("the answer to EXPORT_NAME has 10 bytes, or 134 when padded", () => {
  const summary = { sizeBytes: 1 << 26, transmissionFlags: 0x0d };
  assertEquals(hex(encodeExportNameReply(summary, false)), "0000000004000000" + "000d");
  assertEquals(hex(encodeExportNameReply(summary, true)), "0000000004000000" + "000d" + "00".repeat(124));
  assertEquals(decodeExportNameReply(bytes("0000000004000000 000d")), summary);
});
