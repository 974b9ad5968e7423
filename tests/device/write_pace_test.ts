import { assertEquals } from "@std/assert";
import { WritePace } from "../../src/device/write_pace.ts";
import { ManualClock } from "../testing/manual_clock.ts";

function setUp() {
  const clock = new ManualClock();
  let sleeps = 0;
  const pace = new WritePace(clock, () => sleeps);
  /** A write that takes so long, having slept or not. */
  const write = (tookMs: number, slept: boolean): boolean => {
    if (!pace.begin(clock.now())) return false;
    clock.advance(tookMs);
    if (slept) sleeps += 1;
    pace.ended();
    return true;
  };
  return { clock, write, mayWrite: () => pace.begin(clock.now()) };
}

function test(name: string, fn: () => void): void {
  Deno.test({ name, permissions: "none", fn });
}

test("WritePace keeps writing at once while the processor is merely taken away", () => {
  const { write } = setUp();
  for (let count = 0; count < 10; count++) assertEquals(write(5, false), true);
});

test("WritePace stays off for a while when writes sleep for long, and then tries again", () => {
  const { clock, write, mayWrite } = setUp();
  assertEquals([write(10, true), write(10, true)], [true, true]);
  assertEquals(mayWrite(), false);
  clock.advance(199);
  assertEquals(mayWrite(), false);
  clock.advance(1);
  assertEquals(mayWrite(), true);
});

test("WritePace bothers neither about short sleeps nor about one long one", () => {
  const { clock, write, mayWrite } = setUp();
  for (let count = 0; count < 5; count++) {
    assertEquals(write(10, true), true);
    clock.advance(101);
    assertEquals([write(1, true), mayWrite()], [true, true]);
  }
});

test("WritePace never stays off for longer than five seconds", () => {
  const { clock, write, mayWrite } = setUp();
  write(60_000, true);
  write(60_000, true);
  clock.advance(4999);
  assertEquals(mayWrite(), false);
  clock.advance(1);
  assertEquals(mayWrite(), true);
});
