/**
 * A disk at the far end of NBD.
 *
 * It turns operations into transactions, cutting what is longer than the server takes, and leaves it to a
 * {@linkcode Carrier} how they get there and back. It never asks for what the server did not offer.
 *
 * @see NBD proto.md, "Transmission phase"
 */
import { allAtRest } from "../base/all_at_rest.ts";
import type {
  Abilities,
  BlockDevice,
  BlockSizes,
  DiskIdentity,
  Extent,
  Shown,
  WriteOptions,
  ZeroOptions,
} from "../device/device.ts";
import { AllocationStatus, BASE_ALLOCATION, Command, CommandFlag } from "../wire/nbd/constants.ts";
import type { OpenFile } from "../os/file_calls.ts";
import type { Pipe } from "../os/pipe.ts";
import type { StatusExtent } from "../wire/nbd/chunk.ts";
import type { ExportFacts } from "./nbd_export.ts";
import { OverlapGate } from "./overlap_gate.ts";
import { Transaction } from "./connection/nbd_transaction.ts";

/** Brings transactions to a server and settles them. */
export interface Carrier {
  /** What the server offers; for as long as the disk is used. */
  readonly facts: ExportFacts;
  /** Whether lengths may have 64 bits. */
  readonly extended: boolean;
  /** Which disk it is, if the server keeps that. */
  readonly identity?: DiskIdentity;
  /** Whether a WRITE may take its data from a file. Default `false`. */
  readonly sendsFiles?: boolean;
  /** Settles the transaction, now or later, once. */
  submit(transaction: Transaction): void;
  /** Ends all use; what is unanswered fails. Idempotent. */
  close(): Promise<void>;
}

/** Ranges without payload are cut to this where lengths have 32 bits: a multiple of every block size. */
const COMPACT_RANGE_BYTES_MAX = 2 ** 30;
/** With 64 bits a range is cut only to stay exact. */
const EXTENDED_RANGE_BYTES_MAX = 2 ** 52;

export class NbdDisk implements BlockDevice {
  readonly sizeBytes: number;
  readonly blockSizes: BlockSizes;
  readonly can: Abilities;
  readonly writeFromFile?: BlockDevice["writeFromFile"];
  readonly #carrier: Carrier;
  readonly #gate = new OverlapGate();
  /** The longest payload that is a whole number of blocks. */
  readonly #payloadBytesMax: number;
  readonly #rangeBytesMax: number;

  constructor(carrier: Carrier) {
    const { sizeBytes, blockSizes, can } = carrier.facts;
    this.#carrier = carrier;
    this.sizeBytes = sizeBytes;
    this.blockSizes = blockSizes;
    this.can = can;
    if (carrier.sendsFiles === true) this.writeFromFile = this.#writeFromFile.bind(this);
    this.#payloadBytesMax = blockSizes.maximumPayload - blockSizes.maximumPayload % blockSizes.minimum;
    this.#rangeBytesMax = carrier.extended ? EXTENDED_RANGE_BYTES_MAX : COMPACT_RANGE_BYTES_MAX;
  }

  get identity(): DiskIdentity | undefined {
    return this.#carrier.identity;
  }

  read(offset: number, into: Uint8Array): void | Promise<void> {
    return this.#perform(Command.READ, 0, offset, into.length, this.#payloadBytesMax, into);
  }

