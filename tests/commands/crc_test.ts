import { assertEquals, assertStringIncludes } from "@std/assert";
import { type TemporaryDirectory, temporaryDirectory } from "../testing/process.ts";
import * as vectors from "../wire/dnbd3/vectors.ts";
import { denbd } from "./fake_surroundings.ts";

/** The recorded image whose file ends within a block, and within a hash block. */
function makeOdd(directory: TemporaryDirectory): string {
  const path = directory.file("odd.r3");
  Deno.writeFileSync(path, vectors.patternBytes(0, vectors.ODD_FILE_BYTES));
  return path;
}

Deno.test("S5, S12: crc makes the list that dnbd3-server makes, and keeps one that is there", async () => {
  using directory = temporaryDirectory();
  const path = makeOdd(directory);
  const { code, out } = await denbd("crc", path);
  assertEquals([code, out], [0, `${path}.crc: 2 checksums\n`]);
  assertEquals(Deno.readFileSync(`${path}.crc`), vectors.CHECKSUM_FILE_OF_ODD);
  const again = await denbd("crc", path);
  assertEquals(again.code, 1);
  assertStringIncludes(again.stderr, "is there already");
  Deno.writeTextFileSync(`${path}.crc`, "spoilt");
  assertEquals((await denbd("crc", "--force", path)).code, 0);
  assertEquals(Deno.readFileSync(`${path}.crc`), vectors.CHECKSUM_FILE_OF_ODD);
  assertEquals([...Deno.readDirSync(directory.file(""))].map(({ name }) => name).sort(), [
    "odd.r3",
    "odd.r3.crc",
  ]);
});

Deno.test("crc --verify names the parts that differ and ends with 1", async () => {
  using directory = temporaryDirectory();
  const path = makeOdd(directory);
  Deno.writeFileSync(`${path}.crc`, vectors.CHECKSUM_FILE_OF_ODD);
  assertEquals(await denbd("crc", "--verify", path), {
    code: 0,
    out: `${path}: 2 of 2 parts are in order\n`,
    stderr: "",
  });
  const image = vectors.patternBytes(0, vectors.ODD_FILE_BYTES);
  image[20_000_000] ^= 1;
  Deno.writeFileSync(path, image);
  const { code, out } = await denbd("crc", "--verify", path);
  assertEquals(code, 1);
  assertStringIncludes(out, `${path}: part 1 (from 16 MiB) is `);
  assertStringIncludes(out, `${path}: 1 of 2 parts are in order\n`);
});

Deno.test("crc says what is missing or makes no sense", async () => {
  using directory = temporaryDirectory();
  const path = makeOdd(directory);
  const empty = directory.file("empty");
  Deno.writeFileSync(empty, new Uint8Array(0));
  const cases: [string[], number, string][] = [
    [["crc"], 2, "IMAGE"],
    [["crc", "--verify", "--force", path], 2, "exclude each other"],
    [["crc", directory.file("nosuch")], 1, "there is no such file"],
    [["crc", "--verify", path], 1, "odd.r3.crc: there is no such file"],
    [["crc", empty], 1, "it is empty"],
  ];
  for (const [words, code, message] of cases) {
    const result = await denbd(...words);
    assertEquals(result.code, code, words.join(" "));
    assertStringIncludes(result.stderr, message);
  }
  Deno.writeFileSync(`${path}.crc`, vectors.CHECKSUM_FILE_OF_TEST);
  const wrong = await denbd("crc", "--verify", path);
  assertEquals(wrong.code, 1);
  assertStringIncludes(wrong.stderr, "whose own checksum");
});
