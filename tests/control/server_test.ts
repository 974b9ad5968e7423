import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { AccessList } from "../../src/access/acl.ts";
import { silentLog } from "../../src/base/log.ts";
import { askControl, followControl } from "../../src/control/client.ts";
import { type ControlHandler, serverHandlers } from "../../src/control/handlers.ts";
import { type ControlLimits, ControlServer } from "../../src/control/server.ts";
import { StateWatch } from "../../src/control/state_watch.ts";
import { WireTrace } from "../../src/server/nbd/wire_trace.ts";
import { listenUnix } from "../../src/net/listener.ts";
import type { ControlRequest } from "../../src/wire/control/message.ts";
import { temporaryDirectory } from "../testing/process.ts";
import { systemClock } from "../../src/os/clock.ts";
import { IDLE } from "./idle_status.ts";

/** A control socket before an idle server with an access list; gone at the end of the scope. */
async function controlled(more: Record<string, ControlHandler> = {}, limits: ControlLimits = {}) {
  const directory = temporaryDirectory();
  const path = directory.file("control");
  const acl = new AccessList(["127.0.0.1"]);
  const log = { ...silentLog };
  const handlers = serverHandlers(
    {
      status: () => IDLE,
      replaceAccessList: (entries) => acl.replace(entries),
      reload: () => Promise.resolve("nothing"),
    },
    { watch: new StateWatch(() => IDLE, systemClock), trace: new WireTrace(() => 0) },
    log,
  );
  for (const [name, handler] of Object.entries(more)) handlers.set(name, handler);
  const server = new ControlServer(await listenUnix(path), handlers, silentLog, limits);
  return {
    path,
    acl,
    log,
    server,
    ask: (command: string, args: string[] = [], form: ControlRequest["form"] = "lines") =>
      askControl(path, { form, command, args }),
    async [Symbol.asyncDispose]() {
      await server.close();
      directory[Symbol.dispose]();
    },
  };
}

/** Leaves a socket file on which nobody answers, as a killed program does. */
function leaveSocket(path: string): void {
  const listener = Deno.listen({ transport: "unix", path: `${path}-passing` });
  // Under its first name the runtime would remove it.
  Deno.renameSync(`${path}-passing`, path);
  listener.close();
}

/** Says something on the socket, ends it, and hears the answer. */
async function say(path: string, text: string, options: { leaveOpen?: boolean } = {}): Promise<string> {
  using conn = await Deno.connect({ transport: "unix", path });
  await conn.write(new TextEncoder().encode(text));
  if (!options.leaveOpen) await conn.closeWrite();
  const chunks: Uint8Array[] = [];
  for await (const chunk of conn.readable) chunks.push(chunk);
  return new TextDecoder().decode(await new Blob(chunks as BlobPart[]).arrayBuffer());
}

Deno.test("the answers are flexnbd's, without stray bytes", async () => {
  await using control = await controlled();
  const { path } = control;
  const status =
    "0: pid=1 size=65536 is_mirroring=false clients_allowed=true num_clients=0 has_control=true \n";
  assertEquals(await say(path, "status\n\n", { leaveOpen: true }), status);
  assertEquals(await say(path, "status\n"), status);
  assertEquals(await say(path, "status\nignored\n\n"), status);
  assertEquals(await say(path, "\n"), "9: missing command\n");
  assertEquals(await say(path, ""), "9: missing command\n");
  assertEquals(await say(path, "mirror\n127.0.0.1\n\n"), "10: unknown command\n");
  assertEquals(await say(path, "x".repeat(5000)), "1: a line is longer than 4096 bytes\n");
});

Deno.test("acl replaces the list as a whole, and a bad entry leaves it", async () => {
  await using control = await controlled();
  assertEquals(await control.ask("acl", ["10.0.0.0/8=read", "::1"]), { code: 0, text: "updated" });
  assertEquals(control.acl.entries, ["10.0.0.0/8=read", "::1"]);
  const refused = await control.ask("acl", ["10.0.0.1", "junk"]);
  assertEquals(refused.code, 1);
  assert(refused.text.startsWith("bad spec: junk"));
  assertEquals(control.acl.entries, ["10.0.0.0/8=read", "::1"]);
  await control.ask("acl");
  assertEquals(control.acl.entries, []);
});

Deno.test("JSON requests get the whole status, several on one connection", async () => {
  await using control = await controlled();
  const answer = await control.ask("status", [], "json");
  assertEquals(answer.code, 0);
  assertEquals(answer.result, JSON.parse(JSON.stringify(IDLE)));
  const both = await say(control.path, '{"command":"status"}\n{"command":"nothing"}\n{"command":""}\n');
  assertEquals(both.trimEnd().split("\n").map((line) => JSON.parse(line).code), [0, 10, 9]);
  assertEquals(JSON.parse(await say(control.path, "{]\n")), {
    version: 1,
    code: 1,
    text: "the request is no JSON",
  });
});

Deno.test("log_level changes the level and refuses what is none", async () => {
  await using control = await controlled();
  assertEquals(await control.ask("log_level", ["D"]), { code: 0, text: "updated" });
  assertEquals(control.log.level, "D");
  for (const args of [["X"], [], ["D", "I"]]) {
    assertEquals((await control.ask("log_level", args)).code, 1);
  }
  assertEquals(control.log.level, "D");
});

