import { assertEquals } from "@std/assert";
import { counted } from "../../src/base/counted.ts";

Deno.test({
  name: "counted() has one of a thing, and none or several of things",
  permissions: "none",
  fn() {
    const texts = [0, 1, 2].map((count) => counted(count, "export"));
    assertEquals(texts, ["0 exports", "1 export", "2 exports"]);
    assertEquals([1, 3].map((count) => counted(count, "entry", "entries")), ["1 entry", "3 entries"]);
  },
});
