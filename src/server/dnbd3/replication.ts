/**
 * Copies what nobody asks for: all of an image, or the hash blocks of which something is here.
 *
 * It makes way for clients: after one of them wanted what is not here, nothing is asked for in the first second,
 * one block in the second after, and so on up to the window.
 */
import { type CacheMap, MAP_BYTE_BYTES } from "../../wire/dnbd3/cache_map.ts";
import { BLOCK_BYTES, HASH_BLOCK_BYTES, Hops } from "../../wire/dnbd3/constants.ts";
import type { ProxySettings } from "./proxy_settings.ts";

/** From this size on `minRequestSize` makes requests longer than a byte of the map. */
const MERGE_BYTES_MIN = 64 * 1024;
const REQUEST_BYTES_MAX = 1024 * 1024;

export interface ReplicationSubject {
  readonly map: CacheMap;
  settings(): ProxySettings;
  /** How many users the image has. */
  users(): number;
  /** Whether the block at an offset is here or on its way. */
  isUnderWay(offset: number): boolean;
  /** Fetches what is neither. */
  fetch(offset: number, length: number, hops: number): Promise<void>;
  /** How long ago a client wanted what is not here; 0 as long as one waits. */
  idleMs(): number;
}

export class Replication {
  readonly #subject: ReplicationSubject;
  #inFlight = 0;
  /** Where to go on. */
  #unit = 0;

  constructor(subject: ReplicationSubject) {
    this.#subject = subject;
  }

  /** Asks for as much as may be asked for now. */
  pump(): void {
    const { map, settings, users, idleMs } = this.#subject;
    const { backgroundReplication: mode, bgrMinClients, bgrWindowSize } = settings();
    if (mode === "off" || map.complete || users() < bgrMinClients) return;
    const window = Math.min(bgrWindowSize, Math.floor(idleMs() / 1000));
    while (this.#inFlight < window) {
      const range = mode === "full" ? this.#nextAnywhere() : this.#nextBegun();
      if (range === null) return;
      let fetching: Promise<void>;
      try {
        fetching = this.#subject.fetch(range.offset, range.length, this.#hops());
      } catch {
        // There is nobody to ask at the moment; the next tick tries again.
        return;
      }
      this.#inFlight++;
      fetching.then(() => this.#ended(true), () => this.#ended(false));
    }
  }

  #ended(succeeded: boolean): void {
    this.#inFlight--;
    if (succeeded) this.pump();
  }

  /**
   * Who copies only what was begun asks others as if a client might want it soon: they would refuse to fetch for a
   * copy what they do not have.
   */
  #hops(): number {
    const { backgroundReplication, pretendClient } = this.#subject.settings();
    return 1 | (backgroundReplication === "full" && !pretendClient ? Hops.Replication : Hops.Prefetch);
  }

  #nextAnywhere(): { offset: number; length: number } | null {
    const { map } = this.#subject;
    const units = Math.ceil(map.sizeBytes / MAP_BYTE_BYTES);
    for (let from = this.#unit, walked = 0; walked < units;) {
      const unit = map.nextIncompleteUnit(from % units);
      if (unit === undefined) return null;
      walked += (unit - from % units + units) % units + 1;
      const range = walked > units ? null : this.#missingOf(unit);
      if (range !== null) {
        this.#unit = unit;
        return this.#lengthened(range);
      }
      from = unit + 1;
    }
    return null;
  }

  /** Stays in a hash block until it is done. */
  #nextBegun(): { offset: number; length: number } | null {
    const { map } = this.#subject;
    const count = Math.ceil(map.sizeBytes / HASH_BLOCK_BYTES);
    const unitsEach = HASH_BLOCK_BYTES / MAP_BYTE_BYTES;
    const first = Math.floor(this.#unit / unitsEach);
    for (let step = 0; step < count; step++) {
      const hashBlock = (first + step) % count;
      if (map.hashBlockState(hashBlock) !== "partial") continue;
      const end = Math.min((hashBlock + 1) * unitsEach, Math.ceil(map.sizeBytes / MAP_BYTE_BYTES));
      for (let unit = hashBlock * unitsEach; unit < end; unit++) {
        const range = this.#missingOf(unit);
        if (range === null) continue;
        this.#unit = unit;
        return range;
      }
    }
    return null;
  }

  /** The first run of blocks of a unit that are neither here nor on their way. */
  #missingOf(unit: number): { offset: number; length: number } | null {
    const { map, isUnderWay } = this.#subject;
    const end = Math.min((unit + 1) * MAP_BYTE_BYTES, map.sizeBytes);
    let offset = unit * MAP_BYTE_BYTES;
    while (offset < end && isUnderWay(offset)) offset += BLOCK_BYTES;
    if (offset >= end) return null;
    let until = offset + BLOCK_BYTES;
    while (until < end && !isUnderWay(until)) until += BLOCK_BYTES;
    return { offset, length: Math.min(until, map.sizeBytes) - offset };
  }

  /** Goes on over the following units, as far as they are missing, in the same hash block. */
  #lengthened({ offset, length }: { offset: number; length: number }): { offset: number; length: number } {
    const { map, isUnderWay, settings } = this.#subject;
    const { minRequestSize } = settings();
    if (minRequestSize < MERGE_BYTES_MIN) return { offset, length };
    const limit = Math.min(
      offset + Math.min(minRequestSize, REQUEST_BYTES_MAX),
      (Math.floor(offset / HASH_BLOCK_BYTES) + 1) * HASH_BLOCK_BYTES,
      map.sizeBytes,
    );
    let end = offset + length;
    while (end < limit && !isUnderWay(end)) end += BLOCK_BYTES;
    return { offset, length: Math.min(end, map.sizeBytes) - offset };
  }
}
