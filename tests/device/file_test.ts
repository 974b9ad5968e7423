import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import type { Log } from "../../src/base/log.ts";
import { silentLog } from "../../src/base/log.ts";
import type { BlockDevice } from "../../src/device/device.ts";
import { DeviceError } from "../../src/device/device_error.ts";
import { describeError } from "../../src/commands/program.ts";
import { openFileDisk, type OpenFileDiskOptions } from "../../src/device/open_file_disk.ts";
import { FileDisk } from "../../src/device/file.ts";
import { PlainFileDisk } from "../../src/device/plain_file.ts";
import { OpenFile } from "../../src/os/file_calls.ts";
import { libc } from "../../src/os/libc.ts";
import { OsError } from "../../src/os/os_error.ts";
import { until } from "../interop/peers.ts";
import { findProgram, run, temporaryDirectory } from "../testing/process.ts";
import {
  allocatedBytes,
  canHaveStorage,
  coldTest,
  loopDevice,
  makeCold,
  makeSparse,
  smallFileSystem,
  storageTest,
} from "../testing/storage.ts";
import { conformance } from "./conformance.ts";

const MIB = 1 << 20;

/** A file of zeroes as a disk. */
async function open(sizeBytes: number, options: OpenFileDiskOptions & { allocated?: boolean } = {}) {
  const directory = temporaryDirectory();
  const path = directory.file("disk.img");
  if (options.allocated) Deno.writeFileSync(path, new Uint8Array(sizeBytes));
  else makeSparse(path, sizeBytes);
  const disk = await openFileDisk(path, options);
  return {
    disk,
    path,
    async [Symbol.asyncDispose]() {
      await disk.close();
      directory[Symbol.dispose]();
    },
  };
}

conformance("FileDisk on a sparse file", { open });
conformance("FileDisk on a fully allocated file", {
  open: (sizeBytes) => open(sizeBytes, { allocated: true }),
});
conformance("FileDisk that keeps storage in a sparse file", {
  open: (sizeBytes) => open(sizeBytes, { discard: "ignore" }),
});
conformance("PlainFileDisk", {
  open(sizeBytes) {
    const directory = temporaryDirectory();
    const path = directory.file("disk.img");
    makeSparse(path, sizeBytes);
    const disk = new PlainFileDisk(path);
    return Promise.resolve({
      disk,
      async [Symbol.asyncDispose]() {
        await disk.close();
        directory[Symbol.dispose]();
      },
    });
  },
});
if (canHaveStorage()) {
  for (const discard of ["ignore", "unmap"] as const) {
    conformance(`FileDisk on a block device (discard ${discard})`, {
      sizeBytes: MIB + 512,
      async open(sizeBytes) {
        const directory = temporaryDirectory();
        makeSparse(directory.file("backing"), sizeBytes);
        const device = await loopDevice(directory.file("backing"));
        const disk = await openFileDisk(device.path, { discard });
        return {
          disk,
          async [Symbol.asyncDispose]() {
            await disk.close();
            await device[Symbol.asyncDispose]();
            directory[Symbol.dispose]();
          },
        };
      },
    });
  }
  conformance("FileDisk on a file system in memory", {
    async open(sizeBytes) {
      const directory = await smallFileSystem(8 * MIB);
      makeSparse(directory.file("disk.img"), sizeBytes);
      const disk = await openFileDisk(directory.file("disk.img"));
      return {
        disk,
        async [Symbol.asyncDispose]() {
          await disk.close();
          await directory[Symbol.asyncDispose]();
        },
      };
    },
  });
} else {
  Deno.test.ignore(
    "FileDisk on block devices conforms (skipped: needs root, mount and loop devices)",
    () => {},
  );
}

async function refusalOf(opening: Promise<unknown>): Promise<DeviceError> {
  return await assertRejects(() => opening, DeviceError);
}

