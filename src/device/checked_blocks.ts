/**
 * Blocks from sources that may lie, compared with their checksums before a byte of them is handed out.
 *
 * A checksum covers megabytes, so a read of a few bytes fetches all of its block. The last few blocks are kept, and
 * so many at most are in memory, those included that are on their way: who wants more waits.
 */
import { allAtRest } from "../base/all_at_rest.ts";
import { crc32 } from "../base/crc32.ts";
import { DeviceError } from "./device_error.ts";

/** A block is fetched in pieces of this size, all at once. */
const PIECE_BYTES = 1024 * 1024;
/** A block that never fits is given up after so many attempts, if there are sources for them. */
const ATTEMPTS_MAX = 8;

/** Several sources of the same bytes, one of which answers. */
export interface DoubtfulSource {
  /**
   * @returns Which of them answered.
   * @throws If none does.
   */
  fetch(offset: number, into: Uint8Array): Promise<string>;
  /** This one sent what does not fit: it is asked no more as long as there are others. */
  distrust(source: string): void;
}

/** What is to come out. */
export interface CheckedContent {
  readonly sizeBytes: number;
  /** Bytes that a checksum covers; the last one covers what is left. */
  readonly blockBytes: number;
  /** CRC-32 of each block. */
  readonly checksums: Uint32Array;
}

/**
 * Fetches a range until it fits its checksum. Whoever alone sent one that does not is distrusted.
 *
 * @param into Nobody writes to it any more when the promise is settled.
 * @param onAttempt Told of what was fetched, whether it fits or not.
 * @returns Whether it fits in the end.
 * @throws If no source answers.
 */
export async function fetchChecked(
  source: DoubtfulSource,
  offset: number,
  into: Uint8Array,
  checksum: number,
  onAttempt: (fits: boolean) => void = () => {},
): Promise<boolean> {
  for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
    const pieces: Promise<string>[] = [];
    for (let at = 0; at < into.length; at += PIECE_BYTES) {
      pieces.push(source.fetch(offset + at, into.subarray(at, at + PIECE_BYTES)));
    }
    const senders = new Set(await allAtRest(pieces));
    const fits = crc32(into) === checksum;
    onAttempt(fits);
    if (fits) return true;
    // Of several, nobody knows which it was.
    if (senders.size === 1) { for (const sender of senders) source.distrust(sender); }
  }
  return false;
}

/** A block that is here or on its way. */
interface Held {
  readonly bytes: Promise<Uint8Array>;
  isHere: boolean;
}

export class CheckedBlocks {
  /** Times that what came did not fit. */
  mismatches = 0;
  readonly #source: DoubtfulSource;
  readonly #content: CheckedContent;
  readonly #blocksMax: number;
  /** The one that was used last is the last. */
  readonly #held = new Map<number, Held>();
  /** Where the last read ended. */
  #next = NaN;

  /** @param blocksMax Blocks in memory. */
  constructor(source: DoubtfulSource, content: CheckedContent, blocksMax: number) {
    this.#source = source;
    this.#content = content;
    this.#blocksMax = blocksMax;
  }

  /**
   * Fills `into`, which may be longer than a block.
   *
   * @throws {DeviceError} If a block fits from no source.
   * @throws If no source answers.
   */
  async read(offset: number, into: Uint8Array): Promise<void> {
    const { blockBytes } = this.#content;
    const end = offset + into.length;
    const inOrder = offset === this.#next;
    this.#next = end;
    for (let at = offset; at < end;) {
      const index = Math.floor(at / blockBytes);
      const start = index * blockBytes;
      const until = Math.min(end, start + blockBytes);
      const getting = this.#get(index);
      // Who reads on will soon want the next one.
      if (inOrder && until - start > blockBytes / 2) this.#readAhead(index + 1);
      into.set((await getting).subarray(at - start, until - start), at - offset);
      at = until;
    }
  }

  async #get(index: number): Promise<Uint8Array> {
    while (true) {
      const held = this.#held.get(index);
      if (held !== undefined) {
        this.#held.delete(index);
        this.#held.set(index, held);
        return await held.bytes;
      }
      if (this.#makeRoom()) return await this.#fetch(index);
      await Promise.race([...this.#held.values()].map(({ bytes }) => bytes.catch(() => {})));
    }
  }

  #readAhead(index: number): void {
    if (index >= this.#content.checksums.length || this.#held.has(index) || !this.#makeRoom()) return;
    this.#fetch(index).catch(() => {});
  }

  /** @returns Whether there is room for one more. */
  #makeRoom(): boolean {
    if (this.#held.size < this.#blocksMax) return true;
    for (const [index, { isHere }] of this.#held) if (isHere) return this.#held.delete(index);
    return false;
  }

  #fetch(index: number): Promise<Uint8Array> {
    const bytes = this.#fetchNow(index);
    const held = { bytes, isHere: false };
    this.#held.set(index, held);
    bytes.then(() => held.isHere = true, () => this.#held.delete(index));
    return bytes;
  }

  async #fetchNow(index: number): Promise<Uint8Array> {
    const { sizeBytes, blockBytes, checksums } = this.#content;
    const offset = index * blockBytes;
    const bytes = new Uint8Array(Math.min(blockBytes, sizeBytes - offset));
    const count = (fits: boolean) => void (this.mismatches += fits ? 0 : 1);
    if (await fetchChecked(this.#source, offset, bytes, checksums[index], count)) return bytes;
    throw new DeviceError("EIO", "read", offset, bytes.length, {
      detail: "it does not fit its checksum, whoever sends it",
    });
  }
}
