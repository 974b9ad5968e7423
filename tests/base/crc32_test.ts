import { assertEquals } from "@std/assert";
import { crc32 } from "../../src/base/crc32.ts";

Deno.test("crc32() has the check value of the published catalogue", { permissions: "none" }, () => {
  assertEquals(crc32("123456789"), 0xcbf43926);
});

Deno.test("crc32() goes on from what came before", { permissions: "none" }, () => {
  const bytes = new TextEncoder().encode("123456789");
  assertEquals(crc32(bytes.subarray(4), crc32(bytes.subarray(0, 4))), 0xcbf43926);
});
