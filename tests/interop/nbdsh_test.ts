/** libnbd's shell asks for everything that is allowed, and with its own checks off for all that is not. */

import { assertEquals, assertMatch } from "@std/assert";
import { run, type TemporaryDirectory, temporaryDirectory } from "../testing/process.ts";
import { type RunningServer, serve } from "../program/program.ts";
import { peerTest } from "./peers.ts";

const MiB = 1 << 20;
const sizeBytes = 64 * MiB;

/** Runs lines of Python with a handle `h` connected to the URI; returns what they print. */
async function nbdsh(uri: string, lines: readonly string[], before: readonly string[] = []): Promise<string> {
  const commands = [...before, `h.connect_uri(${JSON.stringify(uri)})`, ...lines];
  // Another Python earlier in PATH would lack the module.
  const env = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" };
  return (await run("nbdsh", commands.flatMap((line) => ["-c", line]), { env })).stdout;
}

/** Two exports of 64 MiB: `x` to write, `r` to read, both half data and half hole. */
async function serveTwo(directory: TemporaryDirectory): Promise<RunningServer> {
  const exports = ["x", "r"].map((name) => {
    const path = directory.file(name);
    Deno.writeFileSync(path, new Uint8Array(sizeBytes / 2).fill(0xaa));
    Deno.truncateSync(path, sizeBytes);
    return `${name}=${path}${name === "r" ? ",readonly" : ",default,description=scratch"}`;
  });
  return await serve(exports.flatMap((text) => ["--export", text]));
}

/** What the protocol, or where it leaves it open our choice, says to a request: `ok` or the name of an error. */
type Row = readonly [expression: string, expected: string];

const allowed: readonly Row[] = [
  ["h.pread(512, 0)", "ok"],
  ["h.pread(1, 1)", "ok"],
  ["h.pread(4097, 3)", "ok"],
  [`h.pread(512, ${sizeBytes} - 512)`, "ok"],
  ["h.pread(32 << 20, 0)", "ok"],
  ["h.pread(512, 0, nbd.CMD_FLAG_FUA)", "ok"],
  ["h.pwrite(b'x' * 512, 0)", "ok"],
  ["h.pwrite(b'x', 5)", "ok"],
  ["h.pwrite(b'x' * 512, 0, nbd.CMD_FLAG_FUA)", "ok"],
  [`h.pwrite(b'x', ${sizeBytes} - 1)`, "ok"],
  ["h.pwrite(b'x' * (33 << 20), 0)", "ok"],
  ["h.flush()", "ok"],
  ["h.flush(nbd.CMD_FLAG_FUA)", "ok"],
  ["h.trim(65536, 0)", "ok"],
  ["h.trim(65536, 3, nbd.CMD_FLAG_FUA)", "ok"],
  ["h.trim(64 << 20, 0)", "ok"],
  ["h.zero(65536, 0)", "ok"],
  ["h.zero(65536, 3, nbd.CMD_FLAG_FUA)", "ok"],
  ["h.zero(65536, 0, nbd.CMD_FLAG_NO_HOLE)", "ok"],
  ["h.zero(65536, 0, nbd.CMD_FLAG_FAST_ZERO)", "ok"],
  ["h.zero(64 << 20, 0)", "ok"],
  ["h.cache(65536, 0)", "ok"],
  ["h.cache(64 << 20, 0)", "ok"],
];

const refused: readonly Row[] = [
  [`h.pread(1024, ${sizeBytes} - 512)`, "EINVAL"],
  [`h.pread(512, ${sizeBytes})`, "EINVAL"],
  ["h.pread(512, 2 ** 63 - 512)", "EINVAL"],
  ["h.pread(512, 2 ** 64 - 512)", "EINVAL"],
  ["h.pread(512, 2 ** 64 - 1)", "EINVAL"],
  ["h.pread(512, 0, nbd.CMD_FLAG_NO_HOLE)", "EINVAL"],
  ["h.pread(0, 0)", "EINVAL"],
  [`h.pwrite(b'x' * 1024, ${sizeBytes} - 512)`, "ENOSPC"],
  [`h.pwrite(b'x', ${sizeBytes})`, "ENOSPC"],
  ["h.pwrite(b'x' * 512, 2 ** 64 - 512)", "ENOSPC"],
  ["h.pwrite(b'x', 0, nbd.CMD_FLAG_DF)", "EINVAL"],
  ["h.pwrite(b'x', 0, nbd.CMD_FLAG_NO_HOLE)", "EINVAL"],
  ["h.pwrite(b'', 0)", "EINVAL"],
  ["h.flush(nbd.CMD_FLAG_NO_HOLE)", "EINVAL"],
  [`h.trim(1024, ${sizeBytes} - 512)`, "EINVAL"],
  ["h.trim(512, 2 ** 64 - 512)", "EINVAL"],
  ["h.trim(512, 0, nbd.CMD_FLAG_FAST_ZERO)", "EINVAL"],
  ["h.trim(0, 0)", "EINVAL"],
  [`h.zero(1024, ${sizeBytes} - 512)`, "ENOSPC"],
  ["h.zero(512, 0, nbd.CMD_FLAG_DF)", "EINVAL"],
  ["h.zero(0, 0)", "EINVAL"],
  [`h.cache(1024, ${sizeBytes} - 512)`, "EINVAL"],
  ["h.cache(512, 0, nbd.CMD_FLAG_REQ_ONE)", "EINVAL"],
  ["h.block_status(4096, 0, lambda *a: 0)", "EINVAL"],
];

