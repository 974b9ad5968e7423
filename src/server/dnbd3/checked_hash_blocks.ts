/**
 * The hash blocks of a copy that have fitted their checksum since it was opened, and how others get there: what is
 * missing of one is fetched, then all of it is compared, once for all who wait for it.
 */
import { Slots } from "../../base/slots.ts";
import { hashBlockEnd, hashBlockOf } from "../../wire/dnbd3/checksum_list.ts";

/** Hash blocks that are completed at once; each takes 16 MiB until it is in the file. */
const GATHERED_MAX = 4;

export interface HashBlockSubject {
  /** Whether all of a hash block is here. */
  isComplete(hashBlock: number): boolean;
  /**
   * Fetches what is missing of a hash block, and waits for what is on its way or being repaired.
   *
   * @throws If no server gives it, or it fits from nobody.
   */
  complete(hashBlock: number, hops: number): Promise<void>;
  fits(hashBlock: number): Promise<boolean>;
  /** Fetches a hash block anew that does not fit, until it does. */
  repair(hashBlock: number): Promise<void>;
}

export class CheckedHashBlocks {
  readonly #subject: HashBlockSubject;
  readonly #checked = new Set<number>();
  readonly #gathering = new Map<number, Promise<void>>();
  readonly #slots = new Slots(GATHERED_MAX);

  constructor(subject: HashBlockSubject) {
    this.#subject = subject;
  }

  add(hashBlock: number): void {
    this.#checked.add(hashBlock);
  }

  delete(hashBlock: number): void {
    this.#checked.delete(hashBlock);
  }

  /** Whether all hash blocks that the range touches have fitted. */
  has(offset: number, length: number): boolean {
    for (let at = offset; at < offset + length; at = hashBlockEnd(at)) {
      if (!this.#checked.has(hashBlockOf(at))) return false;
    }
    return true;
  }

  /**
   * Completes a hash block, and compares it with its checksum.
   *
   * @param hops To be sent with what is asked for.
   * @returns Whether it fits and is here; it is not if it cannot be kept.
   * @throws If no server gives it, or it fits from nobody.
   */
  async gather(hashBlock: number, hops: number): Promise<boolean> {
    let gathering = this.#gathering.get(hashBlock);
    if (gathering === undefined) {
      gathering = this.#gatherInTurn(hashBlock, hops).finally(() => this.#gathering.delete(hashBlock));
      this.#gathering.set(hashBlock, gathering);
    }
    await gathering;
    return this.#checked.has(hashBlock);
  }

  async #gatherInTurn(hashBlock: number, hops: number): Promise<void> {
    await this.#slots.take();
    try {
      await this.#gather(hashBlock, hops);
    } finally {
      this.#slots.give();
    }
  }

  async #gather(hashBlock: number, hops: number): Promise<void> {
    await this.#subject.complete(hashBlock, hops);
    if (this.#checked.has(hashBlock) || !this.#subject.isComplete(hashBlock)) return;
    // It was here before the copy was opened, or before there were checksums.
    if (await this.#subject.fits(hashBlock)) this.#checked.add(hashBlock);
    else await this.#subject.repair(hashBlock);
  }
}
