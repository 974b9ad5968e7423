import { assert, assertEquals, assertRejects } from "@std/assert";
import { type Log, silentLog } from "../../../src/base/log.ts";
import { ImageTable } from "../../../src/server/dnbd3/image_table.ts";
import * as vectors from "../../wire/dnbd3/vectors.ts";
import { MemoryStore, patternDisk } from "./memory_store.ts";

const SETTINGS = { vmdkLegacyMode: false, removeMissingImages: true, maxImages: 5000 };

/** A table over files of these paths and sizes, and what it warned of. */
function tableOf(files: Record<string, number>, settings: Partial<typeof SETTINGS> = {}) {
  const store = new MemoryStore();
  for (const [path, size] of Object.entries(files)) store.put(path, patternDisk(size));
  const warnings: string[] = [];
  const log: Log = {
    ...silentLog,
    warn: (text) => warnings.push(text),
    error: (text) => warnings.push(text),
  };
  return { store, warnings, table: new ImageTable(store, { ...SETTINGS, ...settings }, log) };
}

const names = (table: ImageTable) => table.list().map((image) => `${image} ${image.sizeBytes}`);

Deno.test("S7: scan() finds images in all directories and says their virtual size", async () => {
  const { table } = tableOf({ "test.r1": 8192, "sub/odd.r3": 5000, "sub/dir/x y.r65535": 1 });
  await table.scan();
  assertEquals(names(table), ["sub/dir/x y:65535 4096", "sub/odd:3 8192", "test:1 8192"]);
});

Deno.test("S7: scan() passes over what is no image, and says so where it looks like one", async () => {
  const { table, warnings } = tableOf({
    "readme": 1,
    ".hidden.r1": 1,
    "test.r1": 1,
    "test.r1.crc": 8,
    "test.r1.meta": 8,
    "zero.r0": 1,
    "big.r65536": 1,
    "empty.r1": 0,
    "same.r1": 1,
    "same.r01": 1,
  });
  await table.scan();
  assertEquals(names(table), ["same:1 4096", "test:1 4096"]);
  assertEquals(
    warnings.sort().map((text) => text.split(":")[0]),
    [
      "/images/big.r65536 is skipped",
      "/images/empty.r1 is empty and no image",
      "/images/test.r1.crc is not used",
      "/images/zero.r0 is skipped",
      "same.r1 is skipped",
    ].sort(),
  );
});

Deno.test("S7: scan() fails when the base path cannot be read, and changes nothing", async () => {
  const { table, store } = tableOf({ "test.r1": 1 });
  await table.scan();
  store.unreadable = true;
  await assertRejects(() => table.scan(), Deno.errors.NotFound);
  assertEquals(names(table), ["test:1 4096"]);
});

Deno.test("S7: with vmdkLegacyMode every file is an image", async () => {
  const { table } = tableOf({ "disk.vmdk": 1, "disk.vmdk.r2": 1 }, { vmdkLegacyMode: true });
  await table.scan();
  assertEquals(names(table), ["disk.vmdk:1 4096", "disk.vmdk:2 4096"]);
  assertEquals(`${await table.find("disk.vmdk", 0)}`, "disk.vmdk:2");
  assertEquals(`${await table.find("disk.vmdk", 1)}`, "disk.vmdk:1");
});

Deno.test("S7: with vmdkLegacyMode a sidecar is no image", async () => {
  const { table } = tableOf({ "disk": 1, "disk.crc": 8, "disk.map": 1, "disk.meta": 24 }, {
    vmdkLegacyMode: true,
  });
  await table.scan();
  assertEquals(names(table).length, 1);
  for (const name of ["disk.crc", "disk.map", "disk.meta"]) {
    assertEquals([await table.find(name, 1), await table.find(name, 0)], [null, null]);
  }
});

Deno.test("S7: find() gives the newest revision for 0, and exact ones", async () => {
  const { table } = tableOf({ "multi.r2": 1, "multi.r7": 1, "multi.r7.r9": 1 });
  await table.scan();
  assertEquals(`${await table.find("multi", 0)}`, "multi:7");
  assertEquals(`${await table.find("multi", 2)}`, "multi:2");
  assertEquals(`${await table.find("multi.r7", 0)}`, "multi.r7:9");
  assertEquals(await table.find("multi", 3), null);
  assertEquals(await table.find("Multi", 0), null);
});

