import { assert, assertEquals, assertRejects } from "@std/assert";
import { DirectoryStore } from "../../../src/server/dnbd3/directory_store.ts";
import { sameIdentity } from "../../../src/server/dnbd3/image_store.ts";
import { Image } from "../../../src/server/dnbd3/image.ts";

async function withDirectory(run: (root: string, store: DirectoryStore) => Promise<void>) {
  const root = await Deno.makeTempDir();
  try {
    await run(root, new DirectoryStore(root));
  } finally {
    await Deno.remove(root, { recursive: true });
  }
}

Deno.test("list() walks the tree, follows links, and passes over what cannot be an image", async () => {
  await withDirectory(async (root, store) => {
    await Deno.mkdir(`${root}/sub/deep`, { recursive: true });
    await Deno.mkdir(`${root}/.hidden`);
    for (
      const path of ["a.r1", "a.r1.crc", ".b.r1", "sub/c.r1", "sub/deep/d.r2", ".hidden/e.r1", "räume x.r1"]
    ) {
      await Deno.writeTextFile(`${root}/${path}`, "x");
    }
    await Deno.symlink(`${root}/a.r1`, `${root}/sub/link.r1`);
    await Deno.symlink(root, `${root}/sub/deep/circle`);
    await Deno.symlink("/nonexistent", `${root}/dangling.r1`);
    const paths = await store.list();
    assertEquals(paths.filter((path) => !path.includes("circle")).sort(), [
      "a.r1",
      "räume x.r1",
      "sub/c.r1",
      "sub/deep/d.r2",
      "sub/link.r1",
    ]);
    assert(paths.length < 500, "a circle of links ends");
    assertEquals((await store.entries("sub")).sort(), ["c.r1", "deep", "link.r1"]);
    assertEquals(await store.entries("nowhere"), []);
  });
});

Deno.test("list() fails where there is no base path", async () => {
  await assertRejects(() => new DirectoryStore("/nonexistent/images").list(), Deno.errors.NotFound);
});

Deno.test("identify() tells a file from its successor, and from itself after a write", async () => {
  await withDirectory(async (root, store) => {
    const path = `${root}/a.r1`;
    await Deno.writeFile(path, new Uint8Array(8192));
    const first = store.identify("a.r1")!;
    assertEquals(sameIdentity(first, store.identify("a.r1")!), true);
    await Deno.utime(path, 1000, 1000);
    const touched = store.identify("a.r1")!;
    assertEquals([sameIdentity(first, touched), touched.modifiedNs], [false, 1_000_000_000_000n]);
    await Deno.writeFile(`${root}/new`, new Uint8Array(8192));
    await Deno.utime(`${root}/new`, 1000, 1000);
    await Deno.rename(`${root}/new`, path);
    assertEquals(sameIdentity(touched, store.identify("a.r1")!), false);
    await Deno.remove(path);
    await Deno.mkdir(path);
    assertEquals([store.identify("a.r1"), store.identify("b.r1")], [null, null]);
  });
});

Deno.test("readSmall() reads up to its limit", async () => {
  await withDirectory(async (root, store) => {
    await Deno.writeFile(`${root}/a.crc`, Uint8Array.of(1, 2, 3));
    assertEquals(await store.readSmall("a.crc", 2), Uint8Array.of(1, 2));
    assertEquals(await store.readSmall("a.crc", 9), Uint8Array.of(1, 2, 3));
    assertEquals(await store.readSmall("b.crc", 9), null);
  });
});

Deno.test("an image in a real file is read to its odd end, and a write to it is seen", async () => {
  await withDirectory(async (root, store) => {
    await Deno.writeFile(`${root}/a.r1`, new Uint8Array(5001).fill(3));
    const identity = store.identify("a.r1")!;
    const parts = { id: 1, name: "a", revision: 1, path: "a.r1", identity, checksums: null, map: null };
    const image = new Image(parts, store);
    assertEquals(image.sizeBytes, 8192);
    const into = new Uint8Array(10).fill(9);
    await image.read(4996, into);
    assertEquals(into, Uint8Array.of(3, 3, 3, 3, 3, 0, 0, 0, 0, 0));
    assertEquals(image.isUnchanged(), true);
    await Deno.utime(`${root}/a.r1`, 1000, 1000);
    assertEquals([image.isUnchanged(), image.quarantine], [false, "its file was written to"]);
    await image.closeFile();
  });
});
