/** A remote disk over links that are slow, lose packets and break, by a clock that moves only when told. */
import { assert, assertEquals } from "@std/assert";
import { equals as equal } from "@std/bytes";
import { DeviceError } from "../../src/device/device_error.ts";
import { FaultDisk } from "../../src/device/fault.ts";
import type { Connection } from "../../src/net/connection.ts";
import { filled, MIB, settle, setUp } from "../testing/link.ts";
import type { ManualClock } from "../testing/manual_clock.ts";
import { randomFrom } from "../testing/random.ts";

const BLOCK = 4096;

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, permissions: "none", fn });
}

/** A way on which every piece takes its time, and none overtakes another. */
class SlowWay {
  /** Until it is set, nothing takes time. */
  clock: ManualClock | null = null;
  readonly #delayMs: () => number;

  /** @param delayMs How long the next piece takes. */
  constructor(delayMs: () => number) {
    this.#delayMs = delayMs;
  }

  readonly over = (connection: Connection): Connection => {
    let lastSent: Promise<unknown> = Promise.resolve();
    let lastRead: Promise<unknown> = Promise.resolve();
    const arrived: (() => Promise<Uint8Array | null>)[] = [];
    let rest: Uint8Array = new Uint8Array();
    let wake = () => {};
    const receive = async () => {
      for (let count: number | null = 0; count !== null;) {
        const bytes = new Uint8Array(64 * 1024);
        count = await connection.read(bytes);
        const piece = count === null ? null : bytes.subarray(0, count);
        const arriving = Promise.all([lastRead, this.#wait()]);
        lastRead = arriving;
        arrived.push(() => arriving.then(() => piece));
        wake();
      }
    };
    void receive();
    return {
      peer: connection.peer,
      async read(into) {
        while (rest.length === 0) {
          if (arrived.length === 0) await new Promise<void>((resolve) => wake = resolve);
          const piece = await arrived[0]();
          if (piece === null) return null;
          arrived.shift();
          rest = piece;
        }
        const count = Math.min(rest.length, into.length);
        into.set(rest.subarray(0, count));
        rest = rest.subarray(count);
        return count;
      },
      write: (bytes) => {
        const copy = bytes.slice();
        lastSent = Promise.all([lastSent, this.#wait()]).then(() => connection.write(copy)).catch(() => {});
      },
      close: () => connection.close(),
    };
  };

  async #wait(): Promise<void> {
    const { clock } = this;
    if (clock !== null) await new Promise<void>((resolve) => clock.timer(this.#delayMs(), resolve));
  }
}

test("V22: with 200 ms of delay and a loss of 1 % the work is done over one connection, the faster the deeper", async () => {
  const { below, bytes } = randomFrom(22);
  const content = bytes(64 * BLOCK);
  const tookMs: number[] = [];
  for (const depth of [1, 8, 64]) {
    // What is lost comes when it was sent again.
    const way = new SlowWay(() => 100 + (below(100) === 0 ? 300 : 0));
    const { clock, disk, server, link } = await setUp({ tamper: way.over });
    way.clock = clock;
    let asked = 0;
    const work = async () => {
      while (asked < 64) {
        const at = asked++ * BLOCK;
        await disk.write(at, content.subarray(at, at + BLOCK));
        const seen = new Uint8Array(BLOCK);
        await disk.read(at, seen);
        assertEquals(seen, content.subarray(at, at + BLOCK));
      }
    };
    const beganMs = clock.now();
    let working = true;
    const done = Promise.all(Array.from({ length: depth }, work))
      .then(() => disk.flush())
      .finally(() => working = false);
    while (working) {
      clock.advance(10);
      await settle();
    }
    await done;
    tookMs.push(clock.now() - beganMs);
    assert(equal(server.stored(0, content.length), content));
    assertEquals([server.dialled, link.resent], [1, 0]);
    way.clock = null;
    await disk.close();
  }
  const [one, eight, sixtyFour] = tookMs;
  assert(eight < one / 4 && sixtyFour < eight / 3, `${tookMs}`);
});

/** Breaks the connection at its n-th step, which is a read or a write of it: before it, or behind it. */
function breaking(connection: Connection, step: number, behind: boolean): Connection {
  let steps = 0;
  const broken = Promise.withResolvers<null>();
  const end = () => {
    connection.close();
    broken.resolve(null);
  };
  return {
    peer: connection.peer,
    read(into) {
      if (steps++ === step && !behind) end();
      const isLast = steps - 1 === step;
      const reading = Promise.resolve(connection.read(into)).then((count) => {
        if (isLast) end();
        return count;
      });
      return Promise.race([reading, broken.promise]);
    },
    write(bytes) {
      if (steps++ === step && !behind) end();
      const writing = connection.write(bytes);
      if (steps - 1 === step) end();
      return writing;
    },
    close: end,
  };
}

test("V25: whichever step breaks the connection, each request ends exactly once, and as it must", async () => {
  let brokeAtWork = 0;
  for (const behind of [false, true]) {
    for (let step = 8; step < 40; step++) {
      const { disk, server, link, pass } = await setUp({
        soleWriter: true,
        wrap: (disk) => {
          const faulty = new FaultDisk(disk);
          faulty.add({ operation: "read", range: { offset: 15 * BLOCK, length: 1 }, errno: "EIO" });
          return faulty;
        },
        tamper: (connection, dialled) => dialled === 1 ? breaking(connection, step, behind) : connection,
      });
      const ends: string[] = [];
      const seen = Array.from({ length: 4 }, () => new Uint8Array(BLOCK));
      const requests: [string, () => unknown][] = [];
      for (let index = 0; index < 4; index++) {
        requests.push([`write ${index}`, () => disk.write(index * BLOCK, filled(index + 1))]);
      }
      requests.push(["flush", () => disk.flush()], ["zero", () => disk.zero(8 * BLOCK, BLOCK)]);
      requests.push(["bad read", () => disk.read(15 * BLOCK, new Uint8Array(BLOCK))]);
      const ask = ([name, request]: [string, () => unknown]) =>
        Promise.resolve(request()).then(() => ends.push(name), (error) => {
          assert(error instanceof DeviceError);
          ends.push(`${name}: ${error.errno}`);
        });
      const asked = requests.map(ask);
      await pass(3000);
      for (let index = 0; index < 4; index++) {
        asked.push(ask([`read ${index}`, () => disk.read(index * BLOCK, seen[index])]));
      }
      await pass(3000);
      await Promise.all(asked);
      const wanted = requests.map(([name]) => name === "bad read" ? "bad read: EIO" : name);
      for (let index = 0; index < 4; index++) wanted.push(`read ${index}`);
      assertEquals(ends.sort(), wanted.sort(), `step ${step}`);
      assertEquals(seen, Array.from({ length: 4 }, (_, index) => filled(index + 1)));
      // It may be this that breaks the connection.
      const flushing = disk.flush();
      await pass(1000);
      await flushing;
      assertEquals(server.stored(0, BLOCK), filled(1));
      assertEquals(link.status.unanswered, 0);
      brokeAtWork += link.reconnects;
      await disk.close();
    }
  }
  assert(brokeAtWork > 10, `${brokeAtWork}`);
});

Deno.test("V26: after hundreds of cuts, crashes, silences and errors nothing is left over, and the content is right", async () => {
  const { seed, below, bytes } = randomFrom();
  const faults: FaultDisk[] = [];
  const { clock, disk, server, link, pass } = await setUp({
    soleWriter: true,
    wrap: (disk) => {
      const faulty = new FaultDisk(disk);
      faults.push(faulty);
      return faulty;
    },
  });
  const content = new Uint8Array(MIB);
  const idle = async () => {
    await disk.flush();
    await pass(50);
    return [clock.timers, link.status.unanswered, link.replayBytes, link.status.connections];
  };
  await disk.write(0, filled(1));
  content.set(filled(1));
  const before = await idle();
  let failed = 0;
  for (let round = 0; round < 200; round++) {
    const asked: Promise<unknown>[] = [];
    const fault = below(4) === 0 ? faults.at(-1)!.add({ operation: "read", errno: "EIO" }) : null;
    for (let request = 0; request < 8; request++) {
      // Each has a place of its own: what overlaps is a matter of its own.
      const at = (request * 32 + below(32)) * BLOCK;
      const data = bytes(BLOCK);
      content.set(data, at);
      asked.push(Promise.resolve(disk.write(at, data)));
      const elsewhere = disk.read(((request + 8) % 8 * 32 + below(32)) * BLOCK, new Uint8Array(BLOCK));
      asked.push(Promise.resolve(elsewhere).catch(() => failed++));
    }
    for (let turn = below(12); turn > 0; turn--) await null;
    switch (below(4)) {
      case 0:
        server.cut();
        break;
      case 1:
        server.crash();
        await pass(below(2000));
        server.start();
        break;
      case 2:
        server.cutSilently();
        break;
    }
    fault?.remove();
    await pass(7000);
    await Promise.all(asked);
    if (below(4) === 0) await disk.flush();
  }
  const after = await idle();
  assertEquals(after, before, `seed ${seed}`);
  assert(equal(server.stored(0, MIB), content), `seed ${seed}`);
  const seen = new Uint8Array(MIB);
  await disk.read(0, seen);
  assert(equal(seen, content), `seed ${seed}`);
  assert(link.reconnects > 50 && failed > 0, `seed ${seed}: ${link.reconnects} ${failed}`);
  await disk.close();
});
