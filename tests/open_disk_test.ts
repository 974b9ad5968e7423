/** Servers that are there and say nothing: how long they are waited for, and what is said then. */
import { assertEquals, assertRejects } from "@std/assert";
import { parseDiskLocator } from "../src/base/uri.ts";
import { listNbdExports, openDisk, OpenError } from "../src/open_disk.ts";
import { MemoryDisk } from "../src/device/memory.ts";
import type { Log } from "../src/base/log.ts";
import { silentLog } from "../src/base/log.ts";
import { ManualClock } from "./testing/manual_clock.ts";
import { listenDisk } from "./testing/served_disk.ts";

/** "NBDMAGIC", "IHAVEOPT", fixed newstyle. */
const GREETING = Uint8Array.from([
  ...new TextEncoder().encode("NBDMAGICIHAVEOPT"),
  ...[0, 3],
]);

/** A server that says so much, and after the first word of its client nothing more. */
class MuteServer {
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  readonly address = `127.0.0.1:${(this.#listener.addr as Deno.NetAddr).port}`;
  readonly #said: Uint8Array | null;
  readonly #connections: Deno.Conn[] = [];

  constructor(said: Uint8Array | null = null) {
    this.#said = said;
  }

  /** Resolves when a client has come and said something. */
  async addressed(): Promise<void> {
    const connection = await this.#listener.accept();
    this.#connections.push(connection);
    if (this.#said !== null) await connection.write(this.#said);
    await connection.read(new Uint8Array(64));
  }

  [Symbol.dispose](): void {
    for (const connection of this.#connections) connection.close();
    this.#listener.close();
  }
}

const handshakes: [scheme: string, said: Uint8Array | null, awaited: string][] = [
  ["nbd", GREETING, "NBD handshake"],
  ["nbds", GREETING, "TLS"],
  ["nbd+crc", null, "channel"],
];

for (const [scheme, said, awaited] of handshakes) {
  Deno.test(`${scheme}: opening a server that goes mute ends with the deadline, and says what was missing`, async () => {
    using server = new MuteServer(said);
    const clock = new ManualClock();
    const opening = openDisk(parseDiskLocator(`${scheme}://${server.address}/x`), {
      clock,
      deadlineMs: 2000,
    });
    const failure = assertRejects(() => opening, OpenError);
    await server.addressed();
    clock.advance(2000);
    assertEquals(
      (await failure).message,
      `cannot open ${scheme}://${server.address}/x: no ${awaited} with ${server.address} within 2 s`,
    );
  });
}

Deno.test("listing the exports of a server that goes mute ends with the deadline", async () => {
  using server = new MuteServer(GREETING);
  const clock = new ManualClock();
  const locator = parseDiskLocator(`nbd://${server.address}`);
  if (locator.kind !== "nbd") throw new Error();
  const failure = assertRejects(() => listNbdExports(locator, { clock, deadlineMs: 1500 }), OpenError);
  await server.addressed();
  clock.advance(1500);
  assertEquals(
    (await failure).message,
    `cannot open nbd://${server.address}/: no NBD handshake with ${server.address} within 1.5 s`,
  );
});

Deno.test("opening an image whose server goes mute ends with the deadline", async () => {
  using server = new MuteServer();
  const clock = new ManualClock();
  const opening = openDisk(parseDiskLocator(`dnbd3://${server.address}/x`), { clock, deadlineMs: 1000 });
  const failure = assertRejects(() => opening, OpenError);
  await server.addressed();
  clock.advance(1000);
  assertEquals(
    (await failure).message,
    `cannot open dnbd3://${server.address}/x: no answer from a server within 1 s`,
  );
});

Deno.test("without a deadline, or with a long one, opening a server that goes mute ends after 15 s", async () => {
  for (const deadlineMs of [undefined, 60_000, Infinity]) {
    using server = new MuteServer(GREETING);
    const clock = new ManualClock();
    const opening = openDisk(parseDiskLocator(`nbd://${server.address}`), { clock, deadlineMs });
    let ended = false;
    opening.catch(() => {}).finally(() => ended = true);
    await server.addressed();
    clock.advance(14_999);
    await new Promise((resolve) => setTimeout(resolve));
    assertEquals(ended, false);
    clock.advance(1);
    await assertRejects(() => opening, OpenError, "within 15 s");
  }
});

Deno.test("of several addresses a mute one has its share of the time, and the next is tried", async () => {
  using mute = new MuteServer(GREETING);
  await using good = listenDisk(new MemoryDisk(4096));
  const clock = new ManualClock();
  const warnings: string[] = [];
  const log: Log = { ...silentLog, warn: (message) => void warnings.push(message) };
  const opening = openDisk(parseDiskLocator(`nbd://${mute.address},127.0.0.1:${good.port}/`), {
    clock,
    log,
    readOnly: true,
    deadlineMs: 3000,
  });
  await mute.addressed();
  clock.advance(1500);
  const disk = await opening;
  assertEquals(disk.sizeBytes, 4096);
  assertEquals(warnings, [`trying the next address: no NBD handshake with ${mute.address} within 1.5 s`]);
  await disk.close();
});