Deno.test("a silent client holds up neither others nor the end", async () => {
  await using control = await controlled();
  using _silent = await Deno.connect({ transport: "unix", path: control.path });
  assertEquals((await control.ask("status")).code, 0);
  await control.server.close();
  await assertRejects(() => Deno.lstat(control.path), Deno.errors.NotFound);
});

Deno.test("what a client said before it was too slow is not done", async () => {
  await using control = await controlled({}, { timeoutMs: 50 });
  assertEquals(await say(control.path, "acl\n10.0.0.1\n", { leaveOpen: true }), "");
  assertEquals(control.acl.entries, ["127.0.0.1"]);
});

Deno.test("more clients than allowed are closed, and the others go on", async () => {
  await using control = await controlled({}, { clients: 1 });
  using first = await Deno.connect({ transport: "unix", path: control.path });
  await first.write(new TextEncoder().encode("status\n"));
  using second = await Deno.connect({ transport: "unix", path: control.path });
  assertEquals(await second.read(new Uint8Array(10)), null);
  await first.closeWrite();
  assert(await first.read(new Uint8Array(10)) !== null);
});

Deno.test("a command under way is answered before the server ends", async () => {
  const started = Promise.withResolvers<void>();
  const finish = Promise.withResolvers<void>();
  await using control = await controlled({
    async slow() {
      started.resolve();
      await finish.promise;
      return { code: 0, text: "done" };
    },
  });
  const answer = control.ask("slow");
  await started.promise;
  const closed = control.server.close(60_000);
  finish.resolve();
  assertEquals(await answer, { code: 0, text: "done" });
  await closed;
});

Deno.test("a command that never ends does not hold up the end of the server", async () => {
  const started = Promise.withResolvers<void>();
  await using control = await controlled({
    async stuck() {
      started.resolve();
      await new Promise(() => {});
      return { code: 0, text: "" };
    },
  });
  const answer = assertRejects(() => control.ask("stuck"), Error, "closed without an answer");
  await started.promise;
  await control.server.close(10);
  await answer;
});

Deno.test("a handler's error is the answer", async () => {
  await using control = await controlled({
    fails() {
      throw new Error("no such luck");
    },
  });
  assertEquals(await control.ask("fails"), { code: 1, text: "no such luck" });
});

Deno.test("only its owner may open the socket", async () => {
  await using control = await controlled();
  assertEquals((await Deno.lstat(control.path)).mode! & 0o777, 0o600);
});

Deno.test("a socket left behind is replaced, one that answers is not", async () => {
  using directory = temporaryDirectory();
  const path = directory.file("control");
  leaveSocket(path);
  assert((await Deno.lstat(path)).isSocket);
  const handlers = new Map<string, ControlHandler>([["x", () => ({ code: 0, text: "here" })]]);
  const server = new ControlServer(await listenUnix(path), handlers, silentLog);
  assertEquals((await askControl(path, { form: "lines", command: "x", args: [] })).text, "here");
  await assertRejects(() => listenUnix(path), Deno.errors.AddrInUse);
  assertEquals((await askControl(path, { form: "lines", command: "x", args: [] })).text, "here");
  await server.close();
});

Deno.test("a socket file that somebody else put in its place stays", async () => {
  using directory = temporaryDirectory();
  const path = directory.file("control");
  const server = new ControlServer(await listenUnix(path), new Map(), silentLog);
  await Deno.remove(path);
  await Deno.writeTextFile(path, "mine");
  await server.close();
  assertEquals(await Deno.readTextFile(path), "mine");
});

Deno.test("askControl() says why a server cannot be asked", async () => {
  using directory = temporaryDirectory();
  const path = directory.file("control");
  const ask = (timeoutMs?: number) =>
    askControl(path, { form: "lines", command: "status", args: [] }, { timeoutMs });
  await assertRejects(ask, Error, "there is no such file");
  leaveSocket(path);
  await assertRejects(ask, Error, "no server answers on it");
  await Deno.remove(path);

  const listener = Deno.listen({ transport: "unix", path });
  const accepted = listener.accept();
  const asking = assertRejects(() => ask(20), Error, "gave no answer within 0.02 s");
  const conn = await accepted;
  await asking;
  conn.close();

  const nonsense = (async () => {
    const conn = await listener.accept();
    await conn.write(new TextEncoder().encode("hello\n"));
    conn.close();
  })();
  const error = await assertRejects(ask, Error);
  assertStringIncludes(error.message, 'the answer "hello" is not CODE: TEXT');
  await nonsense;
  listener.close();
});

Deno.test("followControl() gives up a server that does not answer", async () => {
  using directory = temporaryDirectory();
  const path = directory.file("sock");
  using listener = Deno.listen({ transport: "unix", path });
  const lines = followControl(path, { command: "trace", args: [] }, { timeoutMs: 20 });
  const failure = assertRejects(() => lines.next(), Error, "gave no answer within 0.02 s");
  using _mute = await listener.accept();
  await failure;
});

Deno.test("followControl() reads the answer, and lines behind it for as long as there are any", async () => {
  using directory = temporaryDirectory();
  const path = directory.file("sock");
  using listener = Deno.listen({ transport: "unix", path });
  const lines = followControl(path, { command: "trace", args: [] });
  const first = lines.next();
  const conn = await listener.accept();
  await conn.read(new Uint8Array(1024));
  await conn.write(new TextEncoder().encode("answer\none\ntwo\n"));
  assertEquals([(await first).value, (await lines.next()).value], ["answer", "one"]);
  conn.close();
  assertEquals([(await lines.next()).value, (await lines.next()).done], ["two", true]);
});
