/** Copies in real files. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { silentLog } from "../../../src/base/log.ts";
import { DeviceError } from "../../../src/device/device_error.ts";
import { systemClock } from "../../../src/os/clock.ts";
import { CopyDirectory } from "../../../src/server/dnbd3/copy_directory.ts";
import { ImageTable } from "../../../src/server/dnbd3/image_table.ts";
import { ProxyImages } from "../../../src/server/dnbd3/proxy_images.ts";
import type { Uplink, Upstream } from "../../../src/server/dnbd3/uplink.ts";
import { PROXY_SETTINGS } from "../../testing/image_world.ts";
import { temporaryDirectory } from "../../testing/process.ts";
import { allocatedBytes, smallFileSystem, storageTest } from "../../testing/storage.ts";
import { patternBytes } from "../../wire/dnbd3/vectors.ts";

const MIB = 1 << 20;
const SPARSE = { sparse: true, ignoreAllocErrors: false };
const WHOLE = { sparse: false, ignoreAllocErrors: false };

Deno.test("create() makes directories and a file of zeroes, with its storage or without", async () => {
  using directory = temporaryDirectory();
  const store = new CopyDirectory(directory.path, silentLog);
  await store.create("lab/whole.r1", MIB, WHOLE);
  await store.create("lab/sparse.r1", MIB, SPARSE);
  assertEquals((await store.list()).sort(), ["lab/sparse.r1", "lab/whole.r1"]);
  assertEquals(allocatedBytes(directory.file("lab/sparse.r1")), 0);
  assert(allocatedBytes(directory.file("lab/whole.r1")) >= MIB);
  assertEquals(store.identify("lab/whole.r1")!.sizeBytes, MIB);
  assertEquals(Deno.readFileSync(directory.file("lab/whole.r1")).every((byte) => byte === 0), true);
});

Deno.test("create() never touches a file that is there, and leaves nothing behind", async () => {
  using directory = temporaryDirectory();
  Deno.writeFileSync(directory.file("x.r1"), Uint8Array.of(1, 2, 3));
  const store = new CopyDirectory(directory.path, silentLog);
  await assertRejects(() => store.create("x.r1", MIB, SPARSE), DeviceError, "there is such a file");
  assertEquals(Deno.readFileSync(directory.file("x.r1")), Uint8Array.of(1, 2, 3));
  assertEquals([...Deno.readDirSync(directory.path)].length, 1);
});

Deno.test("writeSmall() replaces a file as a whole, remove() takes it away whether it is there or not", async () => {
  using directory = temporaryDirectory();
  const store = new CopyDirectory(directory.path, silentLog);
  for (const text of ["long text", "short"]) {
    await store.writeSmall("lab/x.r1.crc", new TextEncoder().encode(text));
    assertEquals(Deno.readTextFileSync(directory.file("lab/x.r1.crc")), text);
  }
  await store.remove("lab/x.r1.crc");
  await store.remove("lab/x.r1.crc");
  assertEquals(await store.readSmall("lab/x.r1.crc", 10), null);
  assertEquals([...Deno.readDirSync(directory.file("lab"))].length, 0);
});

/** A server that has any image, of the well-known content. */
function upstreamOf(sizeBytes: number): Upstream {
  const uplink = (name: string): Uplink => ({
    image: { version: 3, name, revision: 1, sizeBytes },
    checksums: null,
    fetch: (offset, into) => {
      into.set(patternBytes(offset, into.length));
      return Promise.resolve("there");
    },
    distrust: () => {},
    avoidServer: () => {},
    status: () => ({ server: "there", servers: [] }),
    close: () => Promise.resolve(),
  });
  return {
    covers: () => true,
    find: (name, _revision, refuse) => {
      const link = uplink(name);
      return Promise.resolve(refuse(link.image) === null ? link : null);
    },
    resume: ({ image }) => uplink(image.name),
  };
}

function proxyOver(root: string, sizeBytes: number, settings: Partial<typeof PROXY_SETTINGS> = {}) {
  const store = new CopyDirectory(root, silentLog);
  const table = new ImageTable(
    store,
    { vmdkLegacyMode: false, removeMissingImages: true, maxImages: 100 },
    silentLog,
  );
  const images = new ProxyImages({
    table,
    store,
    upstream: upstreamOf(sizeBytes),
    settings: { ...PROXY_SETTINGS, ...settings },
    clock: systemClock,
    log: silentLog,
    wallMs: () => Date.now(),
  });
  const find = (name: string) =>
    images.findFor({ version: 3, name, revision: 1, flags: 0 }, { isServer: false, replicates: false });
  return { images, table, find };
}

