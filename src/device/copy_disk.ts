/**
 * Copies one disk to another, with many requests under way.
 *
 * What the source knows to be empty is not read, and zeroes that are read are found out; on the destination they
 * become holes, or are left out altogether where it reads as zeroes already. Requests finish in any order; the
 * first that fails ends the copy.
 */
import { allAtRest } from "../base/all_at_rest.ts";
import { isZero } from "../base/zero_check.ts";
import { type Clock, delay, systemClock } from "../os/clock.ts";
import type { BlockDevice } from "./device.ts";
import { pieces, type Segment, segments } from "./segments.ts";

/** Zeroes are recognised in blocks of this size and alignment. */
const BLOCK_BYTES = 4096;
/** Shorter runs of zeroes cost less as part of a write than as a request of their own. */
const ZERO_RUN_BYTES_MIN = 64 * 1024;
/** A run so long cannot lie between two probes of so many bytes. */
const PROBE_STEP_BYTES = ZERO_RUN_BYTES_MIN / 2;
const PROBE_BYTES = 64;
/** One read or write, unless the caller wants otherwise. */
const REQUEST_BYTES = 256 * 1024;
/** One request for a range without data. */
export const EMPTY_PIECE_BYTES = 128 * 1024 * 1024;
/** Disks that answer at once must leave others their turn, in milliseconds. */
const TURN_MS_MAX = 20;

export interface CopyOptions {
  /** Bytes of one read or write: a multiple of 4096. Default 256 KiB. */
  readonly requestBytes?: number;
  /** Requests under way. Default 64. */
  readonly depth?: number;
  /** The destination reads as zeroes wherever the source has data or not. Default `false`. */
  readonly destinationIsZero?: boolean;
  /** Ends the copy with the signal's reason. Requests may then still be under way. */
  readonly signal?: AbortSignal;
  /** Told of progress: bytes of the source that are done, and where. */
  readonly onBytes?: (byteCount: number, piece: Segment) => void;
  /** What else is to be done with a piece before the next one is begun in its place. */
  readonly afterwards?: (piece: Segment) => void | Promise<void>;
  readonly clock?: Clock;
}

/**
 * Copies all of `source` to the start of `destination`. To flush is the caller's business.
 *
 * @param source Ranges of any bytes may be read from it, as may be written to the destination.
 * @param destination At least as large; what lies behind stays as it is.
 * @throws {RangeError} If the destination is smaller.
 * @throws {DeviceError} The first failure of either disk; the others have ended by then.
 */
export async function copyDisk(
  source: BlockDevice,
  destination: BlockDevice,
  options: CopyOptions = {},
): Promise<void> {
  if (destination.sizeBytes < source.sizeBytes) {
    throw new RangeError(
      `the destination has ${destination.sizeBytes} bytes, the source ${source.sizeBytes}`,
    );
  }
  const { requestBytes = REQUEST_BYTES } = options;
  const plan = pieces(segments(source, 0, source.sizeBytes), requestBytes, EMPTY_PIECE_BYTES);
  await copyPieces(source, destination, plan, options);
}

/**
 * Copies parts of `source` to the same places of `destination`.
 *
 * @param plan What to copy, in pieces that do not overlap; those of data are no longer than `requestBytes`.
 * @throws As {@linkcode copyDisk}, and what the plan throws.
 */
export async function copyPieces(
  source: BlockDevice,
  destination: BlockDevice,
  plan: AsyncGenerator<Segment>,
  options: CopyOptions = {},
): Promise<void> {
  const { signal } = options;
  signal?.throwIfAborted();
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const abort = () => reject(signal!.reason);
  signal?.addEventListener("abort", abort, { once: true });
  try {
    await Promise.race([new Copy(source, destination, plan, options).run(), aborted]);
  } finally {
    signal?.removeEventListener("abort", abort);
  }
}

class Copy {
  readonly #source: BlockDevice;
  readonly #destination: BlockDevice;
  readonly #requestBytes: number;
  readonly #depth: number;
  readonly #destinationIsZero: boolean;
  readonly #signal: AbortSignal | undefined;
  readonly #onBytes: (byteCount: number, piece: Segment) => void;
  readonly #afterwards: CopyOptions["afterwards"];
  readonly #clock: Clock;
  readonly #plan: AsyncGenerator<Segment>;
  #turnBeganMs: number;
  #failure: { readonly error: unknown } | null = null;
  /** A buffer of zeroes for a destination that cannot zero. */
  #zeroes = new Uint8Array(0);
  readonly #probe = new Uint8Array(PROBE_BYTES);

  constructor(
    source: BlockDevice,
    destination: BlockDevice,
    plan: AsyncGenerator<Segment>,
    options: CopyOptions,
  ) {
    this.#source = source;
    this.#destination = destination;
    this.#requestBytes = options.requestBytes ?? REQUEST_BYTES;
    this.#depth = options.depth ?? 64;
    this.#destinationIsZero = options.destinationIsZero ?? false;
    this.#signal = options.signal;
    this.#onBytes = options.onBytes ?? (() => {});
    this.#afterwards = options.afterwards;
    this.#clock = options.clock ?? systemClock;
    this.#turnBeganMs = this.#clock.now();
    this.#plan = plan;
  }

