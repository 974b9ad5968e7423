/**
 * Where a file or block device has storage, and how that is had and given back: holes, zeroes, and what the file
 * system turns out not to know. Errors are those of the system; ranges are in bytes and inside the disk.
 */
import { isZero } from "../base/zero_check.ts";
import type { Clock } from "../os/clock.ts";
import { ALLOCATE, type OpenFile } from "../os/file_calls.ts";
import { OsError } from "../os/os_error.ts";
import type { Extent } from "./device.ts";

/** Zeroes are recognised in pieces of this size and alignment. */
const PIECE_BYTES = 4096;
/** Bounds of one answer of `extents`. */
const EXTENTS_MAX = 1024;
const EXTENTS_MS = 2;

const zeroes = new Uint8Array(256 * 1024);

/** Part of a buffer or file, in bytes from its start. */
export interface Run {
  readonly from: number;
  readonly to: number;
}

/** How a range is to be zeroed. */
export interface ZeroPlan {
  /** By giving storage back, where the file system knows how. */
  readonly punch: boolean;
  /** What has no storage needs none afterwards. */
  readonly mayPunch: boolean;
  /** Not at all, rather than by writing zeroes. */
  readonly fast: boolean;
}

export class FileStorage {
  readonly #file: OpenFile;
  readonly #sizeBytes: number;
  readonly #clock: Clock;
  readonly #isDevice: boolean;
  /** Of a device; 1 for a file. */
  readonly #sectorBytes: number;
  #sparse: boolean;
  /** What the file system turned out not to know. */
  readonly #cannot = { punch: false, zero: false, discard: false, findStorage: false };
  /** No hole is in these bytes. */
  #dense: Run = { from: 0, to: 0 };

  constructor(file: OpenFile, sizeBytes: number, clock: Clock) {
    const { kind, allocatedBytes } = file.status;
    this.#file = file;
    this.#sizeBytes = sizeBytes;
    this.#clock = clock;
    this.#isDevice = kind === "block device";
    this.#sectorBytes = this.#isDevice ? file.deviceSectorBytes() : 1;
    this.#sparse = !this.#isDevice && allocatedBytes < sizeBytes;
  }

  /** There may be holes. */
  get isSparse(): boolean {
    return this.#sparse;
  }

