/**
 * The long simulation: `deno task sim --seeds 100000`.
 *
 * A life that breaks a promise is named with its world and seed, by which it can be lived again, event for event:
 * `deno task sim --world WORLD --seed SEED --verbose`.
 */
import { parseArgs } from "@std/cli/parse-args";
import { live } from "./life.ts";
import { add, type Batch, emptySummary, type Summary } from "./lives.ts";
import { type World, worlds } from "./world.ts";

const HELP = `usage: deno task sim [--seeds N] [--world WORLD] [--from SEED] [--workers N]
       deno task sim --seed SEED --world WORLD [--verbose]

  --seeds    lives to live, the worlds in turn (10000)
  --world    only this world, or several, separated by commas
  --from     the first seed (a different one each time)
  --workers  processors to use (2)
  --seed     lives a single life, twice, and compares
  --verbose  prints what happens in it

Worlds: ${worlds.map(({ name }) => name).join(", ")}
`;

/** Lives that a worker lives before it reports. */
const BATCH = 130;
/** Findings that are printed. */
const PRINTED_MAX = 20;

function print(text: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${text}\n`));
}

async function liveOne(world: World, seed: number, verbose: boolean): Promise<boolean> {
  const first = await live(world, seed, verbose ? { print } : {});
  const again = await live(world, seed);
  print(`world ${world.name}, seed ${seed}: ${first.broken ?? "nothing is broken"}`);
  print(`${first.events} events, ${first.requests} requests, ${first.failures} failed, trace ${first.hash}`);
  if (again.hash !== first.hash) print(`NOT THE SAME when lived again: trace ${again.hash}`);
  return first.broken === null && again.hash === first.hash;
}

async function liveAll(
  chosen: readonly World[],
  first: number,
  count: number,
  workers: number,
): Promise<boolean> {
  const startMs = performance.now();
  const total = emptySummary();
  let next = first;
  let printed = 0;
  const work = async () => {
    const worker = new Worker(new URL("./worker.ts", import.meta.url).href, { type: "module" });
    while (next < first + count) {
      const batch: Batch = { seed: next, count: Math.min(BATCH, first + count - next) };
      next += batch.count;
      const { promise, resolve, reject } = Promise.withResolvers<Summary>();
      worker.onmessage = ({ data }) => resolve(data);
      worker.onerror = ({ message }) => reject(new Error(message));
      worker.postMessage({ ...batch, worlds: chosen.map(({ name }) => name) });
      const summary = await promise;
      add(total, summary);
      for (const { world, seed, broken } of summary.findings) {
        if (printed++ < PRINTED_MAX) print(`BROKEN in ${world}, seed ${seed}: ${broken}`);
      }
    }
    worker.terminate();
  };
  await Promise.all(Array.from({ length: workers }, work));
  const seconds = (performance.now() - startMs) / 1000;
  const { lives, requests, failures, reconnects, events, findings, hash } = total;
  print(`${lives} lives from seed ${first} in ${chosen.length} worlds: ${findings.length} broken`);
  print(`${events} events, ${requests} requests, ${failures} failed as they may, ${reconnects} reconnects`);
  print(
    `${seconds.toFixed(1)} s, ${
      (lives / seconds / workers).toFixed(0)
    } lives per second and worker, trace ${hash}`,
  );
  return findings.length === 0;
}

const options = parseArgs(Deno.args, {
  string: ["seeds", "world", "from", "workers", "seed"],
  boolean: ["verbose", "help"],
  default: { seeds: "10000", workers: "2" },
  unknown: (option: string) => misuse(`${option} is not known`),
});

function misuse(what: string): never {
  Deno.stderr.writeSync(new TextEncoder().encode(`${what}\n${HELP}`));
  Deno.exit(2);
}

function number(text: string, name: string): number {
  const value = Number(text);
  return Number.isSafeInteger(value) && value >= 0 ? value : misuse(`--${name}: "${text}" is no number`);
}

if (options.help) {
  print(HELP);
} else {
  const names: string[] = options.world?.split(",") ?? worlds.map(({ name }) => name);
  const chosen = names.map((name) =>
    worlds.find((world) => world.name === name) ?? misuse(`--world: there is no world "${name}"`)
  );
  const from = options.from === undefined
    ? crypto.getRandomValues(new Uint32Array(1))[0] % 1e9
    : number(options.from, "from");
  const well = options.seed === undefined
    ? await liveAll(chosen, from, number(options.seeds, "seeds"), number(options.workers, "workers"))
    : await liveOne(
      chosen[number(options.seed, "seed") % chosen.length],
      number(options.seed, "seed"),
      options.verbose,
    );
  Deno.exit(well ? 0 : 1);
}
