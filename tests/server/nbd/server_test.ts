import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { AccessList } from "../../../src/access/acl.ts";
import type { Log } from "../../../src/base/log.ts";
import { MemoryDisk } from "../../../src/device/memory.ts";
import type { Connection, Peer } from "../../../src/net/connection.ts";
import { converse } from "../../../src/net/converse.ts";
import type { Listener } from "../../../src/net/listener.ts";
import { type Export, ExportTable, ExportTraffic } from "../../../src/server/export_table.ts";
import { NbdServer, type NbdServerOptions } from "../../../src/server/nbd/server.ts";
import type { TracedMessage } from "../../../src/server/nbd/wire_trace.ts";
import { Command } from "../../../src/wire/nbd/constants.ts";
import { decodeFacts, DENBD_NAMESPACE } from "../../../src/wire/nbd/denbd_context.ts";
import { listExports } from "../../../src/wire/nbd/handshake_client.ts";
import { RefusedError } from "../../../src/wire/nbd/refused_error.ts";
import { connectionPair } from "../../testing/connection_pair.ts";
import { ManualClock } from "../../testing/manual_clock.ts";
import { RawClient } from "../../testing/raw_client.ts";

const MIB = 1 << 20;

/** A log that keeps its lines. */
function keptLog(lines: string[]): Log {
  const keep = (line: string) => void lines.push(line);
  const log: Log = { debug: keep, info: keep, warn: keep, error: keep, fatal: keep, child: () => log };
  return log;
}

function anExport(name: string, changes: Partial<Export> = {}): Export {
  const device = new MemoryDisk(MIB);
  const traffic = new ExportTraffic();
  return {
    name,
    description: `the disk ${name}`,
    device,
    sizeBytes: MIB,
    readOnly: false,
    traffic,
    source: name,
    ...changes,
  };
}

/** A disk whose flushes take as long as the test likes. */
class StuckDisk extends MemoryDisk {
  readonly flushed = Promise.withResolvers<void>();

  override flush(): Promise<void> {
    return this.flushed.promise;
  }
}

/** Two ends of a connection; who has the second sees that the first is at this address. */
function pairFrom(address: string): [Connection, Connection] {
  const [here, there] = connectionPair();
  const peer: Peer = { transport: "tcp", address, text: `${address}:1234` };
  return [here, Object.defineProperty(there, "peer", { value: peer })];
}

interface Fixture extends AsyncDisposable {
  readonly server: NbdServer;
  readonly clock: ManualClock;
  readonly lines: string[];
  /** A connection to the server, as if from this address. */
  connect(address?: string): Connection;
}

function serverOf(
  exports: readonly Export[],
  options: Partial<NbdServerOptions> & { defaultName?: string } = {},
): Fixture {
  const table = new ExportTable();
  for (const each of exports) table.add(each, { isDefault: each.name === options.defaultName });
  const clock = new ManualClock();
  const lines: string[] = [];
  const server = new NbdServer({
    exports: table,
    judge: () => ({ rights: "write", reason: "test" }),
    log: keptLog(lines),
    clock,
    ...options,
  });
  return {
    server,
    clock,
    lines,
    connect(address = "127.0.0.1") {
      const [here, there] = pairFrom(address);
      server.handle(there);
      return here;
    },
    async [Symbol.asyncDispose]() {
      server.abort();
      await server.drain(0);
    },
  };
}

/** Reads until the end and returns how many bytes came. */
async function readToEnd(connection: Connection): Promise<number> {
  let total = 0;
  for (let count; (count = await connection.read(new Uint8Array(4096))) !== null;) total += count;
  return total;
}

Deno.test("server: the empty name is the default export, or the only one", async () => {
  {
    await using one = serverOf([anExport("a")]);
    assertEquals((await RawClient.open(one.connect())).agreement.canonicalName, "a");
  }
  {
    await using none = serverOf([anExport("a"), anExport("b")]);
    await assertRejects(() => RawClient.open(none.connect()), RefusedError, "no default export");
  }
  await using two = serverOf([anExport("a"), anExport("b")], { defaultName: "b" });
  assertEquals((await RawClient.open(two.connect())).agreement.canonicalName, "b");
  await assertRejects(
    () => RawClient.open(two.connect(), { exportName: "c" }),
    RefusedError,
    "no such export",
  );
});

