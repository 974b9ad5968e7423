import { assert, assertEquals } from "@std/assert";
import { Throttle } from "../../src/migrate/throttle.ts";
import { ManualClock } from "../testing/manual_clock.ts";

async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await undefined;
}

/** Takes all the time, as fast as it may. Returns what has passed in each of the seconds. */
async function flow(
  throttle: Throttle,
  clock: ManualClock,
  seconds: number,
  pieceBytes: () => number,
): Promise<number[]> {
  let passed = 0;
  let over = false;
  void (async () => {
    while (!over) {
      const bytes = pieceBytes();
      await throttle.take(bytes);
      passed += bytes;
    }
  })();
  const perSecond: number[] = [];
  for (let second = 0; second < seconds; second++) {
    const before = passed;
    for (let step = 0; step < 1000; step++) {
      clock.advance(1);
      await settle();
    }
    perSecond.push(passed - before);
  }
  over = true;
  throttle.bytesPerSecond = null;
  await settle();
  return perSecond;
}

for (const limit of [10_000, 300_000, 50_000_000]) {
  Deno.test(`throttle: ${limit} bytes/s are kept within a tenth in every five seconds`, async () => {
    const clock = new ManualClock();
    const throttle = new Throttle(clock, limit);
    const perSecond = await flow(throttle, clock, 12, () => throttle.pieceBytes);
    for (let from = 0; from + 5 <= perSecond.length; from++) {
      const bytes = perSecond.slice(from, from + 5).reduce((sum, each) => sum + each);
      assert(Math.abs(bytes / (5 * limit) - 1) < 0.1, `${bytes} bytes in seconds ${from} to ${from + 5}`);
    }
  });
}

Deno.test("throttle: without a limit nobody waits", () => {
  const throttle = new Throttle(new ManualClock());
  assertEquals(throttle.take(1e12), undefined);
  assertEquals(throttle.pieceBytes, Infinity);
});

Deno.test("throttle: who waits under a low limit goes on when it is raised", async () => {
  const clock = new ManualClock();
  const throttle = new Throttle(clock, 1);
  await throttle.take(1_000_000);
  let passed = false;
  void Promise.resolve(throttle.take(1)).then(() => passed = true);
  clock.advance(1000);
  await settle();
  assertEquals(passed, false);
  throttle.bytesPerSecond = null;
  await settle();
  assertEquals(passed, true);
});

Deno.test("throttle: nothing passes at 0, and everything when that is over", async () => {
  const clock = new ManualClock();
  const throttle = new Throttle(clock, 0);
  let passed = false;
  void Promise.resolve(throttle.take(1)).then(() => passed = true);
  clock.advance(100_000_000);
  await settle();
  assertEquals(passed, false);
  throttle.bytesPerSecond = 1000;
  await settle();
  assertEquals(passed, true);
});
