/** Reservations as clients meet them: what they are told, and that nobody takes the place of somebody else. */
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import type { Log } from "../../../src/base/log.ts";
import { silentLog } from "../../../src/base/log.ts";
import { describeServer } from "../../../src/control/server_status.ts";
import { stateChanges } from "../../../src/control/state_changes.ts";
import { formatMetrics } from "../../../src/control/metrics.ts";
import type { BlockDevice } from "../../../src/device/device.ts";
import { FaultDisk } from "../../../src/device/fault.ts";
import { MemoryDisk } from "../../../src/device/memory.ts";
import type { Connection, Peer } from "../../../src/net/connection.ts";
import { type Export, ExportTable, ExportTraffic } from "../../../src/server/export_table.ts";
import type { Verdict } from "../../../src/server/nbd/judge.ts";
import { NbdServer, type ServerTls } from "../../../src/server/nbd/server.ts";
import { need, send } from "../../../src/wire/conversation.ts";
import { converse } from "../../../src/net/converse.ts";
import { Command, Option, WireErrno } from "../../../src/wire/nbd/constants.ts";
import { decodeFacts, encodeSession } from "../../../src/wire/nbd/denbd_context.ts";
import { encodeInfoRequest, encodeMetaRequest, encodeOption } from "../../../src/wire/nbd/option.ts";
import { RefusedError } from "../../../src/wire/nbd/refused_error.ts";
import { connectionPair } from "../../testing/connection_pair.ts";
import { ManualClock } from "../../testing/manual_clock.ts";
import { RawClient } from "../../testing/raw_client.ts";
import { shownCertificate } from "../../testing/shown_certificate.ts";

const A = "8a6e2940-694d-401a-b032-b59b4f516c8a";
const B = "e58719c6-5998-4eff-82ce-2fd304be9551";
const HERE = "203.0.113.1";
const KEY = new Uint8Array(32).fill(7).toBase64();
const OTHER_KEY = new Uint8Array(32).fill(8).toBase64();

/** A server with one export for one writer, and all that it says. */
class World implements AsyncDisposable {
  readonly exports = new ExportTable();
  readonly clock = new ManualClock();
  readonly server: NbdServer;
  readonly log: string[] = [];
  readonly exported: Export;
  /** Otherwise nothing of what is sent to clients leaves until they are cut off. */
  takesAnswers = true;
  /** What addresses may do; the others may write. */
  readonly rights = new Map<string, Verdict["rights"]>();

  constructor(tls?: ServerTls, device: BlockDevice = new MemoryDisk(1 << 20)) {
    this.exported = {
      name: "disk",
      description: "",
      device,
      sizeBytes: device.sizeBytes,
      readOnly: false,
      traffic: new ExportTraffic(),
      source: "test",
      writers: "one-session",
    };
    this.exports.add(this.exported);
    const hear = (message: string) => void this.log.push(message);
    const log: Log = {
      ...silentLog,
      debug: hear,
      info: hear,
      warn: hear,
      error: hear,
      fatal: hear,
      child: () => log,
    };
    this.server = new NbdServer({
      exports: this.exports,
      judge: ({ address }) => ({ rights: this.rights.get(address) ?? "write", reason: "a test" }),
      log,
      clock: this.clock,
      instance: B,
      tls,
    });
  }

  connect(facts: Partial<Peer> = {}): Connection {
    const [here, there] = connectionPair();
    const peer: Peer = { transport: "tcp", address: HERE, text: `${HERE}:7`, ...facts };
    const closed = Promise.withResolvers<void>();
    this.server.handle(Object.create(there, {
      peer: { value: peer },
      read: { value: (into: Uint8Array) => there.read(into) },
      write: { value: (bytes: Uint8Array) => this.takesAnswers ? there.write(bytes) : closed.promise },
      close: {
        value: () => {
          closed.reject(new Error("closed"));
          there.close();
        },
      },
    }));
    closed.promise.catch(() => {});
    return here;
  }

  /** A denbd client that comes to write. */
  open(id: string, generation = 1, facts: Partial<Peer> = {}): Promise<RawClient> {
    const contexts = ["x-denbd:", encodeSession({ id, generation })];
    return RawClient.open(this.connect(facts), { exportName: "disk", contexts });
  }

  /** Puts other rights in force, as a reload does. */
  allow(address: string, rights: Verdict["rights"]): void {
    this.rights.set(address, rights);
    this.server.reconsider();
  }

  status() {
    return describeServer({
      version: "test",
      instance: B,
      exports: this.exports,
      nbd: this.server,
      access: { acl: "open", entries: [], defaultDeny: false },
      migrationOf: () => null,
      listening: () => [],
      nowMs: () => this.clock.now(),
      startedAtMs: 0,
    });
  }

  /** All that is told of the server: its log, its status, its metrics and the changes since the start. */
  everythingTold(before: ReturnType<World["status"]>): string {
    const status = this.status();
    return [
      ...this.log,
      JSON.stringify(status),
      formatMetrics(status),
      JSON.stringify(stateChanges(before, status)),
    ].join("\n");
  }

