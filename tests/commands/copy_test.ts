import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { MemoryDisk } from "../../src/device/memory.ts";
import { FaultDisk } from "../../src/device/fault.ts";
import { commands } from "../../src/commands/table.ts";
import { progressText } from "../../src/commands/progress.ts";
import { runProgram } from "../../src/commands/program.ts";
import { temporaryDirectory } from "../testing/process.ts";
import { listenDisk } from "../testing/served_disk.ts";
import { allocatedBytes } from "../testing/storage.ts";
import { FakeSurroundings } from "./fake_surroundings.ts";

const MIB = 1024 * 1024;
const SIZE = 9 * MIB + 517;

async function denbd(words: readonly string[], input?: Uint8Array<ArrayBuffer>) {
  const around = new FakeSurroundings({}, input);
  const code = await runProgram(words, commands, "1", around);
  return { code, out: around.stdoutBytes, stderr: around.written.stderr };
}

/** Data at both ends and in the middle, holes and written zeroes between. */
function image(): Uint8Array<ArrayBuffer> {
  const content = new Uint8Array(SIZE);
  for (const [from, length] of [[0, 70_000], [5 * MIB, 300_000], [SIZE - 1000, 1000]]) {
    for (let at = from; at < from + length; at++) content[at] = at % 251 + 1;
  }
  return content;
}

function diskWith(content: Uint8Array): MemoryDisk {
  const disk = new MemoryDisk(content.length);
  for (let at = 0; at < content.length; at += 65536) {
    const piece = content.subarray(at, at + 65536);
    if (piece.some((byte) => byte !== 0)) disk.write(at, piece);
  }
  return disk;
}

function contentOf(disk: MemoryDisk): Uint8Array {
  const content = new Uint8Array(disk.sizeBytes);
  disk.read(0, content);
  return content;
}

Deno.test("copy goes between files and servers in every direction, and keeps holes", async () => {
  using directory = temporaryDirectory();
  const content = image();
  await using from = listenDisk(diskWith(content));
  const target = new MemoryDisk(SIZE);
  target.write(0, new Uint8Array(SIZE).fill(0xff));
  await using to = listenDisk(target);
  const [file, other] = [directory.file("a.img"), directory.file("b.img")];

  assertEquals(await denbd(["copy", from.uri, file]), { code: 0, out: new Uint8Array(), stderr: "" });
  assertEquals(Deno.readFileSync(file), content);
  assert(allocatedBytes(file) < 600_000, `${allocatedBytes(file)} bytes are allocated`);

  assertEquals((await denbd(["copy", file, other])).code, 0);
  assertEquals(Deno.readFileSync(other), content);
  assert(allocatedBytes(other) < 600_000, `${allocatedBytes(other)} bytes are allocated`);

  assertEquals((await denbd(["copy", file, to.uri])).code, 0);
  assertEquals(contentOf(target), content);
  assertEquals(target.extents(MIB, MIB), [{ kind: "hole", length: MIB }]);

  target.write(0, new Uint8Array(SIZE).fill(0xff));
  assertEquals((await denbd(["copy", "--connections", "1", "--requests", "1", from.uri, to.uri])).code, 0);
  assertEquals(contentOf(target), content);
});

Deno.test("copy overwrites a file that exists, zeroes included, and keeps its size", async () => {
  using directory = temporaryDirectory();
  const file = directory.file("old.img");
  Deno.writeFileSync(file, new Uint8Array(SIZE + 1000).fill(0xff));
  await using from = listenDisk(diskWith(image()));
  assertEquals((await denbd(["copy", from.uri, file])).code, 0);
  const copied = Deno.readFileSync(file);
  assertEquals(copied.subarray(0, SIZE), image());
  assertEquals(copied.subarray(SIZE), new Uint8Array(1000).fill(0xff));
});

Deno.test("copy writes a disk to stdout, zeroes included", async () => {
  await using from = listenDisk(diskWith(image()));
  const { code, out } = await denbd(["copy", from.uri, "-"]);
  assertEquals(code, 0);
  assertEquals(out, image());
});

Deno.test("copy takes stdin into a new sparse file, an old file and a server", async () => {
  using directory = temporaryDirectory();
  const file = directory.file("new.img");
  assertEquals((await denbd(["copy", "-", file], image())).code, 0);
  assertEquals(Deno.readFileSync(file), image());
  assert(allocatedBytes(file) < 600_000, `${allocatedBytes(file)} bytes are allocated`);

  assertEquals((await denbd(["copy", "-", file], new Uint8Array(100_000).fill(3))).code, 0);
  const changed = image().fill(3, 0, 100_000);
  assertEquals(Deno.readFileSync(file), changed);

  const target = new MemoryDisk(SIZE);
  await using to = listenDisk(target);
  assertEquals((await denbd(["copy", "-", to.uri], image())).code, 0);
  assertEquals(contentOf(target), image());

  const { code, stderr } = await denbd(["copy", "-", to.uri], new Uint8Array(SIZE + 1));
  assertEquals(code, 1);
  assertStringIncludes(stderr, `standard input is longer than the ${SIZE} bytes of ${to.uri}`);
});