const readOnly: readonly Row[] = [
  ["h.pread(512, 0)", "ok"],
  ["h.flush()", "ok"],
  ["h.cache(512, 0)", "ok"],
  ["h.pwrite(b'x' * 512, 0)", "EPERM"],
  [`h.pwrite(b'x' * 512, ${sizeBytes})`, "EPERM"],
  ["h.trim(512, 0)", "EPERM"],
  ["h.zero(512, 0)", "EPERM"],
  [`h.zero(512, ${sizeBytes})`, "EPERM"],
];

/** Tries each row on one connection, which must go on working after every one. */
async function tryRows(uri: string, rows: readonly Row[], before: readonly string[] = []): Promise<void> {
  const program = `
import errno, json
def attempt(f):
    try:
        f()
        return "ok"
    except nbd.Error as e:
        return errno.errorcode.get(e.errnum, str(e))
seen = []
${rows.map(([expression]) => `seen.append(attempt(lambda: ${expression})); h.pread(512, 0)`).join("\n")}
print(json.dumps(seen))
`;
  const seen = JSON.parse(await nbdsh(uri, [program], ["h.set_strict_mode(0)", ...before]));
  assertEquals(rows.map(([expression], index) => [expression, seen[index]]), rows);
}

const handshakes: readonly { name: string; before: string[]; extra: readonly Row[] }[] = [
  {
    name: "structured replies",
    before: [],
    extra: [
      ["h.pread((32 << 20) + 1, 0)", "ok"],
      ["h.pread(65536, 0, nbd.CMD_FLAG_DF)", "ok"],
      ["h.pread(1 << 20, 0, nbd.CMD_FLAG_DF)", "ok"],
    ],
  },
  {
    name: "simple replies",
    before: ["h.set_request_structured_replies(False)"],
    extra: [
      ["h.pread((32 << 20) + 1, 0)", "ok"],
      ["h.pread(65536, 0, nbd.CMD_FLAG_DF)", "EINVAL"],
    ],
  },
  {
    name: "plain newstyle",
    before: ["h.set_handshake_flags(0)"],
    extra: [["h.pread(65536, 0, nbd.CMD_FLAG_DF)", "EINVAL"]],
  },
];

for (const { name, before, extra } of handshakes) {
  peerTest(`nbdsh, ${name}: every request gets the answer that the protocol wants`, ["nbdsh"], async () => {
    using directory = temporaryDirectory();
    await using server = await serveTwo(directory);
    await tryRows(server.uri("x"), [...allowed, ...refused, ...extra], before);
    await tryRows(server.uri("r"), readOnly, before);
    assertEquals(await server.stop(), 0);
  });
}

peerTest("nbdsh: data survives every way of writing", ["nbdsh"], async () => {
  using directory = temporaryDirectory();
  await using server = await serveTwo(directory);
  const printed = await nbdsh(server.uri("x"), [
    "h.pwrite(bytes(range(256)) * 16, 10)",
    "assert h.pread(4096, 10) == bytes(range(256)) * 16",
    "h.zero(100, 20)",
    "assert h.pread(4096, 10) == (bytes(range(10)) + bytes(100) + (bytes(range(256)) * 16)[110:])",
    "h.zero(1 << 20, 0, nbd.CMD_FLAG_NO_HOLE)",
    "assert h.pread(1 << 20, 0) == bytearray(1 << 20)",
    "h.trim(1 << 20, 1 << 20)",
    "assert h.pread(1 << 20, 1 << 20) == bytearray(1 << 20)",
    "assert h.pread(1 << 20, 2 << 20) == b'\\xaa' * (1 << 20)",
    "print('done')",
  ]);
  assertEquals(printed, "done\n");
});

