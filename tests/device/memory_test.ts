import { assertEquals, assertThrows } from "@std/assert";
import { MemoryDisk } from "../../src/device/memory.ts";
import { conformance } from "./conformance.ts";

conformance("MemoryDisk", {
  open: (sizeBytes) =>
    Promise.resolve({ disk: new MemoryDisk(sizeBytes), [Symbol.asyncDispose]: () => Promise.resolve() }),
}, "none");

Deno.test({
  name: "MemoryDisk takes memory only for what is written, and gives it back",
  permissions: "none",
  fn() {
    const disk = new MemoryDisk(2 ** 50);
    disk.write(2 ** 49, new Uint8Array([1]));
    assertEquals(disk.extents(2 ** 49, 65536), [{ kind: "data", length: 65536 }]);
    disk.zero(0, 2 ** 50);
    assertEquals(disk.extents(2 ** 49, 65536), [{ kind: "hole", length: 65536 }]);
  },
});

Deno.test({
  name: "MemoryDisk refuses a size that is no size",
  permissions: "none",
  fn() {
    for (const size of [-1, 1.5, NaN, 2 ** 53]) assertThrows(() => new MemoryDisk(size), RangeError);
  },
});