Deno.test("server: two exports of one name, and two defaults, are refused", () => {
  const table = new ExportTable();
  table.add(anExport("a"), { isDefault: true });
  for (const add of [() => table.add(anExport("a")), () => table.add(anExport("b"), { isDefault: true })]) {
    let message = "";
    try {
      add();
    } catch (error) {
      message = (error as Error).message;
    }
    assertStringIncludes(message, "cannot");
  }
  assertEquals(table.list().length, 1);
});

Deno.test("server: what a peer has no right to is neither listed nor opened", async () => {
  const list = new AccessList(["10.0.0.1=read", "10.0.0.0/24"]);
  const judge: NbdServerOptions["judge"] = ({ address }, { name }) =>
    name === "secret" && address !== "10.0.0.2"
      ? { rights: "none", reason: "not yours" }
      : list.rightsFor(address);
  await using fixture = serverOf([anExport("open"), anExport("secret")], { judge });
  const names = async (address: string) => {
    const { result } = await converse(listExports(), fixture.connect(address));
    return result.exports.map(({ name }) => name);
  };
  assertEquals(await names("10.0.0.2"), ["open", "secret"]);
  assertEquals(await names("10.0.0.3"), ["open"]);
  assertEquals(await names("10.9.9.9"), []);
  const open = (address: string, exportName: string) =>
    RawClient.open(fixture.connect(address), { exportName });
  await assertRejects(() => open("10.0.0.3", "secret"), RefusedError, "not yours");
  await assertRejects(() => open("10.9.9.9", "open"), RefusedError, "no entry matches 10.9.9.9");
  assert(
    fixture.lines.some((line) => line.includes("10.9.9.9:1234 refused") && line.includes("no entry matches")),
  );
  const reader = await open("10.0.0.1", "open");
  assertEquals((await reader.write(0, new Uint8Array(512))).error, 1);
  const writer = await open("10.0.0.2", "open");
  assertEquals((await writer.write(0, new Uint8Array(512))).error, 0);
});

Deno.test("server: replacing the access list ends exactly those who are no longer allowed", async () => {
  const list = new AccessList([]);
  await using fixture = serverOf([anExport("a")], { judge: ({ address }) => list.rightsFor(address) });
  const [first, second, third] = await Promise.all(
    ["10.0.0.1", "10.0.0.2", "fe80::1"].map((address) => RawClient.open(fixture.connect(address))),
  );
  list.replace(["10.0.0.2", "fe80::/10"]);
  fixture.server.reconsider();
  assertEquals(await first.receive(), null);
  assertEquals((await second.read(0, 512)).error, 0);
  assertEquals((await third.read(0, 512)).error, 0);
  assertEquals(fixture.server.clients().map(({ peer }) => peer.address), ["10.0.0.2", "fe80::1"]);
});

Deno.test("server: a silent client is closed after the handshake's time, a later one is not", async () => {
  await using fixture = serverOf([anExport("a")], { limits: { handshakeMs: 10_000 } });
  const silent = fixture.connect();
  const client = await RawClient.open(fixture.connect());
  fixture.clock.advance(9_999);
  assertEquals((await client.read(0, 512)).error, 0);
  fixture.clock.advance(1);
  assertEquals(await readToEnd(silent), 18);
  assertEquals((await client.read(0, 512)).error, 0);
  assert(fixture.lines.some((line) => line.includes("the handshake took longer than 10 s")));
  fixture.clock.advance(100_000);
  assertEquals((await client.read(0, 512)).error, 0);
});

Deno.test("server: more connections than allowed are closed at once, others go on", async () => {
  await using fixture = serverOf([anExport("a")], { limits: { connections: 2 } });
  const clients = [await RawClient.open(fixture.connect()), await RawClient.open(fixture.connect())];
  assertEquals(await readToEnd(fixture.connect()), 0);
  for (const client of clients) assertEquals((await client.read(0, 512)).error, 0);
  await clients[0].send({ type: Command.DISC });
  assertEquals(await clients[0].receive(), null);
  assertEquals((await (await RawClient.open(fixture.connect())).read(0, 512)).error, 0);
});

