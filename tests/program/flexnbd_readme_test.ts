/** The examples of flexnbd's manual, word for word but for the program's name, the port and the directory. */

import { assertEquals, assertMatch } from "@std/assert";
import { freePort, run, temporaryDirectory } from "../testing/process.ts";
import { denbd, program, serve, surroundings } from "./program.ts";

Deno.test("flexnbd's manual: serving a file, and reading server status", async () => {
  using directory = temporaryDirectory();
  // The words are flexnbd's; only the state goes elsewhere.
  const wrapper =
    `#!/bin/sh\nmode=$1; shift\n[ $mode != serve ] || set -- --state-dir '${directory.path}' "$@"\n` +
    `exec '${await program()}' $mode "$@"\n`;
  Deno.writeTextFileSync(directory.file("denbd"), wrapper, { mode: 0o755 });
  const port = freePort();
  const script = `
set -e
cp /etc/passwd TMP
denbd serve --file TMP/passwd --addr 0.0.0.0 --port PORT --sock TMP/flexnbd.sock &
server=$!
while [ ! -S TMP/flexnbd.sock ]; do kill -0 $server; sleep 0.05; done
denbd read --addr 127.0.0.1 --port PORT --from 0 --size 7
echo
denbd status --sock TMP/flexnbd.sock
echo "pid=$server"
kill $server
wait $server
`.replaceAll("TMP", directory.path).replaceAll("PORT", String(port));
  const { stdout } = await run("sh", ["-c", script], {
    env: { ...surroundings, PATH: `${directory.path}:${Deno.env.get("PATH")}` },
  });
  const [read, status, pid] = stdout.split("\n");
  assertEquals(read, Deno.readTextFileSync("/etc/passwd").slice(0, 7));
  assertMatch(
    status,
    /^pid=\d+ size=\d+ is_mirroring=false clients_allowed=true num_clients=0 has_control=true\b/,
  );
  assertEquals(status.split(" ")[0], pid);
});

Deno.test("flexnbd's manual: migrating", async () => {
  using directory = temporaryDirectory();
  const state = `--state-dir '${directory.path}/state'`;
  const wrapper = `#!/bin/sh\nmode=$1; shift\ncase $mode in serve|listen) set -- ${state} "$@"; esac\n` +
    `exec '${await program()}' $mode "$@"\n`;
  Deno.writeTextFileSync(directory.file("flexnbd"), wrapper, { mode: 0o755 });
  const script = `
set -e
dd if=/dev/urandom of=TMP/data bs=1024 count=1K status=none
truncate -s 1M TMP/data.copy
flexnbd serve --file TMP/data --addr 0.0.0.0 --port PORT1 \\
    --sock TMP/flex-source.sock --quiet &
source=$!
flexnbd listen --file TMP/data.copy --addr 0.0.0.0 --port PORT2 \\
    --sock TMP/flex-dest.sock --quiet &
dest=$!
while [ ! -S TMP/flex-source.sock ]; do kill -0 $source; sleep 0.05; done
while [ ! -S TMP/flex-dest.sock ]; do kill -0 $dest; sleep 0.05; done
flexnbd status --sock TMP/flex-source.sock
flexnbd status --sock TMP/flex-dest.sock
flexnbd mirror --addr 127.0.0.1 --port PORT2 \\
    --sock TMP/flex-source.sock
wait $source
echo "source $?"
wait $dest
echo "dest $?"
cmp TMP/data TMP/data.copy
ls TMP
`.replaceAll("TMP", directory.path).replace("PORT1", String(freePort())).replaceAll(
    "PORT2",
    String(freePort()),
  );
  const { stdout, stderr } = await run("sh", ["-c", script], {
    env: { ...surroundings, PATH: `${directory.path}:${Deno.env.get("PATH")}` },
  });
  const [source, dest, ...rest] = stdout.split("\n");
  assertMatch(source, /^pid=\d+ size=1048576 is_mirroring=false .*has_control=true/);
  assertMatch(dest, /^pid=\d+ size=1048576 is_mirroring=false .*has_control=false/);
  assertEquals(rest.slice(0, 3), ["Migration started", "source 0", "dest 0"]);
  // The control sockets are gone.
  assertEquals(rest.slice(3).filter((name) => name !== ""), ["data", "data.copy", "flexnbd", "state"]);
  assertEquals(stderr, "");
});

Deno.test("flexnbd's manual: status counts clients, acl lets in those it names", async () => {
  using directory = temporaryDirectory();
  const sock = directory.file("control");
  Deno.writeFileSync(directory.file("image"), new Uint8Array(4096));
  await using server = await serve([
    "-f",
    directory.file("image"),
    "-l",
    "127.0.0.1",
    "-p",
    "0",
    "-s",
    sock,
    "-d",
  ]);
  const where = ["--addr", "127.0.0.1", "--port", String(server.port), "--from", "0", "--size", "4"];

  assertEquals((await denbd(["read", ...where], { code: "any" })).code, 1);
  const updated = await denbd(["acl", "-s", sock, "127.0.0.1"]);
  assertEquals([updated.stdout, updated.stderr], ["updated\n", ""]);
  assertEquals((await denbd(["read", ...where])).bytes, new Uint8Array(4));
  const wrong = await denbd(["acl", "-s", sock, "127.0.0.300"], { code: "any" });
  assertEquals([wrong.code, wrong.stdout], [wrong.code || -1, ""]);
  assertMatch(wrong.stderr, /bad spec: 127\.0\.0\.300/);
  // A bad list changes nothing; an empty one lets nobody in, as the server was started with -d.
  assertEquals((await denbd(["read", ...where])).bytes, new Uint8Array(4));
  await denbd(["acl", "--sock", sock]);
  assertEquals((await denbd(["read", ...where], { code: "any" })).code, 1);
});

Deno.test("status and acl without a server: one line, exit code 1", async () => {
  using directory = temporaryDirectory();
  for (const command of ["status", "acl"]) {
    const { code, stderr } = await denbd([command, "--sock", directory.file("none")], { code: "any" });
    assertEquals(code, 1);
    assertMatch(stderr, /^denbd \w+: .*none.*\n$/);
  }
});
