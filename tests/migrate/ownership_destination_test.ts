import { assertEquals, assertStringIncludes } from "@std/assert";
import type { DiskRecord, Ownership } from "../../src/device/ownership.ts";
import { answerSource, type DestinationFacts } from "../../src/migrate/ownership_destination.ts";
import type { MigrationHello } from "../../src/wire/nbd/migration_message.ts";

const DISK = "aaaaaaaa-0000-4000-8000-000000000000";
const OTHER = "bbbbbbbb-0000-4000-8000-000000000000";
const id = "11111111-0000-4000-8000-000000000000";
const older = "22222222-0000-4000-8000-000000000000";
const facts: DestinationFacts = {
  sizeBytes: 4096,
  receivingId: null,
  newUuid: () => OTHER,
  now: "2026-01-02T03:04:05Z",
  peer: "192.0.2.1:999",
};
const hello: MigrationHello = { verb: "hello", id, uuid: DISK, generation: 7, epoch: 3, sizeBytes: 4096 };

function record(uuid: string, state: Ownership["state"], mentioned = {}): DiskRecord {
  const migration = { id, uuid: DISK, generation: 7, epoch: 3, peer: "p", at: "t", ...mentioned };
  const ownership: Ownership = state === "owner" ? { state, epoch: 2 } : { state, epoch: 2, migration };
  return { uuid, generation: 5, ownership };
}

function fact(name: string, fn: () => void): void {
  Deno.test({ permissions: "none", name: `destination: ${name}`, fn });
}

function refusal(known: DiskRecord | null, request = hello): string {
  const { answer, record, syncs } = answerSource(known, request, facts);
  assertEquals([answer.is, record, syncs], ["refused", null, false]);
  return answer.is === "refused" ? answer.reason : "";
}

fact("a disk of another size is refused", () => {
  assertStringIncludes(refusal(null, { ...hello, sizeBytes: 8192 }), "8192 bytes, this one has 4096");
});

fact("an image that never was a disk, another disk, and one that had moved away are written over", () => {
  for (const known of [null, record(OTHER, "owner"), record(DISK, "moved", { epoch: 2, id: older })]) {
    const { answer, record } = answerSource(known, hello, facts);
    assertEquals([answer.is, record!.ownership.state], ["fresh", "receiving"]);
    assertEquals(record!.ownership.migration!.peer, facts.peer);
  }
});

fact(
  "the owner of that very disk, a doubtful image, a copy of another disk, and a later state are not written over",
  () => {
    assertStringIncludes(refusal(record(DISK, "owner")), "that disk already");
    assertStringIncludes(refusal(record(DISK, "in-doubt", { id: older })), "in doubt");
    assertStringIncludes(refusal(record(OTHER, "prepared", { id: older, uuid: OTHER })), "another disk");
    assertStringIncludes(refusal(record(DISK, "moved", { id: older })), "later state");
    assertStringIncludes(refusal(record(OTHER, "prepared", { id: older, epoch: 4 })), "later state");
  },
);

fact("it resumes only what came to this very process", () => {
  const known = record(OTHER, "receiving");
  assertEquals(answerSource(known, hello, facts).answer, { is: "fresh" });
  assertEquals(answerSource(known, hello, { ...facts, receivingId: id }).answer, { is: "resume" });
  assertEquals(answerSource(known, hello, { ...facts, receivingId: older }).answer, { is: "fresh" });
});

fact("it prepares only what came to this very process, and syncs first, every time", () => {
  const known = record(OTHER, "receiving");
  assertEquals(answerSource(known, { verb: "prepare", id }, facts).answer, { is: "receiving" });
  const step = answerSource(known, { verb: "prepare", id }, { ...facts, receivingId: id });
  assertEquals([step.syncs, step.record!.ownership.state, step.answer.is], [true, "prepared", "prepared"]);
  const again = answerSource(step.record, { verb: "prepare", id }, { ...facts, receivingId: id });
  assertEquals([again.syncs, again.record, again.answer.is], [true, null, "prepared"]);
});

fact("it takes the disk's identity over with the commit, once", () => {
  const { record: owner, answer } = answerSource(record(OTHER, "prepared"), { verb: "commit", id }, facts);
  assertEquals(answer, { is: "owner" });
  assertEquals([owner!.uuid, owner!.generation, owner!.ownership.epoch], [DISK, 8, 3]);
  for (const verb of ["commit", "acknowledge", "ask", "release"] as const) {
    assertEquals(answerSource(owner, { verb, id }, facts), {
      syncs: false,
      record: null,
      answer: { is: "owner" },
    });
  }
  assertEquals(answerSource(owner, hello, facts).answer, { is: "owner" });
});

fact("what is not prepared is not committed", () => {
  assertEquals(answerSource(record(OTHER, "receiving"), { verb: "commit", id }, facts).answer, {
    is: "receiving",
  });
  for (const known of [null, record(OTHER, "owner"), record(OTHER, "prepared", { id: older })]) {
    const step = answerSource(known, { verb: "commit", id }, facts);
    assertEquals(step, { syncs: false, record: null, answer: { is: "unknown" } });
  }
});

fact("a release ends what was prepared", () => {
  const { record: released, answer } = answerSource(
    record(OTHER, "prepared"),
    { verb: "release", id },
    facts,
  );
  assertEquals([answer.is, released!.ownership.state], ["receiving", "receiving"]);
});