  show(offset: number, length: number, done: Shown, openPipe?: () => Pipe | null): void {
    if (length === 0 || length > this.#payloadBytesMax) {
      const bytes = new Uint8Array(length);
      Promise.resolve(this.read(offset, bytes)).then(() => done(bytes), (error) => done(null, error));
      return;
    }
    const transaction = new Transaction(Command.READ, 0, offset, length, null);
    transaction.openPipe = openPipe ?? null;
    this.#begin(transaction, (error) => {
      if (error === null) done(transaction.take());
      else done(null, error);
    });
  }

  write(offset: number, data: Uint8Array, options?: WriteOptions): void | Promise<void> {
    return this.#perform(
      Command.WRITE,
      fuaFlag(options),
      offset,
      data.length,
      this.#payloadBytesMax,
      data,
    );
  }

  #writeFromFile(offset: number, length: number, file: OpenFile): void | Promise<void> {
    return this.#perform(Command.WRITE, 0, offset, length, this.#payloadBytesMax, null, file);
  }

  flush(): Promise<void> {
    return this.#transact(new Transaction(Command.FLUSH, 0, 0, 0, null));
  }

  trim(offset: number, length: number, options?: WriteOptions): void | Promise<void> {
    return this.#perform(Command.TRIM, fuaFlag(options), offset, length, this.#rangeBytesMax, null);
  }

  zero(offset: number, length: number, options: ZeroOptions = {}): void | Promise<void> {
    const { mayPunch = true, fast = false } = options;
    const flags = fuaFlag(options) | (mayPunch ? 0 : CommandFlag.NO_HOLE) |
      (fast ? CommandFlag.FAST_ZERO : 0);
    return this.#perform(Command.WRITE_ZEROES, flags, offset, length, this.#rangeBytesMax, null);
  }

  extents(offset: number, length: number): Extent[] | Promise<Extent[]> {
    if (length === 0) return [];
    if (!this.can.extents) return [{ length, kind: "data" }];
    const asked = Math.min(length, this.#rangeBytesMax);
    const transaction = new Transaction(Command.BLOCK_STATUS, 0, offset, asked, null);
    return this.#transact(transaction).then(() =>
      toExtents(transaction.statuses.get(BASE_ALLOCATION)!, asked)
    );
  }

  cache(offset: number, length: number): void | Promise<void> {
    return this.#perform(Command.CACHE, 0, offset, length, this.#rangeBytesMax, null);
  }

  close(): Promise<void> {
    return this.#carrier.close();
  }

  /** One transaction, or as many as the length needs. Nothing is sent for an empty range. */
  #perform(
    type: number,
    flags: number,
    offset: number,
    length: number,
    lengthMax: number,
    buffer: Uint8Array | null,
    file: OpenFile | null = null,
  ): void | Promise<void> {
    if (length === 0) return;
    if (length <= lengthMax) {
      return this.#transact(new Transaction(type, flags, offset, length, buffer, file));
    }
    const pieces: Promise<void>[] = [];
    for (let at = 0; at < length; at += lengthMax) {
      const end = Math.min(at + lengthMax, length);
      const piece = buffer === null ? null : buffer.subarray(at, end);
      pieces.push(this.#transact(new Transaction(type, flags, offset + at, end - at, piece, file)));
    }
    return allAtRest(pieces).then(() => {});
  }

  #transact(transaction: Transaction): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#begin(transaction, (error) => error === null ? resolve() : reject(error));
    });
  }

  #begin(transaction: Transaction, settled: Transaction["settled"]): void {
    transaction.settled = (error) => {
      for (const next of this.#gate.leave(transaction)) this.#carrier.submit(next);
      settled(error);
    };
    if (this.#gate.enter(transaction)) this.#carrier.submit(transaction);
  }
}

function fuaFlag(options: WriteOptions | undefined): number {
  return options?.fua === true ? CommandFlag.FUA : 0;
}

/**
 * A hole whose content is undefined counts as data, as does everything the status does not call zero. The last
 * extent may have run past what was asked.
 */
function toExtents(statuses: readonly StatusExtent[], length: number): Extent[] {
  const extents: { length: number; kind: Extent["kind"] }[] = [];
  let left = length;
  for (const { length: told, status } of statuses) {
    const kind = (status & AllocationStatus.ZERO) === 0
      ? "data"
      : (status & AllocationStatus.HOLE) === 0
      ? "zero"
      : "hole";
    const last = extents.at(-1);
    const taken = Math.min(told, left);
    if (last?.kind === kind) last.length += taken;
    else extents.push({ length: taken, kind });
    left -= taken;
  }
  return extents;
}
