/** STARTTLS at the server, in the modes of the specification (NOTLS, SELECTIVETLS without exceptions, FORCEDTLS). */
import { assertEquals, assertThrows } from "@std/assert";
import {
  greetNewstyle,
  resumeNewstyle,
  type ServerHall,
  type StartTls,
} from "../../../src/wire/nbd/handshake_server.ts";
import { WireError } from "../../../src/wire/wire_error.ts";
import { carry } from "../../testing/carry.ts";
import { u32 } from "../../testing/hex.ts";
import { anOffer, hallOf } from "../../testing/nbd_hall.ts";

const EXPORT_NAME = 1, ABORT = 2, LIST = 3, STARTTLS = 5, INFO = 6, GO = 7;
const STRUCTURED_REPLY = 8, LIST_META = 9, SET_META = 10, EXTENDED_HEADERS = 11;
const ACK = 1, SERVER = 2, POLICY = 0x80000002, INVALID = 0x80000003, TLS_REQD = 0x80000005;
const GREETING_BYTES = 18;

const option = (number: number, data = "") => "49484156454f5054" + u32(number) + u32(data.length / 2) + data;
const script = (...options: string[]) => Uint8Array.fromHex("00000003" + options.join(""));
const later = (...options: string[]) => Uint8Array.fromHex(options.join(""));
const hall = (tls: ServerHall["tls"], changes: Partial<ServerHall> = {}) =>
  hallOf([anOffer()], { ...changes, tls });
const structuredContext = "0000000000000001" + u32(15) + "626173653a616c6c6f636174696f6e";

/** Types of replies, in order. */
function replyTypes(sent: Uint8Array, from = GREETING_BYTES): number[] {
  const view = new DataView(sent.buffer, sent.byteOffset);
  const types: number[] = [];
  for (let at = from; at < sent.length; at += 20 + view.getUint32(at + 16)) {
    types.push(view.getUint32(at + 12));
  }
  return types;
}

function test(name: string, fn: () => void): void {
  Deno.test({ name, permissions: "none", fn });
}

test("where TLS is required, every option but STARTTLS and ABORT is answered with TLS_REQD", () => {
  const numbers = [LIST, INFO, GO, STRUCTURED_REPLY, LIST_META, SET_META, EXTENDED_HEADERS, 99];
  const heard: string[] = [];
  const closed = hall("required", { refused: (name) => void heard.push(name) });
  const { result, sent } = carry(
    greetNewstyle(closed),
    script(...numbers.map((n) => option(n)), option(ABORT)),
  );
  assertEquals(replyTypes(sent), [...numbers.map(() => TLS_REQD), ACK]);
  assertEquals([result, heard.length], [null, numbers.length]);
});

test("where TLS is required, EXPORT_NAME and old clients are shown the door", () => {
  const name = option(EXPORT_NAME, "6469736b");
  for (const flags of ["00000003", "00000001", "00000000"]) {
    const bytes = Uint8Array.fromHex(flags + name);
    assertThrows(() => carry(greetNewstyle(hall("required")), bytes), WireError, "TLS, which is required");
  }
});

test("where TLS is offered, other options work without it", () => {
  const { sent } = carry(greetNewstyle(hall("offered")), script(option(LIST), option(ABORT)));
  assertEquals(replyTypes(sent), [SERVER, ACK, ACK]);
});

for (const tls of ["offered", "required"] as const) {
  test(`STARTTLS is granted where TLS is ${tls}, and what arrived behind it is left to the carrier`, () => {
    const behind = option(LIST);
    const { result, sent, rest } = carry(greetNewstyle(hall(tls)), script(option(STARTTLS), behind));
    assertEquals(result, { startTls: true, clientFlags: 3 });
    assertEquals(replyTypes(sent), [ACK]);
    assertEquals(rest.toHex(), behind);
  });

  test(`STARTTLS with data is refused where TLS is ${tls}, and may be asked for again`, () => {
    const { result, sent } = carry(
      greetNewstyle(hall(tls)),
      script(option(STARTTLS, "00"), option(STARTTLS)),
    );
    assertEquals([(result as StartTls).startTls, replyTypes(sent)], [true, [INVALID, ACK]]);
  });
}

test("where TLS is off, STARTTLS is refused by policy", () => {
  const { sent } = carry(greetNewstyle(hall("off")), script(option(STARTTLS), option(ABORT)));
  assertEquals(replyTypes(sent), [POLICY, ACK]);
});

test("inside TLS, STARTTLS is invalid and everything else works", () => {
  const start: StartTls = { startTls: true, clientFlags: 3 };
  const { sent } = carry(
    resumeNewstyle(hall("required"), start),
    later(option(STARTTLS), option(LIST), option(STRUCTURED_REPLY), option(ABORT)),
  );
  assertEquals(replyTypes(sent, 0), [INVALID, SERVER, ACK, ACK, ACK]);
});

test("what was agreed before TLS is forgotten", () => {
  const before = carry(greetNewstyle(hall("offered")), script(option(STRUCTURED_REPLY), option(STARTTLS)));
  assertEquals(replyTypes(before.sent), [ACK, ACK]);
  const { sent } = carry(
    resumeNewstyle(hall("offered"), before.result as StartTls),
    later(option(SET_META, structuredContext), option(STRUCTURED_REPLY), option(ABORT)),
  );
  assertEquals(replyTypes(sent, 0), [INVALID, ACK, ACK]);
});
