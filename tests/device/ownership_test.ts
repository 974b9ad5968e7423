import { assert, assertEquals, assertNotEquals } from "@std/assert";
import {
  claim,
  type DiskRecord,
  type Ownership,
  riskOfClaim,
  whyNotOwned,
} from "../../src/device/ownership.ts";

const OWN = "11111111-1111-4111-8111-111111111111";
const DISK = "22222222-2222-4222-8222-222222222222";
const NEW = "33333333-3333-4333-8333-333333333333";
const migration = {
  id: "44444444-4444-4444-8444-444444444444",
  uuid: DISK,
  generation: 7,
  epoch: 3,
  peer: "nbd://b/",
  at: "2026-01-02T03:04:05Z",
};

function record(state: Ownership["state"], uuid: string): DiskRecord {
  const ownership = state === "owner" ? { state, epoch: 2 } : { state, epoch: 2, migration };
  return { uuid, generation: 9, ownership };
}

Deno.test({
  permissions: "none",
  name: "every state but owner says why it is not served, what to do, and what a claim may lose",
  fn() {
    assertEquals(whyNotOwned("a.img", record("owner", DISK).ownership), null);
    for (const state of ["receiving", "prepared", "in-doubt", "moved"] as const) {
      const { ownership } = record(state, DISK);
      const why = whyNotOwned("a.img", ownership)!;
      assert(why.includes("a.img") && why.includes("nbd://b/") && why.includes("denbd own --claim a.img"));
      assertNotEquals(riskOfClaim(ownership), "");
    }
  },
});

Deno.test({
  permissions: "none",
  name: "a claim makes an owner whose epoch is past that of the other host",
  fn() {
    for (const state of ["in-doubt", "moved", "prepared"] as const) {
      const uuid = state === "prepared" ? OWN : DISK;
      const claimed = claim(record(state, uuid), () => NEW);
      assertEquals([claimed.uuid, claimed.ownership.state, claimed.ownership.epoch], [DISK, "owner", 4]);
      assert(claimed.generation > 9 && claimed.generation > 7);
    }
    assertEquals(claim(record("owner", DISK), () => NEW), record("owner", DISK));
  },
});

Deno.test({
  permissions: "none",
  name: "an unfinished copy that is claimed becomes a disk of its own",
  fn() {
    const claimed = claim(record("receiving", OWN), () => NEW);
    assertEquals(claimed, { uuid: NEW, generation: 1, ownership: { state: "owner", epoch: 1 } });
  },
});
