import { assert, assertEquals, assertRejects } from "@std/assert";
import { silentLog } from "../../src/base/log.ts";
import { crc32 } from "../../src/base/crc32.ts";
import { MemoryDisk } from "../../src/device/memory.ts";
import type { DiskRecord } from "../../src/device/ownership.ts";
import { askDestination } from "../../src/migrate/ownership_carrier.ts";
import { OwnershipDesk, type OwnershipDeskOptions } from "../../src/migrate/ownership_desk.ts";
import { Command, CommandFlag } from "../../src/wire/nbd/constants.ts";
import {
  CRC32_BYTES_MAX,
  CRC32_CONTEXT,
  decodeMigrationAnswer,
  encodeMigrationRequest,
  MIGRATION_QUERY,
  type MigrationRequest,
} from "../../src/wire/nbd/migration_message.ts";
import { RefusedError } from "../../src/wire/nbd/refused_error.ts";
import { connectionPair } from "../testing/connection_pair.ts";
import { randomFrom } from "../testing/random.ts";
import type { RawClient } from "../testing/raw_client.ts";
import { type ServedDisk, serveDisk } from "../testing/served_disk.ts";

const SIZE_BYTES = 64 * 1024;
const id = "11111111-0000-4000-8000-000000000000";
const other = "22222222-0000-4000-8000-000000000000";
const uuid = "aaaaaaaa-0000-4000-8000-000000000000";
const otherDisk = "bbbbbbbb-0000-4000-8000-000000000000";
const signal = new AbortController().signal;

function hello(id: string, disk = uuid): MigrationRequest {
  return { verb: "hello", id, uuid: disk, generation: 7, epoch: 2, sizeBytes: SIZE_BYTES };
}

function setUp(options: Partial<OwnershipDeskOptions> = {}, whyClosed = (): string | null => null) {
  const disk = new MemoryDisk(SIZE_BYTES);
  const kept: { record: DiskRecord | null; flushes: number; failing: boolean } = {
    record: null,
    flushes: 0,
    failing: false,
  };
  const events: string[] = [];
  const desk = new OwnershipDesk({
    store: {
      latest: null,
      read: () => Promise.resolve(kept.record),
      write(record) {
        if (kept.failing) return Promise.reject(new Error("no space"));
        kept.record = record;
        events.push(record.ownership.state);
        return Promise.resolve();
      },
    },
    device: { flush: () => void events.push("flush") },
    sizeBytes: SIZE_BYTES,
    log: silentLog,
    receives: () => true,
    known: null,
    onOwner: () => void events.push("told owner"),
    onAcknowledged: () => void events.push("told acknowledged"),
    ...options,
  });
  const served = serveDisk(disk, { desk, whyClosed });
  const ask = (request: MigrationRequest) => askDestination(served.dial, "", request, signal);
  /** A connection that says hello and goes on to transmission. */
  const carrier = async (id: string) => {
    const client = await served.client({ contexts: [encodeMigrationRequest(hello(id)), CRC32_CONTEXT] });
    const names = client.agreement.contexts.map(({ name }) => name);
    return { client, answer: decodeMigrationAnswer(names)?.is, names };
  };
  return {
    disk,
    kept,
    events,
    served,
    ask,
    carrier,
    [Symbol.asyncDispose]: () => served[Symbol.asyncDispose](),
  };
}

/** A client that writes, when the one before has been noticed to be gone. */
async function enterAlone(served: ServedDisk): Promise<RawClient> {
  while (true) {
    const client = await served.client();
    try {
      const { error } = await client.write(0, new Uint8Array(1));
      if (error === 0) return client;
    } catch {
      // Still taken for a second one.
    }
  }
}

Deno.test("a disk changes hands over NBD: hello with the data, then prepare, commit, acknowledge", async () => {
  await using set = setUp();
  const { client, answer } = await set.carrier(id);
  assertEquals(answer, "fresh");
  const data = randomFrom(1).bytes(SIZE_BYTES);
  await client.ask({ type: Command.WRITE, offset: 0, length: data.length }, data);
  assertEquals(await set.ask({ verb: "prepare", id }), { is: "prepared" });
  assertEquals(await set.ask({ verb: "commit", id }), { is: "owner" });
  assertEquals(await set.ask({ verb: "acknowledge", id }), { is: "owner" });
  assertEquals(set.events, ["receiving", "flush", "prepared", "owner", "told owner", "told acknowledged"]);
  assertEquals([set.kept.record!.uuid, set.kept.record!.generation], [uuid, 8]);
});

