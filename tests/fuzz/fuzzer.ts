/** What a fuzzer is, and how one is run so that what it finds can be had again. */
import { randomFrom } from "../testing/random.ts";

/** Where a fuzzer takes its decisions from. */
export type Random = ReturnType<typeof randomFrom>;

/** One way to mistreat the program. */
export interface Fuzzer {
  readonly name: string;
  /** What is mistreated, and what must hold nevertheless. */
  readonly summary: string;
  /** One attempt, decided by `random` alone. Throws if something does not hold. */
  round(random: Random): void | Promise<void>;
}

/** A fuzzer found something; `seed` makes the same round again. */
export class FuzzFinding extends Error {
  override readonly name = "FuzzFinding";

  constructor(readonly fuzzer: string, readonly seed: number, cause: unknown) {
    super(
      `${fuzzer} found something; again by: deno task fuzz --fuzzer ${fuzzer} --seed ${seed} --rounds 1`,
      { cause },
    );
  }
}

/** A number to begin with, when none is given. */
export function freshSeed(): number {
  return crypto.getRandomValues(new Uint32Array(1))[0];
}

/**
 * Runs rounds with the seeds `seed`, `seed + 1`, … as long as `goOn` says so, asked with the rounds done.
 *
 * @returns The rounds done.
 * @throws {FuzzFinding} At the first round that throws.
 */
export async function runRounds(
  fuzzer: Fuzzer,
  seed: number,
  goOn: (rounds: number) => boolean,
): Promise<number> {
  let rounds = 0;
  for (; goOn(rounds); rounds++) {
    const roundSeed = (seed + rounds) >>> 0;
    try {
      // Most rounds are synchronous, and a promise each would be most of the work.
      const pending = fuzzer.round(randomFrom(roundSeed));
      if (pending !== undefined) await pending;
    } catch (error) {
      throw new FuzzFinding(fuzzer.name, roundSeed, error);
    }
  }
  return rounds;
}
