import { assertEquals, assertRejects } from "@std/assert";
import { makeDurably, writeDurably } from "../../src/os/durable_file.ts";
import { temporaryDirectory } from "../testing/process.ts";

const namesIn = (path: string) => [...Deno.readDirSync(path)].map(({ name }) => name).sort();

Deno.test("writeDurably() makes a file, and puts one in the place of another", async () => {
  using directory = temporaryDirectory();
  const path = directory.file("record");
  await writeDurably(path, "first\n");
  await writeDurably(path, new TextEncoder().encode("2\n"), { mode: 0o644 });
  assertEquals(Deno.readTextFileSync(path), "2\n");
  assertEquals(Deno.statSync(path).mode! & 0o777, 0o644);
  assertEquals(namesIn(directory.path), ["record"]);
});

Deno.test("makeDurably() that fails leaves what was there, and no draft", async () => {
  using directory = temporaryDirectory();
  const path = directory.file("record");
  await writeDurably(path, "old\n");
  const full = () => Promise.reject(new Error("no room"));
  await assertRejects(() => makeDurably(path, full), Error, "no room");
  assertEquals(Deno.readTextFileSync(path), "old\n");
  assertEquals(namesIn(directory.path), ["record"]);
});

Deno.test("makeDurably() takes the place of a draft that a crash left, and follows no link there", async () => {
  using directory = temporaryDirectory();
  const other = directory.file("other");
  Deno.writeTextFileSync(other, "untouched");
  const draft = directory.file("draft");
  Deno.symlinkSync(other, draft);
  await writeDurably(directory.file("record"), "new", { draft });
  assertEquals(Deno.readTextFileSync(other), "untouched");
  assertEquals(Deno.lstatSync(directory.file("record")).isSymlink, false);
  assertEquals(namesIn(directory.path), ["other", "record"]);
});

Deno.test("writeDurably() needs a directory", async () => {
  using directory = temporaryDirectory();
  await assertRejects(() => writeDurably(directory.file("nowhere/record"), ""), Deno.errors.NotFound);
});
