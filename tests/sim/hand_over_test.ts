/** No two owners, nothing lost, and an end without an operator: whatever fails at whichever step. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { claim } from "../../src/device/ownership.ts";
import { handOver, type SourceConversation } from "../../src/migrate/ownership_source.ts";
import { randomFrom } from "../testing/random.ts";
import {
  type Fault,
  FAULTS,
  HandOverWorld,
  type Parts,
  play,
  REAL_PARTS,
  Violation,
} from "./hand_over_world.ts";

const STEPS = play(new Map()).steps;
/** Faults make it longer: a second one may hit what a first has brought about. */
const HORIZON = STEPS * 2;

function* plansOfTwo(): Generator<ReadonlyMap<number, Fault>> {
  for (let first = 0; first < HORIZON; first++) {
    for (const fault of FAULTS) {
      for (let second = first + 1; second < HORIZON; second++) {
        for (const other of FAULTS) yield new Map([[first, fault], [second, other]]);
      }
    }
  }
}

Deno.test({
  permissions: "none",
  name: "hand-over: without faults the disk moves",
  fn() {
    const world = play(new Map());
    assertEquals(world.source.ownership.state, "moved");
    assert(world.destinationOwns);
    assertEquals([world.destination!.uuid, world.destination!.generation], [world.source.uuid, 4]);
    assertEquals(world.destination!.ownership.epoch, 2);
  },
});

Deno.test({
  permissions: "none",
  name: "hand-over: every fault at every step, and every two of them",
  fn() {
    for (let step = 0; step < HORIZON; step++) {
      for (const fault of FAULTS) play(new Map([[step, fault]]));
    }
    let plans = 0;
    for (const plan of plansOfTwo()) {
      play(plan);
      plans++;
    }
    assert(plans > 10_000, `only ${plans} plans`);
  },
});

Deno.test({
  permissions: "none",
  name: "hand-over: many faults at random",
  fn() {
    for (let seed = 1; seed <= 5000; seed++) {
      const random = randomFrom(seed);
      const plan = new Map<number, Fault>();
      for (let i = random.below(8) + 1; i > 0; i--) {
        plan.set(random.below(40), FAULTS[random.below(FAULTS.length)]);
      }
      try {
        play(plan);
      } catch (error) {
        (error as Error).message = `seed ${seed}: ${(error as Error).message}`;
        throw error;
      }
    }
  },
});

Deno.test({
  permissions: "none",
  name: "hand-over: where one host is gone for good, the other neither takes nor gives up what is in doubt",
  fn() {
    let inDoubt = 0;
    let prepared = 0;
    for (let step = 0; step < STEPS; step++) {
      for (const fault of ["source dies before", "source dies after", "both die after"] as const) {
        const world = new HandOverWorld(new Map([[step, fault]]));
        world.runSource();
        // The destination is gone: the source starts again and again, and reaches nobody.
        const before = world.source.ownership.state;
        for (let life = 0; life < 3; life++) world.runSource({ reaches: false, migrates: false });
        assertEquals(world.source.ownership.state, before);
        if (before === "in-doubt") {
          inDoubt++;
          const claimed = claim(world.source, () => "");
          assertEquals([claimed.ownership.state, claimed.ownership.epoch], ["owner", 3]);
        }
        // The source is gone: the destination starts again, and hears of nobody.
        const state = world.destination?.ownership.state;
        world.restartDestination();
        assertEquals(world.destination?.ownership.state, state);
        if (state === "prepared") prepared++;
      }
    }
    assert(inDoubt > 0 && prepared > 0);
  },
});

Deno.test({
  permissions: "none",
  name: "hand-over: the simulation finds planted faults",
  fn() {
    const broken: Record<string, Partial<Parts>> = {
      "the source says commit before it has written that it is in doubt": {
        *handOver(record, now): SourceConversation<never> {
          const conversation = handOver(record, now);
          for (let given; true;) {
            const { done, value } = conversation.next(given as never);
            if (done) return value as never;
            if (value.kind !== "write" || value.record.ownership.state !== "in-doubt") given = yield value;
          }
        },
      },
      "the destination does not sync": { syncs: false },
      "a prepared destination becomes the owner by being asked": {
        answerSource(known, request, facts) {
          if (known?.ownership.state === "prepared" && request.verb === "release") {
            return REAL_PARTS.answerSource(known, { verb: "commit", id: request.id }, facts);
          }
          return REAL_PARTS.answerSource(known, request, facts);
        },
      },
      "the source takes silence for a refusal": {
        *settle(record, now) {
          const conversation = REAL_PARTS.settle(record, now);
          for (let given; true;) {
            const { done, value } = conversation.next(given as never);
            if (done) return value;
            given = yield value;
            if (value.kind === "ask" && value.request.verb === "commit") given ??= { is: "receiving" };
          }
        },
      },
    };
    for (const [name, parts] of Object.entries(broken)) {
      assertThrows(
        () => {
          for (const plan of plansOfTwo()) play(plan, { ...REAL_PARTS, ...parts });
        },
        Violation,
        undefined,
        name,
      );
    }
  },
});