  async [Symbol.asyncDispose]() {
    this.server.abort();
    await this.server.drain(0);
  }
}

async function settle(): Promise<void> {
  for (let turn = 0; turn < 50; turn++) await undefined;
}

Deno.test("rule 7: who is refused is not told the id of the session that has the export, nor is anybody else", async () => {
  await using world = new World();
  const before = world.status();
  const holder = await world.open(A);
  const { reason } = await assertRejects(() => world.open(B), RefusedError);
  assertEquals(reason, "it is reserved for 203.0.113.1:7");
  // A client without a session is offered the export to read, and refused when it writes.
  const visitor = await RawClient.open(world.connect(), { exportName: "disk" });
  const answer = await visitor.ask({ type: Command.WRITE, offset: 0, length: 4 }, new Uint8Array(4));
  assert(answer.error !== 0 && !answer.text.includes("8a6e2940-"));
  holder.connection.close();
  await settle();
  world.clock.advance(5000);
  const away = await assertRejects(() => world.open(B), RefusedError);
  assertEquals(away.reason, "it is reserved for 203.0.113.1:7, which has been away for 5 s");
  const told = world.everythingTold(before);
  assertMatch(told, /reserved for 203\.0\.113\.1:7, session 8a6e2940\n/);
  assertEquals([told.includes(A), told.includes(A.slice(9)), told.includes("it is reserved for")], [
    false,
    false,
    true,
  ]);
  visitor.connection.close();
});

const strangers: Record<string, readonly [holder: Partial<Peer>, stranger: Partial<Peer>]> = {
  "another key": [{ key: KEY }, { key: OTHER_KEY }],
  "no key": [{ key: KEY }, {}],
  "another certificate": [{ certificateName: "desk" }, { certificateName: "shelf" }],
  "a certificate with the name of a key": [{ key: KEY }, { certificateName: KEY }],
};

for (const [what, [holder, stranger]] of Object.entries(strangers)) {
  Deno.test(`rule 7: ${what} does not take the place of a session, even with its id; the log says so`, async () => {
    await using world = new World();
    const client = await world.open(A, 1, holder);
    const { reason } = await assertRejects(() => world.open(A, 2, stranger), RefusedError);
    assertEquals(reason, "its session was opened by somebody else, with another key or certificate");
    assert(world.log.some((line) => line.includes(`refused: GO "disk": ${reason}`)));
    assertEquals((await client.ask({ type: Command.FLUSH })).error, 0);
    // Its own next connection does, and so does the next after a lost one.
    const second = await world.open(A, 2, { ...holder, text: "203.0.113.1:8" });
    second.connection.close();
    await settle();
    await assertRejects(() => world.open(A, 3, stranger), RefusedError, reason);
    const third = await world.open(A, 3, holder);
    const { reservation, session } = decodeFacts(third.agreement.contexts.map(({ name }) => name));
    assertEquals([reservation !== undefined, session], [true, { id: A, generation: 3 }]);
    third.connection.close();
    client.connection.close();
  });
}

Deno.test("where nobody proves anything the id alone takes the place of a session", async () => {
  await using world = new World();
  const first = await world.open(A, 1);
  const second = await world.open(A, 2, { address: "203.0.113.2", text: "203.0.113.2:7" });
  assertEquals(await first.receive(), null);
  assertEquals((await second.ask({ type: Command.FLUSH })).error, 0);
  second.connection.close();
});

Deno.test("a session that was named before STARTTLS counts for nothing behind it", async () => {
  await using world = new World(shownCertificate("desk"));
  const connection = world.connect();
  const naming = encodeMetaRequest({
    exportName: "disk",
    queries: [encodeSession({ id: A, generation: 1 })],
  });
  const asking = [encodeOption(Option.STRUCTURED_REPLY), encodeOption(Option.SET_META_CONTEXT, naming)];
  function* ask() {
    for (const option of asking) yield* send(option);
    // The ACK of the first; three contexts, the session, its reservation and how long that lasts, and their ACK.
    yield* need(20);
    const names: string[] = [];
    for (let left = 3; left > 0; left--) {
      const header = yield* need(20);
      const context = yield* need(new DataView(header.buffer, header.byteOffset).getUint32(16));
      names.push(new TextDecoder().decode(context.slice(4)));
    }
    yield* need(20);
    return names[0];
  }
  function* greet() {
    yield* need(18);
    yield* send(Uint8Array.of(0, 0, 0, 3));
    const inClear = yield* ask();
    yield* send(encodeOption(Option.STARTTLS));
    yield* need(20);
    return [inClear, yield* ask()];
  }
  const session = `x-denbd:session=1.${A}.1`;
  assertEquals((await converse(greet(), connection)).result, [session, session]);
  connection.close();
});

Deno.test("an export that is opened to many writers cuts off who had it for itself, before anybody else writes", async () => {
  await using world = new World();
  const holder = await world.open(A);
  const reader = await RawClient.open(world.connect(), { exportName: "disk", contexts: ["x-denbd:"] });
  world.exported.writers = "any";
  const other = await world.open(B);
  assertEquals(await holder.receive(), null);
  const again = await world.open(A, 2);
  assertEquals(decodeFacts(again.agreement.contexts.map(({ name }) => name)).reservation, undefined);
  for (const client of [reader, other, again]) client.connection.close();
});

