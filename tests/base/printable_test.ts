import { assertEquals } from "@std/assert";
import { printable } from "../../src/base/printable.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name, permissions: "none", fn });
}

test("printable() leaves ordinary text alone", () => {
  for (const text of ["", "disk-1", "Übung für 東京 👍", "a/b c:d"]) assertEquals(printable(text), text);
});

test("printable() escapes what could forge or break a line", () => {
  assertEquals(printable('a\nb\tc"d\\e'), 'a\\nb\\tc\\"d\\\\e');
  assertEquals(printable("\x1b[31m\0\x7f\x9b"), "\\x1b[31m\\x00\\x7f\\x9b");
  assertEquals(printable("\u2028\u202e\ufeff\ud800"), "\\u{2028}\\u{202e}\\u{feff}\\u{d800}");
});

test("printable() cuts long text and says so", () => {
  assertEquals(printable("abcd", 4), "abcd");
  assertEquals(printable("abcde", 4), "abcd…");
  assertEquals(printable("👍👍👍", 2), "👍👍…");
  assertEquals(printable("x".repeat(5000)).length, 257);
});
