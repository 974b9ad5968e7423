import { assertEquals } from "@std/assert";
import { type Log, silentLog } from "../../src/base/log.ts";
import { Convergence, type ConvergenceOptions, type Writers } from "../../src/migrate/convergence.ts";

const MIB = 1024 * 1024;

function test(name: string, fn: () => void): void {
  Deno.test({ name, permissions: "none", fn });
}

/** An attempt that has begun, with what was said of it. */
function begun(options: ConvergenceOptions = {}) {
  const lines: string[] = [];
  const hear = (line: string) => void lines.push(line);
  const log: Log = { ...silentLog, info: hear, warn: hear };
  const writers: Writers = { writeLimit: null };
  const convergence = new Convergence(options, writers, log, "it");
  convergence.begin();
  /** A pass at a MiB in a millisecond. */
  const passed = (number: number, found: number, left: number) =>
    convergence.passed({ number, found, left, sent: found, tookMs: found / MIB });
  return { convergence, passed, lines, writers };
}

test("clients are held when what is left takes half of the time for which they may be", () => {
  const { convergence, passed } = begun({ downtimeMs: 100 });
  assertEquals([convergence.fits(0), convergence.fits(1)], [true, false]);
  passed(1, 1000 * MIB, 0);
  assertEquals(convergence.speed, 1000 * MIB);
  assertEquals([convergence.fits(50 * MIB), convergence.fits(51 * MIB)], [true, false]);
  assertEquals(convergence.holdMs, 1000);
});

test("after the first pass there is another one, unless it left little", () => {
  const { passed } = begun();
  assertEquals([passed(1, 100 * MIB, MIB), passed(1, 100 * MIB, MIB - 1), passed(2, MIB, MIB)], [
    true,
    false,
    false,
  ]);
});

test("where nobody said how long clients may be held, they are held for longer when a pass does not help, once", () => {
  const { convergence, passed, lines } = begun();
  passed(1, 10_000 * MIB, 5000 * MIB);
  assertEquals([convergence.fits(5000 * MIB), lines], [false, []]);
  passed(2, 5000 * MIB, 5000 * MIB);
  assertEquals([convergence.fits(5000 * MIB), convergence.holdMs, convergence.converges], [true, 5000, true]);
  assertEquals(lines, ["it: clients write as fast as the disk can be moved; they are held for up to 5 s"]);
  convergence.heldInVain();
  assertEquals([convergence.fits(51 * MIB), convergence.fits(50 * MIB)], [false, true]);
  for (let number = 3; number < 6; number++) passed(number, 5000 * MIB, 5000 * MIB);
  assertEquals([convergence.fits(5000 * MIB), convergence.converges], [false, false]);
});

test("after three passes that do not help it is said once that it does not converge, until one helps", () => {
  const { convergence, passed, lines } = begun({ downtimeMs: 200 });
  for (let number = 1; number <= 6; number++) passed(number, 1000 * MIB, 1000 * MIB);
  assertEquals(lines, [
    "it does not converge: clients write faster than 1048576000 bytes/s; it goes on until they write less, or it is broken off",
  ]);
  assertEquals(convergence.converges, false);
  passed(7, 1000 * MIB, 100 * MIB);
  assertEquals(convergence.converges, true);
});

test("writers are slowed to half of the speed, and to half of that after three more passes", () => {
  const { convergence, passed, writers } = begun({ slowWriters: true });
  const limits = Array.from({ length: 7 }, (_, index) => {
    passed(index + 1, 1000 * MIB, 1000 * MIB);
    return writers.writeLimit === null ? null : writers.writeLimit / MIB;
  });
  assertEquals(limits, [null, null, null, 500, 500, 500, 250]);
  assertEquals(convergence.converges, true);
});
