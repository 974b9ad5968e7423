/**
 * Runs the fuzzers in turn until the time is up, and says how far each came.
 *
 *     deno task fuzz [--minutes N] [--seed S] [--fuzzer NAME] [--rounds N]
 *
 * `--rounds` replaces the time by a number of rounds per fuzzer. Exit 1 with the first finding, which names the
 * command that makes it again.
 */
import { parseArgs } from "@std/cli/parse-args";
import { failsOnPurpose, fuzzers } from "./table.ts";
import { freshSeed, type Fuzzer, FuzzFinding, runRounds } from "./fuzzer.ts";

/** One fuzzer runs so long before the next has its turn. */
const TURN_MS = 500;

const options = parseArgs(Deno.args, { string: ["minutes", "seed", "fuzzer", "rounds"] });
const chosen = options.fuzzer === undefined
  ? fuzzers
  : [...fuzzers, failsOnPurpose].filter(({ name }) => name === options.fuzzer);
if (chosen.length === 0) {
  await say(
    `fuzz: there is no fuzzer ${options.fuzzer}; there are ${fuzzers.map(({ name }) => name).join(", ")}`,
  );
  Deno.exit(2);
}
const seed = options.seed === undefined ? freshSeed() : Number(options.seed);
const minutes = Number(options.minutes ?? 1);
const rounds = options.rounds === undefined ? undefined : Number(options.rounds);
if (!Number.isInteger(seed) || !(minutes > 0) || rounds !== undefined && !(rounds > 0)) {
  await say("fuzz: --minutes and --rounds are numbers above 0, --seed is a whole number");
  Deno.exit(2);
}

try {
  await say(`seed ${seed}`);
  await fuzz(chosen);
} catch (error) {
  if (!(error instanceof FuzzFinding)) throw error;
  await say(error.message);
  await say(error.cause instanceof Error ? error.cause.stack ?? error.cause.message : String(error.cause));
  Deno.exit(1);
}

async function fuzz(chosen: readonly Fuzzer[]): Promise<void> {
  const progress = chosen.map((fuzzer) => ({ fuzzer, rounds: 0, ms: 0 }));
  const end = performance.now() + minutes * 60_000;
  do {
    for (const each of progress) {
      const begin = performance.now();
      const goOn = rounds !== undefined
        ? (done: number) => done < rounds
        : (done: number) => done % 16 !== 0 || performance.now() < Math.min(end, begin + TURN_MS);
      each.rounds += await runRounds(each.fuzzer, seed + each.rounds, goOn);
      each.ms += performance.now() - begin;
    }
  } while (rounds === undefined && performance.now() < end);
  for (const { fuzzer, rounds, ms } of progress) {
    const perSecond = Math.round(rounds / Math.max(ms, 1) * 1000);
    await say(`${fuzzer.name.padEnd(24)} ${rounds} rounds, ${perSecond} a second, nothing found`);
  }
}

async function say(line: string): Promise<void> {
  const bytes = new TextEncoder().encode(line + "\n");
  for (let at = 0; at < bytes.length;) at += await Deno.stdout.write(bytes.subarray(at));
}
