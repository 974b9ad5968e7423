/** BLOCK_STATUS: what the disk knows of a range, in the metadata contexts that were selected. */
import type { BlockDevice, Extent } from "../../device/device.ts";
import { DeviceError } from "../../device/device_error.ts";
import { RangeChecksum } from "../../device/range_checksum.ts";
import type { StatusExtent } from "../../wire/nbd/chunk.ts";
import {
  AllocationStatus,
  BASE_ALLOCATION,
  Command,
  CommandFlag,
  STATUS_EXTENTS_MAX,
} from "../../wire/nbd/constants.ts";
import { isProbe } from "../../wire/nbd/denbd_context.ts";
import { CRC32_BYTES_MAX, CRC32_CONTEXT } from "../../wire/nbd/migration_message.ts";
import type { Backlog } from "./backlog.ts";
import type { Answered, Replies } from "./replies.ts";
import type { RequestTimes } from "./request_times.ts";

/** A metadata context that the client has selected. */
export interface SelectedContext {
  readonly id: number;
  readonly name: string;
}

export class StatusReporter {
  readonly #device: BlockDevice;
  readonly #replies: Replies;
  readonly #backlog: Backlog;
  readonly #times: RequestTimes;
  readonly #checksum: RangeChecksum;

  constructor(device: BlockDevice, replies: Replies, backlog: Backlog, times: RequestTimes) {
    this.#device = device;
    this.#checksum = new RangeChecksum(device);
    this.#replies = replies;
    this.#backlog = backlog;
    this.#times = times;
  }

  /** Performs a BLOCK_STATUS that has been checked. */
  report(shared: Answered, contexts: readonly SelectedContext[]): void {
    const request = { ...shared };
    if (isProbe(contexts)) {
      // Answered at once, however long the disk takes with what came before.
      this.#times.answeredNow(Command.BLOCK_STATUS);
      return this.#tell(request, contexts, { extents: [] });
    }
    let learning: Learned | Promise<Learned>;
    try {
      learning = this.#learn(request, contexts);
    } catch (error) {
      return this.#replies.failure(request, error);
    }
    if (!(learning instanceof Promise)) {
      this.#times.answeredNow(Command.BLOCK_STATUS);
      return this.#tell(request, contexts, learning);
    }
    const sinceMs = this.#times.batchAtMs;
    this.#backlog.begin(0);
    learning.then(
      (learned) => this.#tell(request, contexts, learned),
      (error) => this.#replies.failure(request, error),
    ).then(() => {
      this.#times.answeredLater(Command.BLOCK_STATUS, sinceMs);
      this.#replies.outbox.flushSoon();
      this.#backlog.end(0);
    });
  }

  #learn(
    { offset, length, flags }: Answered,
    contexts: readonly SelectedContext[],
  ): Learned | Promise<Learned> {
    const one = (flags & CommandFlag.REQ_ONE) !== 0;
    const extents = this.#device.extents(offset, length);
    if (!one || !contexts.some(({ name }) => name === CRC32_CONTEXT)) {
      return extents instanceof Promise ? extents.then((extents) => ({ extents })) : { extents };
    }
    if (length > CRC32_BYTES_MAX) {
      throw new DeviceError("EINVAL", "extents", offset, length, { detail: "too long for a checksum" });
    }
    return Promise.all([extents, this.#checksum.of(offset, length)])
      .then(([extents, crc32]) => ({ extents, crc32 }));
  }

  #tell(request: Answered, contexts: readonly SelectedContext[], { extents, crc32 = 0 }: Learned): void {
    const one = (request.flags & CommandFlag.REQ_ONE) !== 0;
    const allocation = statusExtents(extents, request.length, one);
    for (const [index, { id, name }] of contexts.entries()) {
      const isLast = index === contexts.length - 1;
      // What else we publish are facts about the export as a whole: one extent, status 0.
      const status = name === CRC32_CONTEXT ? crc32 : 0;
      const whole = [{ length: request.length, status }];
      this.#replies.status(request, id, name === BASE_ALLOCATION ? allocation : whole, isLast);
    }
  }
}

/** What was asked about. */
interface Learned {
  readonly extents: readonly Extent[];
  /** Of the whole range. */
  readonly crc32?: number;
}

const STATUS: Readonly<Record<Extent["kind"], number>> = {
  data: 0,
  zero: AllocationStatus.ZERO,
  hole: AllocationStatus.HOLE | AllocationStatus.ZERO,
};

/** Extents as a status chunk tells them: at most `length` bytes in all, neighbours of one status made one. */
function statusExtents(extents: readonly Extent[], length: number, one: boolean): StatusExtent[] {
  const told: { length: number; status: number }[] = [];
  let left = length;
  for (const extent of extents) {
    const status = STATUS[extent.kind];
    const byteCount = Math.min(extent.length, left);
    if (byteCount === 0) break;
    left -= byteCount;
    const last = told.at(-1);
    if (last?.status === status) last.length += byteCount;
    else if (told.length === (one ? 1 : STATUS_EXTENTS_MAX)) break;
    else told.push({ length: byteCount, status });
  }
  return told;
}
