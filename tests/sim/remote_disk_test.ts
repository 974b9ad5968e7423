/**
 * A remote disk over servers that crash, lose what was not flushed, come back, and over links that break, by a clock
 * that moves only when told. A checker knows every write that was answered and every flush that succeeded.
 * `DENBD_SEED=<n>` repeats a failure.
 */
import { setImmediate } from "node:timers";
import type { DiskIdentity } from "../../src/device/device.ts";
import { NbdDisk } from "../../src/remote/nbd.ts";
import { openConnection } from "../../src/remote/open_connection.ts";
import { SurvivingLink } from "../../src/remote/surviving_link.ts";
import { ManualClock } from "../testing/manual_clock.ts";
import { randomFrom } from "../testing/random.ts";
import { RestartableServer } from "../testing/restartable_server.ts";

const BLOCKS = 24;
const BLOCK_BYTES = 512;
const STEPS = 80;

interface World {
  readonly name: string;
  readonly soleWriter: boolean;
  /** A denbd server tells its instance. */
  readonly denbd: boolean;
  readonly connections: number;
}

const worlds: World[] = [
  { name: "a sole writer", soleWriter: true, denbd: false, connections: 1 },
  { name: "a sole writer over three connections", soleWriter: true, denbd: true, connections: 3 },
  { name: "one of many writers", soleWriter: false, denbd: false, connections: 1 },
  { name: "one of many writers to a denbd server", soleWriter: false, denbd: true, connections: 2 },
];

/** Lets everything happen that needs no time. */
async function settle(turns: number): Promise<void> {
  for (let turn = 0; turn < turns; turn++) await new Promise((resolve) => setImmediate(resolve));
}

/** Block content that says which write made it. */
function stamped(number: number): Uint8Array {
  const data = new Uint8Array(BLOCK_BYTES);
  const view = new DataView(data.buffer);
  for (let at = 0; at < BLOCK_BYTES; at += 8) view.setFloat64(at, number);
  return data;
}

/** Which write made these bytes; NaN if it was more than one. */
function stampOf(data: Uint8Array): number {
  const view = new DataView(data.buffer, data.byteOffset);
  const first = view.getFloat64(0);
  for (let at = 0; at < BLOCK_BYTES; at += 8) if (view.getFloat64(at) !== first) return NaN;
  return first;
}

async function live({ soleWriter, denbd, connections }: World, seed: number): Promise<void> {
  const random = randomFrom(seed);
  const fail = (what: string): never => {
    throw new Error(`seed ${seed}: ${what}`);
  };
  const server = new RestartableServer(BLOCKS * BLOCK_BYTES);
  const born: DiskIdentity = { uuid: "01234567-89ab-4def-8123-456789abcdef", generation: 1, durable: true };
  if (denbd) server.identity = born;
  server.start();
  let running = true;
  const clock = new ManualClock();
  const wishes = { exportName: "disk", contexts: ["base:allocation", "x-denbd:"] };
  const opened = await Promise.all(
    Array.from({ length: connections }, () => openConnection(server.dial, wishes)),
  );
  const link = new SurvivingLink(opened, {
    dial: server.dial,
    wishes,
    clock,
    soleWriter,
    replayBytesMax: 8192,
    random: () => random.below(1000) / 1000,
  });
  const disk = new NbdDisk(link);

  let writes = 0;
  /** Per block: the last write that was asked for, that was answered, that was durable. */
  const asked = new Array<number>(BLOCKS).fill(0);
  const answered = new Array<number>(BLOCKS).fill(0);
  const durable = new Array<number>(BLOCKS).fill(0);
  const under = new Set<Promise<unknown>>();
  const track = (work: Promise<unknown>) => {
    const tracked = work.catch((error) => {
      failures.push(error);
    }).finally(() => under.delete(tracked));
    under.add(tracked);
  };
  const failures: unknown[] = [];

  /** Failed flushes: who asked before hearing of one knows nothing of what it asked for. */
  let doubts = 0;
  const flush = async () => {
    const covered = [...answered];
    const doubtsBefore = doubts;
    try {
      await disk.flush();
    } catch (error) {
      if (soleWriter) throw error;
      doubts++;
      // Its user was told: whatever was not durable before may be gone.
      for (let each = 0; each < BLOCKS; each++) answered[each] = durable[each];
      return;
    }
    if (doubts !== doubtsBefore) return;
    for (let each = 0; each < BLOCKS; each++) durable[each] = Math.max(durable[each], covered[each]);
  };

  for (let step = 0; step < STEPS; step++) {
    const kind = random.below(20);
    const block = random.below(BLOCKS);
    if (kind < 10) {
      const number = ++writes;
      const fua = random.chance(0.1);
      asked[block] = number;
      track((async () => {
        await disk.write(block * BLOCK_BYTES, stamped(number), { fua });
        answered[block] = Math.max(answered[block], number);
        if (fua) durable[block] = Math.max(durable[block], number);
      })());
    } else if (kind < 13) {
      // What overlaps keeps its order, so the latest write is seen, unless a crash may have taken it.
      const expected = asked[block];
      track((async () => {
        const data = new Uint8Array(BLOCK_BYTES);
        await disk.read(block * BLOCK_BYTES, data);
        const seen = stampOf(data);
        if (soleWriter ? seen !== expected : !(seen <= expected)) fail(`read ${seen} instead of ${expected}`);
      })());
    } else if (kind < 15) {
      track(flush());
    } else if (kind === 15) {
      server.cut();
    } else if (kind === 16 && running) {
      server.crash(() => random.chance(0.3));
      running = false;
      if (denbd) server.identity = { ...born, generation: server.identity!.generation + 1 };
    } else if (kind === 17 && !running) {
      server.start();
      running = true;
    } else {
      await settle(random.below(6));
      clock.advance(random.below(3000));
    }
    if (random.chance(0.3)) await settle(random.below(4));
  }
  if (!running) server.start();
  const finish = async () => {
    for (let turn = 0; under.size > 0; turn++) {
      if (turn === 200) fail(`${under.size} requests never ended`);
      await settle(4);
      clock.advance(1000);
    }
    if (failures.length > 0) fail(`${failures[0]}`);
  };
  await finish();
  track(flush());
  await finish();
  await disk.close();
  server.crash();
  for (let block = 0; block < BLOCKS; block++) {
    const found = stampOf(server.stored(block * BLOCK_BYTES, BLOCK_BYTES));
    if (!(found >= durable[block])) fail(`block ${block} has write ${found}; ${durable[block]} was durable`);
    if (soleWriter && found !== asked[block]) {
      fail(`block ${block} has write ${found}; the last was ${asked[block]}`);
    }
  }
}

for (const world of worlds) {
  Deno.test(`nothing that was flushed is lost, and nothing old is read, by ${world.name}`, async () => {
    const { seed } = randomFrom();
    for (let round = 0; round < 150; round++) await live(world, (seed + round) >>> 0);
  });
}