Deno.test("S7: find() loads what was added since the scan", async () => {
  const { table, store } = tableOf({ "multi.r2": 1 });
  await table.scan();
  store.put("multi.r3", patternDisk(1));
  store.put("new/x.r1", patternDisk(1));
  assertEquals(`${await table.find("multi", 0)}`, "multi:3");
  assertEquals(`${await table.find("new/x", 1)}`, "new/x:1");
  assertEquals(table.list().length, 3);
});

Deno.test("S7: find() asked by many at once loads once", async () => {
  const { table } = tableOf({ "x.r1": 1 });
  const found = await Promise.all(Array.from({ length: 20 }, () => table.find("x", 0)));
  assertEquals(new Set(found).size, 1);
  assertEquals(table.list().length, 1);
});

Deno.test("S7: find() refuses names that lead elsewhere", async () => {
  const { table } = tableOf({ "x.r1": 1, ".y.r1": 1, "sub/z.r1": 1, "x.r1.crc.r1": 1 });
  for (const name of ["", "/x", "x/", ".y", "sub//z", "sub/../x", "../x"]) {
    assertEquals(await table.find(name, 1), null, name);
    assertEquals(await table.find(name, 0), null, name);
  }
});

Deno.test("find() falls back to an older revision when the newest cannot be opened", async () => {
  const { table, store } = tableOf({ "x.r1": 1, "x.r2": 0 });
  await table.scan();
  assertEquals(`${await table.find("x", 0)}`, "x:1");
  assertEquals(await table.find("x", 2), null);
  const open = store.open.bind(store);
  store.put("x.r3", patternDisk(1));
  store.open = (path) => path === "x.r3" ? Promise.reject(new Error("no")) : open(path);
  assertEquals(`${await table.find("x", 0)}`, "x:1");
});

Deno.test("S7: a deleted file is served on until the next scan, and then to those who have it", async () => {
  const { table, store } = tableOf({ "x.r1": 8192 });
  const image = (await table.find("x", 1))!;
  image.enter({ drop: () => {} });
  store.delete("x.r1");
  assertEquals(await table.find("x", 1), image);
  await table.scan();
  assertEquals(await table.find("x", 1), null);
  assertEquals([image.quarantine, image.isUnchanged()], [null, true]);
  const into = new Uint8Array(8);
  await image.read(4096, into);
  assertEquals(into, vectors.patternBytes(4096, 8));
});

Deno.test("S7: without removeMissingImages the entry of a deleted file stays", async () => {
  const { table, store } = tableOf({ "x.r1": 8192 }, { removeMissingImages: false });
  await table.scan();
  store.delete("x.r1");
  await table.scan();
  assertEquals(names(table), ["x:1 8192"]);
  assertEquals(await table.find("x", 1), null);
});

Deno.test("the file of a forgotten image is closed when its last user leaves", async () => {
  const { table, store } = tableOf({ "x.r1": 8192 });
  const image = (await table.find("x", 1))!;
  const user = { drop: () => {} };
  image.enter(user);
  store.delete("x.r1");
  await table.scan();
  assertEquals(store.openCounts.get("x.r1"), 1);
  image.leave(user);
  assertEquals(store.openCounts.get("x.r1"), 0);
});

for (
  const [how, change] of [
    ["written to", (store: MemoryStore) => store.overwrite("x.r1", 0, Uint8Array.of(1))],
    ["replaced by one of the same size", (store: MemoryStore) => store.put("x.r1", patternDisk(8192))],
    ["replaced by a larger one", (store: MemoryStore) => store.put("x.r1", patternDisk(16384))],
  ] as const
) {
  Deno.test(`rule 19: an image whose file was ${how} is quarantined and its users are dropped`, async () => {
    const { table, store, warnings } = tableOf({ "x.r1": 8192 });
    const image = (await table.find("x", 1))!;
    const dropped: string[] = [];
    image.enter({ drop: (reason) => dropped.push(reason) });
    await change(store);
    assertEquals(await table.find("x", 1), null);
    assertEquals(dropped, [image.quarantine]);
    assertEquals(image.isUnchanged(), false);
    assert(warnings[0].includes("image x:1 is quarantined"), warnings[0]);
    // Until the operator asks for what is there now.
    assertEquals(await table.find("x", 0), null);
    await table.scan();
    const now = (await table.find("x", 1))!;
    assertEquals([now.quarantine, now === image], [null, false]);
  });
}

