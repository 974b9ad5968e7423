import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { DeviceError } from "../../src/device/device_error.ts";
import { FileDisk } from "../../src/device/file.ts";
import { StickySync } from "../../src/device/sticky_sync.ts";
import { ALLOCATE, OpenFile } from "../../src/os/file_calls.ts";
import { libc } from "../../src/os/libc.ts";
import { OsError } from "../../src/os/os_error.ts";
import { Pipe } from "../../src/os/pipe.ts";
import { temporaryDirectory } from "../testing/process.ts";
import { randomFrom } from "../testing/random.ts";
import { allocatedBytes, makeSparse, smallFileSystem, storageTest } from "../testing/storage.ts";

const ignore = Deno.build.os !== "linux";
const MIB = 1 << 20;
const random = randomFrom(11);

/** A file of ones as a disk, and a pipe to fill it from. */
function open(sizeBytes: number, { sparse = false, at }: { sparse?: boolean; at?: string } = {}) {
  const directory = temporaryDirectory();
  const path = at ?? directory.file("disk.img");
  if (sparse) makeSparse(path, sizeBytes);
  else Deno.writeFileSync(path, new Uint8Array(sizeBytes).fill(1));
  const disk = new FileDisk(OpenFile.open(libc()!, path));
  const pipe = Pipe.open()!;
  return {
    disk,
    path,
    pipe,
    content: (offset: number, length: number) => Deno.readFileSync(path).subarray(offset, offset + length),
    async [Symbol.asyncDispose]() {
      await disk.close();
      pipe.close();
      directory[Symbol.dispose]();
    },
  };
}

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name: `FileDisk and pipes: ${name}`, ignore, fn });
}

test("what is in a pipe is written at once, from anywhere to anywhere", async () => {
  await using opened = open(MIB);
  const { disk, pipe } = opened;
  for (const [offset, length] of [[0, 4096], [4096, 131072], [7, 3], [5000, 100_001], [MIB - 1, 1]]) {
    const data = random.bytes(length + 10);
    pipe.put(data);
    assert(disk.takesPipe(offset, length));
    assertEquals(disk.writeFromPipe(offset, length, pipe), undefined);
    assertEquals(opened.content(offset, length), data.subarray(0, length));
    assertEquals(pipe.heldBytes, 10);
    pipe.take(new Uint8Array(10));
  }
});

test("a write waits for an earlier one that it overlaps, and a later read for it", async () => {
  await using opened = open(4 * MIB);
  const { disk, pipe } = opened;
  const data = random.bytes(131072);
  pipe.put(data);
  const earlier = disk.write(0, new Uint8Array(3 * MIB).fill(9)); // on the pool
  assert(earlier instanceof Promise);
  const writing = disk.writeFromPipe(4096, data.length, pipe);
  assert(writing instanceof Promise);
  const seen = new Uint8Array(data.length);
  await disk.read(4096, seen);
  assertEquals(seen, data);
  await Promise.all([earlier, writing]);
  assertEquals(opened.content(4096, data.length), data);
  assertEquals(opened.content(0, 4096), new Uint8Array(4096).fill(9));
});

test("holes are not for pipes: there zeroes are not stored, also when a pipe comes all the same", async () => {
  await using opened = open(4 * MIB, { sparse: true });
  const { disk, pipe, path } = opened;
  assert(!disk.takesPipe(0, 131072));
  pipe.put(new Uint8Array(131072));
  await disk.writeFromPipe(0, 131072, pipe);
  assertEquals([allocatedBytes(path), pipe.heldBytes], [0, 0]);
  await disk.write(MIB, new Uint8Array(MIB).fill(5));
  assert(disk.takesPipe(MIB, MIB));
  assert(disk.takesPipe(MIB + 65536, 65536));
  assert(!disk.takesPipe(2 * MIB - 65536, 65537));
  assert(!disk.takesPipe(MIB - 4096, 8192));
  await disk.trim(MIB + 65536, 65536);
  assert(!disk.takesPipe(MIB + 65536, 65536));
  assert(!disk.takesPipe(MIB, MIB));
  assert(disk.takesPipe(MIB, 65536));
});

