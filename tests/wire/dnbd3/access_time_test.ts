import { assertEquals } from "@std/assert";
import { decodeAccessTime, encodeAccessTime } from "../../../src/wire/dnbd3/access_time.ts";

const pure = { permissions: "none" } as const;
const bytes = (text: string) => new TextEncoder().encode(text);

Deno.test("V18: the access time is written as the original writes it", pure, () => {
  assertEquals(encodeAccessTime(1795219964), bytes("[main]\natime=1795219964\n"));
  assertEquals(decodeAccessTime(encodeAccessTime(1795219964.7)), 1795219964);
});

Deno.test("an access time is found anywhere in the first 199 bytes, and nowhere else", pure, () => {
  assertEquals(decodeAccessTime(bytes("x atime= 5")), 5);
  for (const text of ["", "[main]\n", "atime=", "atime=x", `${" ".repeat(199)}atime=5`]) {
    assertEquals(decodeAccessTime(bytes(text)), null, text);
  }
  assertEquals(decodeAccessTime(Uint8Array.of(0xff, 0xfe)), null);
});
