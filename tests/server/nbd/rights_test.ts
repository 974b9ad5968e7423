/** Rights of peers, as clients meet them. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { PeerRules } from "../../../src/access/peer_rules.ts";
import { silentLog } from "../../../src/base/log.ts";
import { parsePeersConf } from "../../../src/config/peers_conf.ts";
import { FaultDisk } from "../../../src/device/fault.ts";
import { MemoryDisk } from "../../../src/device/memory.ts";
import type { Connection, Peer } from "../../../src/net/connection.ts";
import { converse } from "../../../src/net/converse.ts";
import { systemClock } from "../../../src/os/clock.ts";
import { type Export, ExportTable, ExportTraffic } from "../../../src/server/export_table.ts";
import type { Judge } from "../../../src/server/nbd/judge.ts";
import { NbdServer, type ServerTls } from "../../../src/server/nbd/server.ts";
import { need, send } from "../../../src/wire/conversation.ts";
import {
  Command,
  CommandFlag,
  Option,
  TransmissionFlag,
  WireErrno,
} from "../../../src/wire/nbd/constants.ts";
import { listExports } from "../../../src/wire/nbd/handshake_client.ts";
import { encodeInfoRequest, encodeMetaRequest, encodeOption } from "../../../src/wire/nbd/option.ts";
import { RefusedError } from "../../../src/wire/nbd/refused_error.ts";
import { connectionPair } from "../../testing/connection_pair.ts";
import { RawClient } from "../../testing/raw_client.ts";
import { shownCertificate } from "../../testing/shown_certificate.ts";

const SIZE = 1 << 20;

class World implements AsyncDisposable {
  readonly exports = new ExportTable();
  readonly server: NbdServer;
  rules: PeerRules;

  constructor(peersConf: string, { names = ["disk"], tls }: { names?: string[]; tls?: ServerTls } = {}) {
    this.rules = new PeerRules(parsePeersConf(peersConf, "peers.conf"));
    for (const name of names) this.exports.add(anExport(name), { isDefault: name === names[0] });
    const judge: Judge = (peer, exported) => ({
      ...this.rules.rightsFor(peer, exported.name),
      conceals: true,
    });
    this.server = new NbdServer({ exports: this.exports, judge, log: silentLog, clock: systemClock, tls });
  }

  connect(facts: Partial<Peer>): Connection {
    const [here, there] = connectionPair();
    const peer: Peer = { transport: "tcp", address: "203.0.113.1", text: "test", ...facts };
    this.server.handle(Object.defineProperty(there, "peer", { value: peer }));
    return here;
  }

  open(facts: Partial<Peer>, exportName = "disk"): Promise<RawClient> {
    return RawClient.open(this.connect(facts), { exportName });
  }

  async names(facts: Partial<Peer>): Promise<string[]> {
    const { result } = await converse(listExports(), this.connect(facts));
    return result.exports.map(({ name }) => name);
  }

  /** Puts other rules in force, as a reload does. */
  reload(peersConf: string): void {
    this.rules = new PeerRules(parsePeersConf(peersConf, "peers.conf"));
    this.server.reconsider();
  }

  async [Symbol.asyncDispose]() {
    this.server.abort();
    await this.server.drain(0);
  }
}

function anExport(name: string): Export {
  const device = new MemoryDisk(SIZE);
  const traffic = new ExportTraffic();
  return { name, description: "", device, sizeBytes: SIZE, readOnly: false, traffic, source: name };
}

const key = new Uint8Array(32).fill(7).toBase64();

const identities: Record<string, { readonly line: string; readonly facts: Partial<Peer> }> = {
  address: { line: "address = 192.0.2.7", facts: { address: "192.0.2.7" } },
  prefix: { line: "address = 192.0.2.0/24", facts: { address: "192.0.2.7" } },
  key: { line: `key = ${key}`, facts: { key } },
  certificate: { line: "certificate = desk", facts: { certificateName: "desk" } },
};

const requests: Record<string, (client: RawClient) => Promise<{ error: number }>> = {
  read: (client) => client.read(0, 512),
  write: (client) => client.write(0, new Uint8Array(512).fill(1)),
  trim: (client) => client.ask({ type: Command.TRIM, offset: 0, length: 4096 }),
  zero: (client) => client.ask({ type: Command.WRITE_ZEROES, offset: 0, length: 4096 }),
  flush: (client) => client.ask({ type: Command.FLUSH }),
};