Deno.test("P7: an orderly end keeps in real files what was copied, and the next start goes on with it", async () => {
  using directory = temporaryDirectory();
  const sizeBytes = 3 * MIB + 4096;
  const into = new Uint8Array(MIB);
  for (const offset of [0, 2 * MIB]) {
    const { images, table, find } = proxyOver(directory.path, sizeBytes);
    const image = (await find("lab/x"))!;
    await images.readBlock(image, offset, into, 0, null);
    assertEquals(into, patternBytes(offset, MIB));
    await images.close();
    await table.close();
  }
  const map = Deno.readFileSync(directory.file("lab/x.r1.map"));
  assertEquals([...map].filter((byte) => byte === 0xff).length, 2 * 32);
  const { images, table, find } = proxyOver(directory.path, sizeBytes);
  const image = (await find("lab/x"))!;
  for (const offset of [MIB, sizeBytes - MIB]) await images.readBlock(image, offset, into, 0, null);
  await images.close();
  await table.close();
  assertEquals(await Deno.stat(directory.file("lab/x.r1.map")).catch(() => null), null);
  assertEquals(Deno.readFileSync(directory.file("lab/x.r1")), patternBytes(0, sizeBytes));
});

storageTest(
  "P9: an image for which the file system has no room is not copied; without its storage it is",
  async () => {
    await using directory = await smallFileSystem(16 * MIB);
    const whole = proxyOver(directory.path, 64 * MIB);
    assertEquals(await whole.find("x"), null);
    assertEquals([...Deno.readDirSync(directory.path)].length, 0);
    await whole.images.close();
  },
);

storageTest(
  "P9: when a write finds no room, an old copy is deleted; without one all is given and nothing more kept",
  async () => {
    await using directory = await smallFileSystem(16 * MIB);
    // Copies that are not complete, without holes filled: 12 MiB each, of which the disk can hold one.
    const { images, table, find } = proxyOver(directory.path, 12 * MIB, {
      ignoreAllocErrors: true,
      autoFreeDiskSpaceDelay: 0,
    });
    const store = new CopyDirectory(directory.path, silentLog);
    for (const name of ["old", "new"]) {
      await store.writeSmall(`${name}.r1.map`, new Uint8Array(12 * MIB / 32_768));
      await store.create(`${name}.r1`, 12 * MIB, SPARSE);
    }
    const into = new Uint8Array(MIB);
    const readAll = async (name: string) => {
      const image = (await find(name))!;
      for (let offset = 0; offset < 12 * MIB; offset += MIB) {
        await images.readBlock(image, offset, into, 0, null);
        assertEquals(into, patternBytes(offset, MIB));
      }
      return image;
    };
    const old = await readAll("old");
    old.accessedAtMs = Date.now() - 2 * 24 * 3600 * 1000;
    const image = await readAll("new");
    // The end waits for what is being written.
    await images.close();
    assertEquals(table.list().map(String), ["new:1"]);
    await table.close();
    assertEquals(image.map === null, true, "not all of it is kept");
    // Times of use are written as far as there is room.
    const names = () =>
      [...Deno.readDirSync(directory.path)].map(({ name }) => name).filter((name) => !name.endsWith(".meta"))
        .sort();
    assertEquals(names(), ["new.r1"]);

    // Now the only other one was used just now.
    const tight = proxyOver(directory.path, 12 * MIB, { sparseFiles: true, autoFreeDiskSpaceDelay: 0 });
    await store.writeSmall("more.r1.map", new Uint8Array(12 * MIB / 32_768));
    await store.create("more.r1", 12 * MIB, SPARSE);
    const more = (await tight.find("more"))!;
    for (let offset = 0; offset < 12 * MIB; offset += MIB) {
      await tight.images.readBlock(more, offset, into, 0, null);
      assertEquals(into, patternBytes(offset, MIB));
    }
    await tight.images.close();
    await tight.table.close();
    assertEquals(more.map === null, false);
    assertEquals(names(), ["more.r1", "more.r1.map", "new.r1"]);
  },
);
