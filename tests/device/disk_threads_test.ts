import { assert, assertEquals } from "@std/assert";
import {
  describeDiskThreads,
  DISK_THREADS_DEFAULT,
  DISK_THREADS_MAX,
  diskThreads,
} from "../../src/device/disk_threads.ts";
import { FileDisk } from "../../src/device/file.ts";
import type { OpenFile } from "../../src/os/file_calls.ts";

const SIZE_BYTES = 64 * 1024 * 1024;
const PIECE_BYTES = 4096;
/** Too long for a write to be made at once. */
const LARGE_BYTES = 512 * 1024;

/** Storage of which nothing is in memory, and whose calls take until they are let go. */
class StuckStorage {
  underWay = 0;
  mostUnderWay = 0;
  readonly #ends: (() => void)[] = [];

  /** A disk on it. */
  disk(): FileDisk {
    const file: Partial<OpenFile> = {
      status: {
        kind: "file",
        sizeBytes: SIZE_BYTES,
        allocatedBytes: SIZE_BYTES,
        inode: 1n,
        deviceMajor: 0,
        deviceMinor: 0,
        modifiedNs: 0n,
        createdNs: 0n,
      },
      canReadCached: () => false,
      read: async (_offset, into) => {
        await this.#call();
        return into.length;
      },
      write: () => this.#call(),
      // A sync does not wait here.
      sync: () => Promise.resolve(),
      end: () => SIZE_BYTES,
      close() {},
    };
    return new FileDisk(file as OpenFile);
  }

  async #call(): Promise<void> {
    this.underWay++;
    this.mostUnderWay = Math.max(this.mostUnderWay, this.underWay);
    await new Promise<void>((resolve) => this.#ends.push(resolve));
    this.underWay--;
  }

  /** Ends the call that began first, and lets all follow that follows from it. */
  async endOne(): Promise<void> {
    this.#ends.shift()!();
    await settled();
  }
}

/** Until nothing goes on without a call that ends. */
function settled(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

/** So many reads of two disks, half of each, and a large write to each. */
function load(storage: StuckStorage, reads: number) {
  const disks = [storage.disk(), storage.disk()];
  const calls = disks.flatMap((disk) => [
    ...Array.from(
      { length: reads / 2 },
      (_, index) => disk.read(index * PIECE_BYTES, new Uint8Array(PIECE_BYTES)),
    ),
    disk.write(SIZE_BYTES / 2, new Uint8Array(LARGE_BYTES)),
  ]);
  return {
    disks,
    calls,
    done: Promise.all(calls).then(() => Promise.all(disks.map((disk) => disk.close()))),
  };
}

for (const count of [1, 8]) {
  Deno.test(`V54: with ${count} disk threads so many calls are under way, the others wait, and all end`, async () => {
    diskThreads.count = count;
    const storage = new StuckStorage();
    const { disks, calls, done } = load(storage, 40);
    await settled();
    // Of each disk so many reads try at a time, and its write.
    assertEquals(describeDiskThreads(), { count, busy: count, waiting: 2 * (16 + 1) - count });
    // A sync has a thread all the same.
    await disks[0].flush();
    for (let left = calls.length; left > 0; left--) {
      assertEquals(storage.underWay, Math.min(count, left));
      await storage.endOne();
    }
    await done;
    assertEquals(storage.mostUnderWay, count);
    assertEquals(describeDiskThreads(), { count, busy: 0, waiting: 0 });
    diskThreads.count = DISK_THREADS_DEFAULT;
  });
}

Deno.test("V54: disk threads become fewer and more under load, and nothing waits for ever", async () => {
  diskThreads.count = 8;
  const storage = new StuckStorage();
  const { calls, done } = load(storage, 40);
  await settled();
  assertEquals(storage.underWay, 8);
  diskThreads.count = 1;
  // What is under way may end; nothing begins before one is left over.
  for (let left = 7; left >= 1; left--) {
    await storage.endOne();
    assertEquals(storage.underWay, left);
  }
  for (let index = 0; index < 5; index++) {
    await storage.endOne();
    assertEquals(storage.underWay, 1);
  }
  // Those who wait begin at once.
  diskThreads.count = 8;
  await settled();
  assertEquals(storage.underWay, 8);
  for (let left = calls.length - 7 - 5; left > 0; left--) {
    assertEquals(storage.underWay, Math.min(8, left));
    await storage.endOne();
  }
  await done;
  assertEquals([storage.underWay, storage.mostUnderWay], [0, 8]);
  assertEquals(describeDiskThreads(), { count: 8, busy: 0, waiting: 0 });
  diskThreads.count = DISK_THREADS_DEFAULT;
});

Deno.test("V54: there are more disk threads where there are more processors, and never all of the pool's", () => {
  assertEquals(diskThreads.count, DISK_THREADS_DEFAULT);
  assertEquals(
    DISK_THREADS_DEFAULT,
    Math.min(24, 16 + 4 * navigator.hardwareConcurrency),
  );
  assert(DISK_THREADS_MAX < 32);
});
