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

/** Lives in which a promise was broken once. */
const lessons = {
  "proxy-file-reserved": [
    8083507, // A proxy that was cut off answered from its cache when its reservation had ended.
  ],
  "proxy-reserved": [
    8061306, // Another writer lost what it had not flushed, and the user had taken its place.
  ],
};

for (const [name, seeds] of Object.entries(lessons)) {
  for (const seed of seeds) {
    Deno.test(`nothing is broken any more in the world "${name}", seed ${seed}`, async () => {
      assertEquals((await live(worlds.find((world) => world.name === name)!, seed)).broken, null);
    });
  }
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
