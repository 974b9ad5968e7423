/**
 * The disk of a simulated machine: it takes its time, fails now and then, and loses what was not synced when power is
 * lost. Somebody outside can look at what is on the medium.
 */
import { RangeOrder } from "../../src/base/range_order.ts";
import type { BlockDevice, DiskIdentity, Extent, WriteOptions } from "../../src/device/device.ts";
import { DeviceError, type DeviceOperation } from "../../src/device/device_error.ts";
import { delay } from "../../src/os/clock.ts";
import type { Surroundings } from "./network.ts";

/** What is written together, or not at all. */
export const SECTOR_BYTES = 512;

const BLOCK_SIZES = { minimum: 1, preferred: 4096, maximumPayload: 32 * 1024 * 1024 };
const CAN = {
  write: true,
  flush: true,
  fua: true,
  trim: true,
  zero: true,
  fastZero: true,
  cache: true,
  multiConn: true,
  extents: true,
  rotational: false,
};

interface Change {
  readonly offset: number;
  /** `null` for zeroes. */
  readonly data: Uint8Array | null;
  readonly length: number;
  durable: boolean;
}

export class Medium {
  readonly sizeBytes: number;
  /** What power loss leaves. */
  readonly stored: Uint8Array;
  /** What reads see. */
  readonly cached: Uint8Array;
  #unsynced: Change[] = [];
  readonly #surroundings: Surroundings;
  /** From 0 to 1: how many operations fail. */
  faultChance = 0;
  /** How many take longer, and how long at most, in milliseconds. */
  slowChance = 0.2;
  slowMs = 10;
  faults = 0;
  #life: DiskOfLife | null = null;

  constructor(sizeBytes: number, surroundings: Surroundings) {
    this.sizeBytes = sizeBytes;
    this.stored = new Uint8Array(sizeBytes);
    this.cached = new Uint8Array(sizeBytes);
    this.#surroundings = surroundings;
  }

  /** The disk, for a process that has just started. */
  open(identity?: DiskIdentity): BlockDevice {
    this.#life = new DiskOfLife(this, this.#surroundings, identity);
    return this.#life;
  }

  /** The process that has the disk open is gone. What it had asked for has happened or has not. */
  kill(): void {
    this.#life?.end();
    this.#life = null;
  }

  /** The machine loses power: of what was not synced each sector may be there or not. */
  losePower(): void {
    this.kill();
    const { random } = this.#surroundings;
    const share = random.chance(0.5) ? 0 : random.below(100) / 100;
    for (const { offset, data, length, durable } of this.#unsynced) {
      for (let at = 0; at < length; at += SECTOR_BYTES) {
        const count = Math.min(SECTOR_BYTES, length - at);
        // What is durable is there, but what is kept of the older must not cover it.
        if (durable || random.chance(share)) {
          copy(this.stored, offset + at, data?.subarray(at, at + count) ?? null, count);
        }
      }
    }
    this.#unsynced = [];
    this.cached.set(this.stored);
  }

  change(offset: number, data: Uint8Array | null, length: number, durable: boolean): void {
    const kept = data === null ? null : data.slice();
    copy(this.cached, offset, kept, length);
    if (durable) copy(this.stored, offset, kept, length);
    this.#unsynced.push({ offset, data: kept, length, durable });
  }

  /** A sync begins: call the result when it has succeeded. It covers what was done before it began. */
  syncing(): () => void {
    const covered = new Set(this.#unsynced);
    return () => {
      const left: Change[] = [];
      for (const change of this.#unsynced) {
        if (!covered.has(change)) left.push(change);
        else copy(this.stored, change.offset, change.data, change.length);
      }
      // What became durable meanwhile must not be covered by what is older.
      for (const { offset, data, length, durable } of left) {
        if (durable) copy(this.stored, offset, data, length);
      }
      this.#unsynced = left;
    };
  }
}

function copy(to: Uint8Array, offset: number, data: Uint8Array | null, length: number): void {
  if (data === null) to.fill(0, offset, offset + length);
  else to.set(data, offset);
}

/** A medium as one process sees it. */
class DiskOfLife implements BlockDevice {
  readonly sizeBytes: number;
  readonly blockSizes = BLOCK_SIZES;
  readonly can = CAN;
  readonly identity;
  readonly #medium: Medium;
  readonly #surroundings: Surroundings;
  readonly #order = new RangeOrder();
  #over = false;