Deno.test("copy refuses a destination that is too small or read-only, and changes nothing", async () => {
  using directory = temporaryDirectory();
  const file = directory.file("small.img");
  Deno.writeFileSync(file, new Uint8Array(SIZE - 1).fill(7));
  await using from = listenDisk(diskWith(image()));
  const small = await denbd(["copy", from.uri, file]);
  assertEquals(small.code, 1);
  assertEquals(
    small.stderr,
    `denbd copy: ${file} is too small: it has ${SIZE - 1} bytes, ${from.uri} ${SIZE}\n`,
  );
  assertEquals(Deno.readFileSync(file), new Uint8Array(SIZE - 1).fill(7));
  await using readOnly = listenDisk(new MemoryDisk(SIZE), { readOnly: true });
  const refused = await denbd(["copy", from.uri, readOnly.uri]);
  assertEquals([refused.code, refused.stderr], [
    1,
    `denbd copy: cannot write to ${readOnly.uri}: it is read-only\n`,
  ]);
});

Deno.test("copy fails when a single request fails, says where, and removes what it had created", async () => {
  using directory = temporaryDirectory();
  const file = directory.file("new.img");
  const source = new FaultDisk(diskWith(image()));
  source.add({ operation: "read", errno: "EIO", skip: 3, times: 1 });
  await using from = listenDisk(source);
  const failed = await denbd(["copy", from.uri, file]);
  assertEquals(failed.code, 1);
  assertMatch(failed.stderr, /^denbd copy: nbd:\S+: cannot read \d+ bytes at \d+: EIO.*\n$/);
  assertEquals([...Deno.readDirSync(directory.path)], []);

  for (const operation of ["write", "flush"] as const) {
    const target = new FaultDisk(new MemoryDisk(SIZE));
    target.add({ operation, errno: operation === "write" ? "ENOSPC" : "EIO", times: 1 });
    await using to = listenDisk(target);
    await using again = listenDisk(diskWith(image()));
    const { code, stderr } = await denbd(["copy", again.uri, to.uri]);
    assertEquals(code, 1);
    assertStringIncludes(stderr, `${to.uri}: cannot ${operation}`);
  }
});

Deno.test("copy refuses to copy a disk to itself", async () => {
  using directory = temporaryDirectory();
  const [file, link] = [directory.file("a.img"), directory.file("link.img")];
  Deno.writeFileSync(file, new Uint8Array(10));
  Deno.symlinkSync(file, link);
  for (const [from, to] of [[file, link], ["nbd://h/x", "nbd://h:10809/x"], [file, `file://${file}`]]) {
    const { code, stderr } = await denbd(["copy", from, to]);
    assertEquals(code, 2);
    assertStringIncludes(stderr, "SOURCE and DESTINATION are the same");
  }
});

Deno.test("copy says what is wrong with the command line", async () => {
  const cases: [string[], string][] = [
    [["copy", "a"], "SOURCE DESTINATION"],
    [["copy", "-", "-"], "one of the two has to be a disk"],
    [["copy", "nbdx://h/", "b"], "the scheme is none of"],
    [["copy", "--request-size", "5000", "a", "b"], "no multiple of 4096"],
    [["copy", "--requests", "0", "a", "b"], "--requests"],
  ];
  for (const [words, message] of cases) {
    const { code, stderr } = await denbd(words);
    assertEquals(code, 2, words.join(" "));
    assertStringIncludes(stderr, message);
  }
});

Deno.test("copy to a directory that does not exist says so", async () => {
  using directory = temporaryDirectory();
  await using from = listenDisk(new MemoryDisk(10));
  const path = directory.file("none/a.img");
  const { code, stderr } = await denbd(["copy", from.uri, path]);
  assertEquals([code, stderr], [1, `denbd copy: cannot create ${path}: there is no such directory\n`]);
});

Deno.test({
  name: "progressText() tells share, amount, speed and time left",
  permissions: "none",
  fn() {
    assertEquals(progressText(512 * MIB, 2048 * MIB, 2), "25 %  512 MiB of 2 GiB  256 MiB/s  0:06 left");
    assertEquals(progressText(0, 2048 * MIB, 2), "0 %  0 bytes of 2 GiB");
    assertEquals(progressText(MIB, 100_000 * MIB, 1), "0 %  1 MiB of 97.7 GiB  1 MiB/s  27:46:39 left");
    assertEquals(progressText(3 * MIB, null, 2), "3 MiB  1.5 MiB/s");
  },
});
