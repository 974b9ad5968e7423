/** Who is slow is waited for; who is gone is left, and nobody hears of it but by a pause. */
import { assert, assertEquals } from "@std/assert";
import { filled, holding, identity, newSession, settle, setUp } from "../../testing/link.ts";

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, permissions: "none", fn });
}

const reads = (count: number) => Array.from({ length: count }, () => new Uint8Array(4096));

test("V11: packets that vanish: a denbd server is left when it owes a sign of life for 30 s, and asked anew", async () => {
  for (const busy of [true, false]) {
    const { server, disk, link, pass } = await setUp({ identity, session: newSession() });
    await disk.write(0, filled(1));
    await pass(60_000);
    assertEquals(link.reconnects, 0);
    server.hang();
    const reading = busy ? disk.read(0, new Uint8Array(4096)) as Promise<void> : undefined;
    await pass(29_000);
    assertEquals(link.reconnects, 0);
    await pass(12_000);
    assertEquals(link.reconnects, 1);
    await reading;
    await disk.flush();
    await disk.close();
  }
});

for (const server of ["denbd", "another"] as const) {
  const known = server === "denbd" ? { identity, session: newSession() } : {};

  test(`rule 12: a flush that takes 60 s is slow, not gone, with ${server} server`, async () => {
    const { wrap, faults } = holding("flush");
    const { server, disk, link, pass } = await setUp({ ...known, wrap });
    await disk.write(0, filled(1));
    const flushing = disk.flush();
    await pass(60_000);
    faults[0].remove();
    await flushing;
    assertEquals([link.reconnects, server.dialled], [0, 1]);
    await disk.close();
  });

  test(`V9: a disk that is stuck under 10,000 requests is slow, not gone, with ${server} server`, async () => {
    const { wrap, faults } = holding("read");
    const { server, disk, link, pass } = await setUp({ ...known, wrap });
    const buffers = reads(10_000);
    const ended = Promise.all(buffers.map((into, index) => disk.read((index % 256) * 4096, into)));
    await pass(120_000);
    faults[0].remove();
    await ended;
    assertEquals([link.reconnects, server.dialled], [0, 1]);
    await disk.close();
  });
}

test("a probe waits behind no request: it is answered while the disk answers nothing", async () => {
  const { wrap, faults } = holding("read");
  const { server, disk, link, pass } = await setUp({ identity, session: newSession(), wrap });
  const ended = Promise.all(reads(500).map((into) => disk.read(0, into)));
  await pass(20_000);
  // From here on nobody answers probes either.
  server.hang();
  await pass(45_000);
  assertEquals(server.dialled, 2);
  faults[0].remove();
  await pass(5000);
  await ended;
  assertEquals(link.reconnects, 1);
  await disk.close();
});

test("--stall says how long a sign of life may take", async () => {
  const { server, disk, link, pass } = await setUp({ identity, session: newSession(), stallMs: 6000 });
  server.hang();
  await pass(5000);
  assertEquals(link.reconnects, 0);
  await pass(6000);
  assertEquals(link.reconnects, 1);
  await disk.close();
});

test("a server that answers no probes is left after a silence only if that was asked for", async () => {
  for (const silenceMs of [undefined, 4000]) {
    const { server, disk, link, pass } = await setUp({ silenceMs });
    server.hang();
    await pass(60_000);
    // It owes nothing.
    assertEquals(link.reconnects, 0);
    const reading = disk.read(0, new Uint8Array(4096)) as Promise<void>;
    reading.catch(() => {});
    await pass(7000);
    assertEquals(link.reconnects, silenceMs === undefined ? 0 : 1);
    if (silenceMs !== undefined) await reading;
    await disk.close();
  }
});

test("no more is sent than leaves room for a probe, and all of it in the end", async () => {
  const { server, disk, pass } = await setUp({ identity, session: newSession() });
  await settle();
  const data = Array.from({ length: 1000 }, (_, index) => filled(index % 251, 1024));
  await Promise.all(data.map((each, index) => disk.write(index * 1024, each)));
  await disk.flush();
  await pass(1000);
  assert(
    data.every((each, index) => server.stored(index * 1024, 1024).every((byte, at) => byte === each[at])),
  );
  await disk.close();
});
