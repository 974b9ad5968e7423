import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import type { Extent } from "../../src/device/device.ts";
import { FaultDisk } from "../../src/device/fault.ts";
import { MemoryDisk } from "../../src/device/memory.ts";
import { DeviceError } from "../../src/device/device_error.ts";
import type { Output } from "../../src/commands/command.ts";
import { isWatched } from "../../src/commands/progress.ts";
import { commands } from "../../src/commands/table.ts";
import { runProgram } from "../../src/commands/program.ts";
import { temporaryDirectory } from "../testing/process.ts";
import { listenDisk } from "../testing/served_disk.ts";
import { FakeSurroundings } from "./fake_surroundings.ts";

const SIZE = 3 * 1024 * 1024 + 512;

async function denbd(words: readonly (string | number)[], input?: Uint8Array<ArrayBuffer>) {
  const around = new FakeSurroundings({}, input);
  const code = await runProgram(words.map(String), commands, "1", around);
  return { code, out: around.stdoutBytes, stderr: around.written.stderr };
}

function patterned(length: number, seed = 1): Uint8Array<ArrayBuffer> {
  return new Uint8Array(length).map((_, index) => (index * 31 + (index >> 8) * seed) & 255);
}

/** A disk of {@linkcode SIZE} bytes, patterned, on a port. */
function patternedDisk() {
  const disk = new MemoryDisk(SIZE);
  const content = patterned(SIZE);
  disk.write(0, content);
  return { disk, content, ...listenDisk(disk) };
}

function contentOf(disk: MemoryDisk): Uint8Array {
  const content = new Uint8Array(disk.sizeBytes);
  disk.read(0, content);
  return content;
}

Deno.test("read copies any range to stdout, in flexnbd's words and in ours", async () => {
  const served = patternedDisk();
  await using _served = served;
  const { port, uri, content } = served;
  for (
    const [from, size] of [[0, 512], [124, 4], [1200, 4], [SIZE - 1, 1], [0, SIZE], [1, SIZE - 1], [SIZE, 0]]
  ) {
    const expected = content.subarray(from, from + size);
    const spellings = [
      ["read", "--addr", "127.0.0.1", "--port", port, "--from", from, "--size", size],
      ["read", "-l", "127.0.0.1", "-p", port, "-F", from, "-S", size, "-b", "127.0.0.1"],
      ["read", `--offset=${from}`, `--length=${size}`, uri],
    ];
    for (const words of spellings) {
      assertEquals(await denbd(words), { code: 0, out: expected, stderr: "" }, words.join(" "));
    }
  }
  assertEquals((await denbd(["read", uri])).out, content);
  assertEquals((await denbd(["read", "--from", "3M", uri])).out, content.subarray(3 * 1024 * 1024));
});

Deno.test("write copies stdin to any range, in flexnbd's words and in ours, and leaves the rest", async () => {
  const served = patternedDisk();
  await using _served = served;
  const { port, uri, content, disk } = served;
  const cases: [number, number][] = [[0, 1024], [7, 5], [SIZE - 3, 3], [100, SIZE - 200], [512, 0]];
  for (const [from, size] of cases) {
    const data = patterned(size, from + 2);
    content.set(data, from);
    const words = ["write", "--addr", "127.0.0.1", "--port", port, "--from", from, "--size", size];
    assertEquals((await denbd(words, data)).code, 0);
    assertEquals(contentOf(disk), content);
  }
  content.fill(9, 40, 60);
  assertEquals((await denbd(["write", "--from", 40, uri], new Uint8Array(20).fill(9))).code, 0);
  assertEquals(contentOf(disk), content);
});

for (const name of ["read", "write"]) {
  Deno.test(`${name} shows how far it is on a terminal, when that takes long, and wipes it out at the end`, async () => {
    const seen = Promise.withResolvers<void>();
    const wait = () => seen.promise;
    await using served = listenDisk(
      new class extends MemoryDisk {
        override read(offset: number, into: Uint8Array) {
          return wait().then(() => super.read(offset, into) as void);
        }
        override write(offset: number, data: Uint8Array) {
          return wait().then(() => super.write(offset, data) as void);
        }
        override extents(_offset: number, length: number): Extent[] {
          return [{ length, kind: "data" }];
        }
      }(4096),
    );
    let shown = "";
    const stderr: Output = {
      isTerminal: true,
      write(text) {
        shown += text;
        seen.resolve();
        return Promise.resolve();
      },
    };
    const around = Object.assign(new FakeSurroundings({}, new Uint8Array(4096)), { stderr });
    assertEquals(await runProgram([name, "--size", "4k", served.uri], commands, "1", around), 0);
    assertMatch(shown, /^\r0 % {2}0 bytes of 4 KiB.*\r +\r$/s);
  });
}

Deno.test("who watches a copy has its data elsewhere than on the terminal", () => {
  const [terminal, pipe] = [true, false].map((isTerminal) =>
    Object.assign(new FakeSurroundings().stderr, { isTerminal })
  );
  assertEquals([isWatched(terminal, pipe), isWatched(terminal, terminal), isWatched(pipe, pipe)], [
    true,
    false,
    false,
  ]);
});

Deno.test("read and write work on local files", async () => {
  using directory = temporaryDirectory();
  const path = directory.file("disk.img");
  Deno.writeFileSync(path, patterned(10_000));
  assertEquals((await denbd(["write", "--from", "1k", path], new Uint8Array(8).fill(1))).code, 0);
  const { code, out } = await denbd(["read", "--from", 1020, "--size", 16, path]);
  assertEquals(code, 0);
  assertEquals(
    out,
    new Uint8Array([
      ...patterned(1024).subarray(1020),
      ...Array(8).fill(1),
      ...patterned(1036).subarray(1032),
    ]),
  );
});