Deno.test("other clients see nothing of it, and other servers give no answer", async () => {
  await using set = setUp();
  await using plain = serveDisk(new MemoryDisk(SIZE_BYTES));
  const client = await set.served.client({ contexts: ["base:allocation", "x-denbd:"] });
  assert(client.agreement.contexts.every(({ name }) => !name.startsWith(MIGRATION_QUERY)));
  assertEquals(await askDestination(plain.dial, "", hello(id), signal), null);
  assertEquals(await askDestination(plain.dial, "nowhere", hello(id), signal), null);
  const [here, there] = connectionPair();
  there.close();
  let reason = "";
  assertEquals(
    await askDestination(
      () => Promise.resolve(here),
      "",
      hello(id),
      signal,
      (error) => reason = error.message,
    ),
    null,
  );
  assert(reason.includes("closed the connection"));
});

Deno.test("who may only read does not move a disk here", async () => {
  await using set = setUp();
  await using reader = serveDisk(set.disk, {
    desk: set.served.exported.desk,
    judge: () => ({ rights: "read", reason: "a test" }),
  });
  assertEquals(await askDestination(reader.dial, "", hello(id), signal), null);
  assertEquals(set.kept.record, null);
});

Deno.test("the checksum of a range is the status of one extent", async () => {
  await using set = setUp();
  const data = randomFrom(2).bytes(SIZE_BYTES);
  set.disk.write(0, data);
  const { client, names } = await set.carrier(id);
  assert(names.includes(CRC32_CONTEXT));
  for (const [offset, length] of [[0, SIZE_BYTES], [1, 1], [4096, 8191]]) {
    const { error, chunks } = await client.ask({
      type: Command.BLOCK_STATUS,
      flags: CommandFlag.REQ_ONE,
      offset,
      length,
    });
    assertEquals(error, 0);
    const contextId = client.agreement.contexts.find(({ name }) => name === CRC32_CONTEXT)!.id;
    const views = chunks.map(({ payload }) =>
      new DataView(payload.buffer, payload.byteOffset, payload.byteLength)
    );
    const view = views.find((view) => view.getUint32(0) === contextId)!;
    // Extended: id u32, count u32, then length u64 and status u64.
    assertEquals(Number(view.getBigUint64(8)), length);
    assertEquals(Number(view.getBigUint64(16)), crc32(data.subarray(offset, offset + length)));
  }
  await using another = setUp();
  await using large = serveDisk(new MemoryDisk(CRC32_BYTES_MAX + 1), { desk: another.served.exported.desk });
  const asking = await large.client({ contexts: [CRC32_CONTEXT] });
  const ask = (length: number) =>
    asking.ask({ type: Command.BLOCK_STATUS, flags: CommandFlag.REQ_ONE, offset: 0, length });
  assertEquals((await ask(CRC32_BYTES_MAX)).error, 0);
  assertEquals((await ask(CRC32_BYTES_MAX + 1)).error, 22);
});

Deno.test("a connection that comes again replaces the one before, and resumes", async () => {
  await using set = setUp();
  const first = await set.carrier(id);
  const second = await set.carrier(id);
  assertEquals([first.answer, second.answer], ["fresh", "resume"]);
  assertEquals(await first.client.receive(), null);
  const third = await set.carrier(other);
  assertEquals(third.answer, "fresh");
  assertEquals(await second.client.receive(), null);
});

Deno.test("while one disk comes another one is refused, and comes when the first has gone", async () => {
  await using set = setUp();
  const { client } = await set.carrier(id);
  const refused = await set.ask(hello(other, otherDisk));
  assert(
    refused?.is === "refused" && refused.why === "busy" && refused.reason.includes("another disk is coming"),
  );
  // The first notices nothing of it.
  assertEquals((await client.write(0, new Uint8Array(512))).error, 0);
  assertEquals(set.events, ["receiving"]);
  client.connection.close();
  while ((await set.ask(hello(other, otherDisk)))?.is !== "fresh");
});

