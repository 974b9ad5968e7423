/** Under systemd, which a few lines of Python stand in for: the socket comes from it, and it is told of all that happens. */

import { assertEquals } from "@std/assert";
import { TextLineStream } from "@std/streams";
import { dial } from "../../src/net/dial.ts";
import { peerTest } from "../interop/peers.ts";
import { RawClient } from "../testing/raw_client.ts";
import { temporaryDirectory } from "../testing/process.ts";
import { program, surroundings } from "./program.ts";

/** Opens a socket, starts the program with it as descriptor 3, and prints the port and each notification. */
const systemd = `
import json, os, socket, sys
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind(sys.argv[1])
notify.settimeout(30)
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
pid = os.fork()
if pid == 0:
    os.dup2(listener.fileno(), 3, inheritable=True)
    os.environ.update(NOTIFY_SOCKET=sys.argv[1], LISTEN_FDS="1", LISTEN_PID=str(os.getpid()), WATCHDOG_USEC="200000")
    os.execv(sys.argv[2], sys.argv[2:])
print(pid, flush=True)
while True:
    message = notify.recv(4096).decode()
    print(json.dumps(message), flush=True)
    if message.startswith("STOPPING=1"): break
print(json.dumps("exit " + str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))), flush=True)
`;

for (const what of ["file", "configuration directory"]) {
  const name =
    `a server of a ${what} under systemd takes its socket, says when it is ready, alive and stopping`;
  peerTest(name, ["python3"], async () => {
    using directory = temporaryDirectory();
    const image = directory.file("image");
    Deno.writeFileSync(image, new Uint8Array(4096).fill(6));
    Deno.writeTextFileSync(directory.file("exports.conf"), "[disk]\ndisk = image\n");
    Deno.writeTextFileSync(directory.file("peers.conf"), "[here]\naddress = 127.0.0.1\nread = *\n");
    const child = new Deno.Command("python3", {
      args: [
        "-c",
        systemd,
        directory.file("notify"),
        await program(),
        "serve",
        "--state-dir",
        directory.path,
        ...(what === "file" ? ["--file", image] : ["--config", directory.path]),
      ],
      env: surroundings,
      stdin: "null",
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    const lines: ReadableStreamDefaultReader<string> = child.stdout
      .pipeThrough(new TextDecoderStream()).pipeThrough<string>(new TextLineStream()).getReader();
    const next = async () => (await lines.read()).value!;
    const port = Number(await next());
    const pid = Number(await next());
    assertEquals(JSON.parse(await next()), `READY=1\nSTATUS=serving on 127.0.0.1:${port}`);
    assertEquals(JSON.parse(await next()), "WATCHDOG=1");

    const connection = await dial({ transport: "tcp", host: "127.0.0.1", port });
    const client = await RawClient.open(connection);
    assertEquals((await client.read(0, 4096)).data, new Uint8Array(4096).fill(6));
    connection.close();

    Deno.kill(pid, "SIGTERM");
    let message = JSON.parse(await next());
    while (message === "WATCHDOG=1") message = JSON.parse(await next());
    assertEquals(message, "STOPPING=1");
    assertEquals(JSON.parse(await next()), "exit 0");
    assertEquals((await child.status).code, 0);
    await lines.cancel();
  });
}
