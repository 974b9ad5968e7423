/** What a server offers: disks under names. */
import type { BlockDevice } from "../device/device.ts";
import type { RecordStore } from "../device/ownership.ts";
import { TransmissionFlag } from "../wire/nbd/constants.ts";
import type { MigrationDesk } from "./migration_desk.ts";
import { LatencyHistogram, type LatencySummary } from "./latency.ts";

/** Counts since an export or a session began. */
export class Traffic {
  /** Requests answered, refused ones included. */
  requests = 0;
  /** Requests answered with an error. */
  errors = 0;
  /** Bytes that were asked for by READ. */
  readBytes = 0;
  /** Bytes of WRITE requests. */
  writtenBytes = 0;
}

/** What an export has done, over all its clients. */
export class ExportTraffic extends Traffic {
  /** Flushes that may have lost something. */
  failedFlushes = 0;
  #unsyncedBytes = 0;
  #syncedBytes = 0;
  readonly #latencies = new Map<string, LatencyHistogram>();

  /** Bytes of writes accepted since the last flush that succeeded was begun. */
  get dirtyBytes(): number {
    return this.#unsyncedBytes - this.#syncedBytes;
  }

  /** A write that is not durable by itself was accepted. */
  dirtied(byteCount: number): void {
    this.#unsyncedBytes += byteCount;
  }

  /** A flush begins. Call the result when it has succeeded. */
  flushing(): () => void {
    const covered = this.#unsyncedBytes;
    return () => {
      this.#syncedBytes = Math.max(this.#syncedBytes, covered);
    };
  }

  /** `times` requests of a kind (`read`, `write`, …) took `durationUs` microseconds each. */
  took(operation: string, durationUs: number, times: number): void {
    let histogram = this.#latencies.get(operation);
    if (histogram === undefined) this.#latencies.set(operation, histogram = new LatencyHistogram());
    histogram.add(durationUs, times);
  }

  /** By operation; those that never ran are missing. */
  latencies(): Record<string, LatencySummary> {
    return Object.fromEntries([...this.#latencies].map(([name, histogram]) => [name, histogram.summary()]));
  }
}

/** One disk on offer. */
export interface Export {
  /** Up to 4096 bytes of UTF-8; "" is possible. */
  readonly name: string;
  /** For people; may be empty. Clients learn of another one when they come anew. */
  description: string;
  /** Each operation goes to what is here when it begins: a migration puts something before the disk. */
  device: BlockDevice;
  /** Bytes that clients see: the disk's size, or less. */
  readonly sizeBytes: number;
  /** Refuses writes although the disk would take them. */
  readonly readOnly: boolean;
  /** Somebody may write to the disk by another way, although it may not be written here. Default: nobody may. */
  readonly writtenElsewhere?: () => boolean;
  readonly traffic: ExportTraffic;
  /**
   * A UUID of what is known of writes that are not flushed: another one when some of them may have been lost. Default:
   * that of the run of the server.
   */
  instance?: string;
  /** Path or URI of the disk, for status; never told to clients. */
  readonly source: string;
  /** What is kept of who owns the disk. Absent where nobody keeps it. */
  readonly ownership?: RecordStore;
  /** Where another denbd that wants to move a disk here is heard, or that has moved it. Default: nowhere. */
  readonly desk?: MigrationDesk;
  /** Why no client is let in at the moment, for clients; `null`: they are. Default: they are. */
  readonly whyClosed?: () => string | null;
  /** How many writing sessions it has at the same time; see {@linkcode Writers}. Default `any`. */
  writers?: Writers;
}

/** `any`: whoever has the right may write. `one-session`: one session at a time, however many connections it has. */
export type Writers = "any" | "one-session";

/** The exports of a server, by name. */
export class ExportTable {
  readonly #exports = new Map<string, Export>();
  #defaultName: string | null = null;

  /**
   * Adds an export.
   *
   * @param options `isDefault`: also answers to the empty name.
   * @throws {RangeError} If the name is taken, or there is a default already.
   */
  add(exported: Export, options: { isDefault?: boolean } = {}): void {
    if (this.#exports.has(exported.name)) {
      throw new RangeError(`cannot offer two exports under the name "${exported.name}"`);
    }
    if (options.isDefault === true) {
      if (this.#defaultName !== null) {
        throw new RangeError(`cannot make "${exported.name}" the default export: "${this.#defaultName}" is`);
      }
      this.#defaultName = exported.name;
    }
    this.#exports.set(exported.name, exported);
  }

  /** Offers an export no longer; clients that have it keep it. */
  remove(name: string): void {
    this.#exports.delete(name);
    if (this.#defaultName === name) this.#defaultName = null;
  }

  /** Which export answers to the empty name; `null`: none, or the only one. */
  set defaultName(name: string | null) {
    this.#defaultName = name;
  }

  /** All exports in the order in which they were added. */
  list(): Export[] {
    return [...this.#exports.values()];
  }

  /** The export of that very name; for the empty name the default one, or the only one. */
  find(name: string): Export | undefined {
    const exact = this.#exports.get(name);
    if (exact !== undefined || name !== "") return exact;
    if (this.#defaultName !== null) return this.#exports.get(this.#defaultName);
    return this.#exports.size === 1 ? this.list()[0] : undefined;
  }
}

/**
 * What NBD clients are told about an export.
 *
 * @param mayWrite Whether this client has the right to write.
 * @returns {@linkcode TransmissionFlag}s of all that can be offered; some hold only if more is negotiated.
 */
export function transmissionFlags(exported: Export, mayWrite: boolean): number {
  const { can } = exported.device;
  const writable = mayWrite && !exported.readOnly && can.write;
  let flags = TransmissionFlag.HAS_FLAGS | TransmissionFlag.SEND_DF | TransmissionFlag.BLOCK_STATUS_PAYLOAD;
  // Where nothing is ever written there is nothing to make durable, and that is done at once.
  if (can.flush || !can.write) flags |= TransmissionFlag.SEND_FLUSH | TransmissionFlag.SEND_FUA;
  if (can.cache) flags |= TransmissionFlag.SEND_CACHE;
  if (can.multiConn) flags |= TransmissionFlag.CAN_MULTI_CONN;
  if (can.rotational) flags |= TransmissionFlag.ROTATIONAL;
  if (!writable) return flags | TransmissionFlag.READ_ONLY;
  if (can.trim) flags |= TransmissionFlag.SEND_TRIM;
  if (can.zero) {
    flags |= TransmissionFlag.SEND_WRITE_ZEROES;
    if (can.fastZero) flags |= TransmissionFlag.SEND_FAST_ZERO;
  }
  return flags;
}
