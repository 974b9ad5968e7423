/**
 * An image that a proxy is copying, block by block, from other servers.
 *
 * What is here is read from here. What is missing is fetched, handed to whoever waits for it, and kept; while a
 * block is on its way everybody who wants it waits for the same one.
 *
 * If there are checksums, the last block of a hash block is handed out, and noted in the map, only when all of the
 * hash block fits its checksum. So a hash block that counts as complete is right, in memory and in the file. What
 * cannot be known is whether a block is right before its hash block is complete: until then a server is believed,
 * unless `verifyBeforeRelay` is set. Then the rest of the hash block is fetched as well, and nothing of it handed out
 * before it fits. A hash block that does not fit is forgotten, fetched anew as a whole, and handed out only when it
 * fits; the server that sent it, if it was one alone, is asked no more.
 */
import { allAtRest } from "../../base/all_at_rest.ts";
import type { Log } from "../../base/log.ts";
import { printable } from "../../base/printable.ts";
import { CacheMap } from "../../wire/dnbd3/cache_map.ts";
import {
  encodeChecksumList,
  hashBlockEnd,
  hashBlockOf,
  hashBlockRange,
} from "../../wire/dnbd3/checksum_list.ts";
import { BLOCK_BYTES, Hops } from "../../wire/dnbd3/constants.ts";
import { hashBlockCount } from "../../wire/dnbd3/message.ts";
import { CheckedHashBlocks } from "./checked_hash_blocks.ts";
import { CheckedReads } from "./checked_reads.ts";
import { type Fetch, Fetches } from "./fetches.ts";
import type { Image, ImageUser } from "./image.ts";
import { type KeepingTools, KeptCopy } from "./kept_copy.ts";
import { Orders } from "./orders.ts";
import type { ProxySettings } from "./proxy_settings.ts";
import { type DamagedCopy, refusedHashBlock, Repairs } from "./repairs.ts";
import { Replication } from "./replication.ts";
import { missingBlock, Supply } from "./supply.ts";
import type { Uplink, Upstream } from "./uplink.ts";

/** Nobody knows any more which server sent what an earlier run has kept. */
const HERE_BEFORE = "";

export interface CopyTools extends KeepingTools {
  readonly upstream: Upstream;
  settings(): ProxySettings;
  /** Told when the copy is complete, and need not be asked any more. */
  completed(image: Image): void;
}

export class ImageCopy {
  readonly image: Image;
  readonly #tools: CopyTools;
  readonly #log: Log;
  readonly #map: CacheMap;
  /** What the map has and what has arrived besides. */
  readonly #received: CacheMap;
  readonly #kept: KeptCopy;
  readonly #supply: Supply;
  readonly #fetches: Fetches;
  readonly #orders: Orders;
  /** By hash block: what is being written into it. */
  readonly #writing = new Map<number, Set<Promise<boolean>>>();
  readonly #repairs: Repairs;
  readonly #checked: CheckedHashBlocks;
  readonly #checkedReads: CheckedReads;
  readonly #replication: Replication;
  /** When a client last wanted what is not here. */
  #missedMs = -Infinity;
  #checkedList = false;
  #closing: Promise<void> | null = null;
  #finishing: Promise<void> | null = null;

  /**
   * Begins, or goes on.
   *
   * @param image Its map is that in its file. If it has none, a hash block of it is damaged.
   * @param options `uplink`: if there is one already; `damaged`: the hash block to fetch anew.
   */
  static async open(
    image: Image,
    tools: CopyTools,
    options: { readonly uplink?: Uplink; readonly damaged?: number } = {},
  ): Promise<ImageCopy> {
    const { uplink = null, damaged } = options;
    const map = image.map ?? fullMap(image.sizeBytes);
    if (damaged !== undefined) {
      const { offset, length } = hashBlockRange(damaged, image.sizeBytes);
      map.remove(offset, length);
    }
    const kept = await KeptCopy.open(image, map, tools);
    const copy = new ImageCopy(image, map, kept, tools, uplink);
    if (damaged !== undefined) copy.repair(damaged);
    copy.tick();
    return copy;
  }

