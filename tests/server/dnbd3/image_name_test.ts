import { assertEquals, assertThrows } from "@std/assert";
import {
  imageOfPath,
  isImageEntry,
  isImageName,
  pathsOfImage,
  revisionsAmong,
  splitName,
  worldWideName,
} from "../../../src/server/dnbd3/image_name.ts";

function pure(name: string, fn: () => void) {
  Deno.test({ name, permissions: "none", fn });
}

pure("the file of an image ends in .r and its revision", () => {
  assertEquals(imageOfPath("test.r1", false), { name: "test", revision: 1 });
  assertEquals(imageOfPath("sub/dir/odd name.r65535", false), { name: "sub/dir/odd name", revision: 65535 });
  assertEquals(imageOfPath("räume.r3", false), { name: "räume", revision: 3 });
  assertEquals(pathsOfImage({ name: "sub/odd", revision: 3 }, false), ["sub/odd.r3"]);
});

pure("only the last .rN is cut off, and it may have leading zeroes", () => {
  assertEquals(imageOfPath("x.r2.r3", false), { name: "x.r2", revision: 3 });
  assertEquals(imageOfPath("x.r01", false), { name: "x", revision: 1 });
});

pure("other files are no images, unless legacy mode makes them revision 1", () => {
  for (const path of ["disk.vmdk", "x.r", "x.r1a", "x.R1", "r1", "x.r1.bak"]) {
    assertEquals(imageOfPath(path, false), null, path);
    assertEquals(imageOfPath(path, true), { name: path, revision: 1 });
  }
  assertEquals(pathsOfImage({ name: "disk.vmdk", revision: 1 }, true), ["disk.vmdk.r1", "disk.vmdk"]);
  assertEquals(pathsOfImage({ name: "disk.vmdk", revision: 2 }, true), ["disk.vmdk.r2"]);
});

pure("revisions from 1 to 65535 count", () => {
  for (const path of ["x.r0", "x.r65536", "x.r99999999999999999999"]) {
    assertThrows(() => imageOfPath(path, false), RangeError, "is not from 1 to 65535");
  }
});

pure("hidden entries, sidecars and overlong entries are passed over", () => {
  for (const entry of [".hidden.r1", "x.r1.crc", "x.r1.map", "x.r1.meta", "n".repeat(151), "ä".repeat(76)]) {
    assertEquals(isImageEntry(entry), false, entry);
  }
  for (const entry of ["x.r1", "directory", "n".repeat(150)]) assertEquals(isImageEntry(entry), true, entry);
});

pure("names that are empty, absolute, hidden or lead elsewhere cannot be asked for", () => {
  for (
    const name of [
      "",
      "/x",
      "x/",
      ".x",
      "x/.y",
      "..",
      "../x",
      "x/../y",
      "x/./y",
      "x//y",
      "/",
      "a\0b",
      "n".repeat(988),
    ]
  ) {
    assertEquals(isImageName(name), false, name);
  }
  for (const name of ["x", "x/y", "x.r1", "x y", "x..y", "räume/süd", "*", "n".repeat(987)]) {
    assertEquals(isImageName(name), true, name);
  }
});

pure("revisionsAmong() matches exactly, newest first", () => {
  const entries = [
    "x.r2",
    "x.r10",
    "x.r2.r99",
    "x.r01",
    "x.r0",
    "x.r3.crc",
    "xx.r50",
    "x",
    "X.r7",
    "x.r70000",
  ];
  assertEquals(revisionsAmong(entries, "x", false), [10, 2]);
  assertEquals(revisionsAmong(entries, "x", true), [10, 2, 1]);
  assertEquals(revisionsAmong(entries, "x.r2", false), [99]);
  assertEquals(revisionsAmong(["xx.r1"], "*", false), []);
});

pure("splitName() parts directory and name", () => {
  assertEquals(splitName("a/b/c"), { directory: "a/b", baseName: "c" });
  assertEquals(splitName("c"), { directory: "", baseName: "c" });
});

pure("the world wide name is the recorded one, also for bytes above 127", () => {
  assertEquals(worldWideName("test"), 2310065147951306774n);
  // h = (-61 * 131 - 92) modulo 2^64, as the bytes of "ä" count as signed.
  assertEquals(
    worldWideName("ä"),
    (BigInt.asUintN(64, -8083n) & 0xffffffn) | 0x2000000347000000n |
      BigInt.asUintN(64, (BigInt.asUintN(64, -8083n) & 0xfff000000n) << 24n),
  );
});
