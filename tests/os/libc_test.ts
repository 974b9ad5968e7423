import { assert, assertEquals, assertThrows } from "@std/assert";
import { OpenFile } from "../../src/os/file_calls.ts";
import { cString, lastError, libc } from "../../src/os/libc.ts";
import { OsError } from "../../src/os/os_error.ts";
import { temporaryDirectory } from "../testing/process.ts";
import { makeSparse } from "../testing/storage.ts";

const lib = libc()!;

Deno.test("libc takes 64-bit offsets as numbers and gives them back exactly", () => {
  using directory = temporaryDirectory();
  makeSparse(directory.file("a"), 2 ** 43);
  const file = OpenFile.open(lib, directory.file("a"));
  for (const offset of [1, 2 ** 31 - 1, 2 ** 31, 2 ** 32 + 5, 2 ** 40 + 12345, 2 ** 43 - 1]) {
    assertEquals(Number(lib.lseek(file.fd, offset, 0)), offset);
    file.writeNow(offset, new Uint8Array([offset % 251]));
    using plain = Deno.openSync(directory.file("a"));
    plain.seekSync(offset, Deno.SeekMode.Start);
    const byte = new Uint8Array(1);
    plain.readSync(byte);
    assertEquals(byte[0], offset % 251);
  }
  // The same once the call is compiled, which takes another path into it.
  for (let round = 0; round < 50_000; round++) {
    assertEquals(Number(lib.lseek(file.fd, 2 ** 42 + round, 0)), 2 ** 42 + round);
  }
  file.close();
});

Deno.test("libc's errno is right after a synchronous call", () => {
  assertEquals(lib.pread(-1, new Uint8Array(1), 1, 0), -1);
  assertEquals(lastError(lib, "pread").code, "EBADF");
  assertEquals(lib.open(cString("/no such directory/file"), 0, 0), -1);
  assertEquals(lastError(lib, "open").code, "ENOENT");
});

Deno.test("cString() refuses a zero byte, which would cut the path short", () => {
  assertEquals(cString("é"), new Uint8Array([0xc3, 0xa9, 0]));
  assertThrows(() => cString("a\0b"), TypeError);
});

Deno.test("OpenFile reads from the cache into any part of any buffer", () => {
  using directory = temporaryDirectory();
  const content = crypto.getRandomValues(new Uint8Array(60_000));
  Deno.writeFileSync(directory.file("a"), content);
  const file = OpenFile.open(lib, directory.file("a"), { readOnly: true });
  const shared = new Uint8Array(70_000);
  for (const [offset, length, at] of [[0, 60_000, 0], [1, 1, 69_999], [4095, 2, 7], [59_999, 1, 3]]) {
    // Small arrays live where V8 may move them until somebody asks for their buffer.
    for (const into of [shared.subarray(at, at + length), new Uint8Array(length)]) {
      assertEquals(file.readCached(offset, into), length);
      assertEquals(into, content.subarray(offset, offset + length));
    }
  }
  assertEquals(file.readCached(60_000, shared), 0);
  file.close();
});

Deno.test("OpenFile tells data from holes, and ENXIO is a hole to the end", () => {
  using directory = temporaryDirectory();
  makeSparse(directory.file("a"), 1 << 20);
  const file = OpenFile.open(lib, directory.file("a"));
  assertEquals([file.seekData(0), file.seekHole(0)], [null, 0]);
  file.writeNow(65536, new Uint8Array(65536).fill(1));
  assertEquals([file.seekData(0), file.seekHole(65536), file.seekData(131072)], [65536, 131072, null]);
  assertEquals([file.seekData(1 << 20), file.seekHole(1 << 20)], [null, null]);
  file.close();
});

Deno.test("OpenFile does not follow its descriptor's number after it was closed", async () => {
  using directory = temporaryDirectory();
  Deno.writeFileSync(directory.file("a"), new Uint8Array(10));
  const file = OpenFile.open(lib, directory.file("a"));
  const fd = file.fd;
  file.close();
  using other = Deno.openSync(directory.file("a"));
  assertEquals(file.fd, -1);
  assertEquals(file.readCached(0, new Uint8Array(1)), -1);
  assertThrows(() => file.writeNow(0, new Uint8Array(1)), OsError, "EBADF");
  let failed: unknown;
  await file.read(0, new Uint8Array(1)).catch((error) => failed = error);
  assert(failed instanceof Error, `reading through ${fd} after it was closed`);
  assert(other.statSync().isFile);
});

Deno.test("OpenFile.read() on the pool fails with errno's name", async () => {
  using directory = temporaryDirectory();
  const file = OpenFile.open(lib, directory.path, { readOnly: true });
  let code;
  await file.read(0, new Uint8Array(1)).catch((error) => code = error.code);
  assertEquals(code, "EISDIR");
  file.close();
});

Deno.test("OpenFile counts how often this thread waited, and not how often it worked", () => {
  using directory = temporaryDirectory();
  Deno.writeFileSync(directory.file("a"), new Uint8Array(4096));
  const file = OpenFile.open(lib, directory.file("a"));
  const before = file.countSleeps();
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
  assert(file.countSleeps() > before);
  file.close();
});