const OTHER: Partial<Peer> = { address: "203.0.113.2", text: "203.0.113.2:7" };

Deno.test("who loses the right to write between naming his session and GO keeps nobody out", async () => {
  await using world = new World();
  const connection = world.connect();
  const naming = encodeMetaRequest({
    exportName: "disk",
    queries: [encodeSession({ id: A, generation: 1 })],
  });
  function* name() {
    yield* need(18);
    yield* send(Uint8Array.of(0, 0, 0, 3));
    yield* send(encodeOption(Option.STRUCTURED_REPLY));
    yield* send(encodeOption(Option.SET_META_CONTEXT, naming));
    yield* need(20);
    for (let left = 3; left > 0; left--) {
      const header = yield* need(20);
      yield* need(new DataView(header.buffer, header.byteOffset).getUint32(16));
    }
    yield* need(20);
  }
  await converse(name(), connection);
  assertEquals(world.status().exports[0].reservation?.session, A.slice(0, 8));
  world.allow(HERE, "read");
  await connection.write(encodeOption(Option.GO, encodeInfoRequest({ exportName: "disk", types: [] })));
  while (world.server.clients().length === 0) await settle();
  assertEquals(world.server.clients().map(({ rights }) => rights), ["read"]);
  const other = await world.open(B, 1, OTHER);
  assertEquals((await other.ask({ type: Command.WRITE, length: 4 }, new Uint8Array(4))).error, 0);
  other.connection.close();
  connection.close();
});

Deno.test("who may not write any more gives way to the next who wants to, and reads on until then", async () => {
  await using world = new World();
  const holder = await world.open(A);
  world.allow(HERE, "read");
  const refused = await holder.ask({ type: Command.WRITE, length: 4 }, new Uint8Array(4));
  assertEquals(refused.error, WireErrno.EPERM);
  assertEquals((await holder.ask({ type: Command.READ, length: 4 })).error, 0);
  const other = await world.open(B, 1, OTHER);
  assertEquals((await other.ask({ type: Command.WRITE, length: 4 }, new Uint8Array(4))).error, 0);
  assertEquals(await holder.receive(), null);
  other.connection.close();
});

Deno.test("a client without a session that may not write any more gives way, too", async () => {
  await using world = new World();
  const visitor = await RawClient.open(world.connect(), { exportName: "disk" });
  assertEquals((await visitor.ask({ type: Command.WRITE, length: 4 }, new Uint8Array(4))).error, 0);
  world.allow(HERE, "read");
  for (const comes of [() => world.open(B, 1, OTHER), () => RawClient.open(world.connect(OTHER))]) {
    const other = await comes();
    assertEquals((await other.ask({ type: Command.WRITE, length: 4 }, new Uint8Array(4))).error, 0);
    await other.send({ type: Command.DISC });
    assertEquals(await other.receive(), null);
    await settle();
  }
  assertEquals(await visitor.receive(), null);
});

Deno.test("who gives way has done with what it had asked the disk for before anybody else writes", async () => {
  const device = new FaultDisk(new MemoryDisk(1 << 20));
  await using world = new World(undefined, device);
  const holder = await world.open(A);
  const fault = device.add({ operation: "write", hold: true });
  await holder.send({ type: Command.WRITE, length: 4 }, new Uint8Array(4));
  const elsewhere = await holder.ask({ type: Command.READ, offset: 4096, length: 4 });
  assertEquals(elsewhere.error, 0, "the write has arrived");
  world.allow(HERE, "read");
  let isIn = false;
  const coming = world.open(B, 1, OTHER).then((client) => {
    isIn = true;
    return client;
  });
  await settle();
  assertEquals(isIn, false);
  fault.release();
  (await coming).connection.close();
});

Deno.test("who is allowed nothing any more and does not take his answers is cut off, and keeps nobody out", async () => {
  await using world = new World();
  const holder = await world.open(A);
  world.takesAnswers = false;
  await holder.send({ type: Command.READ, length: 4 });
  await settle();
  world.allow(HERE, "none");
  await settle();
  assertEquals(world.server.clients().length, 1);
  world.clock.advance(5000);
  await settle();
  assertEquals(world.server.clients().length, 0);
  world.takesAnswers = true;
  world.clock.advance(60_000);
  (await world.open(B, 1, OTHER)).connection.close();
});

Deno.test("who says goodbye to an export that is going keeps his reservation", async () => {
  await using world = new World();
  const first = await world.open(A);
  // As a client does that hears in the middle of its work that the server is shutting down.
  const dismissed = world.server.dismiss(world.exported, "the export was removed", 10_000);
  await first.send({ type: Command.DISC });
  await dismissed;
  assertEquals(await first.receive(), null);
  assertEquals(world.server.writersOf(world.exported).holder?.session, A.slice(0, 8));
});
