/**
 * The servers that an image is copied from, as long as they are needed.
 *
 * After a long time in which nobody wanted anything of them they are left alone, and turned to again when somebody does.
 */
import { printable } from "../../base/printable.ts";
import type { DoubtfulSource } from "../../device/checked_blocks.ts";
import type { Clock } from "../../os/clock.ts";
import { PROTOCOL_VERSION } from "../../wire/dnbd3/constants.ts";
import type { Image } from "./image.ts";
import type { Uplink, Upstream } from "./uplink.ts";

/** Without a request of a client for so long, and nothing to copy, the servers are left alone. */
const IDLE_MS = 1_800_000;
/** A server whose requests came back is not asked for so long. */
const AVOID_MS = 300_000;

export class Supply implements DoubtfulSource {
  /** Bytes that came from the servers. */
  receivedBytes = 0;
  readonly #image: Image;
  readonly #upstream: Upstream;
  readonly #clock: Clock;
  #uplink: Uplink | null;
  #openedMs: number;
  #ended = false;

  /** @param uplink If there is one already. */
  constructor(image: Image, upstream: Upstream, clock: Clock, uplink: Uplink | null) {
    this.#image = image;
    this.#upstream = upstream;
    this.#clock = clock;
    this.#uplink = uplink;
    this.#openedMs = clock.now();
  }

  /** The present connection to them, if there is one. */
  get uplink(): Uplink | null {
    return this.#uplink;
  }

  /** The same, made if need be. @throws If nobody is to be asked. */
  open(): Uplink {
    if (this.#ended) throw missingBlock(this.#image, "the server is shutting down");
    if (this.#uplink !== null) return this.#uplink;
    const { name, revision, sizeBytes, checksums } = this.#image;
    const uplink = this.#upstream.resume({
      image: { version: PROTOCOL_VERSION, name, revision, sizeBytes },
      checksums,
    });
    if (uplink === null) throw missingBlock(this.#image, "no other server has it");
    this.#openedMs = this.#clock.now();
    return this.#uplink = uplink;
  }

  /** Fetches what is to be checked before anything else is done with it. @returns Which server it came from. */
  async fetch(offset: number, into: Uint8Array): Promise<string> {
    const server = await this.open().fetch(offset, into, 1);
    this.receivedBytes += into.length;
    return server;
  }

  distrust(server: string): void {
    this.#uplink?.distrust(server);
  }

  /** What the present server is asked for comes back to us. */
  avoidCircle(): void {
    this.#uplink?.avoidServer("what it is asked for comes back to us", AVOID_MS);
  }

  /** Leaves the servers alone if nobody has wanted anything of them for long. @param missedMs When a client last did. */
  leaveIfIdle(nowMs: number, missedMs: number): void {
    if (nowMs - Math.max(missedMs, this.#openedMs) >= IDLE_MS) void this.leave();
  }

  /** Leaves the servers, and turns to none again. */
  async end(): Promise<void> {
    this.#ended = true;
    await this.leave();
  }

  /** Leaves the servers alone until somebody wants something of them. */
  async leave(): Promise<void> {
    const uplink = this.#uplink;
    this.#uplink = null;
    await uplink?.close();
  }
}

/** Why somebody does not get a block. */
export function missingBlock(image: Image, reason: string): Error {
  return new Error(`${printable(`${image}`)}: a block is missing: ${reason}`);
}
