import { assertEquals, assertThrows } from "@std/assert";
import { decodeFacts, encodeFacts } from "../../../src/wire/nbd/denbd_context.ts";
import { WireError } from "../../../src/wire/wire_error.ts";

const INSTANCE = "8a6e2940-694d-401a-b032-b59b4f516c8a";
const UUID = "e58719c6-5998-4eff-82ce-2fd304be9551";

function test(name: string, fn: () => void): void {
  Deno.test({ name, permissions: "none", fn });
}

test("encodeFacts() names the contexts literally", () => {
  assertEquals(encodeFacts({ instance: INSTANCE, identity: { uuid: UUID, generation: 7 } }), [
    `x-denbd:instance=${INSTANCE}`,
    `x-denbd:identity=${UUID}.7`,
  ]);
  assertEquals(encodeFacts({}), []);
});

test("decodeFacts() finds the facts among other contexts, and passes over what it does not know", () => {
  const facts = { instance: INSTANCE, identity: { uuid: UUID, generation: 2 ** 53 - 1 } };
  assertEquals(decodeFacts(["base:allocation", ...encodeFacts(facts), "x-denbd:moon=full"]), facts);
  assertEquals(decodeFacts(["base:allocation", "x-denbd:"]), { instance: undefined, identity: undefined });
});

test("decodeFacts() refuses what is malformed or told twice", () => {
  const wrong = [
    [`x-denbd:instance=${INSTANCE.toUpperCase()}`],
    ["x-denbd:instance="],
    [`x-denbd:instance=${INSTANCE}\n`],
    [`x-denbd:instance=${INSTANCE}`, `x-denbd:instance=${INSTANCE}`],
    [`x-denbd:identity=${UUID}`],
    [`x-denbd:identity=${UUID}.0`],
    [`x-denbd:identity=${UUID}.-1`],
    [`x-denbd:identity=${UUID}.9007199254740992`],
    [`x-denbd:identity=${UUID}.1`, `x-denbd:identity=${UUID}.1`],
  ];
  for (const names of wrong) assertThrows(() => decodeFacts(names), WireError);
});
