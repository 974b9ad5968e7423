import { assertEquals, assertStringIncludes } from "@std/assert";
import { runProgram } from "../../src/commands/program.ts";
import { commands } from "../../src/commands/table.ts";
import { openFileDisk } from "../../src/device/open_file_disk.ts";
import { findDiskState } from "../../src/device/state_directory.ts";
import { libc } from "../../src/os/libc.ts";
import { temporaryDirectory } from "../testing/process.ts";
import { makeSparse } from "../testing/storage.ts";
import { FakeSurroundings } from "./fake_surroundings.ts";

function setUp() {
  const directory = temporaryDirectory();
  const path = directory.file("disk.img");
  makeSparse(path, 4096);
  const stateDirectory = directory.file("state");
  const own = async (...words: string[]) => {
    const around = new FakeSurroundings();
    const code = await runProgram(
      ["own", "--state-dir", stateDirectory, ...words, path],
      commands,
      "1",
      around,
    );
    return { code, out: around.written.stdout, stderr: around.written.stderr };
  };
  const state = findDiskState(libc()!, stateDirectory, path);
  const start = () => openFileDisk(path, { stateDirectory });
  return { path, stateDirectory, own, state, start, [Symbol.dispose]: directory[Symbol.dispose] };
}

const migration = {
  id: "44444444-4444-4444-8444-444444444444",
  uuid: "22222222-2222-4222-8222-222222222222",
  generation: 7,
  epoch: 3,
  peer: "nbd://b/",
  at: "2026-01-02T03:04:05Z",
};

Deno.test("own shows what is kept of an image", async () => {
  using set = setUp();
  Deno.mkdirSync(set.stateDirectory);
  assertStringIncludes((await set.own()).out, "state=owner \n");
  await (await set.start()).close();
  const { uuid, generation } = (await set.state.read())!;
  assertEquals((await set.own()).out, `state=owner epoch=1 uuid=${uuid} generation=1 \n`);
  const moved = { uuid, generation, ownership: { state: "moved", epoch: 2, migration } } as const;
  await set.state.write(moved);
  const { out } = await set.own();
  assertStringIncludes(
    out,
    `state=moved epoch=2 uuid=${uuid} generation=1 migration=${migration.id} peer=nbd://b/`,
  );
  assertStringIncludes(out, `${set.path} has moved to nbd://b/`);
  assertEquals(JSON.parse((await set.own("--json")).out), moved);
});

Deno.test("own looks in --state-dir, else in the first directory that the service manager names", async () => {
  using set = setUp();
  await (await set.start()).close();
  const { uuid } = (await set.state.read())!;
  const own = async (env: Record<string, string>, ...words: string[]) => {
    const around = new FakeSurroundings(env);
    await runProgram(["own", ...words, set.path], commands, "1", around);
    return around.written.stdout + around.written.stderr;
  };
  const known = { STATE_DIRECTORY: `${set.stateDirectory}:/somewhere/else` };
  assertStringIncludes(await own(known), uuid);
  const other = `${set.stateDirectory}-other`;
  Deno.mkdirSync(other);
  assertStringIncludes(await own(known, "--state-dir", other), "has never been served");
});

Deno.test("own does not take a disk for never served because the state directory was misspelt", async () => {
  using set = setUp();
  for (const [directory, why] of [["/nowhere", "it does not exist"], [set.path, "it is no directory"]]) {
    for (const words of [[], ["--claim"]]) {
      const { code, out, stderr } = await set.own("--state-dir", directory, ...words);
      assertEquals(
        { code, out, stderr },
        { code: 1, out: "", stderr: `denbd own: cannot use the state directory ${directory}: ${why}\n` },
      );
    }
  }
});

Deno.test("own --claim makes an image the disk, and says what may be lost", async () => {
  using set = setUp();
  const uuid = migration.uuid;
  await set.state.write({ uuid, generation: 7, ownership: { state: "in-doubt", epoch: 2, migration } });
  const { code, out } = await set.own("--claim");
  assertEquals(code, 0);
  assertStringIncludes(out, `${set.path} is owned here from now on.`);
  assertStringIncludes(out, "what was written there since is lost");
  await (await set.start()).close();
  assertStringIncludes((await set.own()).out, "state=owner epoch=4 ");
});

Deno.test("own --claim does not decide about an image that is in use", async () => {
  using set = setUp();
  const disk = await set.start();
  const { code, stderr } = await set.own("--claim");
  await disk.close();
  assertEquals(code, 1);
  assertStringIncludes(stderr, "in use by");
});
