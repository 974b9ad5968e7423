import { assertEquals } from "@std/assert";
import { RangeOrder } from "../../src/base/range_order.ts";

function held() {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  return { promise, resolve, reject };
}

/** Lets everything happen that can. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
}

Deno.test({
  name: "RangeOrder lets overlapping operations run one after the other, as they came",
  permissions: "none",
  async fn() {
    const order = new RangeOrder();
    const first = held();
    const second = held();
    const log: string[] = [];
    const add = (name: string, writes: boolean, offset: number, length: number, until?: Promise<void>) =>
      order.run(writes, offset, length, async () => {
        log.push(name);
        await until;
      });
    const all = [
      add("write 0-10", true, 0, 10, first.promise),
      add("write 5-15", true, 5, 10, second.promise),
      add("read 12-20", false, 12, 8),
      add("read 30-40", false, 30, 10),
    ];
    await settle();
    assertEquals(log, ["write 0-10", "read 30-40"]);
    first.resolve();
    await settle();
    assertEquals(log, ["write 0-10", "read 30-40", "write 5-15"]);
    second.resolve();
    await Promise.all(all);
    assertEquals(log.at(-1), "read 12-20");
    assertEquals(order.conflicts(true, 0, 100), false);
  },
});

Deno.test({
  name: "RangeOrder lets reads of one range run together, and neighbours always",
  permissions: "none",
  async fn() {
    const order = new RangeOrder();
    const hold = held();
    const reading = order.run(false, 0, 10, () => hold.promise);
    assertEquals(order.conflicts(false, 0, 10), false);
    assertEquals(order.conflicts(true, 9, 1), true);
    assertEquals(order.conflicts(true, 10, 5), false);
    assertEquals(order.conflicts(true, 5, 0), true);
    hold.resolve();
    await reading;
  },
});

Deno.test({
  name: "RangeOrder goes on after an operation that failed",
  permissions: "none",
  async fn() {
    const order = new RangeOrder();
    const hold = held();
    const failing = order.run(true, 0, 10, () => hold.promise);
    const next = order.run(true, 0, 10, () => 7);
    hold.reject(new Error("on purpose"));
    let message;
    await failing.catch((error) => message = error.message);
    assertEquals([message, await next], ["on purpose", 7]);
    await order.idle();
  },
});