test("where the file system does not splice, the data are copied, and from then on always", async () => {
  for (const onPool of [false, true]) {
    await using opened = open(4 * MIB);
    const { disk, pipe } = opened;
    const data = random.bytes(100_000);
    pipe.put(data);
    /** Writes a part and then finds that it cannot. */
    const writeNow = (file: number, offset: number) => {
      pipe.writeNow(file, offset, 4096);
      throw new OsError("EINVAL", "splice");
    };
    const refusing = {
      get heldBytes() {
        return pipe.heldBytes;
      },
      take: (into: Uint8Array<ArrayBuffer>) => pipe.take(into),
      writeNow,
      write: (file: number, offset: number) => Promise.resolve().then(() => writeNow(file, offset)),
    } as unknown as Pipe;
    const earlier = onPool ? disk.write(0, new Uint8Array(MIB)) : undefined;
    const writing = disk.writeFromPipe(8192, 90_000, refusing);
    assertEquals(writing instanceof Promise, onPool);
    await earlier;
    await writing;
    assertEquals(opened.content(8192, 90_000), data.subarray(0, 90_000));
    assertEquals(pipe.heldBytes, 10_000);
    assert(!disk.takesPipe(8192, 90_000));
    await disk.writeFromPipe(0, 10_000, refusing);
    assertEquals(opened.content(0, 10_000), data.subarray(90_000));
  }
});

test("a file that was cut short is not made longer, and a closed disk takes nothing", async () => {
  await using opened = open(MIB);
  const { disk, pipe, path } = opened;
  Deno.truncateSync(path, 65536);
  pipe.put(new Uint8Array(8192));
  const error = assertThrows(() => disk.writeFromPipe(65536 - 4096, 8192, pipe), DeviceError);
  assertEquals([error.errno, error.offset, error.length], ["EIO", 65536 - 4096, 8192]);
  assertEquals(Deno.statSync(path).size, 65536);
  await disk.close();
  assertEquals(assertThrows(() => disk.writeFromPipe(0, 1, pipe), DeviceError).errno, "ESHUTDOWN");
});

test("after a failed sync nothing is written from pipes either", async () => {
  await using opened = open(MIB);
  const { disk, pipe } = opened;
  const failing = new Proxy(disk, {
    get(target, key) {
      if (key === "flush") return () => Promise.reject(new DeviceError("EIO", "flush"));
      const value = target[key as keyof FileDisk];
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
  const sticky = new StickySync(failing);
  pipe.put(new Uint8Array(8192).fill(7));
  await sticky.writeFromPipe(0, 4096, pipe);
  await assertRejects(async () => await sticky.flush(), DeviceError);
  assertEquals(assertThrows(() => sticky.writeFromPipe(4096, 4096, pipe), DeviceError).errno, "EIO");
  assertEquals(opened.content(0, 8192), new Uint8Array(8192).fill(7, 0, 4096).fill(1, 4096));
});

storageTest("FileDisk and pipes: a full file system is ENOSPC, at once and on the pool", async () => {
  await using small = await smallFileSystem(6 * MIB);
  await using opened = open(4 * MIB, { at: small.file("disk.img") });
  const { disk, path, pipe } = opened;
  // Behind the disk's back a hole comes to be for which there is no room any more.
  const other = OpenFile.open(libc()!, path);
  await other.allocate(ALLOCATE.punch, MIB, 2 * MIB);
  other.close();
  const filler = small.file("filler");
  assertThrows(() => Deno.writeFileSync(filler, new Uint8Array(5 * MIB)));
  Deno.truncateSync(filler, Deno.statSync(filler).size - 65536);
  for (const onPool of [false, true]) {
    const data = new Uint8Array(262144).fill(8);
    pipe.put(data);
    const earlier = onPool ? disk.write(3 * MIB, new Uint8Array(MIB)) : undefined;
    // Across the end of the hole, so that the pool's turn overlaps the write under way.
    const offset = onPool ? 3 * MIB - 262144 + 4096 : MIB;
    const error = await assertRejects(
      async () => await disk.writeFromPipe(offset, data.length, pipe),
      DeviceError,
    );
    assertEquals(error.errno, "ENOSPC");
    await earlier;
    pipe.take(new Uint8Array(pipe.heldBytes));
  }
});
