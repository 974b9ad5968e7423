import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { MAX_STRING_BYTES } from "../../../src/wire/nbd/constants.ts";
import {
  decodeMigrationAnswer,
  decodeMigrationRequest,
  decodeMoved,
  encodeMigrationAnswer,
  encodeMigrationRequest,
  encodeMoved,
  type MigrationAnswer,
  type MigrationRequest,
} from "../../../src/wire/nbd/migration_message.ts";
import { WireError } from "../../../src/wire/wire_error.ts";

const id = "11111111-2222-4333-8444-555555555555";
const uuid = "aaaaaaaa-2222-4333-8444-555555555555";
const hello: MigrationRequest = { verb: "hello", id, uuid, generation: 7, epoch: 2, sizeBytes: 4096 };
const HELLO = `x-denbd:migration/1?verb=hello&id=${id}&uuid=${uuid}&generation=7&epoch=2&sizeBytes=4096`;

function pure(name: string, fn: () => void): void {
  Deno.test({ permissions: "none", name, fn });
}

pure("migration messages: the text of hello", () => {
  assertEquals(encodeMigrationRequest(hello), HELLO);
  assertEquals(decodeMigrationRequest(HELLO), hello);
  assertEquals(decodeMigrationRequest(`${HELLO}&later=1`), hello);
});

pure("migration messages: what is encoded is decoded", () => {
  for (const verb of ["prepare", "commit", "acknowledge", "release", "ask"] as const) {
    assertEquals(decodeMigrationRequest(encodeMigrationRequest({ verb, id })), { verb, id });
  }
  const answers: MigrationAnswer[] = [
    ...(["fresh", "resume", "receiving", "prepared", "owner", "unknown"] as const).map((is) => ({ is })),
    { is: "refused", why: "policy", reason: "nobody & nothing=\u00e4 100 %" },
  ];
  for (const answer of answers) {
    const names = ["base:allocation", encodeMigrationAnswer(answer), "x-denbd:instance=…"];
    assertEquals(decodeMigrationAnswer(names), answer);
  }
});

pure("migration messages: no answer among other contexts is none", () => {
  assertEquals(decodeMigrationAnswer([]), null);
  assertEquals(decodeMigrationAnswer(["base:allocation", "x-denbd:crc32"]), null);
});

pure("migration messages: an answer always fits", () => {
  const answer = { is: "refused", why: "busy", reason: "\u{1f4be}".repeat(5000) } as const;
  assert(encodeMigrationAnswer(answer).length <= MAX_STRING_BYTES);
});

pure("where a disk has gone is told and understood", () => {
  const moved = { uuid, id, epoch: 3, to: "nbd+noise://b.example:10811/a disk?key=x&y" };
  const name = encodeMoved(moved)!;
  assert(name.startsWith("x-denbd:moved=1?"));
  assertEquals(decodeMoved(["base:allocation", name]), moved);
  assertEquals(decodeMoved(["base:allocation", "x-denbd:moved=2?to=x"]), null);
  assertEquals(encodeMoved({ ...moved, to: "x".repeat(5000) }), null);
  for (
    const damaged of [name.replace("uuid=", "u="), name.replace("epoch=3", "epoch=0"), name.split("&to")[0]]
  ) {
    assertThrows(() => decodeMoved([damaged]), WireError);
  }
});

pure("V56: a migration message of a later version is refused, and both are named", () => {
  for (
    const decode of [
      () => decodeMigrationRequest(HELLO.replace("migration/1", "migration/2")),
      () => decodeMigrationAnswer(["x-denbd:migration/2?is=fresh"]),
    ]
  ) {
    const { message } = assertThrows(decode, WireError);
    assertMatch(message, /another version: "x-denbd:migration\/2\?.*", this program knows version 1$/);
  }
});

pure("migration messages: every field missing or damaged is refused", () => {
  const fields = HELLO.slice("x-denbd:migration/1?".length).split("&");
  for (const field of fields) {
    const [key] = field.split("=");
    for (const other of ["", `${key}=`, `${key}=-1`, `${key}=1e3`, `${key}=99999999999999999`, `${key}=0`]) {
      const text = "x-denbd:migration/1?" + fields.map((each) => each === field ? other : each).join("&");
      assertThrows(() => decodeMigrationRequest(text), WireError);
    }
  }
  for (
    const text of [
      "x-denbd:migration/2?is=fresh",
      "x-denbd:migration/1?is=no",
      "x-denbd:migration/1?is=refused",
    ]
  ) {
    assertThrows(() => decodeMigrationAnswer([text]), WireError);
  }
  assertThrows(() => decodeMigrationRequest("x-denbd:migration/2?" + HELLO.split("?")[1]), WireError);
  assertThrows(
    () =>
      decodeMigrationAnswer([encodeMigrationAnswer({ is: "fresh" }), encodeMigrationAnswer({ is: "owner" })]),
    WireError,
  );
});
