/** Each cell of the table of guarantees holds, and the simulation would notice if it did not. */
import { assert, assertEquals, assertGreater } from "@std/assert";
import { randomFrom } from "../testing/random.ts";
import {
  answersEarly,
  type Bug,
  forgetsReplay,
  forgetsTooMuch,
  losesRequest,
  mixesParts,
  namesNoSession,
  skipsResend,
  tellsOneOnly,
  trustsCache,
  trustsCacheFile,
} from "./bugs.ts";
import { cells } from "./guarantees.ts";
import { liveMany } from "./lives.ts";
import { type World, worlds } from "./world.ts";

const LIVES = 40;
/** A planted bug is found within so many. */
const LIVES_MAX = 1000;

/** How many lives it takes to find the bug. */
async function livesToFind(bug: Bug, world: World): Promise<number> {
  using _planted = bug.plant?.();
  const { seed } = randomFrom();
  const { findings, lives } = await liveMany([world], { seed, count: LIVES_MAX }, bug.tampering, 1);
  assertEquals(findings.length, 1, `not found from seed ${seed}`);
  return lives;
}

for (const { promise, world, bug } of cells) {
  Deno.test(`${world.name}: ${promise}`, async () => {
    const { seed } = randomFrom();
    const count = promise === "not protected" ? LIVES_MAX : LIVES;
    const { findings, failures, rivals } = await liveMany([world], { seed, count }, {}, 1);
    if (promise === "not protected") return assertEquals(findings.length, 1);
    assertEquals(findings, []);
    if (promise === "kept") assertEquals(failures, 0);
    else if (promise === "told") assertGreater(failures, 0);
    else if (promise === "let in") assertGreater(rivals, 0);
  });
  if (bug === null) continue;
  Deno.test(`${world.name}: it is found out if ${bug.name}`, async () => {
    assert(await livesToFind(bug, world) <= LIVES_MAX);
  });
}

const late: World = {
  name: "late",
  server: "denbd",
  writer: "sole",
  deadlineMs: 3000,
  late: true,
  troubles: ["stall"],
};

Deno.test("rule 7: what was on its way on an old connection harms nothing that a denbd server is sent later", async () => {
  const { seed } = randomFrom();
  assertEquals((await liveMany([late], { seed, count: LIVES })).findings, []);
  assert(await livesToFind(namesNoSession, late) <= LIVES_MAX);
});

Deno.test("rule 10: another server executes it late, over what was written since: not protected", async () => {
  const { seed } = randomFrom();
  const { findings } = await liveMany([{ ...late, server: "stock" }], { seed, count: LIVES_MAX }, {}, 1);
  assertEquals(findings.length, 1);
});

const cached: World = {
  name: "cached",
  server: "denbd",
  writer: "reserved",
  proxy: "file",
  troubles: ["proxy-kill", "rival", "rival"],
};

Deno.test("rule 14: a cache file under a reservation has nothing old after another writer", async () => {
  const { seed } = randomFrom();
  assertEquals((await liveMany([cached], { seed, count: LIVES })).findings, []);
  assert(await livesToFind(trustsCacheFile, cached) <= LIVES_MAX);
});

for (const proxy of ["plain", "memory", "file"] as const) {
  Deno.test(`rule 7: a proxy that is killed and comes back as the same session keeps every promise: ${proxy}`, async () => {
    const kept: World = {
      name: "kept",
      server: "denbd",
      writer: "reserved",
      proxy,
      keepsSession: true,
      connections: 2,
      troubles: ["proxy-kill", "proxy-kill", "power", "kill", "cut", "stall", "rival", "slow"],
    };
    const { seed } = randomFrom();
    const { findings, requests } = await liveMany([kept], { seed, count: LIVES });
    assertEquals(findings, []);
    assert(requests > LIVES * 10);
  });
}

/** The user takes its time, so that a reservation ends while it is cut off. */
const cutOff: World = {
  name: "cut off",
  server: "denbd",
  writer: "reserved",
  proxy: "file",
  restMs: 12_000,
  troubles: ["rival"],
};

Deno.test("rule 14: a proxy that is cut off answers nothing from its cache that another writer has changed", async () => {
  const { seed } = randomFrom();
  assertEquals((await liveMany([cutOff], { seed, count: LIVES })).findings, []);
  assert(await livesToFind(trustsCache, cutOff) <= LIVES_MAX);
});

Deno.test("every client of a proxy is told by a flush of its own what may be lost", async () => {
  const neighbours = worlds.find(({ name }) => name === "proxy-neighbour")!;
  const { seed } = randomFrom();
  assertEquals((await liveMany([neighbours], { seed, count: LIVES })).findings, []);
  assert(await livesToFind(tellsOneOnly, neighbours) <= LIVES_MAX);
});

/** In the worlds that are lived by `deno task sim`, where everything may happen at once. */
const sole = worlds.find(({ name }) => name === "sole")!;

for (const bug of [skipsResend, losesRequest, answersEarly, forgetsReplay, forgetsTooMuch, mixesParts]) {
  Deno.test(`a planted bug is found within 1,000 lives: ${bug.name}`, async () => {
    assert(await livesToFind(bug, sole) <= LIVES_MAX);
  });
}