  private constructor(
    image: Image,
    map: CacheMap,
    kept: KeptCopy,
    tools: CopyTools,
    uplink: Uplink | null,
  ) {
    const { clock, log, settings } = tools;
    this.image = image;
    this.#tools = tools;
    this.#log = log;
    this.#map = map;
    this.#received = new CacheMap(image.sizeBytes, map.encode());
    this.#kept = kept;
    this.#supply = new Supply(image, tools.upstream, clock, uplink);
    this.#fetches = new Fetches(clock);
    const damaged: DamagedCopy = {
      forget: (hashBlock) => this.#forget(hashBlock),
      save: () => this.save(),
      restore: (hashBlock, bytes) => this.#restore(hashBlock, bytes),
      repaired: () => this.#changed(),
    };
    this.#repairs = new Repairs(image, this.#supply, damaged, clock, log);
    for (let index = 0; index < hashBlockCount(image.sizeBytes); index++) {
      if (map.hashBlockState(index) === "partial") this.#repairs.cameFrom(index, HERE_BEFORE);
    }
    const orders = this.#orders = new Orders({
      image,
      map,
      fetches: this.#fetches,
      repairs: this.#repairs,
      supply: this.#supply,
      settings,
      obtain: (fetch, uplink) => this.#obtain(fetch, uplink),
    });
    this.#checked = new CheckedHashBlocks({
      isComplete: (hashBlock) => map.hashBlockState(hashBlock) === "complete",
      complete: (hashBlock, hops) => orders.complete(hashBlock, hops),
      fits: (hashBlock) => this.#repairs.fits(hashBlock),
      repair: (hashBlock) => this.#repairs.repair(hashBlock),
    });
    this.#checkedReads = new CheckedReads(image, kept, this.#checked, this.#supply);
    this.#replication = new Replication({
      map,
      settings,
      users: () => image.users.size,
      isUnderWay: (offset) => orders.isTaken(offset),
      fetch: (offset, length, hops) => {
        if (kept.problem !== null) throw missingBlock(image, "it cannot be kept");
        return orders.fetch(offset, length, hops).ready;
      },
      idleMs: () => this.#fetches.wanted > 0 ? 0 : clock.now() - this.#missedMs,
    });
  }

  /** What stands in the way of a complete copy, as far as is known. */
  get problems(): { readonly write: boolean; readonly noUplink: boolean; readonly queue: boolean } {
    const { uplink } = this;
    const noUplink = uplink !== null && uplink.status().server === null;
    return { write: this.#kept.problem !== null, noUplink, queue: this.#fetches.areMany };
  }

  /** The present connection to other servers, for status. */
  get uplink(): Uplink | null {
    return this.#supply.uplink;
  }

  /** Bytes fetched from other servers. */
  get receivedBytes(): number {
    return this.#supply.receivedBytes;
  }

  /** Hash blocks that did not fit their checksum. */
  get mismatches(): number {
    return this.#repairs.mismatches;
  }

  status() {
    const { server = null, servers = [] } = this.uplink?.status() ?? {};
    return {
      uplink: server,
      servers: servers.map(({ server, roundTripMs, failures, lies }) => ({
        server,
        roundTripMs,
        failures,
        lies,
      })),
      receivedBytes: this.receivedBytes,
      waiting: this.waiting,
      mismatches: this.mismatches,
      writeProblem: this.#kept.problem,
    };
  }

  /** Requests of clients that wait for another server. */
  get waiting(): number {
    return this.#fetches.wanted;
  }

  /**
   * Reads what is here, and fetches what is not.
   *
   * @param hops The hop byte of the client's request.
   * @throws If the request may not be relayed, or no server gives the block.
   */
  read(offset: number, into: Uint8Array, hops: number, user: ImageUser | null): void | Promise<void> {
    const { length } = into;
    const mayGive = this.image.has(offset, length) && (!this.#verifies || this.#checked.has(offset, length));
    return mayGive ? this.image.read(offset, into) : this.#relay(offset, into, hops, user);
  }

  /** Has a hash block fetched anew that does not fit its checksum. */
  repair(hashBlock: number): void {
    this.#repairs.repair(hashBlock).catch(() => {});
  }

  /** To be called about once a second. */
  tick(): void {
    if (this.#closing !== null || this.#finishing !== null) return;
    const nowMs = this.#tools.clock.now();
    // Of what goes in a circle both ends let go.
    for (const users of this.#fetches.takeCircles(nowMs)) {
      this.#supply.avoidCircle();
      for (const user of users) user.drop("it asks for what we have asked of it: a circle");
    }
    this.#kept.tick(nowMs);
    this.#repairs.tick(nowMs);
    const { uplink } = this;
    if (uplink === null) return;
    this.#adoptChecksums(uplink);
    if (this.#kept.problem === null) this.#replication.pump();
    if (this.#fetches.asked.size === 0) this.#supply.leaveIfIdle(nowMs, this.#missedMs);
  }

  /** Makes durable what is here. */
  save(): Promise<void> {
    return this.#kept.save();
  }

  /** Ends all copying, and makes durable what is here. */
  close(): Promise<void> {
    return this.#closing ??= this.#close();
  }

  async #close(): Promise<void> {
    await this.#supply.end();
    await Promise.all([...this.#fetches.asked].map((fetch) => fetch.ready.catch(() => {})));
    await Promise.all([...this.#writing.values()].flatMap((each) => [...each]));
    await this.#repairs.atRest;
    if (this.#finishing !== null) return await this.#finishing;
    await this.#kept.close();
  }

  // --- Reading ---

  async #relay(offset: number, into: Uint8Array, hops: number, user: ImageUser | null): Promise<void> {
    const settings = this.#tools.settings();
    const passed = hops & Hops.CountMask;
    if (passed > Hops.CountMax) throw new Error(`a block was asked for through ${passed} proxies: a circle`);
    if ((hops & Hops.Replication) !== 0 && settings.backgroundReplication !== "full") {
      throw new Error("only what is here is given to a proxy that replicates");
    }
    const flags = hops & ~Hops.CountMask;
    if (flags === 0) this.#missedMs = this.#tools.clock.now();
    if (this.#verifies) return await this.#readChecked(offset, into, passed, user);
    const parts: Promise<void>[] = [];
    try {
      this.#startParts(parts, offset, into, passed, flags, user);
    } catch (error) {
      // Those that have begun still write into the buffer.
      parts.push(Promise.reject(error));
    }
    await allAtRest(parts);
  }

  /** Adds a promise for each part of a read. */
  #startParts(
    parts: Promise<void>[],
    offset: number,
    into: Uint8Array,
    passed: number,
    flags: number,
    user: ImageUser | null,
  ): void {
    const { minRequestSize } = this.#tools.settings();
    const start = offset - offset % BLOCK_BYTES;
    const end = Math.ceil((offset + into.length) / BLOCK_BYTES) * BLOCK_BYTES;
    let asked = false;
    for (let at = start, until = start; at < end; at = until) {
      const hashBlock = hashBlockOf(at);
      const hashEnd = Math.min(end, hashBlockEnd(at));
      const repair = this.#repairs.at(hashBlock);
      const fetch = this.#fetches.at(at);
      if (repair !== undefined) {
        until = hashEnd;
        const from = at;
        parts.push(repair.then(() => this.#readHere(from, hashEnd, offset, into)));
      } else if (fetch !== undefined) {
        until = Math.min(end, fetch.offset + fetch.bytes.length);
        this.#fetches.join(fetch, passed, flags === 0, user);
        parts.push(this.#handOver(fetch, offset, into, passed, user));
      } else if (this.image.has(at, BLOCK_BYTES)) {
        until = at + BLOCK_BYTES;
        while (until < hashEnd && this.#fetches.at(until) === undefined && this.#map.has(until, 1)) {
          until += BLOCK_BYTES;
        }
        parts.push(this.#readHere(at, until, offset, into));
      } else {
        if (this.image.badHashBlocks.has(hashBlock)) throw refusedHashBlock(this.image, hashBlock);
        const fetch = this.#orders.order(at, Math.max(end, start + minRequestSize), passed + 1 | flags);
        if (flags === 0) fetch.isWanted = true;
        parts.push(this.#handOver(fetch, offset, into, passed, user));
        until = Math.min(end, at + fetch.bytes.length);
        asked = asked || at + fetch.bytes.length === end;
      }
    }
    if (asked && flags === 0 && (offset + into.length) % BLOCK_BYTES === 0) {
      this.#orders.prefetch(end, into.length, passed + 1 | Hops.Prefetch);
    }
  }

  async #readHere(from: number, until: number, offset: number, into: Uint8Array): Promise<void> {
    const start = Math.max(from, offset);
    const end = Math.min(until, offset + into.length);
    if (end > start) await this.image.read(start, into.subarray(start - offset, end - offset));
  }

  /** Gives of a fetch what was asked for. */
  async #handOver(
    fetch: Fetch,
    offset: number,
    into: Uint8Array,
    passed: number,
    user: ImageUser | null,
  ): Promise<void> {
    await fetch.ready;
    const start = Math.max(fetch.offset, offset);
    const end = Math.min(fetch.offset + fetch.bytes.length, offset + into.length);
    if (end <= start) return;
    const part = into.subarray(start - offset, end - offset);
    // That there are checksums may have become known with the first block.
    if (this.#verifies) return await this.#readChecked(start, part, passed, user);
    part.set(fetch.bytes.subarray(start - fetch.offset, end - fetch.offset));
  }

  /** Nothing is handed out before its hash block has been compared with its checksum. */
  get #verifies(): boolean {
    return this.#tools.settings().verifyBeforeRelay && this.image.checksums !== null;
  }

  async #readChecked(
    offset: number,
    into: Uint8Array,
    passed: number,
    user: ImageUser | null,
  ): Promise<void> {
    const reading = this.#checkedReads.read(offset, into, passed + 1);
    for (let at = offset - offset % BLOCK_BYTES; at < offset + into.length;) {
      const fetch = this.#fetches.at(at);
      if (fetch !== undefined) this.#fetches.join(fetch, passed, true, user);
      at = fetch === undefined ? at + BLOCK_BYTES : fetch.offset + fetch.bytes.length;
    }
    await reading;
  }

  // --- What arrives ---

  async #obtain(fetch: Fetch, uplink: Uplink): Promise<void> {
    let server: string;
    try {
      server = await uplink.fetch(fetch.offset, fetch.bytes, fetch.hops);
    } catch (error) {
      this.#fetches.forget(fetch);
      throw error;
    } finally {
      this.#fetches.answered(fetch);
    }
    const { length } = fetch.bytes;
    this.#supply.receivedBytes += length;
    this.#adoptChecksums(uplink);
    const hashBlock = hashBlockOf(fetch.offset);
    this.#repairs.cameFrom(hashBlock, server);
    this.#received.add(fetch.offset, length);
    const writing = this.#kept.write(fetch.offset, fetch.bytes);
    const others = this.#writing.get(hashBlock) ?? new Set();
    this.#writing.set(hashBlock, others);
    others.add(writing);
    const isLast = this.image.checksums !== null &&
      this.#received.hashBlockState(hashBlock) === "complete";
    const kept = this.#finish(fetch, hashBlock, writing, isLast).finally(() => {
      others.delete(writing);
      if (others.size === 0) this.#writing.delete(hashBlock);
    });
    // Nothing more is known of this block for now, so nobody has to wait.
    if (!isLast) return void kept.catch(() => {});
    await kept;
  }

  /** Notes what has been written, checked if it can be. */
  async #finish(fetch: Fetch, hashBlock: number, writing: Promise<boolean>, isLast: boolean): Promise<void> {
    const { offset, bytes } = fetch;
    if (!await writing) {
      this.#received.remove(offset, bytes.length);
      return this.#fetches.forget(fetch);
    }
    if (isLast) {
      await Promise.all(this.#writing.get(hashBlock)!);
      if (this.#received.hashBlockState(hashBlock) === "complete") {
        if (!await this.#repairs.fits(hashBlock)) {
          // Whoever waits for the fetch gets what the repair brings.
          const repairing = this.#repairs.repair(hashBlock);
          this.#fetches.forget(fetch);
          await repairing;
          return void await this.image.read(offset, bytes);
        }
        this.#checked.add(hashBlock);
      }
      this.#repairs.absolve(hashBlock);
    }
    this.#kept.note(offset, bytes.length);
    this.#fetches.forget(fetch);
    this.#changed();
  }

  /** The map has more than before. */
  #changed(): void {
    if (this.#map.complete) this.#finishing ??= this.#complete();
    else this.#replication.pump();
  }

  /** All is here. */
  async #complete(): Promise<void> {
    if (!await this.#kept.makeWhole()) return;
    this.image.becomeComplete();
    this.#log.info(
      `image ${printable(`${this.image}`)} is complete${this.image.checksums === null ? ", unverified" : ""}`,
    );
    await this.#supply.leave();
    this.#tools.completed(this.image);
  }

  /** The servers have checksums after all: what is here already is checked, and kept for the next start. */
  #adoptChecksums({ checksums }: Uplink): void {
    if (checksums === null || this.image.checksums !== null || this.#checkedList) return;
    this.#checkedList = true;
    this.image.checksums = checksums;
    this.#tools.store.writeSmall(`${this.image.path}.crc`, encodeChecksumList(checksums))
      .catch((error) => this.#kept.fail(error));
    for (let hashBlock = 0; hashBlock < checksums.checksums.length; hashBlock++) {
      if (this.#map.hashBlockState(hashBlock) === "complete") this.#checkLater(hashBlock);
    }
  }

  #checkLater(hashBlock: number): void {
    this.#repairs.inTurn(async () => {
      if (this.#closing !== null) return;
      if (await this.#repairs.fits(hashBlock)) this.#checked.add(hashBlock);
      else this.repair(hashBlock);
    });
  }

  /** What is here of a hash block is of no use. */
  #forget(hashBlock: number): void {
    const { offset, length } = hashBlockRange(hashBlock, this.image.sizeBytes);
    this.#map.remove(offset, length);
    this.#received.remove(offset, length);
    this.#checked.delete(hashBlock);
  }

  /** Puts a hash block in its place that has been checked. @returns Whether it could be kept. */
  async #restore(hashBlock: number, bytes: Uint8Array): Promise<boolean> {
    const { offset, length } = hashBlockRange(hashBlock, this.image.sizeBytes);
    if (!await this.#kept.write(offset, bytes)) return false;
    this.#received.add(offset, length);
    this.#kept.note(offset, length);
    this.#checked.add(hashBlock);
    return true;
  }
}

function fullMap(sizeBytes: number): CacheMap {
  const map = new CacheMap(sizeBytes);
  map.add(0, sizeBytes);
  return map;
}