Deno.test("read and write stay inside the disk", async () => {
  const served = patternedDisk();
  await using _served = served;
  const { uri, content, disk } = served;
  const ranges: (string | number)[][] = [
    ["--from", SIZE + 1],
    ["--from", SIZE, "--size", 1],
    ["--from", SIZE - 4, "--size", 5],
    ["--from", 1, "--size", 2 ** 53 - 1],
    ["--from", 2 ** 53 - 1, "--size", 1],
  ];
  for (const range of ranges) {
    for (const name of ["read", "write"]) {
      const { code, out, stderr } = await denbd([name, ...range, uri], new Uint8Array(5));
      assertEquals([code, out.length], [1, 0]);
      assertMatch(stderr, new RegExp(`^denbd ${name}: cannot ${name} .* it has ${SIZE} bytes\n$`));
    }
  }
  assertEquals(contentOf(disk), content);
});

Deno.test("write fails when stdin is too short or too long", async () => {
  const served = patternedDisk();
  await using _served = served;
  const { uri } = served;
  const short = await denbd(["write", "--size", 100, uri], new Uint8Array(99));
  assertEquals(short.code, 1);
  assertStringIncludes(short.stderr, "standard input ended after 99 of 100 bytes");
  const long = await denbd(["write", "--from", SIZE - 5, uri], new Uint8Array(6));
  assertEquals(long.code, 1);
  assertStringIncludes(long.stderr, "standard input is longer than the 5 bytes");
});

Deno.test("read and write report the server's error and exit 1", async () => {
  class FailingDisk extends MemoryDisk {
    override read(offset: number): void {
      throw new DeviceError("EIO", "read", offset, 1);
    }
    override extents(_offset: number, length: number): Extent[] {
      return [{ length, kind: "data" }];
    }
    override write(offset: number): void {
      throw new DeviceError("ENOSPC", "write", offset, 1);
    }
  }
  await using served = listenDisk(new FailingDisk(SIZE));
  const failedRead = await denbd(["read", "--size", 4096, served.uri]);
  assertEquals([failedRead.code, failedRead.out.length], [1, 0]);
  assertMatch(failedRead.stderr, /^denbd read: nbd:\S+: cannot read 4096 bytes at 0: EIO.*\n$/);
  const failedWrite = await denbd(["write", served.uri], new Uint8Array(5_000_000).subarray(0, SIZE));
  assertEquals(failedWrite.code, 1);
  assertMatch(failedWrite.stderr, /^denbd write: nbd:\S+: cannot write .*: ENOSPC.*\n$/);
});

Deno.test("write refuses a read-only export", async () => {
  const disk = new MemoryDisk(4096);
  await using served = listenDisk(disk, { readOnly: true });
  const { code, stderr } = await denbd(["write", served.uri], new Uint8Array(1));
  assertEquals([code, stderr], [1, `denbd write: cannot write to ${served.uri}: it is read-only\n`]);
});

Deno.test("read and write say what is wrong with the command line", async () => {
  const both = "both --addr and --port are required.";
  const cases: [(string | number)[], string][] = [
    [["read"], "a disk is missing"],
    [["read", "--addr", "127.0.0.1"], both],
    [["read", "--port", 1, "--from", 0, "--size", 1], both],
    [["read", "--addr", "127.0.0.1", "--port", 1], "both --from and --size are required."],
    [["write", "--addr", "127.0.0.1", "--port", 1, "--from", 0], "both --from and --size are required."],
    [["read", "--addr", "localhost", "--port", 1], "is not an IP address"],
    [["read", "--addr", "::1", "--port", 0, "--from", 0, "--size", 1], "0 is no port"],
    [["read", "--addr", "::1", "--port", 1, "x.img"], "exclude each other"],
    [["read", "--from", "-1", "x.img"], '--from: "-1" is negative'],
    [["read", "--size", "4q", "x.img"], "--size"],
    [["write", "--size", "data.bin", "x.img"], "give it as standard input"],
    [["write", "--size", "-5", "x.img"], '--size: "-5" is negative\n'],
    [["read", "nbdx://h/x"], "the scheme is none of"],
    [["read", "a", "b"], "b"],
  ];
  for (const [words, message] of cases) {
    const { code, stderr } = await denbd(words);
    assertEquals(code, 2, words.join(" "));
    assertStringIncludes(stderr, message);
    assertMatch(stderr, /usage: denbd (read|write) /);
  }
});

Deno.test("read and write say what they could not open", async () => {
  using directory = temporaryDirectory();
  const path = directory.file("none.img");
  const missing = await denbd(["read", path]);
  assertEquals(missing.code, 1);
  assertStringIncludes(missing.stderr, path);
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  listener.close();
  const refused = await denbd(["write", `nbd://127.0.0.1:${port}/x`], new Uint8Array(1));
  assertEquals(refused, {
    code: 1,
    out: new Uint8Array(),
    stderr:
      `denbd write: cannot open nbd://127.0.0.1:${port}/x: cannot connect to 127.0.0.1:${port}: connection refused\n`,
  });
});

Deno.test("read gives up when the server does not answer within --deadline", async () => {
  const faulty = new FaultDisk(new MemoryDisk(SIZE));
  const fault = faulty.add({ operation: "extents", hold: true });
  await using served = listenDisk(faulty);
  const { code, stderr } = await denbd(["read", "--deadline", "50ms", served.uri]);
  assertEquals(code, 1);
  assertStringIncludes(stderr, "ETIMEDOUT (no answer from 127.0.0.1:");
  fault.remove();
});