  constructor(medium: Medium, surroundings: Surroundings, identity: DiskIdentity | undefined) {
    this.#medium = medium;
    this.#surroundings = surroundings;
    this.sizeBytes = medium.sizeBytes;
    this.identity = identity;
  }

  end(): void {
    this.#over = true;
  }

  read(offset: number, into: Uint8Array): void | Promise<void> {
    return this.#ordered("read", false, offset, into.length, () => {
      into.set(this.#medium.cached.subarray(offset, offset + into.length));
    });
  }

  write(offset: number, data: Uint8Array, options?: WriteOptions): void | Promise<void> {
    return this.#change("write", offset, data, data.length, options);
  }

  flush(): void | Promise<void> {
    const synced = this.#medium.syncing();
    return this.#takeTime("flush", undefined, undefined, synced);
  }

  trim(offset: number, length: number, options?: WriteOptions): void | Promise<void> {
    return this.#change("trim", offset, null, length, options);
  }

  zero(offset: number, length: number, options?: WriteOptions): void | Promise<void> {
    return this.#change("zero", offset, null, length, options);
  }

  /** Runs of sectors of zeroes are holes. */
  extents(offset: number, length: number): Extent[] {
    const found: { length: number; kind: "data" | "hole" }[] = [];
    for (let at = offset; at < offset + length;) {
      const end = Math.min(offset + length, at - at % SECTOR_BYTES + SECTOR_BYTES);
      const kind = this.#medium.cached.subarray(at, end).every((byte) => byte === 0) ? "hole" : "data";
      const last = found.at(-1);
      if (last?.kind === kind) last.length += end - at;
      else found.push({ length: end - at, kind });
      at = end;
    }
    return found;
  }

  cache(): void {}

  close(): Promise<void> {
    return Promise.resolve();
  }

  #change(
    operation: DeviceOperation,
    offset: number,
    data: Uint8Array | null,
    length: number,
    { fua = false }: WriteOptions = {},
  ): void | Promise<void> {
    return this.#ordered(operation, true, offset, length, () => {
      this.#medium.change(offset, data, length, fua);
    });
  }

  #ordered(
    operation: DeviceOperation,
    writes: boolean,
    offset: number,
    length: number,
    work: () => void,
  ): void | Promise<void> {
    if (this.#order.conflicts(writes, offset, length)) {
      return this.#order.run(writes, offset, length, () => this.#takeTime(operation, offset, length, work));
    }
    const working = this.#takeTime(operation, offset, length, work);
    return working === undefined ? undefined : this.#order.run(writes, offset, length, () => working);
  }

  #takeTime(
    operation: DeviceOperation,
    offset: number | undefined,
    length: number | undefined,
    work: () => void,
  ): void | Promise<void> {
    const { random, time, trace } = this.#surroundings;
    const { faultChance, slowChance, slowMs } = this.#medium;
    const fails = faultChance > 0 && random.chance(faultChance);
    const happens = () => {
      if (this.#over) throw new DeviceError("ESHUTDOWN", operation, offset, length, { detail: "crashed" });
      trace.note(operation, offset ?? -1, length ?? -1);
      if (!fails) return work();
      this.#medium.faults++;
      trace.note("fails");
      throw new DeviceError(operation === "write" ? "ENOSPC" : "EIO", operation, offset, length);
    };
    if (slowChance === 0 || !random.chance(slowChance)) return happens();
    return delay(time, random.below(slowMs * 1000) / 1000).then(happens);
  }
}
