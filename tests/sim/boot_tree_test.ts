/**
 * A room full of machines that boot the same image at the same time, through a tree of proxies. Every server sends
 * 100 bytes a microsecond and is 2 ms away; time is simulated.
 */
import { assert, assertEquals } from "@std/assert";
import { crc32 } from "../../src/base/crc32.ts";
import { BLOCK_BYTES } from "../../src/wire/dnbd3/constants.ts";
import { ProxyWorld } from "../server/dnbd3/proxy_world.ts";
import type { SimulatedServer } from "../testing/image_world.ts";
import { randomFrom } from "../testing/random.ts";
import { patternBytes } from "../wire/dnbd3/vectors.ts";

const SIZE = 8 * (1 << 20);

/** What a machine reads when it boots: one block after the other, here and there. The same for all. */
const boot = (() => {
  const random = randomFrom(20_260_101);
  return Array.from({ length: 40 }, () => {
    const length = BLOCK_BYTES * (1 + random.below(16));
    const offset = BLOCK_BYTES * random.below((SIZE - length) / BLOCK_BYTES);
    return { offset, length, checksum: crc32(patternBytes(offset, length)) };
  });
})();

interface Outcome {
  /** Until the last client has all. */
  readonly tookMs: number;
  readonly origin: SimulatedServer;
}

/** @param widths How many proxies there are on each level, the nearest to the origin first. */
async function bootAll(clientCount: number, widths: readonly number[]): Promise<Outcome> {
  await using world = new ProxyWorld();
  const random = randomFrom(clientCount);
  let level = [world.origin("10.0.0.1", SIZE)];
  const [origin] = level;
  widths.forEach((width, depth) => {
    const above = level;
    level = Array.from(
      { length: width },
      (_, index) =>
        world.addProxy(`10.${depth + 1}.0.${index + 1}`, [above[index % above.length].host], {
          settings: { maxPrefetch: 262_144 },
        }),
    );
    for (const server of level) [server.delayMs, server.bytesPerMs] = [2, 100_000];
  });
  [origin.delayMs, origin.bytesPerMs] = [2, 100_000];
  const servers = level;
  const startMs = world.clock.now();
  let done = 0;
  let lastMs = 0;
  const clients = Array.from({ length: clientCount }, async (_, index) => {
    await new Promise<void>((resolve) => void world.clock.timer(random.below(50), resolve));
    const client = await world.stranger(servers[index % servers.length]);
    for (const { offset, length, checksum } of boot) {
      const bytes = await client.block(offset, length);
      if (bytes === null) throw new Error(`client ${index} was dropped`);
      assertEquals(crc32(bytes), checksum);
    }
    client.connection.close();
    done++;
    lastMs = world.clock.now();
  });
  const all = Promise.all(clients);
  all.catch(() => {});
  for (let passed = 0; done < clientCount && passed < 60_000; passed++) await world.pass(1, 1);
  await all;
  return { tookMs: lastMs - startMs, origin };
}

Deno.test("200 clients boot through three levels of proxies: the origin sends each block once, and time grows with the depth alone", async () => {
  const direct = await bootAll(200, []);
  // Never more than five proxies, or ten clients, at a server.
  const depths = [await bootAll(10, [1]), await bootAll(40, [1, 4]), await bootAll(200, [1, 4, 20])];
  const few = await bootAll(20, [1, 2, 2]);
  const figures = JSON.stringify({
    direct: direct.tookMs,
    depths: depths.map(({ tookMs }) => tookMs),
    few: few.tookMs,
  });

  const { asked } = depths[2].origin;
  const sent = new Set<number>();
  let sentBlocks = 0;
  for (const { offset, length } of asked) {
    for (let at = offset; at < offset + length; at += BLOCK_BYTES) {
      sent.add(at);
      sentBlocks++;
    }
  }
  // The first block is also what a server is measured by.
  const measured = asked.filter(({ offset, length }) => offset === 0 && length === BLOCK_BYTES).length;
  assert(sentBlocks - sent.size <= measured, `${sentBlocks - sent.size} blocks were sent again; ${figures}`);
  const [one, two, three] = depths.map(({ tookMs }) => tookMs);
  // Four and five times the clients cost about as much as each other: a level more.
  assert(one < two && two < three && three < 2 * one, figures);
  // Ten times the clients at the same depth, as many to each server: hardly longer.
  assert(three < 1.25 * few.tookMs, figures);
  assert(three < direct.tookMs / 2, figures);
});