peerTest(
  "nbdsh: block status tells data from holes, one extent where one is asked for",
  ["nbdsh"],
  async () => {
    using directory = temporaryDirectory();
    await using server = await serveTwo(directory);
    const allocatedBytes = () => Deno.statSync(directory.file("x")).blocks! * 512;
    const before = allocatedBytes();
    const printed = await nbdsh(server.uri("x"), [
      "import json",
      "seen = []",
      "f = lambda context, offset, extents, error: seen.append([context, offset, extents]) or 0",
      "h.block_status(64 << 20, 0, f)",
      "h.block_status(64 << 20, 0, f, nbd.CMD_FLAG_REQ_ONE)",
      "h.block_status(1 << 20, 0, f, nbd.CMD_FLAG_REQ_ONE)",
      "h.block_status(4096, 48 << 20, f)",
      "h.trim(1 << 20, 0)",
      "h.zero(1 << 20, 40 << 20, nbd.CMD_FLAG_NO_HOLE)",
      "h.block_status(2 << 20, 0, f)",
      "print(json.dumps(seen))",
    ], ['h.add_meta_context("base:allocation")']);
    const half = 32 * MiB;
    const context = "base:allocation";
    const [HOLE, ZERO] = [1, 2];
    const seen = JSON.parse(printed);
    assertEquals(seen.slice(0, 2), [
      [context, 0, [half, 0, half, HOLE | ZERO]],
      [context, 0, [half, 0]],
    ]);
    assertEquals(seen[2], [context, 0, [MiB, 0]]);
    assertEquals([seen[3][1], seen[3][2][1]], [48 * MiB, HOLE | ZERO]);
    assertEquals(seen[4], [context, 0, [MiB, HOLE | ZERO, MiB, 0]]);
    // A mebibyte less by the trim, one more by zeroes that were to be allocated.
    assertEquals(allocatedBytes(), before);
  },
);

peerTest("nbdsh: sparse reads send holes as holes, and DF sends one piece", ["nbdsh"], async () => {
  using directory = temporaryDirectory();
  await using server = await serveTwo(directory);
  const printed = await nbdsh(server.uri("x"), [
    "seen = []",
    "f = lambda data, offset, status, error: seen.append((len(data), offset, status)) or 0",
    "h.pread_structured(131072, (32 << 20) - 65536, f)",
    "print(sorted(seen, key=lambda each: each[1])); seen.clear()",
    "h.pread_structured(131072, (32 << 20) - 65536, f, nbd.CMD_FLAG_DF)",
    "print(seen)",
  ]);
  const at = 32 * MiB - 65536;
  assertEquals(printed.split("\n").slice(0, 2), [
    `[(65536, ${at}, 1), (65536, ${at + 65536}, 2)]`,
    `[(131072, ${at}, 1)]`,
  ]);
});

peerTest("nbdsh: options in the handshake", ["nbdsh"], async () => {
  using directory = temporaryDirectory();
  await using server = await serveTwo(directory);
  const optional = ["h.set_opt_mode(True)"];
  const info = await nbdsh(server.uri("x"), [
    "h.opt_info()",
    "size = h.get_size()",
    'h.set_export_name("nosuch")',
    "try: h.opt_go()\nexcept nbd.Error as e: print('refused', 'nosuch' in e.string or 'UNKNOWN' in e.string)",
    'h.set_export_name("a" * 4096)',
    "try: h.opt_info()\nexcept nbd.Error as e: print('refused')",
    'h.set_export_name("x")',
    "h.opt_go()",
    "assert size == h.get_size()",
    "print(h.get_protocol(), h.can_multi_conn(), h.get_block_size(nbd.SIZE_MAXIMUM), len(h.pread(512, 0)))",
  ], optional);
  assertMatch(info, /^refused \w+\nrefused\nnewstyle-fixed True 33554432 512\n$/);
  const listed = await nbdsh(server.uri("x"), [
    "names = []",
    "h.opt_list(lambda name, description: names.append((name, description)) or 0)",
    "print(names)",
    "contexts = []",
    "h.opt_list_meta_context(lambda name: contexts.append(name) or 0)",
    "print('base:allocation' in contexts)",
    "h.opt_abort()",
    "print(h.connection_state())",
  ], optional);
  assertMatch(listed, /^\[\('x', 'scratch'\), \('r', ''\)\]\nTrue\n.*CLOSED.*\n$/);
});

peerTest(
  "nbdsh: old handshakes reach the default export, and a missing one is refused with a reason in the log",
  [
    "nbdsh",
  ],
  async () => {
    using directory = temporaryDirectory();
    await using server = await serveTwo(directory);
    for (const flags of ["0", "nbd.HANDSHAKE_FLAG_FIXED_NEWSTYLE"]) {
      const printed = await nbdsh(server.uri(), ["print(h.pread(2, 0), h.get_size())"], [
        `h.set_handshake_flags(${flags})`,
      ]);
      assertEquals(printed, `bytearray(b'\\xaa\\xaa') ${sizeBytes}\n`);
    }
    const { code } = await run("nbdinfo", [server.uri("nosuch")], { code: "any" });
    assertEquals(code, 1);
    await server.logged(/127\.0\.0\.1:\d+ .*nosuch/);
  },
);
