import { assertEquals } from "@std/assert";
import { isZero } from "../../src/base/zero_check.ts";

Deno.test({
  name: "isZero() finds a single byte at any place, at any alignment and length",
  permissions: "none",
  fn() {
    const memory = new Uint8Array(200);
    for (let offset = 0; offset < 8; offset++) {
      for (let length = 0; length < 70; length++) {
        const bytes = memory.subarray(offset, offset + length + 4);
        assertEquals(isZero(bytes, 2, 2 + length), true);
        for (let at = -1; at <= length; at++) {
          bytes[2 + at] = 0x80;
          assertEquals(isZero(bytes, 2, 2 + length), at < 0 || at === length);
          bytes[2 + at] = 0;
        }
      }
    }
  },
});
