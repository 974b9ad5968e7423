/**
 * What is missing of a copy, and how it is asked for: in requests that end where something is here or on its way, and
 * never reach into another hash block.
 */
import { allAtRest } from "../../base/all_at_rest.ts";
import type { CacheMap } from "../../wire/dnbd3/cache_map.ts";
import { hashBlockEnd, hashBlockOf, hashBlockRange } from "../../wire/dnbd3/checksum_list.ts";
import { BLOCK_BYTES, Hops } from "../../wire/dnbd3/constants.ts";
import type { Fetch, Fetches } from "./fetches.ts";
import type { Image } from "./image.ts";
import type { ProxySettings } from "./proxy_settings.ts";
import { refusedHashBlock, type Repairs } from "./repairs.ts";
import { missingBlock, type Supply } from "./supply.ts";
import type { Uplink } from "./uplink.ts";

/** The longest block that is asked for at once. */
const REQUEST_BYTES_MAX = 1024 * 1024;

/** The copy for which they are given. */
export interface OrderingCopy {
  readonly image: Image;
  /** What is here. */
  readonly map: CacheMap;
  /** What is on its way. */
  readonly fetches: Fetches;
  /** What is fetched anew. */
  readonly repairs: Repairs;
  readonly supply: Supply;
  settings(): ProxySettings;
  /** Fetches what was begun. @returns When its bytes may be handed out. */
  obtain(fetch: Fetch, uplink: Uplink): Promise<void>;
}

export class Orders {
  readonly #copy: OrderingCopy;

  constructor(copy: OrderingCopy) {
    this.#copy = copy;
  }

  /** Whether the block at an offset is here or on its way. */
  isTaken(offset: number): boolean {
    const { map, fetches, repairs } = this.#copy;
    return map.has(offset, 1) || fetches.at(offset) !== undefined ||
      repairs.at(hashBlockOf(offset)) !== undefined;
  }

  /**
   * Asks for blocks from the one at an offset, which is not taken, on.
   *
   * @param wishedEnd No more is asked for; less, where a request has to end.
   * @param hops The hop byte to send.
   * @throws As {@linkcode fetch}.
   */
  order(offset: number, wishedEnd: number, hops: number): Fetch {
    return this.fetch(offset, this.#missingRun(offset, wishedEnd), hops);
  }

  /** Asks for blocks none of which is taken. @throws If too much is on its way, or there is nobody to ask. */
  fetch(offset: number, length: number, hops: number): Fetch {
    const { image, fetches, supply, obtain } = this.#copy;
    const uplink = supply.open();
    const isWanted = (hops & ~Hops.CountMask) === 0;
    if (!fetches.hasRoom(length, isWanted)) throw missingBlock(image, "too much is waited for");
    const fetch = fetches.begin(offset, length, hops);
    fetch.ready = obtain(fetch, uplink);
    fetch.ready.catch(() => {});
    return fetch;
  }

  /** Asks for what a client is likely to want next, behind `length` bytes that end at `start`. */
  prefetch(start: number, length: number, hops: number): void {
    const { image, fetches, settings } = this.#copy;
    const { maxPrefetch } = settings();
    if (length > maxPrefetch) return;
    const end = Math.min(start + Math.min(3 * length, maxPrefetch), image.sizeBytes);
    for (let at = start - start % BLOCK_BYTES; at < end;) {
      if (this.isTaken(at)) {
        at += BLOCK_BYTES;
        continue;
      }
      const run = this.#missingRun(at, end);
      if (!fetches.hasRoom(run, false)) return;
      this.fetch(at, run, hops);
      at += run;
    }
  }

  /**
   * Asks for what is missing of a hash block, and waits for it and for what is on its way; its repair is waited for
   * first.
   *
   * @throws If no server gives it, or it fits from nobody.
   */
  async complete(hashBlock: number, hops: number): Promise<void> {
    const { image, map, fetches, repairs } = this.#copy;
    await repairs.at(hashBlock);
    if (image.badHashBlocks.has(hashBlock)) throw refusedHashBlock(image, hashBlock);
    const { offset, length } = hashBlockRange(hashBlock, image.sizeBytes);
    const parts: Promise<void>[] = [];
    for (let at = offset; at < offset + length;) {
      if (map.has(at, 1)) {
        at += BLOCK_BYTES;
        continue;
      }
      const fetch = fetches.at(at) ?? this.order(at, offset + length, hops);
      fetch.isWanted = true;
      parts.push(fetch.ready);
      at = fetch.offset + fetch.bytes.length;
    }
    await allAtRest(parts);
  }

  /** Bytes from an offset, where a block is missing, to where a request has to end. */
  #missingRun(offset: number, wishedEnd: number): number {
    const { image, settings } = this.#copy;
    const { maxPayload } = settings();
    const bytesMax = Math.min(REQUEST_BYTES_MAX, maxPayload - maxPayload % BLOCK_BYTES);
    const limit = Math.min(wishedEnd, offset + bytesMax, hashBlockEnd(offset), image.sizeBytes);
    let end = offset + BLOCK_BYTES;
    while (end < limit && !this.isTaken(end)) end += BLOCK_BYTES;
    return Math.min(end, image.sizeBytes) - offset;
  }
}
