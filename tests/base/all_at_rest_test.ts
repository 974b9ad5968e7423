import { assertEquals, assertRejects } from "@std/assert";
import { allAtRest } from "../../src/base/all_at_rest.ts";

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name: `allAtRest() ${name}`, permissions: "none", fn });
}

test("gives what all have come to, in their order", async () => {
  const late = Promise.withResolvers<number>();
  const all = allAtRest([late.promise, Promise.resolve(2)]);
  late.resolve(1);
  assertEquals(await all, [1, 2]);
});

test("fails with the first failure in their order, when the last of them has ended", async () => {
  const [first, second] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  let ended = false;
  const all = allAtRest([first.promise, second.promise, Promise.reject(new Error("the third"))]);
  const watched = assertRejects(() => all.finally(() => ended = true), Error, "the second");
  first.resolve();
  for (let turn = 0; turn < 10; turn++) await undefined;
  assertEquals(ended, false);
  second.reject(new Error("the second"));
  await watched;
});
