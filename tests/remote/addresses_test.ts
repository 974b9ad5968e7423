/** One disk under several addresses; servers that cannot be fenced; content that may be another's. */
import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import type { DiskIdentity } from "../../src/device/device.ts";
import { DeviceError } from "../../src/device/device_error.ts";
import { openNbd } from "../../src/remote/open_nbd.ts";
import { WireError } from "../../src/wire/wire_error.ts";
import { filled, holding, identity, MIB, newSession, setUp } from "../testing/link.ts";
import { ManualClock } from "../testing/manual_clock.ts";
import { RestartableServer } from "../testing/restartable_server.ts";

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, permissions: "none", fn });
}

function anotherServer(change: Partial<DiskIdentity> = {}): RestartableServer {
  const server = new RestartableServer(MIB);
  server.identity = { ...identity, ...change };
  return server;
}

test("V24: the next address is tried when a server is away, and tells the same disk", async () => {
  const second = anotherServer();
  const { server, disk, link, pass } = await setUp({ others: [second.dial], identity });
  await disk.write(0, filled(1));
  await disk.flush();
  server.crash();
  second.medium = server.medium;
  second.start();
  const into = new Uint8Array(4096);
  const reading = disk.read(0, into) as Promise<void>;
  await pass(1000);
  await reading;
  assertEquals([into, link.reconnects], [filled(1), 1]);
  await disk.close();
});

test("V24: an address with another disk, or an older state of it, is passed over", async () => {
  for (const change of [{ uuid: "11234567-89ab-4def-8123-456789abcdef" }, { generation: 6 }]) {
    const wrong = anotherServer(change);
    wrong.start();
    const { server, disk, link, pass } = await setUp({ others: [wrong.dial], identity });
    server.crash();
    await pass(5000);
    assertEquals([link.status.state, wrong.dialled > 1], ["reconnecting", true]);
    server.start();
    await pass(10_000);
    await disk.read(0, new Uint8Array(512));
    assertEquals(link.reconnects, 1);
    await disk.close();
  }
});

test("a writable disk of a server without identity has one address, a read-only one may have several", async () => {
  const server = new RestartableServer(MIB);
  server.start();
  const options = { dial: server.dial, others: [server.dial], exportName: "disk", clock: new ManualClock() };
  const error = await assertRejects(() => openNbd({ ...options, survival: {} }), WireError);
  assertStringIncludes(error.message, "does not say which disk it has");
  const { disk } = await openNbd({ ...options, survival: {}, readOnly: true });
  await disk.close();
});

test("--strict fails the disk when what a server without sessions may still execute was lost, and only then", async () => {
  for (const known of [{}, { identity, session: newSession() }]) {
    const { wrap, faults } = holding("write");
    const { server, disk, link, pass } = await setUp({ wrap, strict: true, ...known });
    // A read does no harm when it is executed late.
    await disk.read(0, new Uint8Array(512));
    server.cut();
    await pass(1000);
    assertEquals(link.status.state, "connected");
    const writing = disk.write(0, filled(1)) as Promise<void>;
    writing.catch(() => {});
    await pass(100);
    server.cut();
    await pass(1000);
    faults[0].remove();
    await pass(10_000);
    assertEquals(link.status.fenced, "session" in known);
    if (link.status.fenced) {
      await writing;
    } else {
      const error = await assertRejects(() => writing, DeviceError);
      assertStringIncludes(error.message, "the server knows no sessions");
      assertEquals(link.status.state, "failed");
    }
    await disk.close();
  }
});

const returns: [string, Parameters<typeof setUp>[0], (server: RestartableServer) => void, boolean][] = [
  ["the same instance", { identity, session: newSession() }, (server) => server.cut(), true],
  ["a server of others", { soleWriter: true }, (server) => server.cut(), false],
  ["another start of a denbd server", { identity, session: newSession() }, (server) => {
    server.crash();
    server.identity = { ...identity, generation: 8 };
    server.start();
  }, false],
  ["another start, for a sole writer", { identity, session: newSession(), soleWriter: true }, (server) => {
    server.crash();
    server.identity = { ...identity, generation: 8 };
    server.start();
  }, true],
  [
    "another start, under a reservation",
    { identity, session: newSession(), writers: "one-session" },
    (server) => {
      server.crash();
      server.identity = { ...identity, generation: 8 };
      server.start();
    },
    true,
  ],
  ["a read-only disk that is as it was", { identity }, (server) => {
    server.crash();
    server.start();
  }, true],
];

for (const [what, options, change, isProven] of returns) {
  test(`what was read before is ${isProven ? "still" : "no longer"} trusted after the return to ${what}`, async () => {
    let changed = 0;
    const { server, disk, link, pass } = await setUp({ ...options, contentMayHaveChanged: () => changed++ });
    change(server);
    await pass(1000);
    assertEquals([link.reconnects, changed], [1, isProven ? 0 : 1]);
    await disk.close();
  });
}