Deno.test("openFileDisk() says what is wrong with a path", async () => {
  using directory = temporaryDirectory();
  const cases = [
    [directory.path, "EINVAL", "is a directory"],
    [directory.file("missing"), "ENOENT", "there is no such file"],
    [`${directory.file("file")}/below`, "EIO", "part of the path is not a directory"],
    ["/dev/null", "EINVAL", "is neither a file nor a block device"],
  ];
  Deno.writeTextFileSync(directory.file("file"), "");
  for (const [path, errno, words] of cases) {
    const error = await refusalOf(openFileDisk(path));
    assertEquals([error.errno, error.operation], [errno, "open"]);
    assertStringIncludes(error.message, path);
    assertStringIncludes(error.message, words);
  }
});

Deno.test("openFileDisk() says what is wrong once", async () => {
  using directory = temporaryDirectory();
  const error = await assertRejects(() => openFileDisk(directory.file("missing")));
  assertEquals(
    describeError(error),
    `cannot open: ENOENT (${directory.file("missing")}: there is no such file)`,
  );
});

Deno.test("openFileDisk() does not wait for the other end of a pipe", async () => {
  using directory = temporaryDirectory();
  await run("mkfifo", [directory.file("pipe")]);
  const error = await refusalOf(openFileDisk(directory.file("pipe")));
  assertStringIncludes(error.message, "is neither a file nor a block device");
});

Deno.test("openFileDisk() says that permission is denied", async () => {
  using directory = temporaryDirectory();
  Deno.chmodSync(directory.path, 0o755);
  const path = directory.file("disk.img");
  makeSparse(path, 4096);
  Deno.chmodSync(path, 0o400);
  const module = import.meta.resolve("../../src/device/open_file_disk.ts");
  const script = `import { openFileDisk } from "${module}";
    const said = async (options) => {
      try { await (await openFileDisk(${JSON.stringify(path)}, options)).close(); console.log("opened"); }
      catch (error) { console.log(error.errno, error.message); }
    };
    await said({ readOnly: true }); await said({});`;
  Deno.writeTextFileSync(directory.file("open.ts"), script);
  Deno.chmodSync(directory.file("open.ts"), 0o644);
  const command = [
    Deno.execPath(),
    "run",
    "--no-lock",
    "--no-config",
    "--allow-ffi",
    "-RW",
    directory.file("open.ts"),
  ];
  const asRoot = Deno.uid() === 0;
  if (asRoot && findProgram("setpriv") === null) {
    throw new Error("setpriv is missing: it belongs to util-linux");
  }
  // Root may read everything, so somebody else has to try; with a cache directory of his own.
  const other = asRoot ? ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] : [];
  Deno.mkdirSync(directory.file("cache"));
  if (asRoot) Deno.chownSync(directory.file("cache"), 65534, 65534);
  const env = { DENO_DIR: directory.file("cache"), NO_COLOR: "1" };
  const [program, ...args] = [...other, ...command];
  const { stdout } = await run(program, args, { env });
  const lines = stdout.trim().split("\n");
  if (asRoot) assertEquals(lines[0].split(" ")[0], "EACCES");
  else assertEquals(lines[0], "opened");
  assertStringIncludes(lines[1], `EACCES cannot open: EACCES (${path}: permission denied)`);
});

Deno.test("openFileDisk() makes do where libc cannot be reached, and says what is missing", async () => {
  using directory = temporaryDirectory();
  const path = directory.file("disk.img");
  Deno.writeFileSync(path, new Uint8Array(8192).fill(5));
  const module = (name: string) => JSON.stringify(import.meta.resolve(`../../src/${name}`));
  const script = `import { openFileDisk } from ${module("device/open_file_disk.ts")};
    import { silentLog } from ${module("base/log.ts")};
    const log = { ...silentLog, warn: (message) => console.log(message) };
    const disk = await openFileDisk(${JSON.stringify(path)}, { log });
    const into = new Uint8Array(4096);
    await disk.read(4096, into);
    await disk.write(0, into.map((byte) => byte + 1), { fua: true });
    await disk.close();
    console.log(disk.sizeBytes, into[4095], disk.can.extents, disk.can.trim);`;
  Deno.writeTextFileSync(directory.file("open.ts"), script);
  const args = ["run", "--no-prompt", "--no-lock", "--no-config", "-RW", directory.file("open.ts")];
  const { stdout } = await run(Deno.execPath(), args, { env: { NO_COLOR: "1" } });
  const [warning, result] = stdout.trim().split("\n");
  assertStringIncludes(warning, `${path}: libc cannot be opened; no holes, no trimming, no locks`);
  assertEquals(result, "8192 5 false false");
  assertEquals([...Deno.readFileSync(path).slice(4094, 4098)], [6, 6, 5, 5]);
});

