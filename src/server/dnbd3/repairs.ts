/**
 * The hash blocks of a copy that are compared with their checksums, and what becomes of those that do not fit.
 *
 * Such a hash block is forgotten and fetched anew as a whole; whoever reads from it waits meanwhile. The server that
 * sent it, if it was one alone, is asked no more. If it fits from nobody it is refused, and tried again later.
 */
import type { Log } from "../../base/log.ts";
import { printable } from "../../base/printable.ts";
import { type DoubtfulSource, fetchChecked } from "../../device/checked_blocks.ts";
import { type Clock, delay } from "../../os/clock.ts";
import { hashBlockRange } from "../../wire/dnbd3/checksum_list.ts";
import { checksumOf } from "./hash_block.ts";
import type { Image } from "./image.ts";
import { missingBlock } from "./supply.ts";

/** A hash block that fits from nobody is tried again so much later. */
const REPAIR_AGAIN_MS = 60_000;

/** The copy to which they belong. */
export interface DamagedCopy {
  /** Forgets what is here of a hash block. */
  forget(hashBlock: number): void;
  /** Saves that, before anything else is written there. */
  save(): Promise<void>;
  /** Puts a whole hash block in place, which has been checked. @returns Whether it could be. */
  restore(hashBlock: number, bytes: Uint8Array): Promise<boolean>;
  /** A hash block is in order again. */
  repaired(): void;
}

export class Repairs {
  /** Hash blocks that did not fit. */
  mismatches = 0;
  readonly #image: Image;
  readonly #source: DoubtfulSource;
  readonly #copy: DamagedCopy;
  readonly #clock: Clock;
  readonly #log: Log;
  /** By hash block: the servers that parts of it came from, as long as it has not been checked. */
  readonly #senders = new Map<number, Set<string>>();
  readonly #repairs = new Map<number, Promise<void>>();
  /** One at a time: each takes 16 MiB. */
  #turn: Promise<void> = Promise.resolve();
  #againMs = Infinity;

  constructor(image: Image, source: DoubtfulSource, copy: DamagedCopy, clock: Clock, log: Log) {
    this.#image = image;
    this.#source = source;
    this.#copy = copy;
    this.#clock = clock;
    this.#log = log;
  }

  /** Part of a hash block that is to be checked came from a server. */
  cameFrom(hashBlock: number, server: string): void {
    const senders = this.#senders.get(hashBlock);
    if (senders === undefined) this.#senders.set(hashBlock, new Set([server]));
    else senders.add(server);
  }

  /** Who has sent a hash block does not matter any more. */
  absolve(hashBlock: number): void {
    this.#senders.delete(hashBlock);
  }

  /** Compares what the file has of a hash block with its checksum. */
  async fits(hashBlock: number): Promise<boolean> {
    const { checksums, sizeBytes } = this.#image;
    const read = (offset: number, into: Uint8Array) => this.#image.readUnchecked(offset, into);
    let slices = 0;
    const pause = () => ++slices % 4 === 0 ? delay(this.#clock, 0) : Promise.resolve();
    return await checksumOf(read, sizeBytes, hashBlock, pause) === checksums!.checksums[hashBlock];
  }

  /** Does something with a hash block when no other is being worked on. */
  inTurn(work: () => Promise<void>): Promise<void> {
    const done = this.#turn.then(work);
    this.#turn = done.catch(() => {});
    return done;
  }

  /** Resolves when nothing is being worked on. */
  get atRest(): Promise<void> {
    return this.#turn;
  }

  /** The repair of a hash block that is going on. @throws If it fits from nobody, or cannot be kept. */
  at(hashBlock: number): Promise<void> | undefined {
    return this.#repairs.get(hashBlock);
  }

  /** Fetches a hash block anew that does not fit. @throws As {@linkcode at}. */
  repair(hashBlock: number): Promise<void> {
    const known = this.#repairs.get(hashBlock);
    if (known !== undefined) return known;
    this.#copy.forget(hashBlock);
    this.mismatches++;
    this.#log.error(
      `image ${printable(`${this.#image}`)}: hash block ${hashBlock} does not fit its checksum; ` +
        "it is fetched anew",
    );
    const repaired = this.inTurn(() => this.#repairNow(hashBlock))
      .finally(() => this.#repairs.delete(hashBlock));
    this.#repairs.set(hashBlock, repaired);
    repaired.then(() => this.#copy.repaired(), () => {});
    return repaired;
  }

  async #repairNow(hashBlock: number): Promise<void> {
    const { offset, length } = hashBlockRange(hashBlock, this.#image.sizeBytes);
    const expected = this.#image.checksums!.checksums[hashBlock];
    const bytes = new Uint8Array(length);
    const senders = this.#senders.get(hashBlock);
    if (senders?.size === 1) { for (const sender of senders) this.#source.distrust(sender); }
    this.#senders.delete(hashBlock);
    await this.#copy.save().catch(() => {});
    const fits = await fetchChecked(this.#source, offset, bytes, expected).catch(() => false);
    if (!fits || !await this.#copy.restore(hashBlock, bytes)) {
      this.#image.markBad(hashBlock);
      this.#againMs = this.#clock.now() + REPAIR_AGAIN_MS;
      throw refusedHashBlock(this.#image, hashBlock);
    }
    this.#image.markGood(hashBlock);
    this.#log.info(`image ${printable(`${this.#image}`)}: hash block ${hashBlock} is in order again`);
  }

  /** Tries again what fitted from nobody, when it is time. */
  tick(nowMs: number): void {
    if (nowMs < this.#againMs) return;
    this.#againMs = Infinity;
    for (const hashBlock of this.#image.badHashBlocks) this.repair(hashBlock).catch(() => {});
  }
}

/** Why nobody gets anything of a hash block. */
export function refusedHashBlock(image: Image, hashBlock: number): Error {
  return missingBlock(image, `hash block ${hashBlock} does not fit its checksum, whoever sends it`);
}