Deno.test("rule 19: an image that changed between the scan and its opening is not served", async () => {
  const { table, store } = tableOf({ "x.r1": 8192 });
  await table.scan();
  const open = store.open.bind(store);
  store.open = async (path) => {
    await store.overwrite(path, 0, Uint8Array.of(1));
    return await open(path);
  };
  assertEquals(await table.find("x", 1), null);
  assertEquals(table.known("x", 1)?.quarantine, "the file changed before it was opened");
  assertEquals(store.openCounts.get("x.r1"), 0);
});

Deno.test("S5: a checksum list is loaded with its image, or found by the next scan", async () => {
  const { table, store, warnings } = tableOf({
    "test.r1": vectors.TEST_BYTES,
    "sub/odd.r3": vectors.ODD_FILE_BYTES,
  });
  store.put("test.r1.crc", vectors.CHECKSUM_FILE_OF_TEST);
  await table.scan();
  const [odd, test] = table.list();
  assertEquals([odd.checksums, test.checksums?.checksums.length], [null, 4]);
  store.put("sub/odd.r3.crc", vectors.CHECKSUM_FILE_OF_ODD);
  await table.scan();
  assertEquals([table.list()[0], odd.checksums?.checksums.length], [odd, 2]);
  assertEquals(warnings, []);
});

Deno.test("S5: a checksum list that is broken or too short is no list, and the image is served", async () => {
  const { table, store, warnings } = tableOf({
    "test.r1": vectors.TEST_BYTES,
    "odd.r3": vectors.ODD_FILE_BYTES,
  });
  const broken = vectors.CHECKSUM_FILE_OF_TEST.slice();
  broken[5] ^= 1;
  store.put("test.r1.crc", broken);
  store.put("odd.r3.crc", vectors.CHECKSUM_FILE_OF_ODD.subarray(0, 8));
  await table.scan();
  assertEquals(table.list().map((image) => image.checksums), [null, null]);
  assertEquals(warnings.map((text) => text.split(":")[0]), [
    "/images/odd.r3.crc is not used",
    "/images/test.r1.crc is not used",
  ]);
  assertEquals(`${await table.find("test", 1)}`, "test:1");
});

Deno.test("S7: an image whose checksum list was replaced is another image", async () => {
  const { table, store } = tableOf({ "test.r1": vectors.TEST_BYTES });
  store.put("test.r1.crc", vectors.CHECKSUM_FILE_OF_TEST);
  await table.scan();
  const [image] = table.list();
  const other = Uint8Array.from(vectors.CHECKSUM_FILE_OF_ODD);
  store.put("test.r1.crc", Uint8Array.of(...other, ...other));
  await table.scan();
  assertEquals(table.list(), [image], "a broken list changes nothing");
  const { encodeChecksumList, ChecksumList } = await import("../../../src/wire/dnbd3/checksum_list.ts");
  store.put("test.r1.crc", encodeChecksumList(new ChecksumList(Uint32Array.of(1, 2, 3, 4))));
  await table.scan();
  assertEquals(table.list().length, 1);
  assert(table.list()[0] !== image);
});

Deno.test("a .map beside an image makes it incomplete", async () => {
  const { table, store } = tableOf({ "x.r1": 20 * 4096 });
  store.put("x.r1.map", Uint8Array.of(0x0f, 0, 0));
  const image = (await table.find("x", 1))!;
  assertEquals(image.map?.missingBlocks, 16);
  assertEquals([image.has(0, 16384), image.has(16383, 2)], [true, false]);
});

Deno.test("S11: no more than maxImages are loaded", async () => {
  const { table, warnings } = tableOf({ "a.r1": 1, "b.r1": 1, "c.r1": 1 }, { maxImages: 2 });
  await table.scan();
  assertEquals(table.list().length, 2);
  assertEquals(warnings, ["/images/c.r1 is one more than maxImages=2"]);
});

Deno.test("each image has a number that is never used again", async () => {
  const { table, store } = tableOf({ "a.r1": 1, "b.r1": 1 });
  await table.scan();
  store.delete("a.r1");
  await table.scan();
  store.put("a.r1", patternDisk(1));
  await table.scan();
  assertEquals(table.list().map((image) => [`${image}`, image.id]), [["b:1", 2], ["a:1", 3]]);
});
