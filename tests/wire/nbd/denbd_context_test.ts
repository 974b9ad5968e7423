import { assertEquals, assertThrows } from "@std/assert";
import {
  decodeFacts,
  decodeSession,
  encodeFacts,
  encodeSession,
} from "../../../src/wire/nbd/denbd_context.ts";
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
  assertEquals(encodeFacts({ session: { id: UUID, generation: 3 }, reservation: INSTANCE }), [
    `x-denbd:session=1.${UUID}.3`,
    `x-denbd:reservation=${INSTANCE}`,
  ]);
  assertEquals(encodeFacts({ leaseMs: 60_000 }), ["x-denbd:lease=60000"]);
  assertEquals(encodeFacts({ othersWrite: true }), ["x-denbd:writers=others"]);
  assertEquals(encodeFacts({}), []);
});

test("decodeSession() takes what encodeSession() makes, and no other version", () => {
  const session = { id: UUID, generation: 12 };
  assertEquals(encodeSession(session), `x-denbd:session=1.${UUID}.12`);
  assertEquals(decodeSession(encodeSession(session)), session);
  for (const wrong of ["x-denbd:", `x-denbd:session=2.${UUID}.12`, `x-denbd:session=1.${UUID}`]) {
    assertEquals(decodeSession(wrong), null);
  }
  for (
    const wrong of [
      `x-denbd:session=1.${UUID}.0`,
      `x-denbd:session=1.${UUID}.12 `,
      `x-denbd:session=${UUID}.1`,
    ]
  ) {
    assertEquals(decodeSession(wrong), null);
  }
});

test("decodeFacts() finds the facts among other contexts, and passes over what it does not know", () => {
  const facts = {
    instance: INSTANCE,
    identity: { uuid: UUID, generation: 2 ** 53 - 1 },
    session: { id: UUID, generation: 1 },
    reservation: UUID,
    leaseMs: 1,
    othersWrite: true as const,
  };
  assertEquals(decodeFacts(["base:allocation", ...encodeFacts(facts), "x-denbd:moon=full"]), facts);
  assertEquals(decodeFacts(["base:allocation", "x-denbd:"]), {});
});

test("V56: decodeFacts() refuses a session of another version, and names both", () => {
  const error = assertThrows(() => decodeFacts([`x-denbd:session=2.${UUID}.1`]), WireError);
  assertEquals(error.message, "session of version 2, this program knows version 1");
});

test("decodeFacts() refuses what is malformed or told twice", () => {
  const wrong = [
    [`x-denbd:instance=${INSTANCE.toUpperCase()}`],
    ["x-denbd:instance="],
    [`x-denbd:instance=${INSTANCE}\n`],
    [`x-denbd:instance=${INSTANCE}`, `x-denbd:instance=${INSTANCE}`],
    [`x-denbd:identity=${UUID}`],
    [`x-denbd:session=1.${UUID}`],
    [`x-denbd:reservation=${UUID}.1`],
    [`x-denbd:reservation=${UUID}`, `x-denbd:reservation=${INSTANCE}`],
    ["x-denbd:writers=any"],
    ["x-denbd:lease=0"],
    ["x-denbd:lease=1e3"],
    ["x-denbd:lease=1", "x-denbd:lease=1"],
    [`x-denbd:identity=${UUID}.0`],
    [`x-denbd:identity=${UUID}.-1`],
    [`x-denbd:identity=${UUID}.9007199254740992`],
    [`x-denbd:identity=${UUID}.1`, `x-denbd:identity=${UUID}.1`],
  ];
  for (const names of wrong) assertThrows(() => decodeFacts(names), WireError);
});