Deno.test("FileDisk serves a file of 0 bytes", async () => {
  await using opened = await open(0);
  assertEquals(opened.disk.sizeBytes, 0);
  await opened.disk.read(0, new Uint8Array(0));
  await opened.disk.write(0, new Uint8Array(0));
  await opened.disk.flush();
});

Deno.test("FileDisk serves an odd size to the byte, and never more", async () => {
  await using opened = await open(1535);
  const { disk, path } = opened;
  assertEquals(disk.sizeBytes, 1535);
  await disk.write(1534, new Uint8Array([9]));
  await disk.zero(0, 1534, { mayPunch: false });
  await disk.trim(1024, 510);
  await disk.flush();
  assertEquals(Deno.statSync(path).size, 1535);
  assertEquals(Deno.readFileSync(path)[1534], 9);
});

Deno.test("FileDisk serves 2^40 sparse bytes, and describes them in one call", async () => {
  const size = 2 ** 40;
  await using opened = await open(size);
  const { disk, path } = opened;
  await disk.write(2 ** 39, new Uint8Array(4096).fill(1), { fua: true });
  assertEquals(await disk.extents(0, size), [
    { kind: "hole", length: 2 ** 39 },
    { kind: "data", length: 4096 },
    { kind: "hole", length: size - 2 ** 39 - 4096 },
  ]);
  await disk.zero(0, size);
  assertEquals(await disk.extents(0, size), [{ kind: "hole", length: size }]);
  assert(allocatedBytes(path) < 65536);
});

Deno.test("FileDisk keeps a hole a hole when zeroes are written over it, piece by piece of 4096", async () => {
  await using opened = await open(MIB);
  const { disk, path } = opened;
  const data = new Uint8Array(20 * 1024);
  data[5000] = 1; // second piece
  data[20 * 1024 - 1] = 1; // last piece
  await disk.write(64 * 1024, data);
  assertEquals(allocatedBytes(path), 8192);
  const content = new Uint8Array(20 * 1024);
  await disk.read(64 * 1024, content);
  assertEquals(content, data);
  // Over data, zeroes are stored.
  await disk.write(64 * 1024, new Uint8Array(20 * 1024));
  assertEquals(allocatedBytes(path), 8192);
  await disk.read(64 * 1024, content);
  assertEquals(content, new Uint8Array(20 * 1024));
  // Pieces are cut by the disk's offsets, not by those of the request.
  await disk.write(200 * 1024 + 100, new Uint8Array(100_000));
  assertEquals(allocatedBytes(path), 8192);
});

Deno.test("rule 5: FileDisk gives storage back where the file is sparse, and keeps it where all is allocated", async () => {
  for (
    const [allocated, discard, left] of [
      [false, undefined, 0],
      [true, undefined, MIB],
      [true, "unmap", 0],
      [false, "ignore", MIB],
    ] as const
  ) {
    for (const operation of ["trim", "zero"] as const) {
      await using opened = await open(2 * MIB, { allocated, discard });
      const { disk, path } = opened;
      await disk.write(0, new Uint8Array(2 * MIB).fill(1));
      if (!allocated) Deno.truncateSync(path, 2 * MIB);
      await disk[operation](0, MIB, { fua: true });
      assertEquals(
        allocatedBytes(path) - MIB,
        left,
        `${operation}, allocated ${allocated}, discard ${discard}`,
      );
      if (operation === "zero") {
        const content = new Uint8Array(MIB).fill(1);
        await disk.read(0, content);
        assertEquals(content, new Uint8Array(MIB));
      }
    }
  }
});