for (const limits of [{ connections: 2 }, { connectionsPerAddress: 2 }]) {
  Deno.test(`server: who says nothing does not keep others out by ${JSON.stringify(limits)}`, async () => {
    await using fixture = serverOf([anExport("a")], { limits });
    const client = await RawClient.open(fixture.connect());
    const silent = fixture.connect();
    const other = await RawClient.open(fixture.connect());
    await readToEnd(silent);
    for (const each of [client, other]) assertEquals((await each.read(0, 512)).error, 0);
    assertEquals(await readToEnd(fixture.connect()), 0);
  });
}

Deno.test("server: the killswitch cuts off a client whose request takes too long, and nobody else", async () => {
  const device = new StuckDisk(MIB);
  await using fixture = serverOf([anExport("a", { device })], { limits: { requestMs: 120_000 } });
  const idle = await RawClient.open(fixture.connect());
  const slow = await RawClient.open(fixture.connect());
  const halfway = await RawClient.open(fixture.connect());
  await slow.send({ type: Command.FLUSH });
  assertEquals((await slow.read(0, 512)).error, 0);
  assertEquals((await halfway.read(0, 512)).error, 0);
  await halfway.connection.write(new Uint8Array(5));
  await new Promise((resolve) => setTimeout(resolve, 0));
  for (let second = 0; second <= 121; second++) fixture.clock.advance(1000);
  assertEquals(await halfway.receive(), null);
  assertEquals(await slow.receive(), null);
  assertEquals((await idle.read(0, 512)).error, 0);
  assertEquals(
    fixture.lines.filter((line) => line.includes("a request took longer than 120 s")).length >= 2,
    true,
  );
  device.flushed.resolve();
});

Deno.test("server: oldstyle greets with 152 bytes and simple replies", async () => {
  await using fixture = serverOf([anExport("a", { sizeBytes: 1024 })], { oldstyle: true });
  const client = await RawClient.open(fixture.connect());
  assertEquals(client.agreement.style, "oldstyle");
  assertEquals(client.agreement.sizeBytes, 1024);
  assertEquals((await client.write(512, new Uint8Array(512).fill(7))).error, 0);
  assertEquals((await client.read(512, 512)).data, new Uint8Array(512).fill(7));
  assertEquals((await client.write(1000, new Uint8Array(25))).error, 28);
});

Deno.test("server: an oldstyle client without rights is closed without a greeting", async () => {
  const judge = () => ({ rights: "none" as const, reason: "test" });
  await using fixture = serverOf([anExport("a")], { oldstyle: true, judge });
  assertEquals(await readToEnd(fixture.connect()), 0);
  assert(fixture.lines.some((line) => line.includes("refused: test")));
});

Deno.test("server: drain ends those who are idle, and those who never finished their handshake", async () => {
  const { server, connect } = serverOf([anExport("a")]);
  const idle = await RawClient.open(connect());
  const inHandshake = connect();
  assertEquals(await server.drain(5000), true);
  assertEquals(await idle.receive(), null);
  await readToEnd(inHandshake);
  assertEquals(server.clients(), []);
});

Deno.test("server: drain gives up on the slow after the deadline", async () => {
  const device = new StuckDisk(MIB);
  const { server, connect, clock } = serverOf([anExport("a", { device })]);
  const slow = await RawClient.open(connect());
  await slow.send({ type: Command.FLUSH });
  assertEquals((await slow.read(0, 512)).error, 0);
  const draining = server.drain(5000);
  clock.advance(4999);
  assertEquals((await slow.read(0, 512)).error, 108);
  clock.advance(1);
  assertEquals(await slow.receive(), null);
  device.flushed.resolve();
  assertEquals(await draining, false);
});

Deno.test("server: names from clients are escaped in the log", async () => {
  await using fixture = serverOf([anExport("a")]);
  const exportName = 'x"\n\u001b[31m' + "y".repeat(1000);
  await assertRejects(() => RawClient.open(fixture.connect(), { exportName }), RefusedError);
  const line = fixture.lines.find((line) => line.includes("no such export"))!;
  assert(!line.includes("\n") && !line.includes("\u001b") && line.length < 600, line);
});

