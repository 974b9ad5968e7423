import { assertEquals, assertThrows } from "@std/assert";
import { Slots } from "../../src/base/slots.ts";

Deno.test({
  name: "Slots gives each place to the one that waits longest",
  permissions: "none",
  async fn() {
    const slots = new Slots(2);
    const log: number[] = [];
    await slots.take();
    assertEquals(slots.tryTake(), true);
    assertEquals(slots.tryTake(), false);
    const waiting = [1, 2].map((who) => slots.take().then(() => log.push(who)));
    assertEquals(slots.waiting, 2);
    slots.give();
    await waiting[0];
    assertEquals(log, [1]);
    // A place that is promised to somebody is not free.
    assertEquals(slots.tryTake(), false);
    slots.give();
    await waiting[1];
    slots.give();
    assertEquals(slots.tryTake(), true);
  },
});

Deno.test({
  name: "Slots lets those who wait in when there are more, and nobody while fewer are left than are taken",
  permissions: "none",
  async fn() {
    const slots = new Slots(1);
    const inside: number[] = [];
    const coming = [0, 1, 2, 3, 4].map((who) => slots.take().then(() => void inside.push(who)));
    slots.count = 3;
    await coming[2];
    assertEquals([inside, slots.taken, slots.waiting], [[0, 1, 2], 3, 2]);
    slots.count = 1;
    slots.give();
    slots.give();
    assertEquals([slots.taken, slots.waiting, slots.tryTake()], [1, 2, false]);
    slots.give();
    await coming[3];
    assertEquals([inside, slots.taken, slots.waiting], [[0, 1, 2, 3], 1, 1]);
    slots.give();
    await coming[4];
    slots.give();
    assertEquals([slots.taken, slots.waiting], [0, 0]);
  },
});

Deno.test("Slots are at least one", { permissions: "none" }, () => {
  for (const count of [0, -1, 1.5, NaN, Infinity]) {
    assertThrows(() => new Slots(count), RangeError, "at least one");
    assertThrows(() => new Slots(1).count = count, RangeError, "at least one");
  }
});
