import { assertEquals } from "@std/assert";
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