/** The error of each request, or `closed` where there is no session in which it could be sent. */
const matrix: Record<"none" | "read" | "write", Record<string, number | "closed" | boolean>> = {
  none: { read: "closed", write: "closed", trim: "closed", zero: "closed", flush: "closed", list: false },
  read: { read: 0, write: 1, trim: 1, zero: 1, flush: 0, list: true },
  write: { read: 0, write: 0, trim: 0, zero: 0, flush: 0, list: true },
};

for (const [identity, { line, facts }] of Object.entries(identities)) {
  for (const [rights, expected] of Object.entries(matrix)) {
    Deno.test(`V31: rights by ${identity}: ${rights} gives ${JSON.stringify(expected)}`, async () => {
      await using world = new World(`[peer]\n${line}\n${rights} = disk\n`);
      const actual: typeof expected = {};
      const before = await contents(world);
      for (const [name, request] of Object.entries(requests)) {
        try {
          actual[name] = (await request(await world.open(facts))).error;
        } catch (error) {
          assert(error instanceof RefusedError);
          actual[name] = "closed";
        }
      }
      actual.list = (await world.names(facts)).includes("disk");
      assertEquals(actual, expected);
      if (rights !== "write") assertEquals(await contents(world), before);
      // The same for somebody else gives nothing.
      assertEquals(await world.names({ address: "198.51.100.1" }), []);
    });
  }
}

Deno.test("V31: the first rule that speaks of both peer and export decides, whatever follows", async () => {
  const rule = (name: string, line: string, right: string) => `[${name}]\n${line}\n${right} = disk\n`;
  const exact = "address = 192.0.2.7";
  const prefix = "address = 192.0.2.0/24";
  const cases: [string, number | "closed"][] = [
    [rule("a", exact, "read") + rule("b", prefix, "write"), WireErrno.EPERM],
    [rule("b", prefix, "write") + rule("a", exact, "read"), 0],
    [rule("a", exact, "none") + rule("b", prefix, "write"), "closed"],
    [rule("a", "address = 192.0.2.8", "none") + rule("b", prefix, "write"), 0],
    [rule("a", "certificate = desk", "read") + rule("b", exact, "write"), WireErrno.EPERM],
  ];
  for (const [conf, expected] of cases) {
    await using world = new World(conf);
    const opening = world.open({ address: "192.0.2.7", certificateName: "desk" });
    if (expected === "closed") await assertRejects(() => opening, RefusedError, "no such export");
    else assertEquals((await (await opening).write(0, new Uint8Array(512))).error, expected, conf);
  }
});

function contents(world: World): Promise<Uint8Array> {
  const bytes = new Uint8Array(SIZE);
  return Promise.resolve(world.exports.find("disk")!.device.read(0, bytes)).then(() => bytes);
}

Deno.test("a right to read alone shows in the flags: read-only, and nothing offered that writes", async () => {
  await using world = new World(`[r]\nkey = ${key}\nread = *\n[w]\naddress = ::/0\nwrite = *\n`);
  const reader = (await world.open({ key })).agreement.transmissionFlags;
  const writer = (await world.open({})).agreement.transmissionFlags;
  const writing = TransmissionFlag.SEND_TRIM | TransmissionFlag.SEND_WRITE_ZEROES;
  assertEquals(reader & (TransmissionFlag.READ_ONLY | writing), TransmissionFlag.READ_ONLY);
  assertEquals(writer & (TransmissionFlag.READ_ONLY | writing), writing);
});

Deno.test("V32: a hand-made client writes on a read-only session and outside the range: errors, nothing changed", async () => {
  await using world = new World(`[r]\nkey = ${key}\nread = *\n[w]\naddress = ::/0\nwrite = *\n`);
  const before = await contents(world);
  const reader = await world.open({ key });
  for (const type of [Command.WRITE, Command.TRIM, Command.WRITE_ZEROES]) {
    for (const flags of [0, CommandFlag.FUA]) {
      const payload = type === Command.WRITE ? new Uint8Array(512).fill(9) : undefined;
      const { error } = await reader.ask({ type, flags, offset: 0, length: 512 }, payload);
      assertEquals(error, WireErrno.EPERM);
    }
  }
  const writer = await world.open({});
  const beyond: [number, number][] = [[SIZE, 1], [SIZE - 1, 2], [2 ** 50, 512], [0, SIZE + 1]];
  for (const [offset, length] of beyond) {
    const { error } = await writer.write(offset, new Uint8Array(length).fill(9));
    assertEquals(error, WireErrno.ENOSPC);
    assert((await writer.read(offset, length)).error !== 0);
  }
  assertEquals(await contents(world), before);
  assertEquals((await writer.read(0, 512)).error, 0, "the session goes on");
});

