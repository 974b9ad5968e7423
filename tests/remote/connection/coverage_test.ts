import { assertEquals } from "@std/assert";
import { Coverage } from "../../../src/remote/connection/coverage.ts";

const pure = { permissions: "none" } as const;

Deno.test("Coverage agrees with one flag per byte, in any order of claims", pure, () => {
  for (let seed = 1; seed <= 300; seed++) {
    let state = seed;
    const random = (below: number) => (state = (state * 48271) % 0x7fffffff) % below;
    const coverage = new Coverage();
    const claimed = new Array<boolean>(24).fill(false);
    for (let step = 0; step < 40; step++) {
      const offset = random(24);
      const length = 1 + random(24 - offset);
      const free = !claimed.slice(offset, offset + length).includes(true);
      assertEquals(coverage.claim(offset, length), free, `seed ${seed}, step ${step}: ${offset}+${length}`);
      if (free) claimed.fill(true, offset, offset + length);
      assertEquals(coverage.isComplete(24), !claimed.includes(false), `seed ${seed}, step ${step}`);
    }
  }
});

Deno.test("Coverage refuses endless gaps", pure, () => {
  const coverage = new Coverage();
  let gaps = 0;
  while (gaps < 10_000 && coverage.claim(2 * gaps, 1)) gaps++;
  assertEquals(gaps, 4096);
  assertEquals(coverage.claim(1, 1), true);
});
