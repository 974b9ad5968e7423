import { assertEquals } from "@std/assert";
import * as constants from "../../../src/wire/nbd/constants.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name, permissions: "none", fn });
}

test("the 64-bit magics spell what the protocol says", () => {
  const text = (magic: bigint) =>
    String.fromCharCode(...magic.toString(16).match(/../g)!.map((pair) => parseInt(pair, 16)));
  assertEquals(text(constants.INIT_PASSWD), "NBDMAGIC");
  assertEquals(text(constants.OPTION_MAGIC), "IHAVEOPT");
});

test("every flag set is a run of single bits from bit 0", () => {
  const sets = [
    constants.HandshakeFlag,
    constants.ClientFlag,
    constants.TransmissionFlag,
    constants.CommandFlag,
    constants.ReplyFlag,
    constants.AllocationStatus,
  ];
  for (const flags of sets) {
    assertEquals(Object.values(flags), Object.values(flags).map((_, bit) => 1 << bit));
  }
});

test("every error reply has the error bit, and no other reply has it", () => {
  for (const [name, type] of Object.entries(constants.OptionReply)) {
    assertEquals(type >= constants.OPTION_ERROR_BIT, name.startsWith("ERR_"));
  }
});

test("the limits fit each other", () => {
  assertEquals(constants.PAYLOAD_BYTES_ADVERTISED, 2 ** 25);
  assertEquals(constants.PAYLOAD_BYTES_ADVERTISED <= constants.PAYLOAD_BYTES_MAX, true);
  assertEquals(constants.MAX_STRING_BYTES * 2 < constants.OPTION_PAYLOAD_BYTES_MAX, true);
  assertEquals(constants.OPTION_PAYLOAD_BYTES_MAX < constants.OPTION_DRAIN_BYTES_MAX, true);
  assertEquals(constants.ERROR_TEXT_BYTES_MAX <= constants.MAX_STRING_BYTES, true);
});

test("names are the protocol's, and a number where it has none", () => {
  assertEquals([constants.commandName(6), constants.commandName(42)], ["WRITE_ZEROES", "command 42"]);
  assertEquals([constants.optionName(7), constants.optionName(0x7654321)], ["GO", "option 124076833"]);
  assertEquals(
    [constants.optionReplyName(0x80000006), constants.optionReplyName(9)],
    ["ERR_UNKNOWN", "reply 9"],
  );
});
