import { assertEquals, assertStrictEquals } from "@std/assert";
import { bytewise } from "../../src/device/bytewise.ts";
import type { BlockDevice } from "../../src/device/device.ts";
import { MemoryDisk } from "../../src/device/memory.ts";
import { conformance } from "./conformance.ts";

const BLOCK_BYTES = 4096;

/** A disk that fails on any range that is not made of whole blocks, and answers late. */
function coarse(disk: MemoryDisk): BlockDevice {
  const check = (offset: number, length: number) => {
    if (offset % BLOCK_BYTES !== 0 || length % BLOCK_BYTES !== 0) {
      throw new Error(`${length} bytes at ${offset} are no whole blocks`);
    }
    return Promise.resolve();
  };
  return {
    sizeBytes: disk.sizeBytes,
    blockSizes: { ...disk.blockSizes, minimum: BLOCK_BYTES },
    can: disk.can,
    read: (offset, into) => check(offset, into.length).then(() => disk.read(offset, into)),
    write: (offset, data) => check(offset, data.length).then(() => disk.write(offset, data)),
    zero: (offset, length, options) => check(offset, length).then(() => disk.zero(offset, length, options)),
    trim: (offset, length) => check(offset, length).then(() => disk.trim(offset, length)),
    extents: (offset, length) => check(offset, length).then(() => disk.extents(offset, length)),
    cache: (offset, length) => check(offset, length),
    flush: () => disk.flush(),
    close: () => disk.close(),
  };
}

conformance("BytewiseDisk", {
  sizeBytes: 1 << 20,
  open: (sizeBytes) =>
    Promise.resolve({
      disk: bytewise(coarse(new MemoryDisk(sizeBytes))),
      [Symbol.asyncDispose]: () => Promise.resolve(),
    }),
}, "none");

Deno.test({
  name: "bytewise() leaves a disk alone that takes any range",
  permissions: "none",
  fn() {
    const disk = new MemoryDisk(4096);
    assertStrictEquals(bytewise(disk), disk);
  },
});

Deno.test({
  name: "BytewiseDisk keeps what neighbours write into the same block at the same time",
  permissions: "none",
  async fn() {
    const disk = bytewise(coarse(new MemoryDisk(BLOCK_BYTES)));
    const offsets = Array.from({ length: 64 }, (_, index) => index * 64);
    await Promise.all(offsets.map((offset) => disk.write(offset, new Uint8Array(64).fill(offset / 64 + 1))));
    const content = new Uint8Array(BLOCK_BYTES);
    await disk.read(0, content);
    assertEquals(content, new Uint8Array(BLOCK_BYTES).map((_, index) => (index >> 6) + 1));
  },
});
