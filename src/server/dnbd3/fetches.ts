/**
 * The blocks of one image that are on their way from other servers: which they are, who waits for them, and how many
 * there may be.
 */
import type { Clock } from "../../os/clock.ts";
import { BLOCK_BYTES, Hops } from "../../wire/dnbd3/constants.ts";
import type { ImageUser } from "./image.ts";

/** Bytes on their way; a client who wants more is dropped. What nobody waits for may be a quarter of it. */
const UNDER_WAY_BYTES_MAX = 256 * 1024 * 1024;
/** What came back to us, and was not answered for so long, goes in a circle. */
const CIRCLE_MS = 1000;

/** Blocks on their way from another server. They lie in one hash block. */
export interface Fetch {
  readonly offset: number;
  readonly bytes: Uint8Array;
  /** As sent. */
  readonly hops: number;
  /** A client waits for it. */
  isWanted: boolean;
  /** Resolves when the bytes may be handed out. */
  ready: Promise<void>;
  /** Other servers that asked us for it after it had passed more proxies, and since when. */
  returned: { readonly users: Set<ImageUser>; readonly sinceMs: number } | null;
}

export class Fetches {
  readonly #clock: Clock;
  /** By the number of the block, until its bytes are in the file, or nobody can have them from here. */
  readonly #byBlock = new Map<number, Fetch>();
  /** Those that no server has answered yet. */
  readonly #asked = new Set<Fetch>();
  #bytes = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** How many of those that no server has answered a client waits for. */
  get wanted(): number {
    let count = 0;
    for (const { isWanted } of this.#asked) if (isWanted) count++;
    return count;
  }

  /** Those that no server has answered. */
  get asked(): ReadonlySet<Fetch> {
    return this.#asked;
  }

  /** Soon clients will be dropped that want more. */
  get areMany(): boolean {
    return this.#bytes > UNDER_WAY_BYTES_MAX / 2;
  }

  /** Whether so much more may be on its way. What nobody waits for leaves room for what somebody does. */
  hasRoom(byteCount: number, isWanted: boolean): boolean {
    return this.#bytes + byteCount <= (isWanted ? UNDER_WAY_BYTES_MAX : UNDER_WAY_BYTES_MAX / 4);
  }

  /** That of the block at an offset. */
  at(offset: number): Fetch | undefined {
    return this.#byBlock.get(offset / BLOCK_BYTES);
  }

  /** Begins one, of blocks none of which is on its way. When it is ready is for the caller to say. */
  begin(offset: number, length: number, hops: number): Fetch {
    const fetch: Fetch = {
      offset,
      bytes: new Uint8Array(length),
      hops,
      isWanted: false,
      ready: Promise.resolve(),
      returned: null,
    };
    this.#bytes += length;
    this.#asked.add(fetch);
    for (let at = offset; at < offset + length; at += BLOCK_BYTES) {
      this.#byBlock.set(at / BLOCK_BYTES, fetch);
    }
    return fetch;
  }

  /** A server has answered, or none will. */
  answered(fetch: Fetch): void {
    this.#asked.delete(fetch);
  }

  /** Nobody can wait for it any more. */
  forget(fetch: Fetch): void {
    this.#bytes -= fetch.bytes.length;
    for (let at = fetch.offset; at < fetch.offset + fetch.bytes.length; at += BLOCK_BYTES) {
      if (this.#byBlock.get(at / BLOCK_BYTES) === fetch) this.#byBlock.delete(at / BLOCK_BYTES);
    }
  }

  /**
   * Somebody more waits for it.
   *
   * @param passed How many proxies his request has passed.
   */
  join(fetch: Fetch, passed: number, isWanted: boolean, user: ImageUser | null): void {
    if (isWanted) fetch.isWanted = true;
    if (user === null || passed <= (fetch.hops & Hops.CountMask)) return;
    fetch.returned ??= { users: new Set(), sinceMs: this.#clock.now() };
    fetch.returned.users.add(user);
  }

  /**
   * Those who wait for what goes in a circle, for each such fetch, once: it has come back to us from them, having passed
   * more proxies than when we sent it, and nobody answers.
   */
  takeCircles(nowMs: number): ReadonlySet<ImageUser>[] {
    const circles: ReadonlySet<ImageUser>[] = [];
    for (const fetch of this.#asked) {
      if (fetch.returned === null || nowMs - fetch.returned.sinceMs < CIRCLE_MS) continue;
      circles.push(fetch.returned.users);
      fetch.returned = null;
    }
    return circles;
  }
}
