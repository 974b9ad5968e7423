/**
 * Requests that leave in one write: their headers, with the short payloads among them.
 *
 * A long payload is not copied. It follows the batch, which ends with its request.
 */
import { Command, CommandFlag } from "../../wire/nbd/constants.ts";
import { encodeRequest, requestBytes } from "../../wire/nbd/transmission.ts";
import type { Transaction } from "./nbd_transaction.ts";

/** A batch is no longer, but for one request that is by itself. */
const BATCH_BYTES_MAX = 256 * 1024;
/** Room at first: a quiet connection needs no more. */
const BATCH_BYTES_FIRST = 4096;
/** Longer payloads are not copied behind their header. */
const COPIED_PAYLOAD_BYTES_MAX = 64 * 1024;

export class RequestBatch {
  readonly #extended: boolean;
  readonly #headerBytes: number;
  #bytes = new Uint8Array(BATCH_BYTES_FIRST);
  #view = new DataView(this.#bytes.buffer);
  #length = 0;
  #followed: Transaction | null = null;

  constructor(extended: boolean) {
    this.#extended = extended;
    this.#headerBytes = requestBytes(extended);
  }

  /** What leaves. The batch must not be changed before it has left. */
  get bytes(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }

  /** The last request, if its payload follows the batch. */
  get followed(): Transaction | null {
    return this.#followed;
  }

  clear(): void {
    this.#length = 0;
    this.#followed = null;
  }

  hasRoomFor(transaction: Transaction): boolean {
    if (this.#length === 0) return true;
    return this.#followed === null &&
      this.#length + this.#headerBytes + copiedBytes(transaction) <= BATCH_BYTES_MAX;
  }

  /** Adds a request, for which there is room, under a cookie. */
  add(cookie: bigint, transaction: Transaction): void {
    const { type, offset, payload } = transaction;
    this.#reserve(this.#length + this.#headerBytes + copiedBytes(transaction));
    const flags = transaction.flags |
      (this.#extended && type === Command.WRITE ? CommandFlag.PAYLOAD_LEN : 0);
    const length = payload?.length ?? transaction.length;
    const request = { flags, type, cookie, offset, length };
    this.#length += encodeRequest(this.#view, this.#length, this.#extended, request);
    if (payload !== null && payload.length <= COPIED_PAYLOAD_BYTES_MAX) {
      this.#bytes.set(payload, this.#length);
      this.#length += payload.length;
    } else if (payload !== null || transaction.file !== null) {
      this.#followed = transaction;
    }
  }

  /** Makes room for so many bytes, keeping what is there. */
  #reserve(byteCount: number): void {
    if (byteCount <= this.#bytes.length) return;
    let size = this.#bytes.length;
    while (size < byteCount) size *= 2;
    const larger = new Uint8Array(size);
    larger.set(this.#bytes);
    this.#bytes = larger;
    this.#view = new DataView(larger.buffer);
  }
}

/** The bytes of its payload, if they stand in the batch; else 0. */
function copiedBytes({ payload }: Transaction): number {
  return payload !== null && payload.length <= COPIED_PAYLOAD_BYTES_MAX ? payload.length : 0;
}
