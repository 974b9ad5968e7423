import { assert, assertEquals, assertNotEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { type Log, silentLog } from "../../src/base/log.ts";
import type { DiskIdentity } from "../../src/device/device.ts";
import { DeviceError } from "../../src/device/device_error.ts";
import { openFileDisk } from "../../src/device/open_file_disk.ts";
import { findDiskState } from "../../src/device/state_directory.ts";
import { libc } from "../../src/os/libc.ts";
import { temporaryDirectory } from "../testing/process.ts";
import { loopDevice, makeSparse, storageTest } from "../testing/storage.ts";

function setUp() {
  const directory = temporaryDirectory();
  const path = directory.file("disk.img");
  const stateDirectory = directory.file("state/denbd");
  makeSparse(path, 4096);
  const warnings: string[] = [];
  const log: Log = { ...silentLog, warn: (message) => warnings.push(message) };
  const start = async (
    options: { readOnly?: boolean; path?: string } = {},
  ): Promise<DiskIdentity | undefined> => {
    const disk = await openFileDisk(options.path ?? path, { stateDirectory, log, ...options });
    await disk.close();
    return disk.identity;
  };
  /** The one file in the state directory. */
  const stateFile = () => `${stateDirectory}/${[...Deno.readDirSync(stateDirectory)][0].name}`;
  return {
    directory,
    path,
    stateDirectory,
    warnings,
    start,
    stateFile,
    [Symbol.dispose]: directory[Symbol.dispose],
  };
}

Deno.test("a disk keeps its UUID, and its generation grows with every start", async () => {
  using set = setUp();
  const first = (await set.start())!;
  assertEquals([first.generation, first.durable], [1, true]);
  assertEquals(await set.start(), { ...first, generation: 2 });
  Deno.renameSync(set.path, set.directory.file("other name"));
  assertEquals(await set.start({ path: set.directory.file("other name") }), { ...first, generation: 3 });
  assertEquals(set.warnings, []);
  assertEquals([...Deno.readDirSync(set.stateDirectory)].length, 1);
  assertEquals(Deno.statSync(set.stateDirectory).mode! & 0o777, 0o700);
});

Deno.test("reading changes no generation, and gives no disk an identity", async () => {
  using set = setUp();
  assertEquals(await set.start({ readOnly: true }), undefined);
  const first = (await set.start())!;
  assertEquals(await set.start({ readOnly: true }), first);
  assertEquals(await set.start(), { ...first, generation: 2 });
});

Deno.test("a copy, and a new file in the place of the old one, are other disks", async () => {
  using set = setUp();
  const first = (await set.start())!;
  Deno.copyFileSync(set.path, set.directory.file("copy"));
  assertNotEquals((await set.start({ path: set.directory.file("copy") }))!.uuid, first.uuid);
  // The number of the inode may be given to the next file: the time of its creation tells them apart.
  const record = JSON.parse(Deno.readTextFileSync(set.stateFile()));
  Deno.writeTextFileSync(set.stateFile(), JSON.stringify({ ...record, createdNs: "1" }));
  const next = (await set.start({ path: record.path }))!;
  assertNotEquals(next.uuid, record.uuid);
  assertEquals(next.generation, 1);
});

Deno.test("a start cut short leaves the identity of before or after", async () => {
  using set = setUp();
  const first = (await set.start())!;
  Deno.writeTextFileSync(`${set.stateFile()}.new`, '{"format":');
  assertEquals(await set.start(), { ...first, generation: 2 });
});

Deno.test("V56: state of a later version, or that cannot be understood, stops the start and stays as it is", async () => {
  using set = setUp();
  await set.start();
  const file = set.stateFile();
  const good = JSON.parse(Deno.readTextFileSync(file));
  const cases: [string, string][] = [
    [JSON.stringify({ ...good, version: 3 }), "it has version 3, this program knows versions 1 and 2"],
    ["", "it does not hold a disk's identity"],
    ["null", "it does not hold a disk's identity"],
    ["[]", "it does not hold a disk's identity"],
    [JSON.stringify({ ...good, uuid: "../.." }), "it is damaged"],
    [JSON.stringify({ ...good, generation: 0 }), "it is damaged"],
    [JSON.stringify({ ...good, generation: "7" }), "it is damaged"],
    [JSON.stringify({ ...good, createdNs: undefined }), "it is damaged"],
    [JSON.stringify({ ...good, ownership: undefined }), "it is damaged"],
    [JSON.stringify({ ...good, ownership: { state: "owner", epoch: 0 } }), "it is damaged"],
    [JSON.stringify({ ...good, ownership: { state: "moved", epoch: 1 } }), "it is damaged"],
    [JSON.stringify({ ...good, ownership: { state: "sold", epoch: 1 } }), "it is damaged"],
  ];
  for (const [text, words] of cases) {
    Deno.writeTextFileSync(file, text);
    const error = await assertRejects(() => set.start(), DeviceError);
    assertStringIncludes(error.message, `cannot use ${file}: ${words}; remove it`);
    assertEquals(Deno.readTextFileSync(file), text);
  }
  // The refused starts left the image free.
  Deno.removeSync(file);
  assertEquals((await set.start())!.generation, 1);
});

Deno.test("state that is there and cannot be read stops the start, for the disk might have moved", async () => {
  using set = setUp();
  await set.start();
  const file = set.stateFile();
  Deno.removeSync(file);
  Deno.mkdirSync(file);
  for (const readOnly of [false, true]) {
    const error = await assertRejects(() => set.start({ readOnly }), DeviceError);
    assertStringIncludes(error.message, `cannot read ${file}: `);
  }
});

Deno.test("a record of version 1 is of an owner, and is kept in version 2 from then on", async () => {
  using set = setUp();
  const first = (await set.start())!;
  const { ownership: _, ...rest } = JSON.parse(Deno.readTextFileSync(set.stateFile()));
  Deno.writeTextFileSync(set.stateFile(), JSON.stringify({ ...rest, version: 1 }));
  assertEquals(await set.start(), { ...first, generation: 2 });
  const { version, ownership } = JSON.parse(Deno.readTextFileSync(set.stateFile()));
  assertEquals([version, ownership], [2, { state: "owner", epoch: 1 }]);
});

Deno.test("an image that is not owned is not opened as a disk, for reading neither, and it is said why", async () => {
  using set = setUp();
  const { uuid } = (await set.start())!;
  const state = findDiskState(libc()!, set.stateDirectory, set.path);
  const migration = {
    id: crypto.randomUUID(),
    uuid,
    generation: 1,
    epoch: 2,
    peer: "nbd://b.example/",
    at: "2026-01-02T03:04:05Z",
  };
  const cases = [
    ["moved", "has moved to nbd://b.example/"],
    ["in-doubt", "is in doubt: nbd://b.example/ was told to take it over"],
    ["prepared", "holds a whole copy of a disk from nbd://b.example/"],
    ["receiving", "holds an unfinished copy of a disk from nbd://b.example/"],
  ] as const;
  for (const [word, words] of cases) {
    const record = { uuid, generation: 1, ownership: { state: word, epoch: 1, migration } };
    await state.write(record);
    for (const readOnly of [false, true]) {
      const error = await assertRejects(() => set.start({ readOnly }), DeviceError);
      assertStringIncludes(error.message, `${set.path} ${words}`);
      assertStringIncludes(error.message, `denbd own --claim ${set.path}`);
    }
    assertEquals(await state.read(), record);
  }
});

Deno.test("without a place for its state a disk is another one after each start, and says so", async () => {
  using set = setUp();
  Deno.writeTextFileSync(set.directory.file("state"), "a file where the directory should be");
  const first = (await set.start())!;
  const second = (await set.start())!;
  assertEquals([first.durable, first.generation], [false, 1]);
  assertNotEquals(first.uuid, second.uuid);
  assertEquals(set.warnings.length, 2);
  assertStringIncludes(set.warnings[0], `${set.path}: its identity cannot be kept in ${set.stateDirectory}`);
});

storageTest("a block device is known by its path", async () => {
  using set = setUp();
  const backing = set.directory.file("backing");
  makeSparse(backing, 1 << 20);
  await using device = await loopDevice(backing);
  const first = (await set.start({ path: device.path }))!;
  assertEquals(await set.start({ path: device.path }), { ...first, generation: 2 });
  assert(set.stateFile().endsWith(`/device-${encodeURIComponent(device.path)}.json`));
});
