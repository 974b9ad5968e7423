/** A writer whose export a denbd server keeps for it: what it wrote survives crashes without anybody's promise. */
import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { DeviceError } from "../../src/device/device_error.ts";
import { RefusedError } from "../../src/wire/nbd/refused_error.ts";
import { filled, holding, identity, newSession, openLink, settle, setUp } from "../testing/link.ts";
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
