import { assertEquals } from "@std/assert";
import { FileStorage } from "../../src/device/file_storage.ts";
import { systemClock } from "../../src/os/clock.ts";
import { OpenFile } from "../../src/os/file_calls.ts";
import { libc } from "../../src/os/libc.ts";
import { temporaryDirectory } from "../testing/process.ts";

const ignore = Deno.build.os !== "linux";
const MIB = 1 << 20;

/** A file of ones with a hole in it, and how often its storage was looked for. */
function open({ hole }: { hole: number }) {
  const directory = temporaryDirectory();
  const path = directory.file("disk.img");
  const ones = new Uint8Array(MIB).fill(1);
  using writer = Deno.openSync(path, { create: true, write: true });
  for (let at = 0; at < 8 * MIB; at += MIB) {
    if (at === hole) continue;
    writer.seekSync(at, Deno.SeekMode.Start);
    writer.writeSync(ones);
  }
  const file = OpenFile.open(libc()!, path);
  const looks = { count: 0 };
  for (const look of ["seekHole", "seekData"] as const) {
    const original = file[look].bind(file);
    file[look] = (offset) => {
      looks.count++;
      return original(offset);
    };
  }
  return {
    storage: new FileStorage(file, 8 * MIB, systemClock),
    looks,
    [Symbol.dispose]() {
      file.close();
      directory[Symbol.dispose]();
    },
  };
}

Deno.test({
  name: "FileStorage looks for storage once where data are, whatever is asked of them",
  ignore,
  fn() {
    using file = open({ hole: 6 * MIB });
    const { storage, looks } = file;
    for (let at = 0; at < 5 * MIB; at += MIB / 8) {
      assertEquals(storage.extents(at, MIB / 8), [{ kind: "data", length: MIB / 8 }]);
    }
    assertEquals(looks.count, 2);
    assertEquals(storage.extents(5 * MIB, 3 * MIB), [
      { kind: "data", length: MIB },
      { kind: "hole", length: MIB },
      { kind: "data", length: MIB },
    ]);
  },
});

Deno.test({
  name: "FileStorage finds a hole that was punched where data were known to be",
  ignore,
  async fn() {
    using file = open({ hole: 6 * MIB });
    const { storage } = file;
    assertEquals(storage.extents(0, 4 * MIB), [{ kind: "data", length: 4 * MIB }]);
    await storage.discard(MIB, MIB);
    assertEquals(storage.extents(0, 4 * MIB), [
      { kind: "data", length: MIB },
      { kind: "hole", length: MIB },
      { kind: "data", length: 2 * MIB },
    ]);
  },
});