Deno.test("server: a disk of no bytes can be opened, and nothing of it read", async () => {
  await using fixture = serverOf([anExport("a", { device: new MemoryDisk(0), sizeBytes: 0 })]);
  const client = await RawClient.open(fixture.connect());
  assertEquals((await client.read(0, 1)).error, 22);
  assertEquals((await client.write(0, new Uint8Array(1))).error, 28);
  assertEquals((await client.ask({ type: Command.FLUSH })).error, 0);
});

Deno.test("server: every session ends with one line that says what it did", async () => {
  await using fixture = serverOf([anExport("a")]);
  const { server, lines } = fixture;
  const client = await RawClient.open(fixture.connect("192.0.2.1"));
  await client.write(0, new Uint8Array(512));
  await client.send({ type: Command.DISC });
  assertEquals(await client.receive(), null);
  await server.drain(0);
  const line = lines.find((line) => line.includes(" left "))!;
  assertStringIncludes(line, "192.0.2.1:1234");
  assertStringIncludes(line, "disconnected; write, 1 request, 0 errors, 0 bytes read, 512 written");
});

Deno.test("server: a client that asks hears the instance and the disk's identity; nobody else does", async () => {
  const instance = "8a6e2940-694d-401a-b032-b59b4f516c8a";
  const identity = { uuid: "e58719c6-5998-4eff-82ce-2fd304be9551", generation: 3, durable: true };
  const device = Object.assign(new MemoryDisk(MIB), { identity });
  await using fixture = serverOf([anExport("a", { device })], { instance });
  const contexts = ["base:allocation", DENBD_NAMESPACE];
  const { agreement } = await RawClient.open(fixture.connect(), { contexts });
  const facts = decodeFacts(agreement.contexts.map(({ name }) => name));
  assertEquals(facts, {
    instance,
    identity: { uuid: identity.uuid, generation: 3 },
    window: { requests: 127, bytes: 64 * MIB - 1 },
  });
  const { result } = await converse(listExports({ details: true }), fixture.connect());
  assertEquals(result.exports[0].contexts, ["base:allocation"]);
  const plain = await RawClient.open(fixture.connect(), { contexts: ["base:allocation"] });
  assertEquals(plain.agreement.contexts.length, 1);
});

Deno.test("server: one address has so many connections and no more, another comes in", async () => {
  await using fixture = serverOf([anExport("a")], { limits: { connectionsPerAddress: 2 } });
  const first = await RawClient.open(fixture.connect("10.0.0.1"));
  await RawClient.open(fixture.connect("10.0.0.1"));
  assertEquals(await readToEnd(fixture.connect("10.0.0.1")), 0);
  assert(fixture.lines.some((line) => line.includes("2 connections from there are open")));
  await RawClient.open(fixture.connect("10.0.0.2"));
  first.connection.close();
  await first.receive();
  while (fixture.server.clients().length > 2) await new Promise((resolve) => setTimeout(resolve, 0));
  await RawClient.open(fixture.connect("10.0.0.1"));
});

/** A door with a crowd before it that talks nonsense, each from the address of its number. */
class Crowd implements Listener {
  readonly text = "127.0.0.1:1";
  readonly port = 1;
  accepted = 0;
  onAccept: (accepted: number) => void = () => {};
  /** They come after so many of the crowd. */
  readonly #honest: { readonly after: number; readonly connection: Connection }[] = [];
  readonly #count: number;
  readonly #address: (number: number) => string;

  constructor(count: number, address: (number: number) => string) {
    this.#count = count;
    this.#address = address;
  }

  /** Somebody honest who comes behind so many. */
  join(after: number, address: string): Connection {
    const [here, there] = pairFrom(address);
    this.#honest.push({ after, connection: there });
    return here;
  }

