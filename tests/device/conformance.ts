/**
 * What every disk must do, compared with a plain array: operations drawn from a seed, several under way at a time,
 * overlapping, in every variant. A failure names the seed; `DENBD_SEED=<n>` repeats it.
 */

import { assertEquals } from "@std/assert";
import type { BlockDevice, Extent } from "../../src/device/device.ts";
import { DeviceError } from "../../src/device/device_error.ts";
import { randomFrom } from "../testing/random.ts";

export interface ConformanceOptions {
  /** Makes a disk of exactly so many bytes that reads as zeroes; disposed of after each test. */
  open(sizeBytes: number): Promise<{ disk: BlockDevice } & AsyncDisposable>;
  /** In bytes. Default 1 MiB and some odd bytes. */
  sizeBytes?: number;
  /** Random operations. Default 400. */
  operations?: number;
}

/** Registers the suite under `name`. */
export function conformance(
  name: string,
  options: ConformanceOptions,
  permissions?: Deno.PermissionOptions,
): void {
  const { open, sizeBytes = (1 << 20) + 517, operations = 400 } = options;
  const test = (fact: string, fn: () => Promise<void>) =>
    Deno.test({ name: `${name} ${fact}`, permissions, fn });

  test("has the size it was made with and reads as zeroes", async () => {
    await using opened = await open(sizeBytes);
    assertEquals(opened.disk.sizeBytes, sizeBytes);
    const content = new Uint8Array(sizeBytes).fill(1);
    await opened.disk.read(0, content);
    assertEquals(content.findIndex((byte) => byte !== 0), -1);
  });

  test("does what an array does, in the order of arrival", async () => {
    await using opened = await open(sizeBytes);
    const { disk } = opened;
    const random = randomFrom();
    const expected = new Uint8Array(sizeBytes);
    const pending: Promise<void>[] = [];
    const align = disk.blockSizes.minimum;
    for (let done = 0; done < operations; done++) {
      const { offset, length } = randomRange(random, sizeBytes, align);
      const fua = disk.can.fua && random.chance(0.1);
      const kind = random.below(10);
      let result: void | Promise<void> = undefined;
      if (kind < 4) {
        const data = randomData(random, length);
        result = disk.write(offset, data, { fua });
        expected.set(data, offset);
      } else if (kind < 7) {
        result = checkRead(disk, offset, expected.slice(offset, offset + length), random.seed);
      } else if (kind === 7 && disk.can.zero) {
        const options = { fua, mayPunch: random.chance(0.5), fast: disk.can.fastZero && random.chance(0.3) };
        if (options.fast) {
          // Whether it is refused is known only when it has ended: nothing may be under way that overlaps.
          await Promise.all(pending.splice(0));
          if (await isDone(disk.zero(offset, length, options))) expected.fill(0, offset, offset + length);
        } else {
          result = disk.zero(offset, length, options);
          expected.fill(0, offset, offset + length);
        }
      } else if (kind === 8 && disk.can.trim) {
        // Trimmed bytes may read as anything until written.
        const data = randomData(random, length);
        const trimmed = disk.trim(offset, length, { fua });
        const written = disk.write(offset, data);
        expected.set(data, offset);
        result = Promise.all([trimmed, written]).then(() => {});
      } else if (kind === 9) {
        result = random.chance(0.5) ? disk.flush() : disk.can.cache ? disk.cache(offset, length) : undefined;
      }
      if (result !== undefined) pending.push(result);
      if (pending.length > 16) await Promise.all(pending.splice(0));
    }
    await Promise.all(pending);
    await checkRead(disk, 0, expected, random.seed);
    await checkExtents(disk, expected, random.seed);
  });

  test("describes its extents truthfully and within the range asked for", async () => {
    await using opened = await open(sizeBytes);
    const { disk } = opened;
    const random = randomFrom();
    const expected = new Uint8Array(sizeBytes);
    for (let round = 0; round < 20; round++) {
      const { offset, length } = randomRange(random, sizeBytes, disk.blockSizes.minimum);
      const data = randomData(random, length);
      await disk.write(offset, data);
      expected.set(data, offset);
    }
    await checkExtents(disk, expected, random.seed);
    for (let round = 0; round < 20; round++) {
      const { offset, length } = randomRange(random, sizeBytes, disk.blockSizes.minimum);
      if (length === 0) continue;
      const extents = await disk.extents(offset, length);
      checkShape(extents, length);
    }
  });

  test("keeps storage for zeroes where that is asked for", async () => {
    await using opened = await open(sizeBytes);
    const { disk } = opened;
    if (!disk.can.zero) return;
    await disk.write(0, new Uint8Array(262144).fill(7));
    await disk.zero(65536, 65536, { mayPunch: false });
    const content = new Uint8Array(262144);
    await disk.read(0, content);
    assertEquals(content.slice(65536, 131072), new Uint8Array(65536));
    assertEquals([content[65535], content[131072]], [7, 7]);
  });

  test("is closed twice without harm", async () => {
    await using opened = await open(sizeBytes);
    await opened.disk.close();
    await opened.disk.close();
  });
}

