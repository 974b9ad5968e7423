import { assertEquals, assertRejects, assertStrictEquals } from "@std/assert";
import { copyDisk, type CopyOptions } from "../../src/device/copy_disk.ts";
import type { Abilities, BlockDevice, Extent } from "../../src/device/device.ts";
import { DeviceError } from "../../src/device/device_error.ts";
import { FaultDisk } from "../../src/device/fault.ts";
import { MemoryDisk } from "../../src/device/memory.ts";
import { randomFrom } from "../testing/random.ts";

const KIB = 1024;
const MIB = 1024 * KIB;

/** A disk that writes down what it is asked for, and answers late if it is told to. */
class RecordingDisk extends MemoryDisk {
  readonly asked: string[] = [];
  override readonly can: typeof MemoryDisk.prototype.can;

  constructor(sizeBytes: number, can: Partial<Abilities> = {}, readonly late = false) {
    super(sizeBytes);
    this.can = { ...new MemoryDisk(0).can, ...can } as typeof this.can;
  }

  #note(what: string, act: () => void): void | Promise<void> {
    this.asked.push(what);
    if (!this.late) return act();
    return Promise.resolve().then(act);
  }

  override read(offset: number, into: Uint8Array) {
    return this.#note(`read ${offset} ${into.length}`, () => super.read(offset, into)) as void;
  }
  override write(offset: number, data: Uint8Array) {
    return this.#note(`write ${offset} ${data.length}`, () => super.write(offset, data)) as void;
  }
  override zero(offset: number, length: number) {
    return this.#note(`zero ${offset} ${length}`, () => super.zero(offset, length)) as void;
  }
  override extents(offset: number, length: number): Extent[] {
    return this.can.extents ? super.extents(offset, length) : [{ length, kind: "data" }];
  }
}

function contentOf(disk: BlockDevice, length = disk.sizeBytes): Uint8Array {
  const content = new Uint8Array(length);
  disk.read(0, content);
  return content;
}

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, permissions: "none", fn });
}

test("copyDisk() copies data only, and leaves out what is zero on a destination that reads as zeroes", async () => {
  const source = new RecordingDisk(4 * MIB);
  source.write(MIB, new Uint8Array(64 * KIB).fill(1));
  const destination = new RecordingDisk(4 * MIB);
  await copyDisk(source, destination, { destinationIsZero: true });
  assertEquals(source.asked.slice(1), [`read ${MIB} ${64 * KIB}`]);
  assertEquals(destination.asked, [`write ${MIB} ${64 * KIB}`]);
  assertEquals(contentOf(destination), contentOf(source));
});

test("copyDisk() zeroes what a destination holds where the source has holes", async () => {
  const source = new RecordingDisk(4 * MIB);
  source.write(MIB, new Uint8Array(64 * KIB).fill(1));
  const destination = new RecordingDisk(4 * MIB);
  destination.write(0, new Uint8Array(4 * MIB).fill(0xff));
  await copyDisk(source, destination, { depth: 1 });
  assertEquals(destination.asked.slice(1), [
    `zero 0 ${MIB}`,
    `write ${MIB} ${64 * KIB}`,
    `zero ${MIB + 64 * KIB} ${3 * MIB - 64 * KIB}`,
  ]);
  assertEquals(contentOf(destination), contentOf(source));
});

test("copyDisk() writes zeroes to a destination that cannot zero", async () => {
  const source = new RecordingDisk(MIB);
  source.write(0, new Uint8Array([1]));
  const destination = new RecordingDisk(MIB, { zero: false });
  destination.write(0, new Uint8Array(MIB).fill(0xff));
  await copyDisk(source, destination, { requestBytes: 256 * KIB });
  assertEquals(destination.asked.filter((asked) => asked.startsWith("zero")), []);
  assertEquals(contentOf(destination), contentOf(source));
});

test("copyDisk() finds zeroes in the data of a source that knows no holes", async () => {
  const source = new RecordingDisk(MIB, { extents: false });
  source.write(300 * KIB, new Uint8Array(10).fill(1));
  source.write(MIB - 1, new Uint8Array([1]));
  const empty = new RecordingDisk(MIB);
  await copyDisk(source, empty, { destinationIsZero: true });
  assertEquals(empty.asked, [`write ${300 * KIB} 4096`, `write ${MIB - 4096} 4096`]);
  const full = new RecordingDisk(MIB);
  await copyDisk(source, full, { depth: 1 });
  assertEquals(full.asked, [
    `zero 0 ${256 * KIB}`,
    // 44 KiB of zeroes are not worth a request of their own; what follows the data is.
    `write ${256 * KIB} ${48 * KIB}`,
    `zero ${304 * KIB} ${208 * KIB}`,
    `zero ${512 * KIB} ${256 * KIB}`,
    `zero ${768 * KIB} ${252 * KIB}`,
    `write ${MIB - 4096} 4096`,
  ]);
  assertEquals(contentOf(full), contentOf(source));
});

