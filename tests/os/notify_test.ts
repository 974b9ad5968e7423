import { assertEquals, assertThrows } from "@std/assert";
import { silentLog } from "../../src/base/log.ts";
import { Notifier, notifySettings, sendDatagram } from "../../src/os/notify.ts";
import { OsError } from "../../src/os/os_error.ts";
import { peerTest } from "../interop/peers.ts";
import { temporaryDirectory } from "../testing/process.ts";

function environment(values: Record<string, string>): (name: string) => string | undefined {
  return (name) => values[name];
}

Deno.test("notifySettings() is null where nobody listens", { permissions: "none" }, () => {
  assertEquals(notifySettings(environment({}), 7), null);
  assertEquals(notifySettings(environment({ NOTIFY_SOCKET: "" }), 7), null);
  assertEquals(notifySettings(environment({ NOTIFY_SOCKET: "vsock:2:9" }), 7), null);
  assertEquals(notifySettings(environment({ NOTIFY_SOCKET: "/" }), 7), null);
});

Deno.test("notifySettings() reads a watchdog that is meant for us", { permissions: "none" }, () => {
  const socket = "/run/notify";
  const base = { NOTIFY_SOCKET: socket, WATCHDOG_USEC: "30000000" };
  assertEquals(notifySettings(environment(base), 7), { socket, watchdogMs: 30_000 });
  assertEquals(notifySettings(environment({ ...base, WATCHDOG_PID: "7" }), 7), {
    socket,
    watchdogMs: 30_000,
  });
  assertEquals(notifySettings(environment({ ...base, WATCHDOG_PID: "8" }), 7), { socket, watchdogMs: null });
  for (const bad of ["0", "-5", "soon", "1e400"]) {
    assertEquals(notifySettings(environment({ ...base, WATCHDOG_USEC: bad }), 7)?.watchdogMs, null, bad);
  }
});

Deno.test(
  "a notifier without systemd tells nobody and wants no sign of life",
  { permissions: "none" },
  () => {
    const notifier = new Notifier(null, silentLog);
    notifier.ready("serving");
    notifier.stopping();
    assertEquals(notifier.aliveEveryMs, null);
  },
);

/** A datagram socket in another process, which prints the next `count` messages as JSON, one a line. */
function listen(address: string, count: number): { messages: Promise<string[]>; ready: Promise<void> } {
  const script = `
import json, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.settimeout(20)
s.bind(sys.argv[1].replace("@", "\\0"))
print("bound", flush=True)
for _ in range(int(sys.argv[2])): print(json.dumps(s.recv(4096).decode()), flush=True)
`;
  const child = new Deno.Command("python3", {
    args: ["-c", script, address, String(count)],
    stdin: "null",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  const { promise: ready, resolve } = Promise.withResolvers<void>();
  const messages = (async () => {
    let text = "";
    for await (const part of child.stdout.pipeThrough(new TextDecoderStream())) {
      text += part;
      if (text.startsWith("bound\n")) resolve();
    }
    await child.status;
    return text.trimEnd().split("\n").slice(1).map((line) => JSON.parse(line));
  })();
  return { messages, ready };
}

for (const kind of ["path", "abstract name"]) {
  peerTest(`a notifier sends its states to a socket with a ${kind}`, ["python3"], async () => {
    using directory = temporaryDirectory();
    const socket = kind === "path" ? directory.file("notify") : `@denbd-test-${directory.path}`;
    const { messages, ready } = listen(socket, 3);
    await ready;
    const notifier = new Notifier({ socket, watchdogMs: 5_000 }, silentLog);
    assertEquals(notifier.aliveEveryMs, 2_500);
    notifier.ready("serving\n1 disk");
    notifier.alive();
    notifier.stopping();
    assertEquals(await messages, ["READY=1\nSTATUS=serving 1 disk", "WATCHDOG=1", "STOPPING=1"]);
  });
}

Deno.test("a notifier whom nobody hears says so once, and nothing else happens", () => {
  const warnings: string[] = [];
  const log = { ...silentLog, warn: (message: string) => void warnings.push(message) };
  const notifier = new Notifier({ socket: "/nonexistent/socket", watchdogMs: null }, log);
  notifier.ready("serving");
  notifier.alive();
  notifier.stopping();
  assertEquals(warnings, ["the service manager does not hear of us: sendto: ENOENT (/nonexistent/socket)"]);
});

Deno.test("sendDatagram() says why it failed", () => {
  const nobody = assertThrows(() => sendDatagram("/nonexistent/socket", "x"), OsError);
  assertEquals(nobody.code, "ENOENT");
  const long = assertThrows(() => sendDatagram(`/${"x".repeat(200)}`, "x"), OsError);
  assertEquals(long.code, "EINVAL");
});