  accept(): Promise<Connection | null> {
    if (this.#honest[0]?.after === this.accepted) return Promise.resolve(this.#honest.shift()!.connection);
    if (this.accepted === this.#count) return Promise.resolve(null);
    const [here, there] = pairFrom(this.#address(this.accepted++));
    this.onAccept(this.accepted);
    here.write(new TextEncoder().encode("GET / HTTP/1.1\r\n"));
    return Promise.resolve(there);
  }

  close(): void {}
}

Deno.test("server: while strangers hammer clients are served, and so many are done in vain for", async () => {
  await using fixture = serverOf([anExport("a")]);
  const client = await RawClient.open(fixture.connect("10.0.1.1"));
  const crowd = new Crowd(1000, (number) => `10.0.0.${number % 250}`);
  const serving = fixture.server.serve(crowd);
  const clientIsServed = async () => {
    for (let count = 0; count < 200; count++) assertEquals((await client.read(0, 512)).error, 0);
  };
  await clientIsServed();
  // A burst of 100, as many on credit, and those who came before the first of them had come to nothing.
  const burst = crowd.accepted;
  assert(burst >= 200 && burst < 300, `${burst} accepted`);
  await clientIsServed();
  assertEquals(crowd.accepted, burst);
  for (let ms = 0; crowd.accepted < 1000; ms += 5) {
    fixture.clock.advance(5);
    await client.read(0, 512);
    assert(ms < 1000, `${crowd.accepted} accepted in a second`);
  }
  await serving;
  assertEquals(fixture.server.strangers.inVain + fixture.server.strangers.turnedAway, 1000);
});

Deno.test("server: of those who stand before somebody honest few are heard", async () => {
  await using fixture = serverOf([anExport("a")]);
  const { strangers } = fixture.server;
  const client = await RawClient.open(fixture.connect("10.0.1.1"));
  // As many as stand in the system's queue, and then him; but in the beginning nothing is known of anybody.
  const places = [2000, 2500, 3000, 3500, 4000, 4500];
  const crowd = new Crowd(5000, (number) => `10.0.0.${number % 250}`);
  const inVainAt = new Map<number, number>();
  crowd.onAccept = (accepted) => void inVainAt.set(accepted, strangers.inVain);
  const inAfter: number[] = [];
  const opening = places.map(async (after) => {
    const newcomer = await RawClient.open(crowd.join(after, "10.0.2.2"));
    inAfter.push(crowd.accepted);
    assertEquals((await newcomer.read(0, 512)).error, 0);
  });
  const serving = fixture.server.serve(crowd);
  for (let ms = 0; crowd.accepted < 5000; ms++) {
    fixture.clock.advance(1);
    await client.read(0, 512);
    assert(ms < 5000, `${crowd.accepted} accepted`);
  }
  await serving;
  await Promise.all(opening);
  for (const [index, after] of places.entries()) {
    assert(
      inAfter[index] - after < 100,
      `${inAfter[index]} were accepted before he was in who came after ${after}`,
    );
    const heard = inVainAt.get(after)! - inVainAt.get(after - 500)!;
    assert(heard < 250, `${heard} were heard of the 500 before him who came after ${after}`);
  }
});

Deno.test("server: the trace shows every request with its replies, and nothing while nobody looks on", async () => {
  await using fixture = serverOf([anExport("a")]);
  const client = await RawClient.open(fixture.connect());
  await client.read(0, 512);
  const left = new AbortController();
  const trace = fixture.server.trace.follow(left.signal);
  await client.read(4096, 512);
  const wrong = await client.send({ type: Command.WRITE_ZEROES, offset: MIB, length: 1, flags: 2 });
  await client.answer(wrong);
  const seen: unknown[] = [];
  for (let count = 0; count < 4; count++) {
    const { cookie: _, ...message } = (await trace.next()).value as TracedMessage;
    seen.push(message);
  }
  const common = { client: 1, atMs: 0 };
  assertEquals(seen, [
    { ...common, message: "READ", offset: 4096, length: 512 },
    { ...common, message: "reply", hole: 512, offset: 4096, last: true },
    { ...common, message: "WRITE_ZEROES", offset: MIB, length: 1, flags: ["NO_HOLE"] },
    {
      ...common,
      message: "reply",
      error: 28,
      text: "the range goes beyond the end of the export",
      last: true,
    },
  ]);
  left.abort();
  assertEquals((await trace.next()).done, true);
  assertEquals(fixture.server.trace.wanted, false);
});
