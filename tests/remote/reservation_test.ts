/** A writer whose export a denbd server keeps for it: what it wrote survives crashes without anybody's promise. */
import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { CacheDisk } from "../../src/device/cache.ts";
import { MemoryStore } from "../../src/device/cache_memory.ts";
import { DeviceError } from "../../src/device/device_error.ts";
import { RefusedError } from "../../src/wire/nbd/refused_error.ts";
import {
  filled,
  holding,
  identity,
  newSession,
  openLink,
  settle,
  type SetUp,
  setUp,
} from "../testing/link.ts";
import type { RestartableServer } from "../testing/restartable_server.ts";

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, permissions: "none", fn });
}

const reserved = (connections = 1) =>
  ({ identity, writers: "one-session", session: newSession(), connections }) as const;

/** As a denbd server does: each start raises the generation. */
function restart(server: RestartableServer): void {
  server.identity = { ...server.identity!, generation: server.identity!.generation + 1 };
  server.start();
}

for (const connections of [1, 4]) {
  test(`a reserved export gets again what a crash took, over ${connections} connections`, async () => {
    const { server, disk, link, pass } = await setUp(reserved(connections));
    await disk.write(0, filled(1));
    await disk.flush();
    await disk.write(0, filled(2));
    await disk.zero(8192, 4096);
    server.crash();
    assertEquals(server.stored(0, 4096), filled(1));
    restart(server);
    await pass(1000);
    await disk.flush();
    assertEquals(server.stored(0, 4096), filled(2));
    assertEquals(link.reconnects, 1);
    await disk.close();
    await settle();
    assertEquals(server.reservation.reservation, null);
  });
}

test("rule 6: a second writer is refused while the first is there, and after a crash of the server too", async () => {
  const { server, clock, disk } = await setUp(reserved());
  await disk.write(0, filled(1));
  for (const crash of [false, true]) {
    if (crash) {
      server.crash();
      restart(server);
    }
    const error = await assertRejects(() => openLink(server, clock, { session: newSession() }), RefusedError);
    assertStringIncludes(error.message, "it is reserved for memory");
  }
  await disk.close();
});

test("rule 9: a second writer between the crash and the return: nothing is written again, the next flush says so", async () => {
  const { server, clock, disk, pass } = await setUp(reserved());
  await disk.write(0, filled(1));
  server.crash();
  server.start();
  clock.advance(0);
  // The operator has given up the first one, and lets it in again later.
  await server.unreserve();
  server.reservation = { reservation: null, barred: [] };
  server.crash();
  restart(server);
  const second = await openLink(server, clock, { session: newSession() });
  await second.disk.write(0, filled(2));
  await second.disk.flush();
  await second.disk.close();
  await pass(10_000);
  const error = await assertRejects(() => disk.flush(), DeviceError);
  assertStringIncludes(error.message, "its reservation has ended");
  assertEquals(server.stored(0, 4096), filled(2));
  await disk.write(0, filled(3));
  await disk.flush();
  assertEquals(server.stored(0, 4096), filled(3));
  await disk.close();
});

/** A cache over a disk that is reserved for it, which has kept the first block. */
async function setUpCached(options: Partial<SetUp> = {}) {
  const world = await setUp({ ...reserved(), stallMs: 3_600_000, ...options });
  const { disk, link } = world;
  const cache = new CacheDisk(disk, new MemoryStore(65536, 4096), { isAlone: () => link.isAlone });
  await disk.write(0, filled(1));
  await disk.flush();
  const seen = new Uint8Array(4096);
  await cache.read(0, seen);
  return { ...world, cache };
}

test("rule 14: with a mute link a cache answers for as long as the reservation lasts at least, and then waits", async () => {
  const { server, clock, cache, pass } = await setUpCached({ stallMs: 200_000 });
  server.hang();
  clock.advance(59_999);
  const seen = new Uint8Array(4096);
  assertEquals(cache.read(0, seen), undefined);
  assertEquals(seen, filled(1));
  clock.advance(1);
  let answered = false;
  const reading = (cache.read(0, seen) as Promise<void>).then(() => answered = true);
  await pass(5000);
  assertEquals(answered, false);
  // The server has lost sight of it, and somebody else comes in the meantime.
  server.cut();
  await settle();
  await pass(60_000);
  const second = await openLink(server, clock, { session: newSession() });
  await second.disk.write(0, filled(2));
  await second.disk.flush();
  await second.disk.close();
  await settle();
  assertEquals(answered, false);
  await pass(200_000);
  await reading;
  assertEquals(seen, filled(2));
  await cache.close();
});