Deno.test("V30: an export without rules is nobody's, and the log says so", async () => {
  const lines: string[] = [];
  const exports = new ExportTable();
  exports.add(anExport("disk"));
  const rules = new PeerRules([]);
  const server = new NbdServer({
    exports,
    judge: (peer, { name }) => ({ ...rules.rightsFor(peer, name), conceals: true }),
    log: {
      ...silentLog,
      warn: (line) => lines.push(line),
      child: () => ({ ...silentLog, warn: (line) => lines.push(line) }),
    },
    clock: systemClock,
  });
  const [here, there] = connectionPair();
  server.handle(there);
  await assertRejects(() => RawClient.open(here, { exportName: "disk" }), RefusedError, "no such export");
  await server.drain(0);
  assertEquals(lines.filter((line) => line.includes('"disk": no rule for')).length, 1, lines.join("\n"));
});

/** What the server says to an option, or to EXPORT_NAME, until it closes or has answered. */
async function rawAnswer(connection: Connection, option: number, payload: Uint8Array): Promise<string> {
  const { rest } = await converse(hello(), connection);
  await connection.write(encodeOption(option, payload));
  // Then one that ends the connection.
  await connection.write(encodeOption(Option.ABORT));
  const bytes: number[] = [...rest];
  const buffer = new Uint8Array(4096);
  for (let count; (count = await connection.read(buffer)) !== null;) bytes.push(...buffer.subarray(0, count));
  return new Uint8Array(bytes).toHex();
}

function* hello() {
  yield* need(18);
  yield* send(Uint8Array.of(0, 0, 0, 3));
}

for (const named of [true, false]) {
  Deno.test(`an export without rights is answered as one that is not there, ${named ? "by its name" : "by none"}`, async () => {
    // Both worlds have an export for others; the second has none that the client asks for.
    await using world = new World("[other]\naddress = 10.0.0.1\nwrite = *\n", {
      names: ["secret", "public"],
    });
    await using without = new World("[other]\naddress = 10.0.0.1\nwrite = *\n", { names: ["a", "b"] });
    without.exports.remove("a");
    without.exports.add(anExport("c"));
    const exportName = named ? "secret" : "";
    const name = new TextEncoder().encode(exportName);
    const payloads: [number, Uint8Array][] = [
      [Option.EXPORT_NAME, name],
      [Option.GO, encodeInfoRequest({ exportName, types: [] })],
      [Option.INFO, encodeInfoRequest({ exportName, types: [1, 2, 3] })],
      [Option.LIST_META_CONTEXT, encodeMetaRequest({ exportName, queries: [] })],
      [Option.SET_META_CONTEXT, encodeMetaRequest({ exportName, queries: ["base:allocation"] })],
      [Option.LIST, new Uint8Array()],
    ];
    for (const [option, payload] of payloads) {
      const answer = await rawAnswer(world.connect({}), option, payload);
      assertEquals(answer, await rawAnswer(without.connect({}), option, payload), `option ${option}`);
      assertEquals(answer.includes(new TextEncoder().encode("rule").toHex()), false);
    }
  });
}

Deno.test("V33: removing an entry ends that client's session, after what it has asked for", async () => {
  const conf = (...peers: string[]) =>
    peers.map((each) => `[${each}]\naddress = 10.0.0.${each}\nwrite = *\n`).join("");
  await using world = new World(conf("1", "2"));
  const [gone, stays] = [
    await world.open({ address: "10.0.0.1" }),
    await world.open({ address: "10.0.0.2" }),
  ];
  world.reload(conf("2"));
  assertEquals(await gone.receive(), null);
  assertEquals((await stays.write(0, new Uint8Array(512))).error, 0);
  await assertRejects(() => world.open({ address: "10.0.0.1" }), RefusedError, "no such export");
});

