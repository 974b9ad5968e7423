/**
 * Checks images against their checksums, in the background and one hash block at a time.
 *
 * When an image is first used, its first and last hash block and one in between are checked; a mismatch has all of
 * it checked. A hash block that does not fit is refused to everybody from then on, which makes clients turn to
 * another server, and served again when a later check finds it in order.
 */
import type { Log } from "../../base/log.ts";
import { printable } from "../../base/printable.ts";
import { type Clock, delay } from "../../os/clock.ts";
import { checksumOf } from "./hash_block.ts";
import type { Image } from "./image.ts";

/** Hash blocks that wait for their check. */
const QUEUE_MAX = 100_000;

interface Check {
  readonly image: Image;
  readonly hashBlock: number;
}

export class Integrity {
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #random: () => number;
  readonly #queue = new Map<string, Check>();
  #working: Promise<void> | null = null;
  #stopped = false;
  /** Told of each hash block that turns out not to fit. */
  onMismatch: (image: Image, hashBlock: number) => void = () => {};
  /** Hash blocks checked so far, and how many of them did not fit. */
  checked = 0;
  mismatches = 0;

  /** @param random Numbers from 0 to below 1. */
  constructor(clock: Clock, log: Log, random: () => number) {
    this.#clock = clock;
    this.#log = log;
    this.#random = random;
  }

  /** Checks an image here and there: its ends, and one hash block by chance. */
  checkSome(image: Image): void {
    const count = image.checksums?.checksums.length ?? 0;
    for (const hashBlock of [0, count - 1, Math.floor(this.#random() * count)]) this.check(image, hashBlock);
  }

  /** Checks all of an image. */
  checkAll(image: Image): void {
    const count = image.checksums?.checksums.length ?? 0;
    for (let hashBlock = 0; hashBlock < count; hashBlock++) this.check(image, hashBlock);
  }

  /** Checks one hash block, if it is here and there is a checksum for it. */
  check(image: Image, hashBlock: number): void {
    const count = image.checksums?.checksums.length ?? 0;
    if (this.#stopped || hashBlock < 0 || hashBlock >= count || this.#queue.size >= QUEUE_MAX) return;
    if (image.map !== null && image.map.hashBlockState(hashBlock) !== "complete") return;
    const key = `${image.id}/${hashBlock}`;
    if (!this.#queue.has(key)) this.#queue.set(key, { image, hashBlock });
    this.#working ??= this.#work().finally(() => this.#working = null);
  }

  /** Resolves when nothing waits for its check. */
  async idle(): Promise<void> {
    while (this.#working !== null) await this.#working;
  }

  /** Checks nothing any more. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#queue.clear();
    await this.#working;
  }

  async #work(): Promise<void> {
    for (let next; (next = this.#queue.entries().next().value) !== undefined;) {
      const [key, { image, hashBlock }] = next;
      this.#queue.delete(key);
      try {
        await this.#checkNow(image, hashBlock);
      } catch (error) {
        this.#log.warn(
          `cannot check ${printable(`${image}`)}: ${error instanceof Error ? error.message : error}`,
        );
      }
    }
  }

  async #checkNow(image: Image, hashBlock: number): Promise<void> {
    const expected = image.checksums?.checksums[hashBlock];
    if (expected === undefined || image.quarantine !== null) return;
    const read = (offset: number, into: Uint8Array) => {
      if (this.#stopped) throw new Error("the server is shutting down");
      return image.readUnchecked(offset, into);
    };
    const actual = await checksumOf(read, image.sizeBytes, hashBlock, () => delay(this.#clock, 0));
    this.checked++;
    // A file that was changed meanwhile is another matter, and dealt with.
    if (!image.isUnchanged()) return;
    if (actual === expected) {
      if (image.badHashBlocks.has(hashBlock)) {
        this.#log.info(`image ${printable(`${image}`)}: hash block ${hashBlock} is in order again`);
        image.markGood(hashBlock);
      }
      return;
    }
    this.mismatches++;
    if (image.badHashBlocks.has(hashBlock)) return;
    this.#log.error(
      `image ${printable(`${image}`)}: hash block ${hashBlock} does not fit its checksum; it is refused`,
    );
    image.markBad(hashBlock);
    this.onMismatch(image, hashBlock);
    this.checkAll(image);
  }
}
