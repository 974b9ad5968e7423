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
import { CheckedBlocks, type DoubtfulSource, fetchChecked } from "../../device/checked_blocks.ts";
import { delay } from "../../os/clock.ts";
import { CacheMap } from "../../wire/dnbd3/cache_map.ts";
import {
  encodeChecksumList,
  hashBlockEnd,
  hashBlockOf,
  hashBlockRange,
} from "../../wire/dnbd3/checksum_list.ts";
import { BLOCK_BYTES, HASH_BLOCK_BYTES, Hops, PROTOCOL_VERSION } from "../../wire/dnbd3/constants.ts";
import { hashBlockCount } from "../../wire/dnbd3/message.ts";
import { CheckedHashBlocks } from "./checked_hash_blocks.ts";
import { type Fetch, Fetches } from "./fetches.ts";
import { checksumOf } from "./hash_block.ts";
import type { Image, ImageUser } from "./image.ts";
import { type KeepingTools, KeptCopy } from "./kept_copy.ts";
import type { ProxySettings } from "./proxy_settings.ts";
import { Replication } from "./replication.ts";
import type { Uplink, Upstream } from "./uplink.ts";

/** The longest block that is asked for at once. */
const REQUEST_BYTES_MAX = 1024 * 1024;
/** Without a request of a client for so long, and nothing to copy, the servers are left alone. */
const IDLE_MS = 1_800_000;
/** A server whose requests came back is not asked for so long. */
const AVOID_MS = 300_000;
/** A hash block that fits from nobody is tried again so much later. */
const REPAIR_AGAIN_MS = 60_000;
/** Nobody knows any more which server sent what an earlier run has kept. */
const HERE_BEFORE = "";
/** Hash blocks in memory, where clients wait for their checksums and nothing can be kept. */
const UNKEPT_MAX = 2;

export interface CopyTools extends KeepingTools {
  readonly upstream: Upstream;
  settings(): ProxySettings;
  /** Told when the copy is complete, and need not be asked any more. */
  completed(image: Image): void;
}