Deno.test("who loses the right to write goes on reading, and every write is refused", async () => {
  await using world = new World("[a]\naddress = ::/0\nwrite = *\n");
  const client = await world.open({});
  assertEquals((await client.write(0, new Uint8Array(512).fill(5))).error, 0);
  world.reload("[a]\naddress = ::/0\nread = *\n");
  assertEquals((await client.read(0, 512)).data, new Uint8Array(512).fill(5));
  for (const name of ["write", "trim", "zero"]) {
    assertEquals((await requests[name](client)).error, WireErrno.EPERM, name);
  }
  assertEquals(world.server.clients().map(({ rights }) => rights), ["read"]);
  assertEquals((await client.read(0, 512)).data, new Uint8Array(512).fill(5));
});

Deno.test("the name in a certificate counts from STARTTLS on, and not before", async () => {
  await using world = new World("[desk]\ncertificate = desk\nwrite = *\n", { tls: shownCertificate("desk") });
  assertEquals(await world.names({}), []);
  const connection = world.connect({});
  const { rest } = await converse(hello(), connection);
  assertEquals(rest.length, 0);
  await connection.write(encodeOption(Option.STARTTLS));
  assertEquals((await readBytes(connection, 20)).slice(12, 16), Uint8Array.of(0, 0, 0, 1));
  await connection.write(encodeOption(Option.LIST));
  // A SERVER reply with the name, then the ACK.
  const answer = await readBytes(connection, 20 + 4 + 4 + 20);
  assertEquals(new TextDecoder().decode(answer.slice(24, 28)), "disk");
  await connection.write(encodeOption(Option.EXPORT_NAME, new TextEncoder().encode("disk")));
  await readBytes(connection, 10);
  // A FLUSH; with its answer the client is surely in transmission.
  const flush = Uint8Array.of(0x25, 0x60, 0x95, 0x13, 0, 0, 0, Command.FLUSH, ...new Uint8Array(20));
  await connection.write(flush);
  await readBytes(connection, 16);
  assertEquals(world.server.clients().map(({ peer }) => peer.certificateName), ["desk"]);
  connection.close();
});

async function readBytes(connection: Connection, count: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(count);
  for (let at = 0; at < count;) {
    const got = await connection.read(bytes.subarray(at));
    if (got === null) throw new Error("the connection ended");
    at += got;
  }
  return bytes;
}

Deno.test("V51: a dismissed export answers what it was asked, then its clients go and others stay", async () => {
  await using world = new World("[a]\naddress = ::/0\nwrite = *\n", { names: ["disk", "other"] });
  const device = new FaultDisk(new MemoryDisk(SIZE));
  const exported = { ...anExport("slow"), device };
  world.exports.add(exported);
  const fault = device.add({ operation: "write", hold: true });
  const [client, other] = [await world.open({}, "slow"), await world.open({}, "other")];
  const cookie = await client.send({ type: Command.WRITE, length: 512 }, new Uint8Array(512).fill(3));
  assertEquals((await client.read(4096, 512)).error, 0, "the write has arrived");
  world.exports.remove("slow");
  const dismissed = world.server.dismiss(exported, "removed", 10_000);
  world.exports.add(anExport("slow"));
  assertEquals((await (await world.open({}, "slow")).read(0, 512)).error, 0, "the name is free at once");
  assertEquals((await client.read(0, 512)).error, WireErrno.ESHUTDOWN);
  fault.remove();
  assertEquals((await client.answer(cookie)).error, 0);
  assertEquals(await client.receive(), null);
  await dismissed;
  assertEquals((await other.write(0, new Uint8Array(512))).error, 0);
});

Deno.test("V48: removing an export and offering another under its name works a thousand times", async () => {
  await using world = new World("[a]\naddress = ::/0\nwrite = *\n", { names: ["stays"] });
  const bystander = await world.open({}, "stays");
  for (let round = 0; round < 1000; round++) {
    const exported = anExport("disk");
    world.exports.add(exported);
    const client = round % 50 === 0 ? await world.open({}) : null;
    if (client !== null) assertEquals((await client.read(0, 512)).error, 0);
    world.exports.remove("disk");
    await world.server.dismiss(exported, "removed", 10_000);
    if (client !== null) assertEquals(await client.receive(), null);
  }
  assertEquals((await bystander.read(0, 512)).error, 0);
  assertEquals(world.exports.list().map(({ name }) => name), ["stays"]);
});
