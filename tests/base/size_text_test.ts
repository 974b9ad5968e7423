import { assertEquals, assertThrows } from "@std/assert";
import { parseDuration } from "../../src/base/duration_text.ts";
import { formatSize, parseSize } from "../../src/base/size_text.ts";

const pure = { permissions: "none" } as const;

const SIZES: [string, number][] = [
  ["0", 0],
  ["512", 512],
  ["007", 7],
  ["512B", 512],
  ["4k", 4096],
  ["4K", 4096],
  ["4KiB", 4096],
  ["4kB", 4000],
  ["64MiB", 2 ** 26],
  ["1G", 2 ** 30],
  ["1GB", 10 ** 9],
  ["1t", 2 ** 40],
  ["7P", 7 * 2 ** 50],
  ["9007199254740991", Number.MAX_SAFE_INTEGER],
];

for (const [text, bytes] of SIZES) {
  Deno.test(`parseSize() takes ${text}`, pure, () => assertEquals(parseSize(text), bytes));
}

Deno.test("parseSize() refuses what is no size", pure, () => {
  for (const text of ["", "k", "4 k", " 4", "4x", "4ki", "1.5G", "1e9", "0x10", "+4", "4kk", "٤"]) {
    assertThrows(() => parseSize(text), SyntaxError, "is not a size");
  }
  assertThrows(() => parseSize("-1"), SyntaxError, '"-1" is negative');
  for (const text of ["9007199254740992", "8P", "1E", "99999999999999999999", "9".repeat(400)]) {
    assertThrows(() => parseSize(text), RangeError, "is too large");
  }
});

Deno.test("formatSize() is short, and exact for powers of two", pure, () => {
  const sizes = [0, 1, 1023, 1024, 1536, 1048575, 2 ** 20, 10 * 2 ** 30, 2 ** 53];
  const shown = [
    "0 bytes",
    "1 byte",
    "1023 bytes",
    "1 KiB",
    "1.5 KiB",
    "1024 KiB",
    "1 MiB",
    "10 GiB",
    "8 PiB",
  ];
  assertEquals(sizes.map(formatSize), shown);
});

Deno.test("parseDuration() takes units, and seconds without", pure, () => {
  const texts = ["0", "30", "30s", "500ms", "1.5s", "2m", "2min", "1h", "0.5ms"];
  assertEquals(texts.map(parseDuration), [0, 30_000, 30_000, 500, 1500, 120_000, 120_000, 3_600_000, 1]);
  for (const text of ["", "s", "-1s", "1 s", "1d", "1e3", ".5s"]) {
    assertThrows(() => parseDuration(text), SyntaxError, "is not a duration");
  }
  for (const text of ["25000h", "9".repeat(400)]) {
    assertThrows(() => parseDuration(text), RangeError, "is too long");
  }
});