Deno.test("FileDisk allocates what is zeroed without permission to punch", async () => {
  await using opened = await open(MIB);
  await opened.disk.zero(0, 512 * 1024, { mayPunch: false, fua: true });
  assertEquals(allocatedBytes(opened.path), 512 * 1024);
});

Deno.test("FileDisk tells storage that holds zeroes from holes, also where it was never written", async () => {
  await using opened = await open(8 * MIB);
  const { disk } = opened;
  await disk.write(MIB, new Uint8Array(MIB).fill(1));
  await disk.zero(3 * MIB, 2 * MIB, { mayPunch: false });
  await disk.flush();
  assertEquals(await disk.extents(0, 8 * MIB), [
    { kind: "hole", length: MIB },
    { kind: "data", length: MIB },
    { kind: "hole", length: MIB },
    { kind: "zero", length: 2 * MIB },
    { kind: "hole", length: 3 * MIB },
  ]);
  assertEquals(await disk.extents(4 * MIB + 512, MIB), [
    { kind: "zero", length: MIB - 512 },
    { kind: "hole", length: 512 },
  ]);
  await disk.zero(4 * MIB, MIB);
  assertEquals(await disk.extents(3 * MIB, 2 * MIB), [
    { kind: "zero", length: MIB },
    { kind: "hole", length: MIB },
  ]);
});

Deno.test("FileDisk refuses a fast zero that would be slow, and has changed nothing", async () => {
  if (!canHaveStorage()) return;
  await using directory = await smallFileSystem(8 * MIB);
  const path = directory.file("disk.img");
  Deno.writeFileSync(path, new Uint8Array(MIB).fill(1));
  // The file system in memory can punch, and cannot zero storage that stays.
  const disk = await openFileDisk(path);
  const error = await assertRejects(
    async () => void await disk.zero(0, MIB, { fast: true, mayPunch: false }),
    DeviceError,
  );
  assertEquals([error.errno, error.operation], ["ENOTSUP", "zero"]);
  assert(Deno.readFileSync(path).every((byte) => byte === 1));
  await disk.zero(0, MIB, { mayPunch: false });
  assert(Deno.readFileSync(path).every((byte) => byte === 0));
  await disk.close();
});

coldTest("FileDisk answers cached reads at once, while cold ones are under way", async () => {
  using directory = temporaryDirectory();
  const path = directory.file("disk.img");
  const content = crypto.getRandomValues(new Uint8Array(65536));
  Deno.writeFileSync(path, new Uint8Array(64 * MIB));
  const disk = await openFileDisk(path);
  await disk.write(0, content);
  await disk.flush();
  await makeCold(path);
  const warm = new Uint8Array(4096);
  await disk.read(0, warm);
  const cold = Array.from(
    { length: 40 },
    (_, index) => disk.read((index + 1) * 1_500_000, new Uint8Array(4096)),
  );
  assert(cold.some((result) => result instanceof Promise));
  warm.fill(0);
  assertEquals(disk.read(0, warm), undefined);
  assertEquals(warm, content.subarray(0, 4096));
  await Promise.all(cold);
  await disk.close();
});

coldTest("FileDisk reads on past what is in the cache", async () => {
  using directory = temporaryDirectory();
  const path = directory.file("disk.img");
  const content = crypto.getRandomValues(new Uint8Array(65536));
  Deno.writeFileSync(path, content);
  const disk = await openFileDisk(path);
  await makeCold(path);
  // A write brings in just its own page.
  await disk.write(0, content.subarray(0, 4096));
  const into = new Uint8Array(65536);
  await disk.read(0, into);
  assertEquals(into, content);
  await disk.close();
});