  /** Whether no hole is in a range, as far as can be told. */
  isDense(from: number, to: number): boolean {
    if (!this.#sparse) return true;
    if (this.#isKnownDense(from, to)) return true;
    try {
      this.#dense = { from, to: this.#file.seekHole(from) ?? from };
    } catch {
      return false;
    }
    return to <= this.#dense.to;
  }

  #isKnownDense(from: number, to: number): boolean {
    return from >= this.#dense.from && to <= this.#dense.to;
  }

  /**
   * The parts of a write that must be stored: all but pieces of zeroes that lie in a hole.
   *
   * @returns `null` if that is all of it.
   */
  runsToStore(offset: number, data: Uint8Array): Run[] | null {
    if (!this.#sparse) return null;
    let runs: Run[] | null = null;
    let stored = 0;
    // What the file system said last, in bytes from `offset`: a hole ends, or data ends.
    let holeEnd = 0;
    let dataEnd = 0;
    for (let from = 0, to; from < data.length; from = to) {
      to = Math.min(data.length, from + PIECE_BYTES - (offset + from) % PIECE_BYTES);
      if (from < dataEnd || !isZero(data, from, to)) continue;
      if (from >= holeEnd) {
        holeEnd = (this.#file.seekData(offset + from) ?? this.#sizeBytes) - offset;
        if (holeEnd < to && to < data.length) {
          dataEnd = (this.#file.seekHole(offset + holeEnd) ?? this.#sizeBytes) - offset;
        }
      }
      if (to > holeEnd) continue;
      runs ??= [];
      if (stored < from) runs.push({ from: stored, to: from });
      stored = to;
    }
    if (runs !== null && stored < data.length) runs.push({ from: stored, to: data.length });
    return runs;
  }

  /** Gives storage back, where the file system or the device knows how. */
  async discard(offset: number, length: number): Promise<void> {
    if (!this.#isDevice) return void await this.#punch(offset, length);
    const { from, to } = this.#sectorsWithin(offset, length);
    if (from < to && !this.#cannot.discard) {
      this.#cannot.discard = !await supported(this.#file.discard(from, to - from));
    }
  }

  /** @throws {OsError} EOPNOTSUPP if it is to be fast and cannot be. */
  async zero(offset: number, length: number, plan: ZeroPlan): Promise<void> {
    if (this.#isDevice) await this.#zeroSectors(offset, length, plan);
    else await this.#zeroFile(offset, length, plan);
  }

  async #zeroFile(offset: number, length: number, { punch, mayPunch, fast }: ZeroPlan): Promise<void> {
    if (punch && await this.#punch(offset, length)) return;
    // What is a hole reads as zeroes already; unless storage is asked for it stays one.
    const runs = mayPunch && this.#sparse
      ? this.#dataWithin(offset, length)
      : [{ from: offset, to: offset + length }];
    for (const { from, to } of runs) {
      if (await this.#allocate("zero", from, to - from)) continue;
      if (fast) throw new OsError("EOPNOTSUPP", "fallocate");
      await this.#writeZeroes(from, to);
    }
  }

  async #zeroSectors(offset: number, length: number, { punch, fast }: ZeroPlan): Promise<void> {
    const { from, to } = this.#sectorsWithin(offset, length);
    if (from < to) {
      // A device zeroes a range in its own way, or the kernel writes the zeroes: only punching is known to be quick.
      const done = (punch && await this.#allocate("punch", from, to - from)) ||
        (!fast && await this.#allocate("zero", from, to - from));
      if (!done && fast) throw new OsError("EOPNOTSUPP", "fallocate");
      if (!done) await this.#writeZeroes(from, to);
    }
    await this.#writeZeroes(offset, Math.min(from, offset + length));
    if (from <= to) await this.#writeZeroes(to, offset + length);
  }

  async #writeZeroes(from: number, to: number): Promise<void> {
    for (let at = from; at < to;) {
      const piece = zeroes.subarray(0, Math.min(zeroes.length, to - at));
      await this.#file.write(at, piece);
      at += piece.length;
    }
  }

  /** Whole sectors of a device in a range; `from` may lie behind `to`. */
  #sectorsWithin(offset: number, length: number): Run {
    const sector = this.#sectorBytes;
    return { from: Math.ceil(offset / sector) * sector, to: Math.floor((offset + length) / sector) * sector };
  }

  *#dataWithin(offset: number, length: number): Generator<Run> {
    const end = offset + length;
    for (let at = offset; at < end;) {
      const from = this.#file.seekData(at);
      if (from === null || from >= end) return;
      const to = Math.min(end, this.#file.seekHole(from) ?? end);
      yield { from, to };
      at = to;
    }
  }

  /** Makes a hole in a file. @returns Whether the file system knows how. */
  async #punch(offset: number, length: number): Promise<boolean> {
    const done = await this.#allocate("punch", offset, length);
    if (done) this.#sparse = true;
    return done;
  }

  /** @returns Whether the file system knows how. */
  async #allocate(mode: "punch" | "zero", offset: number, length: number): Promise<boolean> {
    if (this.#cannot[mode]) return false;
    const done = await supported(this.#file.allocate(ALLOCATE[mode], offset, length));
    this.#dense = { from: 0, to: 0 };
    this.#cannot[mode] = !done;
    return done;
  }

  /**
   * What is data, hole or zeroes in a range. Stops early after so many extents or so much time, with at least one.
   *
   * @throws {OsError} If the file system does not say.
   */
  extents(offset: number, length: number): Extent[] {
    const extents: Extent[] = [];
    // To look for a hole takes some file systems as long as the file is.
    if (this.#isKnownDense(offset, offset + length)) return [{ kind: "data", length }];
    const untilMs = this.#clock.now() + EXTENTS_MS;
    const file = this.#file;
    const end = Math.min(offset + length, file.end());
    for (let at = offset; at < end;) {
      const data = Math.min(end, file.seekData(at) ?? end);
      if (at < data && this.#appendUnwritten(extents, at, data, untilMs) < data) return extents;
      if (data < end) {
        this.#dense = { from: data, to: file.seekHole(data) ?? end };
        at = Math.min(end, this.#dense.to);
        extents.push({ kind: "data", length: at - data });
      } else {
        at = end;
      }
      if (extents.length >= EXTENTS_MAX || this.#clock.now() > untilMs) return extents;
    }
    // Nothing is known of what somebody cut off, least of all that it reads as zeroes.
    const start = Math.max(offset, end);
    if (start < offset + length) appendExtent(extents, "data", offset + length - start);
    return extents;
  }

  /**
   * Describes what the file system takes for a hole. Storage that was reserved and never written also counts as one,
   * and is what zeroing without permission to punch leaves. Returns how far it got.
   */
  #appendUnwritten(extents: Extent[], from: number, to: number, untilMs: number): number {
    let at = from;
    while (at < to) {
      const storage = this.#sparse ? this.#findStorage(at, to) : { from: at, to };
      const holeEnd = storage?.from ?? to;
      if (at < holeEnd) extents.push({ kind: "hole", length: holeEnd - at });
      if (storage !== null) appendExtent(extents, "zero", storage.to - storage.from);
      at = storage?.to ?? to;
      if (extents.length >= EXTENTS_MAX || this.#clock.now() > untilMs) break;
    }
    return at;
  }

  #findStorage(from: number, to: number): Run | null {
    if (this.#cannot.findStorage) return null;
    try {
      return this.#file.findStorage(from, to - from);
    } catch (error) {
      if (!(error instanceof OsError)) throw error;
      this.#cannot.findStorage = true;
      return null;
    }
  }
}

/** Whether a call worked, rather than not being supported. */
async function supported(call: Promise<void>): Promise<boolean> {
  try {
    await call;
    return true;
  } catch (error) {
    if (error instanceof OsError && (error.code === "EOPNOTSUPP" || error.code === "ENOSYS")) return false;
    throw error;
  }
}

function appendExtent(extents: Extent[], kind: Extent["kind"], length: number): void {
  const last = extents.at(-1);
  if (last?.kind === kind) extents[extents.length - 1] = { kind, length: last.length + length };
  else extents.push({ kind, length });
}