test("copyDisk() leaves what lies behind the end of the source", async () => {
  const source = new MemoryDisk(1000);
  source.write(0, new Uint8Array(1000).fill(1));
  const destination = new MemoryDisk(3000);
  destination.write(0, new Uint8Array(3000).fill(2));
  await copyDisk(source, destination);
  assertEquals(contentOf(destination).findIndex((byte) => byte === 2), 1000);
});

test("copyDisk() of nothing asks for nothing", async () => {
  const destination = new RecordingDisk(10);
  await copyDisk(new MemoryDisk(0), destination);
  assertEquals(destination.asked, []);
});

test("copyDisk() refuses a destination that is too small, and touches nothing", async () => {
  const destination = new RecordingDisk(999);
  await assertRejects(
    () => copyDisk(new MemoryDisk(1000), destination),
    RangeError,
    "999 bytes, the source 1000",
  );
  assertEquals(destination.asked, []);
});

test("copyDisk() makes any disk equal, whatever both can do, early or late", async () => {
  const random = randomFrom();
  for (let round = 0; round < 30; round++) {
    const sizeBytes = 1 + random.below(2 * MIB);
    const source = new RecordingDisk(sizeBytes, { extents: random.chance(0.5) }, random.chance(0.5));
    const model = new MemoryDisk(sizeBytes);
    for (let extent = random.below(8); extent > 0; extent--) {
      const offset = random.below(sizeBytes);
      const data = random.bytes(Math.min(sizeBytes - offset, random.below(300 * KIB)));
      if (random.chance(0.5)) data.fill(0, random.below(data.length));
      await source.write(offset, data);
      model.write(offset, data);
    }
    const destination = new RecordingDisk(
      sizeBytes + random.below(100),
      { zero: random.chance(0.5) },
      random.chance(0.5),
    );
    const destinationIsZero = random.chance(0.5);
    if (!destinationIsZero) await destination.write(0, random.bytes(sizeBytes));
    const options: CopyOptions = {
      destinationIsZero,
      depth: 1 + random.below(16),
      requestBytes: 4 * KIB << random.below(8),
    };
    let done = 0;
    await copyDisk(source, destination, { ...options, onBytes: (count) => void (done += count) });
    assertEquals(done, sizeBytes);
    const content = new Uint8Array(sizeBytes);
    await destination.read(0, content);
    const expected = contentOf(model);
    const at = content.findIndex((byte, index) => byte !== expected[index]);
    if (at >= 0) {
      throw new Error(
        `seed ${random.seed}, round ${round}: byte ${at} is ${content[at]}, not ${expected[at]}`,
      );
    }
  }
});

test("copyDisk() fails with the first error of any request", async () => {
  for (const operation of ["read", "write", "zero", "extents"] as const) {
    for (const side of ["source", "destination"]) {
      const source = new FaultDisk(filled(MIB));
      const destination = new FaultDisk(new MemoryDisk(MIB));
      const faulty = side === "source" ? source : destination;
      const fault = faulty.add({
        operation,
        errno: "EIO",
        skip: ["read", "write"].includes(operation) ? 1 : 0,
      });
      const copying = copyDisk(source, destination, { requestBytes: 64 * KIB, depth: 4 });
      const used = side === "source" ? ["read", "extents"] : ["write", "zero"];
      if (used.includes(operation)) {
        const error = await assertRejects(() => copying, DeviceError);
        assertEquals([error.errno, error.operation], ["EIO", operation]);
      } else {
        await copying;
        assertEquals(fault.hits, 0);
      }
    }
  }
});

test("copyDisk() ends with the signal's reason although a request never ends", async () => {
  const source = new FaultDisk(filled(MIB));
  const fault = source.add({ operation: "read", hold: true });
  const controller = new AbortController();
  const copying = copyDisk(source, new MemoryDisk(MIB), { signal: controller.signal });
  const reason = new Error("enough");
  controller.abort(reason);
  assertStrictEquals(await assertRejects(() => copying), reason);
  fault.release();
});

/** Half data, half a hole. */
function filled(sizeBytes: number): MemoryDisk {
  const disk = new MemoryDisk(sizeBytes);
  disk.write(0, new Uint8Array(sizeBytes / 2).fill(7));
  return disk;
}
