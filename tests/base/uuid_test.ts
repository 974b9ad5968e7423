import { assertEquals } from "@std/assert";
import { isUuid } from "../../src/base/uuid.ts";

Deno.test({
  name: "isUuid() knows UUIDs by their one spelling",
  permissions: "none",
  fn() {
    const uuid = crypto.randomUUID();
    assertEquals(isUuid(uuid), true);
    const others = [
      uuid.toUpperCase() + "A",
      `${uuid} `,
      `{${uuid}}`,
      uuid.replaceAll("-", ""),
      uuid.slice(1),
      "",
      1,
      null,
    ];
    assertEquals(others.map(isUuid), others.map(() => false));
  },
});
