/** The tools of others as our clients: what they say about an export, and what they read, write and verify. */

import { assertEquals, assertMatch } from "@std/assert";
import { run, type TemporaryDirectory, temporaryDirectory } from "../testing/process.ts";
import { type RunningServer, serve } from "../program/program.ts";
import { peerTest } from "./peers.ts";

const MiB = 1 << 20;
const sizeBytes = 64 * MiB;

async function serveScratch(directory: TemporaryDirectory, ...more: string[]): Promise<RunningServer> {
  const path = directory.file("scratch");
  Deno.writeFileSync(path, new Uint8Array());
  Deno.truncateSync(path, sizeBytes);
  return await serve(["--export", `x=${path},description=a scratch disk`, ...more]);
}

peerTest("nbdinfo tells size, abilities, contexts and the map of holes", ["nbdinfo", "qemu-io"], async () => {
  using directory = temporaryDirectory();
  await using server = await serveScratch(directory);
  const uri = server.uri("x");
  await run("qemu-io", ["-f", "raw", "-c", "write 1M 1M", "-c", "write 60M 1M", uri]);
  const { exports: [info], protocol } = JSON.parse((await run("nbdinfo", ["--json", uri])).stdout);
  assertEquals(protocol, "newstyle-fixed");
  assertEquals([info["export-name"], info["export-size"]], ["x", sizeBytes]);
  assertEquals(info.contexts.includes("base:allocation"), true);
  const abilities = [
    "can_cache",
    "can_df",
    "can_fast_zero",
    "can_flush",
    "can_fua",
    "can_multi_conn",
    "can_trim",
  ];
  for (const ability of [...abilities, "can_zero"]) assertEquals([ability, info[ability]], [ability, true]);
  assertEquals([info.is_read_only, info.is_rotational], [false, false]);
  assertEquals([info.block_size_minimum, info.block_size_maximum], [1, 32 * MiB]);

  const map = JSON.parse((await run("nbdinfo", ["--map", "--json", uri])).stdout);
  assertEquals(
    map.map(({ offset, length, type }: Record<string, number>) => [offset / MiB, length / MiB, type]),
    [[0, 1, 3], [1, 1, 0], [2, 58, 3], [60, 1, 0], [61, 3, 3]],
  );
  await run("nbdinfo", ["--can", "structured-reply", uri]);
});

for (const transport of ["TCP", "a Unix socket"]) {
  peerTest(`nbdinfo, qemu-nbd and nbd-client list the exports over ${transport}`, [
    "nbdinfo",
    "qemu-nbd",
    "nbd-client",
  ], async () => {
    using directory = temporaryDirectory();
    const other = directory.file("other");
    Deno.writeFileSync(other, new Uint8Array(MiB));
    const unix = directory.file("unix");
    const more = ["--export", `other=${other},readonly`, ...(transport === "TCP" ? [] : ["--unix", unix])];
    await using server = await serveScratch(directory, ...more);
    const { stdout } = await run("nbdinfo", ["--list", "--json", server.uri()]);
    const names = JSON.parse(stdout).exports.map((each: Record<string, unknown>) => each["export-name"]);
    assertEquals(names.sort(), ["other", "x"]);
    const [qemuPlace, clientPlace] = transport === "TCP"
      ? [["-b", "127.0.0.1", "-p", String(server.port)], ["127.0.0.1", String(server.port)]]
      : [["-k", unix], ["-unix", unix]];
    const qemu = (await run("qemu-nbd", ["--list", ...qemuPlace])).stdout;
    assertMatch(qemu, /exports available: 2/);
    assertMatch(qemu, /export: 'x'\n.*description: a scratch disk\n.*size: +67108864/);
    const client = (await run("nbd-client", ["-l", ...clientPlace])).stdout;
    assertEquals(
      client.split("\n").filter((line) => ["x", "other"].includes(line.split(/[ :]/)[0])).length,
      2,
      client,
    );
  });
}

peerTest("nbdinfo hears that an export is unknown, and that it is read-only", ["nbdinfo"], async () => {
  using directory = temporaryDirectory();
  const path = directory.file("r");
  Deno.writeFileSync(path, new Uint8Array(MiB));
  await using server = await serveScratch(directory, "--export", `r=${path},readonly`);
  const unknown = await run("nbdinfo", [server.uri("nosuch")], { code: "any" });
  assertEquals(unknown.code, 1);
  assertMatch(unknown.stderr, /nosuch|unknown|no such/i);
  await run("nbdinfo", ["--is", "read-only", server.uri("r")]);
});

