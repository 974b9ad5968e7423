import { assert, assertEquals, assertMatch, assertRejects, assertStringIncludes } from "@std/assert";
import { AccessList } from "../../src/access/acl.ts";
import { silentLog } from "../../src/base/log.ts";
import { acl } from "../../src/commands/acl.ts";
import { check } from "../../src/commands/check.ts";
import type { Output } from "../../src/commands/command.ts";
import { CommandFailure } from "../../src/commands/command_failure.ts";
import { request } from "../../src/commands/control_request.ts";
import { diskThreadsCommand } from "../../src/commands/disk_threads.ts";
import { logLevel } from "../../src/commands/log_level.ts";
import { runProgram } from "../../src/commands/program.ts";
import { reload } from "../../src/commands/reload.ts";
import { statusCommand } from "../../src/commands/status.ts";
import { DISK_THREADS_DEFAULT, diskThreads } from "../../src/device/disk_threads.ts";
import { serverHandlers } from "../../src/control/handlers.ts";
import { ControlServer } from "../../src/control/server.ts";
import { formatStatusLine, type ProcessStatus } from "../../src/control/status.ts";
import { StateWatch } from "../../src/control/state_watch.ts";
import { WireTrace } from "../../src/server/nbd/wire_trace.ts";
import { listenUnix } from "../../src/net/listener.ts";
import type { Clock } from "../../src/os/clock.ts";
import { systemClock } from "../../src/os/clock.ts";
import { IDLE } from "../control/idle_status.ts";
import { temporaryDirectory } from "../testing/process.ts";
import { FakeSurroundings } from "./fake_surroundings.ts";

/** A clock that does not wait. */
const impatient: Clock = {
  now: () => 0,
  timer(_delayMs, callback) {
    queueMicrotask(callback);
    return { [Symbol.dispose]() {} };
  },
};

const commands = [acl, check, reload, statusCommand(impatient), logLevel, diskThreadsCommand];

async function running(status: () => ProcessStatus = () => IDLE) {
  const directory = temporaryDirectory();
  const sock = directory.file("control");
  const list = new AccessList(["127.0.0.1"]);
  const log = { ...silentLog };
  const server = {
    status,
    replaceAccessList: (entries: readonly string[]) => list.replace(entries),
    reload: (force: boolean) =>
      force ? Promise.resolve("1 removed") : Promise.reject(new Error("exports.conf:3: no")),
  };
  const watch = new StateWatch(status, systemClock);
  const handlers = serverHandlers(server, { watch, trace: new WireTrace(() => 0) }, log);
  const control = new ControlServer(await listenUnix(sock), handlers, silentLog);
  return {
    sock,
    watch,
    list,
    log,
    control,
    async [Symbol.asyncDispose]() {
      await control.close();
      directory[Symbol.dispose]();
    },
  };
}

async function denbd(...words: string[]) {
  const around = new FakeSurroundings();
  const code = await runProgram(words, commands, "1.2.3", around);
  return { code, stdout: around.written.stdout, stderr: around.written.stderr };
}

Deno.test("status prints the line of the server, without its code", async () => {
  await using server = await running();
  assertEquals(await denbd("status", "--sock", server.sock), {
    code: 0,
    stdout: formatStatusLine(IDLE) + "\n",
    stderr: "",
  });
});

Deno.test("status --json prints all there is", async () => {
  await using server = await running();
  const { code, stdout } = await denbd("status", "-s", server.sock, "--json");
  assertEquals(code, 0);
  assertEquals(JSON.parse(stdout), JSON.parse(JSON.stringify(IDLE)));
});

/** Runs status with a reader that goes away after some writes, as `head` does. */
async function watch(writes: number, isTerminal: boolean, ...words: string[]) {
  let left = writes;
  const written: string[] = [];
  const stdout: Output = {
    isTerminal,
    write(data) {
      if (left-- === 0) throw new Deno.errors.BrokenPipe("Broken pipe");
      written.push(data as string);
      return Promise.resolve();
    },
  };
  const around = new FakeSurroundings();
  const code = await runProgram(words, commands, "1.2.3", Object.assign(around, { stdout }));
  return { code, written, stderr: around.written.stderr };
}