Deno.test("a client that has written is not cut off by a disk that wants to come, one that has not is", async () => {
  await using set = setUp();
  const writer = await set.served.client();
  assertEquals((await writer.write(0, new Uint8Array(512))).error, 0);
  const refused = await set.ask(hello(id));
  assert(refused?.is === "refused" && refused.reason.includes("somebody else is writing"));
  assertEquals((await writer.write(0, new Uint8Array(512))).error, 0);
  writer.connection.close();
  while ((await set.ask(hello(id)))?.is !== "fresh");
  await using quiet = setUp();
  const reader = await quiet.served.client();
  assertEquals((await quiet.ask(hello(id)))?.is, "fresh");
  assertEquals(await reader.receive(), null);
});

Deno.test("after a client who may have written anything it starts over, and prepares nothing", async () => {
  await using set = setUp();
  const { client } = await set.carrier(id);
  await client.ask({ type: Command.FLUSH });
  client.connection.close();
  const stranger = await enterAlone(set.served);
  stranger.connection.close();
  assertEquals(await set.ask({ verb: "prepare", id }), { is: "receiving" });
  assertEquals((await set.carrier(id)).answer, "fresh");
});

Deno.test("one source at a time, and none but its own for a copy that waits for its word", async () => {
  await using set = setUp();
  const { client } = await set.carrier(id);
  const second = await set.served.client();
  assertEquals(await second.receive(), null);
  assertEquals((await client.write(0, new Uint8Array(512))).error, 0);
  assertEquals(await set.ask({ verb: "prepare", id }), { is: "prepared" });
  client.connection.close();
  const third = await set.served.client();
  await third.send({ type: Command.WRITE, offset: 0, length: 1 }, new Uint8Array([7]));
  while (await third.receive() !== null);
  const found = new Uint8Array(1);
  set.disk.read(0, found);
  assertEquals(found[0], 0);
});

Deno.test("after prepare nothing is written any more", async () => {
  await using set = setUp();
  const { client } = await set.carrier(id);
  assertEquals(await set.ask({ verb: "prepare", id }), { is: "prepared" });
  const data = new Uint8Array(512);
  assertEquals((await client.ask({ type: Command.WRITE, offset: 0, length: 512 }, data)).error, 1);
});

Deno.test("a record that may not have been written ends all answers", async () => {
  await using set = setUp();
  await set.carrier(id);
  set.kept.failing = true;
  const answer = await set.ask({ verb: "prepare", id });
  assert(answer?.is === "refused" && answer.reason.includes("no space"));
  set.kept.failing = false;
  assertEquals((await set.ask({ verb: "ask", id }))?.is, "refused");
});

Deno.test("a disk that is served is not written over, and tells what it knows", async () => {
  await using set = setUp({ receives: () => false });
  const migration = { id, uuid, generation: 7, epoch: 2, peer: "p", at: "t" };
  set.kept.record = {
    uuid,
    generation: 8,
    ownership: { state: "owner", epoch: 2, migration, role: "cameBy" },
  };
  const answer = await set.ask(hello(other));
  assert(answer?.is === "refused" && answer.reason.includes("in use"));
  assertEquals(await set.ask({ verb: "commit", id }), { is: "owner" });
  assertEquals(await set.ask({ verb: "ask", id: other }), { is: "unknown" });
  assertEquals(set.events, []);
});

Deno.test("where a disk has come that is not served no client is let in, and its source is still heard", async () => {
  let openFor = Infinity;
  const closed = "the disk has been received";
  await using set = setUp({}, () => openFor-- > 0 ? null : closed);
  await set.carrier(id);
  openFor = 0;
  const error = await assertRejects(() => set.served.client(), RefusedError);
  assertEquals(error.reason, closed);
  // It closes at any moment of a client's handshake; at the last one the client has just been told that it may enter.
  let entered: RawClient | null = null;
  for (let looks = 1; entered === null; looks++) {
    openFor = looks;
    entered = await set.served.client().catch(() => null);
  }
  assertEquals(await entered.receive(), null);
  assertEquals(await set.ask({ verb: "prepare", id }), { is: "prepared" });
  assertEquals(await set.ask({ verb: "commit", id }), { is: "owner" });
  assertEquals(await set.ask({ verb: "acknowledge", id }), { is: "owner" });
});
