/** `denbd create`: S12 of dnbd3's server, `--create`. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { temporaryDirectory } from "../testing/process.ts";
import { allocatedBytes } from "../testing/storage.ts";
import { denbd } from "./program.ts";

Deno.test("S12: create makes a sparse image of whole blocks, and a map that has none of them", async () => {
  using directory = temporaryDirectory();
  const base = directory.file("images");
  Deno.mkdirSync(base);
  const { stdout } = await denbd(["create", "--revision", "7", "--size", "5000001", base, "lab/new"]);
  assertMatch(stdout, /lab\/new\.r7: 5001216 bytes, all of them missing\n$/);
  assertEquals(Deno.statSync(`${base}/lab/new.r7`).size, 5001216);
  assertEquals(allocatedBytes(`${base}/lab/new.r7`), 0);
  // 1221 blocks
  assertEquals(Deno.readFileSync(`${base}/lab/new.r7.map`), new Uint8Array(153));
  assertEquals([...Deno.readDirSync(`${base}/lab`)].length, 2);
});

Deno.test("S12: create touches nothing that is there, and makes nothing of a wrong name, revision or place", async () => {
  using directory = temporaryDirectory();
  const base = directory.file("images");
  Deno.mkdirSync(base);
  Deno.writeTextFileSync(`${base}/old.r1`, "content");
  Deno.writeTextFileSync(`${base}/half.r2.map`, "map");
  Deno.mkdirSync(`${base}/odd.r1`);
  const cases: [words: string[], code: number, says: RegExp][] = [
    [["--revision", "1", "--size", "1M", base, "old"], 1, /cannot make .*old\.r1: old\.r1 is there/],
    [["--revision", "2", "--size", "1M", base, "half"], 1, /cannot make .*half\.r2: half\.r2\.map is there/],
    [["--revision", "1", "--size", "1M", base, "odd"], 1, /odd\.r1/],
    [["--revision", "0", "--size", "1M", base, "new"], 2, /--revision/],
    [["--revision", "65536", "--size", "1M", base, "new"], 2, /--revision/],
    [["--size", "1M", base, "new"], 2, /--revision is missing/],
    [["--revision", "1", base, "new"], 2, /--size is missing/],
    [["--revision", "1", "--size", "0", base, "new"], 2, /--size/],
    [["--revision", "1", "--size", "1M", base, "../new"], 2, /no name that clients may ask for/],
    [["--revision", "1", "--size", "1M", base, "a//b"], 2, /no name that clients may ask for/],
    [["--revision", "1", "--size", "1M", `${base}/nowhere`, "new"], 1, /there is no such directory/],
  ];
  for (const [words, code, says] of cases) {
    const { stderr } = await denbd(["create", ...words], { code });
    assertMatch(stderr, says);
  }
  assertEquals(Deno.readTextFileSync(`${base}/old.r1`), "content");
  assertEquals(Deno.readTextFileSync(`${base}/half.r2.map`), "map");
  const names = [...Deno.readDirSync(base)].map(({ name }) => name).sort();
  assertEquals(names, ["half.r2.map", "odd.r1", "old.r1"]);
  assert(Deno.statSync(`${base}/odd.r1`).isDirectory);
});