peerTest(
  "V1: qemu-io finds the patterns that it wrote, and everything else as it was",
  ["qemu-io"],
  async () => {
    using directory = temporaryDirectory();
    await using server = await serveScratch(directory);
    const commands = [
      "write -P 7 0 64k",
      "read -P 7 0 64k",
      "write -P 9 3 5",
      "read -P 9 3 5",
      "read -P 7 8 100",
      "aio_write -P 5 1M 1M",
      "aio_write -P 6 2M 1M",
      "aio_flush",
      "read -P 5 1M 1M",
      "read -P 6 2M 1M",
      "write -f -P 8 4M 64k",
      "write -z 1M 1M",
      "read -P 0 1M 1M",
      "write -z -n 2M 512k",
      "read -P 0 2M 512k",
      "read -P 6 2560k 512k",
      "discard 4M 64k",
      "read -P 0 4M 64k",
      "write -z -u 8M 1M",
      "read -P 0 8M 1M",
      "flush",
    ];
    const args = [
      "-f",
      "raw",
      "-d",
      "unmap",
      ...commands.flatMap((command) => ["-c", command]),
      server.uri("x"),
    ];
    const { stdout } = await run("qemu-io", args);
    assertEquals(/fail|error/i.test(stdout), false, stdout);
  },
);

peerTest("qemu-img reads an image whose size is no whole sector", ["qemu-img"], async () => {
  using directory = temporaryDirectory();
  const path = directory.file("odd");
  Deno.writeFileSync(path, new Uint8Array(1000).fill(3));
  await using server = await serve(["--file", path]);
  const { stdout } = await run("qemu-img", ["info", "--output=json", server.uri()]);
  assertEquals(JSON.parse(stdout)["virtual-size"], 1024);
});

peerTest("V1: fio verifies what it wrote at depth 32 over four connections", ["fio"], async () => {
  using directory = temporaryDirectory();
  await using server = await serveScratch(directory);
  const quarter = sizeBytes / 4;
  const { stdout } = await run("fio", [
    "--name=verify",
    "--ioengine=nbd",
    `--uri=${server.uri("x")}`,
    "--rw=randrw",
    "--bsrange=512-64k",
    "--bs_unaligned",
    "--iodepth=32",
    "--numjobs=4",
    // Each connection has a quarter for itself; they are written and verified at the same time.
    `--size=${quarter}`,
    `--offset_increment=${quarter}`,
    "--verify=crc32c",
    "--verify_fatal=1",
    "--do_verify=1",
    "--verify_state_save=0",
    "--randrepeat=0",
    "--group_reporting",
    "--output-format=json",
  ], { timeoutSeconds: 120 });
  const { jobs: [job] } = JSON.parse(stdout.slice(stdout.indexOf("\n{") + 1));
  assertEquals(job.error, 0);
  // More was read than written: the second pass.
  assertEquals(job.read.io_bytes > job.write.io_bytes && job.write.io_bytes > 0, true);
  assertEquals(await server.stop(), 0);
});

peerTest("V16: a flush and a write with FUA reach stable storage before they are answered", [
  "strace",
  "nbdsh",
], async () => {
  using directory = temporaryDirectory();
  const trace = directory.file("trace");
  const path = directory.file("image");
  Deno.writeFileSync(path, new Uint8Array(MiB));
  await using server = await serve(["--file", path]);
  const calls = "--trace=fdatasync,fsync,sendto,write,writev,pwrite64";
  const strace = new Deno.Command("strace", {
    args: ["-f", "-p", String(server.pid), "--output", trace, calls, "-xx", "-s4"],
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).spawn();
  const told = strace.stderr.getReader();
  // It says so once it watches.
  assertMatch(new TextDecoder().decode((await told.read()).value), /attached/);
  const reading = (async () => {
    while (!(await told.read()).done);
  })();
  const env = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" };
  for (const request of ["h.flush()", "h.pwrite(b'x' * 4096, 0, nbd.CMD_FLAG_FUA)"]) {
    const commands = [
      "h.set_request_structured_replies(False)",
      `h.connect_uri("${server.uri()}")`,
      // Its simple reply, 67446698, is what comes after.
      request,
      "h.shutdown()",
    ];
    const before = Deno.readTextFileSync(trace).length;
    await run("nbdsh", commands.flatMap((line) => ["-c", line]), { env });
    const lines = Deno.readTextFileSync(trace).slice(before).split("\n");
    const synced = lines.findIndex((line) => /fdatasync(\(\d+\)| resumed.*) += 0/.test(line));
    const answered = lines.findIndex((line) => line.includes(String.raw`"\x67\x44\x66\x98"`));
    assertEquals(synced >= 0 && answered > synced, true, `${request}\n${lines.join("\n")}`);
  }
  assertEquals(await server.stop(), 0);
  await Promise.all([strace.status, reading]);
});