Deno.test("status --watch redraws until nobody reads, with rates from the second time on", async () => {
  let uptimeMs = 0;
  await using server = await running(() => {
    uptimeMs += 2000;
    const [only] = IDLE.exports;
    return { ...IDLE, uptimeMs, exports: [{ ...only, requests: uptimeMs, readBytes: 1024 * uptimeMs }] };
  });
  const { code, written, stderr } = await watch(2, true, "status", "--sock", server.sock, "--watch");
  assertEquals({ code, stderr }, { code: 1, stderr: "" });
  assertEquals(written.length, 2);
  for (const screen of written) assert(screen.startsWith("\x1b[H\x1b[2J"));
  assertStringIncludes(written[0], "2000 requests,");
  assertStringIncludes(written[1], "4000 requests (1000/s), 3.9 MiB read (1000 KiB/s)");
  const plain = await watch(1, false, "status", "--sock", server.sock, "--watch");
  assert(!plain.written[0].includes("\x1b"));
});

Deno.test("status --watch --json prints one line each time", async () => {
  await using server = await running();
  const { written } = await watch(2, true, "status", "-s", server.sock, "-w", "-j");
  assertEquals(written.map((line) => JSON.parse(line).pid), [1, 1]);
});

Deno.test("status --watch ends with a line and exit 1 when the server has gone", async () => {
  let asked = 0;
  await using server = await running(() => {
    if (++asked === 2) throw new Error("going down");
    return IDLE;
  });
  const { code, stderr } = await denbd("status", "-s", server.sock, "--watch");
  assertEquals({ code, stderr }, { code: 1, stderr: "denbd status: going down\n" });
});

Deno.test("acl replaces the list, empties it without entries, and says so", async () => {
  await using server = await running();
  assertEquals(await denbd("acl", "-s", server.sock, "10.0.0.0/8=read", "::1"), {
    code: 0,
    stdout: "updated\n",
    stderr: "",
  });
  assertEquals(server.list.entries, ["10.0.0.0/8=read", "::1"]);
  assertEquals((await denbd("acl", "--sock", server.sock)).stdout, "updated\n");
  assertEquals(server.list.entries, []);
});

Deno.test("acl refuses a bad entry before it asks anybody", async () => {
  const { code, stdout, stderr } = await denbd("acl", "--sock", "/nowhere", "10.0.0.1", "10.0.0.0/33");
  assertEquals({ code, stdout }, { code: 2, stdout: "" });
  assertMatch(stderr, /^denbd acl: bad spec: 10\.0\.0\.0\/33 \(.*\)\nusage: denbd acl --sock SOCK/);
});

Deno.test("reload prints what has changed, or why nothing has", async () => {
  await using server = await running();
  assertEquals(await denbd("reload", "--sock", server.sock), {
    code: 1,
    stdout: "",
    stderr: "denbd reload: exports.conf:3: no\n",
  });
  assertEquals((await denbd("reload", "--sock", server.sock, "--force")).stdout, "1 removed\n");
});

Deno.test("log-level changes it, and knows the levels", async () => {
  await using server = await running();
  assertEquals((await denbd("log-level", "--sock", server.sock, "D")).stdout, "updated\n");
  assertEquals(server.log.level, "D");
  assertEquals((await denbd("log-level", "--sock", server.sock, "loud")).code, 2);
  assertEquals((await denbd("log-level", "--sock", server.sock)).code, 2);
});

Deno.test("V54: disk-threads changes how many there are, and refuses none and nonsense", async () => {
  await using server = await running();
  assertEquals((await denbd("disk-threads", "--sock", server.sock, "8")).stdout, "updated\n");
  assertEquals(diskThreads.count, 8);
  for (const text of ["0", "25", "999", "1.5", "many"]) {
    const { code, stderr } = await denbd("disk-threads", "--sock", server.sock, text);
    assertEquals(code, 2);
    assertStringIncludes(stderr, `COUNT: "${text}" is not a whole number from 1 to 24\n`);
    // Nor does the server take it from somebody else.
    await assertRejects(
      () => request(server.sock, "disk_threads", [text]),
      CommandFailure,
      "disk_threads takes a whole number from 1 to 24",
    );
  }
  assertEquals(diskThreads.count, 8);
  diskThreads.count = DISK_THREADS_DEFAULT;
});

