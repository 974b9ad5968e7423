/** READs of neighbouring ranges that become one on their way to a server whose every byte is the test's. */
import { assert, assertEquals } from "@std/assert";
import type { DeviceError } from "../../src/device/device_error.ts";
import type { Connection } from "../../src/net/connection.ts";
import { converse } from "../../src/net/converse.ts";
import { NbdDisk } from "../../src/remote/nbd.ts";
import { openConnection } from "../../src/remote/open_connection.ts";
import type { SurvivalOptions } from "../../src/remote/survival_options.ts";
import { SurvivingLink } from "../../src/remote/surviving_link.ts";
import { encodeDataChunkHeader, encodeErrorChunk, encodeHoleChunk } from "../../src/wire/nbd/chunk.ts";
import { Command, ReplyFlag, WireErrno } from "../../src/wire/nbd/constants.ts";
import { negotiateNewstyle } from "../../src/wire/nbd/handshake_server.ts";
import { decodeRequest, type Request, requestBytes } from "../../src/wire/nbd/transmission.ts";
import { connectionPair } from "../testing/connection_pair.ts";
import { settle } from "../testing/link.ts";
import { ManualClock } from "../testing/manual_clock.ts";
import { anOffer, hallOf } from "../testing/nbd_hall.ts";

const KIB = 1024;
const PART = 64 * KIB;
const { READ, WRITE, FLUSH } = Command;

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name: `joined reads: ${name}`, permissions: "none", fn });
}

/** What the disk holds at an offset. */
const byteAt = (offset: number) => (offset >> 12) * 7 + offset & 0xff;

/** One side of a connection, which speaks for a server. */
class Server {
  readonly #connection: Connection;
  readonly #extended: boolean;
  /** Requests that came, and what of the next is there. */
  readonly requests: Request[] = [];

  constructor(connection: Connection, extended: boolean, rest: Uint8Array) {
    this.#connection = connection;
    this.#extended = extended;
    void this.#listen(rest);
  }