export class ImageCopy {
  readonly image: Image;
  /** Bytes fetched from other servers. */
  receivedBytes = 0;
  /** Hash blocks that did not fit their checksum. */
  mismatches = 0;
  readonly #map: CacheMap;
  /** What the map has and what has arrived besides. */
  readonly #received: CacheMap;
  readonly #kept: KeptCopy;
  readonly #tools: CopyTools;
  readonly #log: Log;
  readonly #replication: Replication;
  #uplink: Uplink | null;
  readonly #fetches: Fetches;
  /** By hash block: the servers that parts of it came from, as long as it has not been checked. */
  readonly #sources = new Map<number, Set<string>>();
  /** By hash block: what is being written into it. */
  readonly #writing = new Map<number, Set<Promise<boolean>>>();
  readonly #repairs = new Map<number, Promise<void>>();
  #repairing: Promise<unknown> = Promise.resolve();
  readonly #checked: CheckedHashBlocks;
  /** What is handed out when nothing can be kept. */
  #unkept: CheckedBlocks | null = null;
  #repairAgainMs = Infinity;
  /** When a client last wanted what is not here. */
  #missedMs = -Infinity;
  #openedMs: number;
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
    this.image = image;
    this.#map = map;
    this.#received = new CacheMap(image.sizeBytes, map.encode());
    this.#kept = kept;
    this.#fetches = new Fetches(tools.clock);
    this.#tools = tools;
    this.#log = tools.log;
    this.#uplink = uplink;
    this.#openedMs = tools.clock.now();
    for (let index = 0; index < hashBlockCount(image.sizeBytes); index++) {
      if (map.hashBlockState(index) === "partial") remember(this.#sources, index, HERE_BEFORE);
    }
    this.#checked = new CheckedHashBlocks({
      isComplete: (hashBlock) => map.hashBlockState(hashBlock) === "complete",
      complete: (hashBlock, hops) => this.#completeHashBlock(hashBlock, hops),
      fits: (hashBlock) => this.#fits(hashBlock),
      repair: (hashBlock) => this.#repair(hashBlock),
    });
    this.#replication = new Replication({
      map,
      settings: () => tools.settings(),
      users: () => image.users.size,
      isUnderWay: (offset) => this.#isTaken(offset),
      fetch: (offset, length, hops) => {
        if (kept.problem !== null) throw this.#missing("it cannot be kept");
        return this.#startFetch(offset, length, hops).ready;
      },
      idleMs: () => this.#fetches.wanted > 0 ? 0 : tools.clock.now() - this.#missedMs,
    });
  }

  /** What stands in the way of a complete copy, as far as is known. */
  get problems(): { readonly write: boolean; readonly noUplink: boolean; readonly queue: boolean } {
    const noUplink = this.#uplink !== null && this.#uplink.status().server === null;
    return { write: this.#kept.problem !== null, noUplink, queue: this.#fetches.areMany };
  }

  /** The present connection to other servers, for status. */
  get uplink(): Uplink | null {
    return this.#uplink;
  }

  status() {
    const { server = null, servers = [] } = this.#uplink?.status() ?? {};
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
    this.#repair(hashBlock).catch(() => {});
  }

  /** To be called about once a second. */
  tick(): void {
    if (this.#closing !== null || this.#finishing !== null) return;
    const nowMs = this.#tools.clock.now();
    this.#findCircles(nowMs);
    this.#kept.tick(nowMs);
    if (nowMs >= this.#repairAgainMs) {
      this.#repairAgainMs = Infinity;
      for (const hashBlock of this.image.badHashBlocks) this.repair(hashBlock);
    }
    if (this.#uplink === null) return;
    this.#adoptChecksums(this.#uplink);
    if (this.#kept.problem === null) this.#replication.pump();
    const idleMs = nowMs - Math.max(this.#missedMs, this.#openedMs);
    if (idleMs >= IDLE_MS && this.#fetches.asked.size === 0) this.#closeUplink();
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
    await this.#closeUplink();
    await Promise.all([...this.#fetches.asked].map((fetch) => fetch.ready.catch(() => {})));
    await Promise.all([...this.#writing.values()].flatMap((each) => [...each]));
    await this.#repairing;
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
      const repair = this.#repairs.get(hashBlock);
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
        if (this.image.badHashBlocks.has(hashBlock)) throw this.#refused(hashBlock);
        const limit = this.#requestLimit(at, Math.max(end, start + minRequestSize), hashBlock);
        const length = this.#missingRun(at, limit);
        const fetch = this.#startFetch(at, length, passed + 1 | flags);
        if (flags === 0) fetch.isWanted = true;
        parts.push(this.#handOver(fetch, offset, into, passed, user));
        until = Math.min(end, at + length);
        asked = asked || at + length === end;
      }
    }
    if (asked && flags === 0 && (offset + into.length) % BLOCK_BYTES === 0) {
      this.#prefetch(end, into.length, passed + 1 | Hops.Prefetch);
    }
  }

  /** Where a request from `at` has to end. */
  #requestLimit(at: number, wishedEnd: number, hashBlock: number): number {
    const bytesMax = Math.min(REQUEST_BYTES_MAX, wholeBlocks(this.#tools.settings().maxPayload));
    const limit = Math.min(wishedEnd, at + bytesMax, (hashBlock + 1) * HASH_BLOCK_BYTES);
    return Math.min(limit, this.image.sizeBytes);
  }

  /** Bytes from `at`, a block that is missing, to the first that is here or on its way. */
  #missingRun(at: number, limit: number): number {
    let end = at + BLOCK_BYTES;
    while (end < limit && !this.#isTaken(end)) end += BLOCK_BYTES;
    return Math.min(end, this.image.sizeBytes) - at;
  }

  /** A block is here or on its way. */
  #isTaken(offset: number): boolean {
    return this.#map.has(offset, 1) || this.#fetches.at(offset) !== undefined ||
      this.#repairs.has(hashBlockOf(offset));
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
    const end = offset + into.length;
    const parts: Promise<void>[] = [];
    for (let at = offset; at < end; at = hashBlockEnd(at)) {
      const until = Math.min(end, hashBlockEnd(at));
      parts.push(this.#readCheckedPart(at, into.subarray(at - offset, until - offset), passed));
    }
    for (let at = offset - offset % BLOCK_BYTES; at < end;) {
      const fetch = this.#fetches.at(at);
      if (fetch !== undefined) this.#fetches.join(fetch, passed, true, user);
      at = fetch === undefined ? at + BLOCK_BYTES : fetch.offset + wholeBlocks(fetch.bytes.length);
    }
    await allAtRest(parts);
  }

  /** A range in one hash block. */
  async #readCheckedPart(offset: number, into: Uint8Array, passed: number): Promise<void> {
    const isHere = this.#kept.problem === null && await this.#checked.gather(hashBlockOf(offset), passed + 1);
    if (isHere || this.#checked.has(offset, into.length)) return await this.image.read(offset, into);
    // It cannot be kept, so there is no place for it but in memory.
    this.#unkept ??= new CheckedBlocks(this.#source, {
      sizeBytes: this.image.sizeBytes,
      blockBytes: HASH_BLOCK_BYTES,
      checksums: this.image.checksums!.checksums,
    }, UNKEPT_MAX);
    await this.#unkept.read(offset, into);
  }

  /** Fetches what is missing of a hash block; what is being repaired is waited for. */
  async #completeHashBlock(hashBlock: number, hops: number): Promise<void> {
    await this.#repairs.get(hashBlock);
    if (this.image.badHashBlocks.has(hashBlock)) throw this.#refused(hashBlock);
    const { offset, length } = hashBlockRange(hashBlock, this.image.sizeBytes);
    const parts: Promise<void>[] = [];
    for (let at = offset; at < offset + length;) {
      if (this.#map.has(at, 1)) {
        at += BLOCK_BYTES;
        continue;
      }
      const fetch = this.#fetches.at(at) ??
        this.#startFetch(
          at,
          this.#missingRun(at, this.#requestLimit(at, offset + length, hashBlock)),
          hops,
        );
      fetch.isWanted = true;
      parts.push(fetch.ready);
      at = fetch.offset + fetch.bytes.length;
    }
    await allAtRest(parts);
  }

  /** Fetches what a client is likely to want next. */
  #prefetch(start: number, length: number, hops: number): void {
    const { maxPrefetch } = this.#tools.settings();
    if (length > maxPrefetch) return;
    const end = Math.min(start + Math.min(3 * length, maxPrefetch), this.image.sizeBytes);
    for (let at = start - start % BLOCK_BYTES; at < end;) {
      if (this.#isTaken(at)) {
        at += BLOCK_BYTES;
        continue;
      }
      const run = this.#missingRun(at, this.#requestLimit(at, end, hashBlockOf(at)));
      if (!this.#fetches.hasRoom(run, false)) return;
      this.#startFetch(at, run, hops);
      at += run;
    }
  }

  // --- Fetching ---

  #connect(): Uplink {
    if (this.#closing !== null) throw this.#missing("the server is shutting down");
    if (this.#uplink !== null) return this.#uplink;
    const { name, revision, sizeBytes, checksums } = this.image;
    const uplink = this.#tools.upstream.resume({
      image: { version: PROTOCOL_VERSION, name, revision, sizeBytes },
      checksums,
    });
    if (uplink === null) throw this.#missing("no other server has it");
    this.#openedMs = this.#tools.clock.now();
    return this.#uplink = uplink;
  }

  /** @throws If too much is on its way, or there is nobody to ask. */
  #startFetch(offset: number, length: number, hops: number): Fetch {
    const uplink = this.#connect();
    const isWanted = (hops & ~Hops.CountMask) === 0;
    if (!this.#fetches.hasRoom(length, isWanted)) throw this.#missing("too much is waited for");
    const fetch = this.#fetches.begin(offset, length, hops);
    fetch.ready = this.#obtain(fetch, uplink);
    fetch.ready.catch(() => {});
    return fetch;
  }

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
    this.receivedBytes += length;
    this.#adoptChecksums(uplink);
    const hashBlock = hashBlockOf(fetch.offset);
    remember(this.#sources, hashBlock, server);
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
        if (!await this.#fits(hashBlock)) {
          // Whoever waits for the fetch gets what the repair brings.
          const repairing = this.#repair(hashBlock);
          this.#fetches.forget(fetch);
          await repairing;
          return void await this.image.read(offset, bytes);
        }
        this.#checked.add(hashBlock);
      }
      this.#sources.delete(hashBlock);
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
    await this.#closeUplink();
    this.#tools.completed(this.image);
  }

  // --- Checking ---

  async #fits(hashBlock: number): Promise<boolean> {
    const { checksums, sizeBytes } = this.image;
    const expected = checksums!.checksums[hashBlock];
    const read = (offset: number, into: Uint8Array) => this.image.readUnchecked(offset, into);
    let slices = 0;
    const pause = () => ++slices % 4 === 0 ? delay(this.#tools.clock, 0) : Promise.resolve();
    return await checksumOf(read, sizeBytes, hashBlock, pause) === expected;
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
    this.#repairing = this.#repairing.then(async () => {
      if (this.#closing !== null) return;
      if (await this.#fits(hashBlock)) this.#checked.add(hashBlock);
      else this.repair(hashBlock);
    }).catch(() => {});
  }

  /** Fetches a hash block anew, as a whole. Whoever reads from it waits meanwhile. */
  #repair(hashBlock: number): Promise<void> {
    const known = this.#repairs.get(hashBlock);
    if (known !== undefined) return known;
    const { offset, length } = hashBlockRange(hashBlock, this.image.sizeBytes);
    this.#map.remove(offset, length);
    this.#received.remove(offset, length);
    this.#checked.delete(hashBlock);
    this.mismatches++;
    this.#log.error(
      `image ${printable(`${this.image}`)}: hash block ${hashBlock} does not fit its checksum; ` +
        "it is fetched anew",
    );
    // One at a time: each takes 16 MiB.
    const repair = this.#repairing.then(() => this.#repairNow(hashBlock));
    this.#repairing = repair.catch(() => {});
    const repaired = repair.finally(() => this.#repairs.delete(hashBlock));
    repaired.catch(() => {});
    this.#repairs.set(hashBlock, repaired);
    repaired.then(() => this.#changed(), () => {});
    return repaired;
  }

  async #repairNow(hashBlock: number): Promise<void> {
    const { offset, length } = hashBlockRange(hashBlock, this.image.sizeBytes);
    const expected = this.image.checksums!.checksums[hashBlock];
    const bytes = new Uint8Array(length);
    const servers = this.#sources.get(hashBlock);
    // A server that alone sent what does not fit is asked no more.
    if (servers?.size === 1) { for (const server of servers) this.#uplink?.distrust(server); }
    this.#sources.delete(hashBlock);
    await this.save().catch(() => {});
    const fits = await fetchChecked(this.#source, offset, bytes, expected).catch(() => false);
    if (!fits || !await this.#kept.write(offset, bytes)) {
      this.image.markBad(hashBlock);
      this.#repairAgainMs = this.#tools.clock.now() + REPAIR_AGAIN_MS;
      throw this.#refused(hashBlock);
    }
    this.#received.add(offset, length);
    this.#kept.note(offset, length);
    this.#checked.add(hashBlock);
    this.image.markGood(hashBlock);
    this.#log.info(`image ${printable(`${this.image}`)}: hash block ${hashBlock} is in order again`);
  }

  get #source(): DoubtfulSource {
    return {
      fetch: async (offset, into) => {
        const server = await this.#connect().fetch(offset, into, 1);
        this.receivedBytes += into.length;
        return server;
      },
      distrust: (server) => this.#uplink?.distrust(server),
    };
  }

  // --- Other servers ---

  /** Of what goes in a circle both ends let go. */
  #findCircles(nowMs: number): void {
    for (const users of this.#fetches.takeCircles(nowMs)) {
      this.#uplink?.avoidServer("what it is asked for comes back to us", AVOID_MS);
      for (const user of users) user.drop("it asks for what we have asked of it: a circle");
    }
  }

  async #closeUplink(): Promise<void> {
    const uplink = this.#uplink;
    this.#uplink = null;
    await uplink?.close();
  }

  #refused(hashBlock: number): Error {
    return this.#missing(`hash block ${hashBlock} does not fit its checksum, whoever sends it`);
  }

  #missing(reason: string): Error {
    return new Error(`${printable(`${this.image}`)}: a block is missing: ${reason}`);
  }
}

function fullMap(sizeBytes: number): CacheMap {
  const map = new CacheMap(sizeBytes);
  map.add(0, sizeBytes);
  return map;
}

function wholeBlocks(byteCount: number): number {
  return byteCount - byteCount % BLOCK_BYTES;
}

function remember(sources: Map<number, Set<string>>, hashBlock: number, server: string): void {
  const servers = sources.get(hashBlock);
  if (servers === undefined) sources.set(hashBlock, new Set([server]));
  else servers.add(server);
}