  async run(): Promise<void> {
    await Promise.all(Array.from({ length: this.#depth }, () => this.#work()));
    if (this.#failure !== null) throw this.#failure.error;
  }

  /** Takes pieces off the plan until it is empty; one request at a time, but one of many that do. */
  async #work(): Promise<void> {
    let buffer: Uint8Array | null = null;
    try {
      while (this.#failure === null && this.#signal?.aborted !== true) {
        const { value: piece, done } = await this.#plan.next();
        if (done) return;
        if (piece.kind === "data") {
          const passing = this.#passOn(piece.offset, piece.length);
          if (passing !== null) {
            await passing;
          } else {
            buffer ??= new Uint8Array(this.#requestBytes);
            await this.#copyData(piece.offset, buffer.subarray(0, piece.length));
          }
        } else {
          await this.#copyEmpty(piece.offset, piece.length);
        }
        this.#onBytes(piece.length, piece);
        const afterwards = this.#afterwards?.(piece);
        if (afterwards !== undefined) await afterwards;
        await this.#takeTurns();
      }
    } catch (error) {
      this.#failure ??= { error };
    }
  }

  async #takeTurns(): Promise<void> {
    if (this.#clock.now() - this.#turnBeganMs < TURN_MS_MAX) return;
    this.#turnBeganMs = Infinity; // The others need not wait as well.
    await delay(this.#clock, 0);
    this.#turnBeganMs = this.#clock.now();
  }

  /** Has data written from the file in which they are, if that can be and no zeroes are to be found among them. */
  #passOn(offset: number, length: number): void | Promise<void> | null {
    if (this.#destinationIsZero || this.#destination.writeFromFile === undefined) return null;
    const file = this.#source.cachedFile?.(offset, length) ?? null;
    if (file === null || this.#destination.can.zero && this.#mayHoldZeroes(offset, length)) return null;
    return this.#destination.writeFromFile(offset, length, file);
  }

  /** Looks into data that are in memory: `false` if no run of zeroes is worth a request of its own. */
  #mayHoldZeroes(offset: number, length: number): boolean {
    for (let at = 0; at < length; at += PROBE_STEP_BYTES) {
      const probe = this.#probe.subarray(0, Math.min(PROBE_BYTES, length - at));
      const reading = this.#source.read(offset + at, probe);
      // No longer in memory: whoever reads it now will hear of what is wrong with it.
      reading?.catch(() => {});
      if (reading !== undefined || isZero(probe)) return true;
    }
    return false;
  }

  async #copyData(offset: number, bytes: Uint8Array): Promise<void> {
    const reading = this.#source.read(offset, bytes);
    if (reading !== undefined) await reading;
    const writes: Promise<void>[] = [];
    for (const { from, to, zero } of this.#runs(offset, bytes)) {
      const writing = zero
        ? this.#zero(offset + from, to - from)
        : this.#destination.write(offset + from, bytes.subarray(from, to));
      if (writing !== undefined) writes.push(writing);
    }
    await allAtRest(writes);
  }

  #copyEmpty(offset: number, length: number): void | Promise<void> {
    if (this.#destinationIsZero) return;
    if (this.#destination.can.zero) return this.#zero(offset, length);
    return this.#writeZeroes(offset, length);
  }

  #zero(offset: number, length: number): void | Promise<void> {
    if (!this.#destinationIsZero) return this.#destination.zero(offset, length);
  }

  async #writeZeroes(offset: number, length: number): Promise<void> {
    if (this.#zeroes.length === 0) this.#zeroes = new Uint8Array(this.#requestBytes);
    for (let at = 0; at < length && this.#failure === null; at += this.#requestBytes) {
      await this.#destination.write(
        offset + at,
        this.#zeroes.subarray(0, Math.min(this.#requestBytes, length - at)),
      );
    }
  }

  /** Cuts data into runs that are written and runs that are zeroed or left out. */
  *#runs(offset: number, bytes: Uint8Array): Generator<Run> {
    if (!this.#destinationIsZero && !this.#destination.can.zero) {
      return yield { from: 0, to: bytes.length, zero: false };
    }
    const shortest = this.#destinationIsZero ? 1 : ZERO_RUN_BYTES_MIN;
    let from = 0; // of what has not been given yet
    let zeroFrom = 0; // up to here there are data
    for (let at = 0; at < bytes.length;) {
      const end = Math.min(bytes.length, at + BLOCK_BYTES - (offset + at) % BLOCK_BYTES);
      const zero = isZero(bytes.subarray(at, end));
      const runEnd = zero ? end : at;
      if ((!zero || end === bytes.length) && runEnd - zeroFrom >= shortest) {
        if (zeroFrom > from) yield { from, to: zeroFrom, zero: false };
        yield { from: zeroFrom, to: runEnd, zero: true };
        from = runEnd;
      }
      if (!zero) zeroFrom = end;
      at = end;
    }
    if (from < bytes.length) yield { from, to: bytes.length, zero: false };
  }
}

/** Part of a buffer. */
interface Run {
  readonly from: number;
  readonly to: number;
  readonly zero: boolean;
}
