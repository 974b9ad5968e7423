import { assertEquals, assertRejects } from "@std/assert";
import { createFile, readSecretFile } from "../../src/os/key_file.ts";
import { run, temporaryDirectory } from "../testing/process.ts";

Deno.test("createFile() makes a file of that mode, and never replaces one", async () => {
  using directory = temporaryDirectory();
  const path = directory.file("key");
  await createFile(path, "first\n", 0o600);
  assertEquals(Deno.statSync(path).mode! & 0o777, 0o600);
  await assertRejects(() => createFile(path, "second\n", 0o600), Error, "it exists already");
  assertEquals(await readSecretFile(path, "keys"), "first\n");
  Deno.symlinkSync(directory.file("elsewhere"), directory.file("link"));
  await assertRejects(() => createFile(directory.file("link"), "x", 0o600), Error, "it exists already");
  await assertRejects(
    () => createFile(directory.file("no/key"), "x", 0o600),
    Error,
    "there is no such directory",
  );
});

Deno.test("readSecretFile() refuses what others may read, what is too long, and what is not there", async () => {
  using directory = temporaryDirectory();
  const path = directory.file("key");
  await createFile(path, "secret\n", 0o600);
  for (const mode of [0o640, 0o604, 0o620, 0o666]) {
    Deno.chmodSync(path, mode);
    await assertRejects(
      () => readSecretFile(path, "keys"),
      Error,
      `others may read it (mode 0${mode.toString(8)})`,
    );
  }
  Deno.chmodSync(path, 0o400);
  assertEquals(await readSecretFile(path, "keys"), "secret\n");
  await createFile(directory.file("long"), "x".repeat(5000), 0o600);
  await assertRejects(() => readSecretFile(directory.file("long"), "keys"), Error, "it is no key file");
  await assertRejects(
    () => readSecretFile(directory.file("none"), "keys"),
    Error,
    "it does not exist; keys makes one",
  );
  Deno.mkdirSync(directory.file("directory"), { mode: 0o700 });
  await assertRejects(() => readSecretFile(directory.file("directory"), "keys"), Error, "it is no key file");
  // Nor does it wait for somebody to write into a pipe.
  await run("mkfifo", [directory.file("pipe")]);
  await assertRejects(() => readSecretFile(directory.file("pipe"), "keys"), Error, "it is no key file");
});