coldTest("FileDisk.cache() brings a range into memory", async () => {
  using directory = temporaryDirectory();
  const path = directory.file("disk.img");
  Deno.writeFileSync(path, new Uint8Array(16 * MIB).fill(1));
  const disk = await openFileDisk(path);
  await makeCold(path);
  const cachedPages = async () => Number((await run("fincore", ["-n", "-o", "PAGES", path])).stdout);
  assertEquals(await cachedPages(), 0);
  await disk.cache(3 * MIB, 5 * MIB);
  await until(async () => await cachedPages() >= 5 * MIB / 4096);
  await disk.close();
});

/** A disk over a file whose calls the test holds in its hands. */
function openByHand() {
  const directory = temporaryDirectory();
  makeSparse(directory.file("disk.img"), MIB);
  const file = OpenFile.open(libc()!, directory.file("disk.img"));
  const disk = new FileDisk(file);
  return {
    file,
    disk,
    async [Symbol.asyncDispose]() {
      await disk.close();
      directory[Symbol.dispose]();
    },
  };
}

Deno.test("flushes share a sync only if they were asked for before it started", async () => {
  await using opened = openByHand();
  const syncs: PromiseWithResolvers<void>[] = [];
  opened.file.sync = () => {
    syncs.push(Promise.withResolvers());
    return syncs.at(-1)!.promise;
  };
  const ended: string[] = [];
  const flush = (name: string) => opened.disk.flush().then(() => ended.push(name));
  const first = flush("first");
  const later = [flush("second"), flush("third")];
  assertEquals(syncs.length, 1);
  syncs[0].resolve();
  await first;
  await until(() => syncs.length === 2);
  assertEquals(ended, ["first"]);
  later.push(flush("fourth"));
  syncs[1].resolve();
  await Promise.all(later.slice(0, 2));
  await until(() => syncs.length === 3);
  syncs[2].resolve();
  await Promise.all(later);
  assertEquals([ended, syncs.length], [["first", "second", "third", "fourth"], 3]);
});

Deno.test("a sync that failed is not tried again for those who wait behind it", async () => {
  await using opened = openByHand();
  let syncs = 0;
  const sync = Promise.withResolvers<void>();
  opened.file.sync = () => (syncs += 1, sync.promise);
  const flushes = [opened.disk.flush(), opened.disk.flush(), opened.disk.flush()];
  sync.reject(new OsError("ENOSPC", "fdatasync"));
  for (const flush of flushes) {
    const error = await assertRejects(() => flush, DeviceError);
    assertEquals([error.errno, error.operation], ["ENOSPC", "flush"]);
  }
  assertEquals(syncs, 1);
});

Deno.test("cold reads leave room on the pool, and those beyond wait in a queue", async () => {
  await using opened = openByHand();
  const { file, disk } = opened;
  const reads: PromiseWithResolvers<number>[] = [];
  file.readCached = () => -1;
  file.read = () => {
    reads.push(Promise.withResolvers());
    return reads.at(-1)!.promise;
  };
  let done = 0;
  const all = Array.from({ length: 40 }, async (_, index) => {
    await disk.read(index * 4096, new Uint8Array(512));
    done += 1;
  });
  await disk.flush();
  assertEquals([reads.length, done], [16, 0]);
  while (done < 40) {
    const open = reads.splice(0);
    assert(open.length <= 16);
    for (const read of open) read.resolve(512);
    await until(() => reads.length > 0 || done === 40);
  }
  await Promise.all(all);
});

storageTest("FileDisk passes on that a device cannot read", async () => {
  using directory = temporaryDirectory();
  const backing = directory.file("backing");
  Deno.writeFileSync(backing, new Uint8Array(8 * MIB).fill(1));
  await using device = await loopDevice(backing);
  const disk = await openFileDisk(device.path);
  // The device stays as large as it was; what is behind it is gone.
  Deno.truncateSync(backing, MIB);
  const error = await assertRejects(
    async () => void await disk.read(4 * MIB, new Uint8Array(4096)),
    DeviceError,
  );
  assertEquals([error.errno, error.operation, error.offset, error.length], ["EIO", "read", 4 * MIB, 4096]);
  await disk.read(0, new Uint8Array(4096));
  await disk.close();
});

