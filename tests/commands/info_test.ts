import { assertEquals, assertStringIncludes } from "@std/assert";
import { MemoryDisk } from "../../src/device/memory.ts";
import { silentLog } from "../../src/base/log.ts";
import { systemClock } from "../../src/os/clock.ts";
import { listenTcp } from "../../src/net/listener.ts";
import { ExportTable, ExportTraffic } from "../../src/server/export_table.ts";
import { NbdServer } from "../../src/server/nbd/server.ts";
import { temporaryDirectory } from "../testing/process.ts";
import { listenDisk } from "../testing/served_disk.ts";
import { denbd } from "./fake_surroundings.ts";

function halfFull(): MemoryDisk {
  const disk = new MemoryDisk(1 << 20);
  disk.write(65536, new Uint8Array(131072).fill(1));
  return disk;
}

Deno.test("info tells about an export in words", async () => {
  await using served = listenDisk(halfFull());
  const { code, out, stderr } = await denbd("info", served.uri);
  assertEquals([code, stderr], [0, ""]);
  assertEquals(
    out,
    `protocol: newstyle-fixed without TLS, extended headers
export="disk":
  description: a test
  uri: ${served.uri}
  export-size: 1048576 (1 MiB)
  is_read_only: false
  is_rotational: false
  can_flush: true
  can_fua: true
  can_trim: true
  can_zero: true
  can_fast_zero: true
  can_cache: true
  can_df: true
  can_multi_conn: true
  block_size_minimum: 1
  block_size_preferred: 4096
  block_size_maximum: 33554432
  contexts:
    base:allocation
`,
  );
});

Deno.test("info --json has nbdinfo's names", async () => {
  await using served = listenDisk(halfFull(), { readOnly: true });
  const { code, out } = await denbd("info", "--json", served.uri);
  assertEquals(code, 0);
  const facts = JSON.parse(out);
  assertEquals([facts.protocol, facts.TLS, facts.structured, facts.extended], [
    "newstyle-fixed",
    false,
    true,
    true,
  ]);
  assertEquals(facts.exports.length, 1);
  const [exported] = facts.exports;
  assertEquals(exported["export-name"], "disk");
  assertEquals(exported["export-size"], 1 << 20);
  assertEquals([exported.is_read_only, exported.can_trim, exported.can_flush], [true, false, true]);
  assertEquals(exported.contexts, ["base:allocation"]);
});

Deno.test("info tells about an oldstyle server by address and port", async () => {
  await using served = listenDisk(halfFull(), { oldstyle: true });
  const { code, out } = await denbd("info", "--addr", "127.0.0.1", "--port", String(served.port));
  assertEquals(code, 0);
  assertStringIncludes(out, "protocol: oldstyle without TLS\n");
  assertStringIncludes(out, "export-size: 1048576 (1 MiB)\n");
});

Deno.test("info --list describes every export, and says which cannot be opened", async () => {
  const exports = new ExportTable();
  for (const [name, sizeBytes] of [["a", 4096], ['b "c"\n', 8192], ["closed", 1]] as const) {
    const device = new MemoryDisk(sizeBytes);
    const more = {
      source: "memory",
      description: "",
      sizeBytes,
      readOnly: false,
      traffic: new ExportTraffic(),
    };
    exports.add({ name, device, ...more });
  }
  let listed = 0;
  const server = new NbdServer({
    exports,
    // Listed, and refused afterwards: the list was true when it was made.
    judge: (_, { name }) => ({
      rights: name === "closed" && ++listed > 1 ? "none" : "write",
      reason: "it is being repaired",
    }),
    log: silentLog,
    clock: systemClock,
  });
  const listener = listenTcp("127.0.0.1", 0);
  const serving = server.serve(listener);
  const uri = `nbd://127.0.0.1:${listener.port}`;
  const { code, out } = await denbd("info", "--list", "--json", uri);
  assertEquals(code, 0);
  const found = JSON.parse(out).exports as Record<string, unknown>[];
  assertEquals(found.map((each) => [each["export-name"], each["export-size"], each["uri"]]), [
    ["a", 4096, `${uri}/a`],
    ['b "c"\n', 8192, `${uri}/b%20%22c%22%0A`],
    ["closed", undefined, `${uri}/closed`],
  ]);
  assertStringIncludes(String(found[2].error), "it is being repaired");
  const text = (await denbd("info", "--list", uri)).out;
  assertStringIncludes(text, 'export="b \\"c\\"\\n":\n');
  await server.drain(10_000);
  await serving;
});

Deno.test("info --map shows data and holes, merged, and --totals how much of each", async () => {
  await using served = listenDisk(halfFull());
  const rows = [[0, 65536, 3, "hole,zero"], [65536, 131072, 0, "data"], [196608, 851968, 3, "hole,zero"]];
  const asJson = await denbd("info", "--map", "--json", served.uri);
  assertEquals(
    JSON.parse(asJson.out),
    rows.map(([offset, length, type, description]) => ({ offset, length, type, description })),
  );
  assertEquals(
    (await denbd("info", "--map", served.uri)).out,
    `         0       65536    3  hole,zero
     65536      131072    0  data
    196608      851968    3  hole,zero
`,
  );
  assertEquals(
    (await denbd("info", "--map", "--totals", served.uri)).out,
    `    131072   12.5%    0  data
    917504   87.5%    3  hole,zero
`,
  );
});

Deno.test("info tells about files", async () => {
  using directory = temporaryDirectory();
  const path = directory.file("disk.img");
  using file = Deno.openSync(path, { write: true, createNew: true });
  file.truncateSync(1 << 20);
  const { code, out } = await denbd("info", "--json", path);
  assertEquals(code, 0);
  assertEquals(JSON.parse(out), { kind: "file", size: 1 << 20, allocated: 0 });
  assertEquals((await denbd("info", path)).out, `${path}:\n  kind: file\n  size: 1048576\n  allocated: 0\n`);
  assertEquals((await denbd("info", "--map", path)).out, "         0     1048576    3  hole,zero\n");
});

Deno.test("info says what is wrong", async () => {
  using directory = temporaryDirectory();
  const cases: [string[], number, string][] = [
    [["info"], 2, "a disk is missing"],
    [["info", "--totals", "x"], 2, "--totals goes with --map"],
    [["info", "--list", "x"], 2, "--list needs a server"],
    [["info", "--list", "--map", "nbd://h"], 2, "exclude each other"],
    [["info", directory.file("none")], 1, "none"],
  ];
  for (const [words, expected, message] of cases) {
    const { code, stderr } = await denbd(...words);
    assertEquals(code, expected, words.join(" "));
    assertStringIncludes(stderr, message);
  }
  await using served = listenDisk(halfFull());
  const wrong = await denbd("info", `nbd://127.0.0.1:${served.port}/other`);
  assertEquals(wrong.code, 1);
  assertStringIncludes(wrong.stderr, 'refused GO of export "other"');
});