type Random = ReturnType<typeof randomFrom>;

/** Mostly short and near others, so that ranges overlap; sometimes block aligned, sometimes long. */
function randomRange(random: Random, sizeBytes: number, align: number) {
  const unit = random.chance(0.5) ? Math.max(4096, align) : align;
  const length = Math.min(
    sizeBytes,
    Math.ceil((1 + random.below(random.chance(0.1) ? 300_000 : 20_000)) / unit) * unit,
  );
  const offset = Math.floor(random.below(sizeBytes - length + 1) / unit) * unit;
  return { offset, length: Math.min(length, Math.floor((sizeBytes - offset) / align) * align) };
}

/** Random bytes with runs of zeroes, as images have them. */
function randomData(random: Random, length: number): Uint8Array {
  const data = random.bytes(length);
  if (random.chance(0.5)) {
    const from = random.below(length);
    data.fill(0, from, from + random.below(2 * length));
  }
  return data;
}

async function isDone(result: void | Promise<void>): Promise<boolean> {
  try {
    await result;
    return true;
  } catch (error) {
    if (error instanceof DeviceError && error.errno === "ENOTSUP") return false;
    throw error;
  }
}

async function checkRead(
  disk: BlockDevice,
  offset: number,
  expected: Uint8Array,
  seed: number,
): Promise<void> {
  const content = new Uint8Array(expected.length).fill(0xee);
  await disk.read(offset, content);
  const at = content.findIndex((byte, index) => byte !== expected[index]);
  if (at >= 0) {
    throw new Error(`seed ${seed}: byte ${offset + at} is ${content[at]}, not ${expected[at]}`);
  }
}

/** Consecutive extents over the whole disk; what is called zero or a hole is zero. */
async function checkExtents(disk: BlockDevice, expected: Uint8Array, seed: number): Promise<void> {
  for (let offset = 0; offset < expected.length;) {
    const extents = await disk.extents(offset, expected.length - offset);
    checkShape(extents, expected.length - offset);
    for (const { kind, length } of extents) {
      const content = expected.subarray(offset, offset + length);
      if (kind !== "data" && content.some((byte) => byte !== 0)) {
        throw new Error(`seed ${seed}: ${kind} of ${length} bytes at ${offset} holds data`);
      }
      offset += length;
    }
  }
}

function checkShape(extents: Extent[], length: number): void {
  let sum = 0;
  extents.forEach((extent, index) => {
    if (!(extent.length > 0)) throw new Error(`an extent of ${extent.length} bytes`);
    if (index > 0 && extents[index - 1].kind === extent.kind) {
      throw new Error(`neighbours are both ${extent.kind}`);
    }
    sum += extent.length;
  });
  if (sum < 1 || sum > length) throw new Error(`extents of ${sum} bytes for a range of ${length}`);
}
