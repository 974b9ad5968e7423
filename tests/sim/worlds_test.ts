/** Some lives in every simulated world; `deno task sim` lives many. */
import { assertEquals, assertNotEquals } from "@std/assert";
import { live } from "./life.ts";
import { liveMany } from "./lives.ts";
import { worlds } from "./world.ts";
import { randomFrom } from "../testing/random.ts";

const LIVES = 40;

for (const world of worlds) {
  Deno.test(`nothing that was promised is broken in the world "${world.name}"`, async () => {
    const { seed } = randomFrom();
    const { findings, requests } = await liveMany([world], { seed, count: LIVES });
    assertEquals(findings, []);
    assertEquals(requests > LIVES * 10, true);
  });
}

Deno.test("a life follows from its seed, event for event", async () => {
  for (const world of worlds) {
    const once = await live(world, 17);
    assertEquals(await live(world, 17), once);
    // What is printed makes no difference.
    const lines: string[] = [];
    assertEquals(await live(world, 17, { print: (line) => lines.push(line) }), once);
    assertEquals(lines.length > once.events - 1, true);
    assertNotEquals((await live(world, 18)).hash, once.hash);
  }
});