test("rule 14: every answer lets a cache go on, counted from when the request was sent", async () => {
  const { clock, link, disk, cache, pass } = await setUpCached();
  assertEquals(link.isAlone, true);
  // Probes are answers, too.
  await pass(300_000);
  assertEquals(cache.read(0, new Uint8Array(4096)), undefined);
  clock.advance(59_000);
  await settle();
  await disk.flush();
  clock.advance(59_000);
  assertEquals(link.isAlone, true);
  await cache.close();
});

test("rule 14: without a connection a reservation vouches for nothing", async () => {
  const { server, link, cache, pass } = await setUpCached();
  server.crash();
  await settle();
  assertEquals(link.isAlone, false);
  let answered = false;
  const reading = (cache.read(0, new Uint8Array(4096)) as Promise<void>).then(() => answered = true);
  await settle();
  assertEquals(answered, false);
  restart(server);
  await pass(1000);
  await reading;
  assertEquals(link.isAlone, true);
  await cache.close();
});

test("rule 14: a sole writer's cache answers whatever becomes of the link, for the operator has said so", async () => {
  const { server, clock, cache } = await setUpCached({ soleWriter: true });
  server.hang();
  clock.advance(3_000_000);
  assertEquals(cache.read(0, new Uint8Array(4096)), undefined);
  await cache.close();
});

for (const ending of ["unreserve", "shared"] as const) {
  test(`rule 14: a cache answers nothing more when the operator ends the reservation: ${ending}`, async () => {
    const { server, clock, link, cache, pass } = await setUpCached();
    if (ending === "unreserve") await server.unreserve();
    else server.exports.find("disk")!.writers = "any";
    const other = await openLink(server, clock, { session: newSession() });
    await other.disk.write(0, filled(2));
    await settle();
    assertEquals(link.isAlone, false);
    const seen = new Uint8Array(4096);
    const reading = cache.read(0, seen);
    if (ending === "shared") {
      await pass(1000);
      await reading;
      assertEquals(seen, filled(2));
    } else {
      (reading as Promise<void>).catch(() => {});
    }
    await other.disk.close();
    await cache.close();
  });
}

test("who was broken off by the operator is not let in again", async () => {
  const { server, disk, pass } = await setUp({ ...reserved(), deadlineMs: 60_000 });
  await disk.write(0, filled(1));
  await server.unreserve();
  const writing = disk.write(0, filled(2)) as Promise<void>;
  writing.catch(() => {});
  await pass(61_000);
  assertEquals((await assertRejects(() => writing, DeviceError)).errno, "ETIMEDOUT");
  await disk.close();
});

test("rule 7: two clients behind one address keep their connections, each its own session", async () => {
  const { server, clock, disk, link, pass } = await setUp({ identity, session: newSession() });
  const neighbour = await openLink(server, clock, { session: newSession() });
  await disk.write(0, filled(1));
  await neighbour.disk.write(4096, filled(2));
  await pass(10_000);
  assertEquals([link.reconnects, neighbour.link.reconnects], [0, 0]);
  await neighbour.disk.close();
  await disk.close();
});

test("V46: a client that was cut off silently takes its own place at once, whatever its old connection does", async () => {
  const session = newSession();
  const { server, clock, disk } = await setUp({ ...reserved(), session });
  await disk.write(0, filled(1));
  // The server still believes in the old connection, and no time passes until it would find out.
  server.hang();
  const later = await openLink(server, clock, {
    session: { ...session, generation: session.generation + 1 },
  });
  await later.disk.write(0, filled(2));
  await later.disk.flush();
  assertEquals(server.stored(0, 4096), filled(2));
  // Somebody else does not get in.
  await assertRejects(() => openLink(server, clock, { session: newSession() }), RefusedError, "reserved");
  await later.disk.close();
  server.crash();
  await settle();
  void disk.close();
});

test("V14: a write that the old connection still holds is done with before the new one is served", async () => {
  const { wrap, faults } = holding("write");
  const { server, disk, pass } = await setUp({ wrap, identity, session: newSession() });
  const first = disk.write(0, filled(1)) as Promise<void>;
  const second = disk.write(0, filled(2)) as Promise<void>;
  await settle();
  server.cutSilently();
  await pass(20_000);
  let answered = false;
  void first.then(() => answered = true);
  await settle();
  assertEquals(answered, false);
  faults[0].remove();
  await pass(20_000);
  await Promise.all([first, second]);
  await disk.flush();
  assertEquals(server.stored(0, 4096), filled(2));
  await disk.close();
});
