import { assertEquals } from "@std/assert";
import { isAllZero } from "../../src/base/zeroes.ts";

Deno.test({
  name: "isAllZero() finds a single byte anywhere, at any alignment",
  permissions: "none",
  fn() {
    const room = new Uint8Array(96);
    for (let start = 0; start < 9; start++) {
      for (let length = 0; length <= 80; length++) {
        const bytes = room.subarray(start, start + length);
        assertEquals(isAllZero(bytes), true);
        for (let at = 0; at < length; at++) {
          bytes[at] = 0x80;
          assertEquals(isAllZero(bytes), false, `start ${start}, length ${length}, byte ${at}`);
          bytes[at] = 0;
        }
      }
    }
  },
});

Deno.test({
  name: "isAllZero() looks at its own bytes only",
  permissions: "none",
  fn() {
    const room = new Uint8Array(64).fill(1);
    room.fill(0, 5, 60);
    assertEquals(isAllZero(room.subarray(5, 60)), true);
    assertEquals(isAllZero(room.subarray(4, 60)), false);
    assertEquals(isAllZero(room.subarray(5, 61)), false);
  },
});
