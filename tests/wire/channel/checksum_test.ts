import { assertEquals } from "@std/assert";
import { crc32c } from "../../../src/wire/channel/checksum.ts";

/** One bit at a time, straight from the definition. */
function slowCrc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  }
  return ~crc >>> 0;
}

Deno.test({
  name: "crc32c() gives the published check values",
  permissions: "none",
  fn() {
    assertEquals(crc32c(new TextEncoder().encode("123456789")), 0xe3069283);
    // RFC 3720, B.4.
    assertEquals(crc32c(new Uint8Array(32)), 0x8a9136aa);
    assertEquals(crc32c(new Uint8Array(32).fill(0xff)), 0x62a8ab43);
    assertEquals(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i)), 0x46dd794e);
    assertEquals(crc32c(Uint8Array.from({ length: 32 }, (_, i) => 31 - i)), 0x113fdb5c);
    assertEquals(crc32c(new Uint8Array(0)), 0);
  },
});

Deno.test({
  name: "crc32c() equals the bitwise definition at every length and alignment, whole or in two parts",
  permissions: "none",
  fn() {
    const bytes = Uint8Array.from({ length: 200 }, (_, i) => i * 167 + (i >> 3) & 255);
    for (let start = 0; start < 9; start++) {
      for (let end = start; end <= bytes.length; end++) {
        const part = bytes.subarray(start, end);
        const expected = slowCrc32c(part);
        assertEquals(crc32c(part), expected);
        const cut = (end - start) >> 1;
        assertEquals(crc32c(part.subarray(cut), crc32c(part.subarray(0, cut))), expected);
      }
    }
  },
});