Deno.test("FileDisk answers EIO beyond the end of a file that was cut short, and does not make it longer", async () => {
  for (const allocated of [false, true]) {
    await using opened = await open(MIB, { allocated });
    const { disk, path } = opened;
    Deno.truncateSync(path, 100_000);
    const into = new Uint8Array(4096);
    await disk.read(0, into);
    const operations: [string, () => void | Promise<void>][] = [
      ["read", () => disk.read(98_304, into)],
      ["read", () => disk.read(500_000, into)],
      ["write", () => disk.write(500_000, into.fill(1))],
      ["write", () => disk.write(98_304, new Uint8Array(MIB - 98_304).fill(1))],
      ["zero", () => disk.zero(98_304, 4096)],
    ];
    for (const [operation, call] of operations) {
      const error = await assertRejects(async () => void await call(), DeviceError);
      assertEquals([error.errno, error.operation], ["EIO", operation]);
      assertStringIncludes(error.message, "cut to 100000 of 1048576 bytes");
    }
    assertEquals(Deno.statSync(path).size, 100_000);
    const extents = await disk.extents(0, MIB);
    assertEquals(extents.at(-1)!.kind, "data");
    assertEquals(extents.reduce((sum, { length }) => sum + length, 0), MIB);
  }
});

Deno.test("FileDisk finishes what is under way before it closes, and refuses what comes later", async () => {
  await using opened = await open(8 * MIB);
  const { disk, path } = opened;
  const writing = disk.write(0, new Uint8Array(4 * MIB).fill(7), { fua: true });
  assert(writing instanceof Promise);
  await disk.close();
  await writing;
  assertEquals(Deno.readFileSync(path).subarray(0, 4 * MIB).every((byte) => byte === 7), true);
  const calls: (() => unknown)[] = [
    () => disk.read(0, new Uint8Array(1)),
    () => disk.write(0, new Uint8Array(1)),
    () => disk.write(0, new Uint8Array(MIB)),
    () => disk.zero(0, 1),
    () => disk.flush(),
    () => disk.extents(0, 1),
    () => disk.cache(0, 1),
  ];
  for (const call of calls) {
    const error = await assertRejects(async () => void await call(), DeviceError);
    assertEquals(error.errno, "ESHUTDOWN");
  }
  assertEquals(disk.syncFailure, null);
});

Deno.test("FileDisk keeps the order of overlapping writes, also when the first is long and the second short", async () => {
  await using opened = await open(8 * MIB);
  const { disk } = opened;
  for (let round = 0; round < 20; round++) {
    const long = disk.write(0, new Uint8Array(4 * MIB).fill(1));
    const short = disk.write(4096 * round, new Uint8Array(4096).fill(2));
    const into = new Uint8Array(4096);
    const read = disk.read(4096 * round, into);
    await Promise.all([long, short, read]);
    assertEquals([into[0], into[4095]], [2, 2]);
  }
});

storageTest("FileDisk passes on that there is no space", async () => {
  await using directory = await smallFileSystem(MIB);
  const path = directory.file("disk.img");
  makeSparse(path, 16 * MIB);
  const disk = await openFileDisk(path);
  for (const data of [new Uint8Array(128 * 1024).fill(1), new Uint8Array(4 * MIB).fill(1)]) {
    const error = await assertRejects(async () => {
      for (let offset = 0; offset < 8 * MIB; offset += data.length) await disk.write(offset, data);
    }, DeviceError);
    assertEquals([error.errno, error.operation], ["ENOSPC", "write"]);
  }
  // A full file system is no failed sync: what was taken is there, and zeroes give space back.
  await disk.flush();
  await disk.zero(0, 16 * MIB);
  await disk.write(0, new Uint8Array(4096).fill(1));
  assertEquals(disk.syncFailure, null);
  await disk.close();
});

