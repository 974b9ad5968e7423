/** Every fuzzer for a moment: the same seeds each time, and some that are new. */
import { assertEquals, assertRejects } from "@std/assert";
import { failsOnPurpose, fuzzers } from "./table.ts";
import { freshSeed, FuzzFinding, runRounds } from "./fuzzer.ts";

const ROUNDS = 300;

for (const fuzzer of fuzzers) {
  Deno.test({
    name: `${fuzzer.name}: ${fuzzer.summary}`,
    permissions: "none",
    async fn() {
      await runRounds(fuzzer, 1, (rounds) => rounds < ROUNDS);
      await runRounds(fuzzer, freshSeed(), (rounds) => rounds < ROUNDS);
    },
  });
}

Deno.test({
  name: "a finding names its fuzzer and the seed that finds it again",
  permissions: "none",
  async fn() {
    const finding = await assertRejects(
      () => runRounds(failsOnPurpose, 1, (rounds) => rounds < 10_000),
      FuzzFinding,
    );
    assertEquals(
      finding.message.includes(`--fuzzer fails-on-purpose --seed ${finding.seed} --rounds 1`),
      true,
    );
    await assertRejects(() => runRounds(failsOnPurpose, finding.seed, (rounds) => rounds < 1), FuzzFinding);
    assertEquals(await runRounds(failsOnPurpose, 1, (rounds) => rounds < finding.seed - 1), finding.seed - 1);
  },
});