Deno.test("without --sock they say flexnbd's line, and without a server why", async () => {
  for (const name of ["acl", "status"]) {
    const missing = await denbd(name);
    assertEquals(missing.code, 2);
    assert(missing.stderr.startsWith(`denbd ${name}: --sock is required.\nusage: denbd ${name} `));
    const nobody = await denbd(name, "--sock", "/nowhere/control");
    assertEquals(nobody.code, 1);
    assertEquals(
      nobody.stderr,
      `denbd ${name}: cannot connect to the control socket "/nowhere/control": there is no such file\n`,
    );
  }
});

Deno.test("a long path of a socket is told whole", async () => {
  const path = `/nonexistent/${"directory/".repeat(8)}socket`;
  const { stderr } = await denbd("status", "--sock", path);
  assertEquals(
    stderr,
    `denbd status: cannot connect to the control socket "${path}": there is no such file\n`,
  );
});

Deno.test("a server's code is the exit code", async () => {
  using directory = temporaryDirectory();
  const sock = directory.file("control");
  const control = new ControlServer(await listenUnix(sock), new Map(), silentLog);
  assertEquals(await denbd("status", "--sock", sock), {
    code: 10,
    stdout: "",
    stderr: "denbd status: unknown command\n",
  });
  await control.close();
});

Deno.test("check says how a server is, and exits as monitoring plugins do", async () => {
  let status: ProcessStatus = IDLE;
  await using server = await running(() => status);
  assertEquals(await denbd("check", "--sock", server.sock), {
    code: 0,
    stdout: "fine: 1 export, 0 clients\n",
    stderr: "",
  });
  status = { ...IDLE, clientsAllowed: false };
  assertEquals((await denbd("check", "--sock", server.sock)).code, 1);
  status = { ...IDLE, exports: [{ ...IDLE.exports[0], syncFailure: "fdatasync: EIO" }] };
  const failed = await denbd("check", "--sock", server.sock);
  assertEquals(failed.code, 2);
  assertMatch(failed.stdout, /^failed: export "" cannot be written .*EIO\n$/);
});

Deno.test("check does not know the state of what it cannot ask, and misuse is no failed server", async () => {
  await using server = await running(() => ({}) as ProcessStatus);
  assertEquals((await denbd("check", "--sock", `${server.sock}.none`)).code, 3);
  const odd = await denbd("check", "--sock", server.sock);
  assertEquals([odd.code, odd.stderr], [3, ""]);
  assertMatch(odd.stdout, /^unknown: /);
  assertEquals((await denbd("check")).code, 3);
});

Deno.test("status --changes prints a line for each change until its reader has seen enough", async () => {
  let status: ProcessStatus = IDLE;
  await using server = await running(() => status);
  const lines: string[] = [];
  const around = new FakeSurroundings();
  const twice = Promise.withResolvers<void>();
  const stdout: Output = {
    isTerminal: false,
    write(data) {
      lines.push(data as string);
      if (lines.length < 2) return Promise.resolve();
      twice.resolve();
      throw new Deno.errors.BrokenPipe("Broken pipe");
    },
  };
  const ended = runProgram(["status", "-s", server.sock, "--changes"], commands, "1", {
    ...around,
    stdout,
    env: () => undefined,
  });
  const changing = setInterval(() => {
    status = { ...status, clientsAllowed: !status.clientsAllowed };
    server.watch.look();
  }, 1);
  await twice.promise;
  clearInterval(changing);
  assertEquals(await ended, 1);
  assertMatch(lines[0], /^\{"event":"clients_allowed","allowed":(true|false)\}\n$/);
});