  async #listen(rest: Uint8Array): Promise<void> {
    let there = rest.slice();
    const into = new Uint8Array(256 * KIB);
    const bytes = requestBytes(this.#extended);
    for (let count; (count = await this.#connection.read(into)) !== null;) {
      there = new Uint8Array([...there, ...into.subarray(0, count)]);
      while (there.length >= bytes) {
        const request: Request = { flags: 0, type: 0, cookie: 0n, offset: 0, length: 0 };
        decodeRequest(new DataView(there.buffer, there.byteOffset), 0, this.#extended, request);
        const length = bytes + (request.type === WRITE ? request.length : 0);
        if (there.length < length) break;
        this.requests.push(request);
        there = there.slice(length);
      }
    }
  }

  /** Ranges of the READs that came, in units of a part. */
  get ranges(): number[][] {
    return this.requests.filter(({ type }) => type === READ).map(({ offset, length }) => [
      offset / PART,
      length / PART,
    ]);
  }

  async send(bytes: Uint8Array): Promise<void> {
    await this.#connection.write(bytes);
    await settle();
  }

  /** A data chunk, by default of all that was asked for; or the first `dataBytes` of its data. */
  async data(
    request: Request,
    options: { offset?: number; length?: number; dataBytes?: number; last?: boolean } = {},
  ): Promise<void> {
    const { offset = request.offset, length = request.length, last = true } = options;
    const { dataBytes = length } = options;
    const bytes = new Uint8Array(64 + dataBytes);
    const view = new DataView(bytes.buffer);
    const flags = last ? ReplyFlag.DONE : 0;
    const header = encodeDataChunkHeader(
      view,
      0,
      this.#extended,
      flags,
      request.cookie,
      request.offset,
      offset,
      length,
    );
    for (let at = 0; at < dataBytes; at++) bytes[header + at] = byteAt(offset + at);
    await this.send(bytes.subarray(0, header + dataBytes));
  }

  async hole(request: Request, offset: number, length: number, last: boolean): Promise<void> {
    const bytes = new Uint8Array(64);
    const flags = last ? ReplyFlag.DONE : 0;
    const view = new DataView(bytes.buffer);
    const count = encodeHoleChunk(
      view,
      0,
      this.#extended,
      flags,
      request.cookie,
      request.offset,
      offset,
      length,
    );
    await this.send(bytes.subarray(0, count));
  }

  async fail(request: Request, error: number = WireErrno.EIO, last = true): Promise<void> {
    const bytes = new Uint8Array(512);
    const view = new DataView(bytes.buffer);
    const { cookie, offset } = request;
    const flags = last ? ReplyFlag.DONE : 0;
    const count = encodeErrorChunk(
      view,
      0,
      this.#extended,
      flags,
      cookie,
      offset,
      error,
      "bad",
    );
    await this.send(bytes.subarray(0, count));
  }

  close(): void {
    this.#connection.close();
  }
}

/** How one READ ended: with its data right or wrong, or an error. */
type Ending = "right" | "wrong" | string | null;

async function meet(
  options: Partial<SurvivalOptions> & { extended?: boolean; maximumPayload?: number } = {},
) {
  const { extended = false, maximumPayload = 1 << 25, ...survival } = options;
  const servers: Server[] = [];
  const dial = () => {
    const [here, there] = connectionPair();
    const blockSizes = { minimum: 1, preferred: 4096, maximumPayload };
    void converse(negotiateNewstyle(hallOf([anOffer({ blockSizes })])), there)
      .then(({ rest }) => servers.push(new Server(there, extended, rest)));
    return Promise.resolve(here);
  };
  const clock = new ManualClock();
  const wishes = { exportName: "disk", contexts: [], structured: true, extended };
  const opened = [await openConnection(dial, wishes, undefined, clock)];
  const link = new SurvivingLink(opened, { dial, wishes, clock, random: () => 0, ...survival });
  const disk = new NbdDisk(link);
  await settle();
  const endings: Ending[] = [];
  return {
    servers,
    clock,
    link,
    disk,
    /** In the order in which they were asked for. */
    endings,
    /** Asks for parts, by their numbers; all at once. */
    async ask(...parts: number[]): Promise<void> {
      for (const part of parts) {
        const index = endings.push(null) - 1;
        disk.show(part * PART, PART, (bytes, error) => {
          assertEquals(endings[index], null, "ended twice");
          if (!(bytes instanceof Uint8Array)) return void (endings[index] = (error as DeviceError).errno);
          const right = bytes.length === PART && bytes.every((byte, at) => byte === byteAt(part * PART + at));
          endings[index] = right ? "right" : "wrong";
        });
      }
      await settle();
    },
    async pass(ms: number): Promise<void> {
      for (let left = ms; left > 0; left -= 50) {
        clock.advance(Math.min(50, left));
        await settle();
      }
    },
  };
}

for (const extended of [false, true]) {
  const form = extended ? "extended" : "structured";
  test(`what is asked for at once is one READ, and each part ends when its data are there (${form})`, async () => {
    const { servers: [server], ask, endings, disk } = await meet({ extended });
    await ask(3, 1, 2, 4);
    assertEquals(server.ranges, [[1, 4]]);
    const [request] = server.requests;
    await server.data(request, { dataBytes: PART + 100 });
    assertEquals(endings, [null, "right", null, null]);
    const rest = Uint8Array.from({ length: 3 * PART - 100 }, (_, at) => byteAt(2 * PART + 100 + at));
    await server.send(rest.subarray(0, PART - 100));
    assertEquals(endings, [null, "right", "right", null]);
    await server.send(rest.subarray(PART - 100));
    assertEquals(endings, ["right", "right", "right", "right"]);
    await disk.close();
  });
}

test("one that stands alone, or is short, or long, or has a buffer, is sent as it is", async () => {
  const { servers: [server], ask, disk } = await meet();
  disk.show(0, 4096, () => {});
  disk.show(4096, 4096, () => {});
  (disk.read(PART, new Uint8Array(PART)) as Promise<void>).catch(() => {});
  await ask(2, 4);
  disk.show(5 * PART, 16 * PART, () => {});
  await settle();
  const lengths = server.requests.map(({ offset, length }) => [offset, length]).sort(([a], [b]) => a - b);
  assertEquals(lengths, [
    [0, 4096],
    [4096, 4096],
    [PART, PART],
    [2 * PART, PART],
    [4 * PART, PART],
    [5 * PART, 16 * PART],
  ]);
  await disk.close();
});

test("no READ becomes longer than 1 MiB, or than the server takes", async () => {
  const wide = await meet();
  await wide.ask(...Array.from({ length: 40 }, (_, part) => part));
  assertEquals(wide.servers[0].ranges, [[0, 16], [16, 16], [32, 8]]);
  await wide.disk.close();
  const narrow = await meet({ maximumPayload: 3 * PART });
  await narrow.ask(0, 1, 2, 3, 4);
  assertEquals(narrow.servers[0].ranges, [[0, 3], [3, 2]]);
  await narrow.disk.close();
});

test("the same range asked for twice is sent twice, each with its neighbours", async () => {
  const { servers: [server], ask, endings, disk } = await meet();
  await ask(0, 0, 1, 1);
  assertEquals(server.ranges, [[0, 2], [0, 2]]);
  for (const request of [...server.requests]) await server.data(request);
  assertEquals(endings, ["right", "right", "right", "right"]);
  await disk.close();
});

test("when the server fails it each part is asked for alone, and only the bad one fails", async () => {
  const { servers: [server], ask, endings, link, disk } = await meet();
  await ask(0, 1, 2);
  await server.fail(server.requests[0]);
  assertEquals(server.ranges, [[0, 3], [0, 1], [1, 1], [2, 1]]);
  const [, first, second, third] = server.requests;
  await server.data(third);
  await server.fail(second);
  await server.data(first);
  assertEquals(endings, ["right", "EIO", "right"]);
  const { requests, errors, readBytes, unanswered } = link.status;
  assertEquals([requests, errors, readBytes, unanswered], [3, 1, 2 * PART, 0]);
  await disk.close();
});

test("a server that does not take what it said it would is not asked for so much again", async () => {
  const { servers: [server], ask, endings, disk } = await meet();
  await ask(0, 1);
  await server.fail(server.requests[0], WireErrno.EINVAL);
  await ask(2, 3);
  assertEquals(server.ranges, [[0, 2], [0, 1], [1, 1], [2, 1], [3, 1]]);
  for (const request of server.requests.slice(1)) await server.data(request);
  assertEquals(endings, ["right", "right", "right", "right"]);
  await disk.close();
});

test("an answer in pieces, in any order, is put together; nothing of it counts before its end", async () => {
  const { servers: [server], ask, endings, disk } = await meet();
  await ask(0, 1, 2, 3);
  const [request] = server.requests;
  await server.data(request, { offset: 2 * PART, length: PART, last: false });
  await server.data(request, { offset: 0, length: 2 * PART, last: false });
  assertEquals(endings, [null, null, null, null]);
  // The test's disk has no zeroes there.
  await server.hole(request, 3 * PART, PART, true);
  assertEquals(endings, ["right", "right", "right", "wrong"]);
  await ask(8, 9);
  const again = server.requests[1];
  await server.data(again, { length: PART, last: false });
  await server.fail(again);
  assertEquals(server.ranges.slice(1), [[8, 2], [8, 1], [9, 1]]);
  await server.data(server.requests[2]);
  await server.data(server.requests[3]);
  assertEquals(endings.slice(4), ["right", "right"]);
  await disk.close();
});

test("data that follow an error do not count, whole as they may be", async () => {
  const { servers: [server], ask, endings, disk } = await meet();
  await ask(0, 1);
  await server.fail(server.requests[0], WireErrno.EIO, false);
  await server.data(server.requests[0]);
  assertEquals(server.ranges, [[0, 2], [0, 1], [1, 1]]);
  assertEquals(endings, [null, null]);
  await server.data(server.requests[1]);
  await server.fail(server.requests[2], WireErrno.EIO, false);
  await server.data(server.requests[2]);
  assertEquals(endings, ["right", "EIO"]);
  await disk.close();
});

test("when the connection is lost in the middle only what has not arrived is asked for again", async () => {
  const { servers, ask, endings, link, pass, disk } = await meet();
  await ask(0, 1, 2, 3);
  await servers[0].data(servers[0].requests[0], { dataBytes: 2 * PART - 1 });
  assertEquals(endings, ["right", null, null, null]);
  servers[0].close();
  await settle();
  await pass(5000);
  assertEquals(servers[1].ranges, [[1, 3]]);
  await servers[1].data(servers[1].requests[0]);
  assertEquals(endings, ["right", "right", "right", "right"]);
  const { requests, readBytes, resent } = link.status;
  assertEquals([requests, readBytes, resent], [4, 4 * PART, 3]);
  await disk.close();
});

test("a write waits for the part that it overlaps, and for no other", async () => {
  const { servers: [server], ask, endings, disk } = await meet();
  await ask(0, 1);
  const [request] = server.requests;
  const writes = [0, 1].map((part) => disk.write(part * PART + 512, new Uint8Array(512)));
  for (const write of writes) (write as Promise<void>).catch(() => {});
  await settle();
  assertEquals(server.requests.length, 1);
  await server.data(request, { dataBytes: PART });
  assertEquals(endings, ["right", null]);
  assertEquals(server.requests.slice(1).map(({ type, offset }) => [type, offset]), [[WRITE, 512]]);
  // What was asked for behind the writes waits for them, and holds up nobody.
  await ask(0, 1, 2, 3);
  assertEquals(server.ranges, [[0, 2], [2, 2]]);
  await server.send(Uint8Array.from({ length: PART }, (_, at) => byteAt(PART + at)));
  assertEquals(endings[1], "right");
  assertEquals(server.requests.slice(3).map(({ type, offset }) => [type, offset]), [[WRITE, PART + 512]]);
  await server.data(server.requests[2]);
  assertEquals(endings.slice(2), [null, null, "right", "right"]);
  await disk.close();
});

test("other requests are not held up", async () => {
  const { servers: [server], ask, disk } = await meet();
  await ask(0, 1);
  void disk.flush().catch(() => {});
  await settle();
  assertEquals(server.requests.map(({ type }) => type), [READ, FLUSH]);
  await disk.close();
});

test("what continues them is held while enough is under way and answers come soon, but not for long", async () => {
  const { servers: [server], ask, endings, clock, disk } = await meet();
  await ask(0, 1, 2, 3);
  // Nobody knows yet how soon answers come.
  await ask(4);
  assertEquals(server.ranges, [[0, 4], [4, 1]]);
  await server.data(server.requests[0]);
  await server.data(server.requests[1]);
  await ask(5, 6, 7, 8);
  await ask(9);
  await ask(10);
  // What continues nothing goes with what was held.
  assertEquals(server.ranges.slice(2), [[5, 4]]);
  await ask(40);
  assertEquals(server.ranges.slice(3), [[9, 2], [40, 1]]);
  await ask(11);
  assertEquals(server.ranges.length, 5);
  clock.advance(2);
  await settle();
  assertEquals(server.ranges.slice(5), [[11, 1]]);
  // As much as is worth it goes at once.
  await ask(12, 13, 14, 15, 16, 17, 18);
  assertEquals(server.ranges.length, 6);
  await ask(19);
  assertEquals(server.ranges.slice(6), [[12, 8]]);
  // When little is left under way, they go.
  await ask(20);
  for (const request of server.requests.slice(2)) await server.data(request);
  assertEquals(server.ranges.slice(7), [[20, 1]]);
  await server.data(server.requests[7]);
  assert(endings.every((ending) => ending === "right"));
  // An answer took its time: nothing is held.
  await ask(21, 22, 23, 24);
  clock.advance(3);
  await server.data(server.requests[8]);
  await ask(25, 26, 27, 28);
  await ask(29);
  await ask(30);
  assertEquals(server.ranges.slice(9), [[25, 4], [29, 1], [30, 1]]);
  await disk.close();
});

test("each part has its own deadline, held or not", async () => {
  const { servers, ask, endings, clock, pass, disk } = await meet({ deadlineMs: 10_000 });
  await ask(0);
  await servers[0].data(servers[0].requests[0]);
  await ask(1, 2, 3, 4);
  await ask(5);
  assertEquals(servers[0].ranges, [[0, 1], [1, 4]]);
  await servers[0].data(servers[0].requests[1], { dataBytes: PART });
  await pass(9000);
  await ask(6);
  clock.advance(1000);
  await settle();
  const late = "ETIMEDOUT";
  assertEquals(endings, ["right", "right", late, late, late, late, null]);
  await pass(5000);
  assertEquals(servers[1].ranges, [[6, 1]]);
  await servers[1].data(servers[1].requests[0]);
  assertEquals(endings[6], "right");
  await disk.close();
});

test("when the disk is closed those fail that have not arrived", async () => {
  const { servers: [server], ask, endings, disk } = await meet();
  await ask(0);
  await server.data(server.requests[0]);
  await ask(1, 2, 3, 4);
  await ask(5);
  await server.data(server.requests[1], { dataBytes: PART });
  const closing = disk.close();
  await settle();
  await closing;
  const ended = "ESHUTDOWN";
  assertEquals(endings, ["right", "right", ended, ended, ended, ended]);
});
