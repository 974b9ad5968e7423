import { assertEquals } from "@std/assert";
import type { Rights } from "../../src/access/acl.ts";
import { KeyList, narrower } from "../../src/access/key_list.ts";

Deno.test({
  name: "KeyList gives what the entry says, and nothing to those who have none",
  permissions: "none",
  fn() {
    const list = new KeyList([
      { key: "A", rights: "write", comment: "alice" },
      { key: "B", rights: "read", comment: "" },
      { key: "C", rights: "none", comment: "lost" },
    ]);
    assertEquals(list.rightsFor("A"), { rights: "write", reason: "key A (alice) is authorised for write" });
    assertEquals(list.rightsFor("B"), { rights: "read", reason: "key B is authorised for read" });
    assertEquals(list.rightsFor("C").rights, "none");
    assertEquals(list.rightsFor("D"), { rights: "none", reason: "key D is not among the authorised peers" });
    list.replace([]);
    assertEquals(list.rightsFor("A").rights, "none");
  },
});

Deno.test({
  name: "narrower() gives the smaller of two rights, for every pair, with its reason",
  permissions: "none",
  fn() {
    const order: Rights[] = ["none", "read", "write"];
    for (const one of order) {
      for (const other of order) {
        const result = narrower({ rights: one, reason: "one" }, { rights: other, reason: "other" });
        assertEquals(result.rights, order[Math.min(order.indexOf(one), order.indexOf(other))]);
        if (one !== other) assertEquals(result.reason, result.rights === one ? "one" : "other");
      }
    }
  },
});