storageTest("a sync that fails for real ends all writing, and is told once", async () => {
  await using directory = await smallFileSystem(MIB);
  makeSparse(directory.file("backing"), 64 * MIB);
  await using device = await loopDevice(directory.file("backing"));
  const told: string[] = [];
  const log: Log = { ...silentLog, error: (message) => told.push(message) };
  const disk = await openFileDisk(device.path, { log });
  // The cache takes it; the file system behind the device has no place for it.
  for (let offset = 0; offset < 8 * MIB; offset += MIB) await disk.write(offset, new Uint8Array(MIB).fill(1));
  const first = await assertRejects(async () => void await disk.flush(), DeviceError);
  assertEquals([first.errno, first.operation], ["EIO", "flush"]);
  for (
    const call of [() => disk.flush(), () => disk.write(0, new Uint8Array(512)), () => disk.zero(0, 512)]
  ) {
    const error = await assertRejects(async () => void await call(), DeviceError);
    assertEquals(error.errno, "EIO");
  }
  await disk.read(0, new Uint8Array(512));
  assertEquals(told.length, 1);
  assertStringIncludes(disk.syncFailure!, "cannot flush: EIO");
  await disk.close();
});

storageTest("FileDisk has a block device's size, and trims it where that is asked for", async () => {
  using directory = temporaryDirectory();
  Deno.writeFileSync(directory.file("backing"), new Uint8Array(4 * MIB).fill(1));
  await using device = await loopDevice(directory.file("backing"));
  const kept = await openFileDisk(device.path);
  assertEquals(kept.sizeBytes, 4 * MIB);
  await kept.trim(0, MIB);
  await kept.zero(MIB, MIB, { fua: true });
  await kept.close();
  assertEquals(allocatedBytes(directory.file("backing")), 4 * MIB);
  const disk = await openFileDisk(device.path, { discard: "unmap" });
  await disk.trim(0, MIB);
  await disk.zero(2 * MIB + 100, MIB, { fua: true });
  // Whole sectors are given back, what remains is zeroed.
  const content = new Uint8Array(MIB + 512);
  await disk.read(2 * MIB, content);
  assertEquals(content.findIndex((byte) => byte === 0), 100);
  assertEquals(content.findIndex((byte, at) => at > 100 && byte !== 0), MIB + 100);
  await disk.close();
  assert(allocatedBytes(directory.file("backing")) <= 2 * MIB + 8192);
});

/** Keeps the interface honest: what a disk says it cannot do it is never asked. */
Deno.test("FileDisk opened read-only changes nothing", async () => {
  using directory = temporaryDirectory();
  const path = directory.file("disk.img");
  Deno.writeFileSync(path, new Uint8Array(8192).fill(3));
  const disk: BlockDevice = await openFileDisk(path, { readOnly: true });
  const { write, trim, zero, fua } = disk.can;
  assertEquals([write, trim, zero, fua], [false, false, false, false]);
  await assertRejects(async () => void await disk.write(0, new Uint8Array(512)), DeviceError);
  assert(Deno.readFileSync(path).every((byte) => byte === 3));
  await disk.close();
});

coldTest("FileDisk lends its file for what is in memory and settled, and for nothing else", async () => {
  await using opened = await open(8 * MIB, { allocated: true });
  const { disk, path } = opened;
  assert(disk.cachedFile!(0, 8 * MIB) !== null);
  assert(disk.cachedFile!(4095, 2) !== null);
  const writing = disk.write(MIB, new Uint8Array(2 * MIB).fill(1));
  assert(writing instanceof Promise);
  assertEquals(disk.cachedFile!(2 * MIB, MIB), null);
  assert(disk.cachedFile!(4 * MIB, MIB) !== null);
  await writing;
  assert(disk.cachedFile!(2 * MIB, MIB) !== null);
  await disk.flush();
  await makeCold(path);
  assertEquals(disk.cachedFile!(0, 8 * MIB), null);
  await disk.read(5 * MIB, new Uint8Array(4096));
  assert(disk.cachedFile!(5 * MIB, 4096) !== null);
  Deno.truncateSync(path, 5 * MIB);
  assertEquals(disk.cachedFile!(5 * MIB, 4096), null);
  await disk.close();
  assertEquals(disk.cachedFile!(0, 4096), null);
});
