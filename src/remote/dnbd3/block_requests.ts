/** The blocks that are wanted of an image and have not come: those that wait for a link, and those that one has. */
import { DeviceError } from "../../device/device_error.ts";
import type { BlockRequest } from "./image_link.ts";

export interface ClientRequest extends BlockRequest {
  /** @param server Which one it came from. */
  readonly resolve: (server: string) => void;
  readonly reject: (error: unknown) => void;
  readonly askedMs: number;
  /** When it was given to the present link. */
  sentMs: number;
  /** Servers that refused it. */
  refusals: number;
}

/** Why a request fails. */
export interface RequestFailure {
  readonly errno: "EIO" | "ESHUTDOWN" | "ETIMEDOUT";
  readonly detail: string;
}

export class BlockRequests {
  /** Asked for, and not given to a link. */
  #queue: ClientRequest[] = [];
  /** Given to a link, this one or an older one that has not ended yet. */
  readonly #underWay = new Set<ClientRequest>();
  #turns = 0;

  /** All that have not come. */
  get count(): number {
    return this.#queue.length + this.#underWay.size;
  }

  /** Those that wait for a link. */
  get queued(): number {
    return this.#queue.length;
  }

  /** Wants a block, behind all others. */
  add(request: ClientRequest): void {
    this.#queue.push(request);
  }

  /** The next one, which a link has from now on; or none. */
  next(nowMs: number): ClientRequest | undefined {
    const request = this.#queue.shift();
    if (request === undefined) return undefined;
    request.sentMs = nowMs;
    this.#underWay.add(request);
    return request;
  }

  /** It has come. */
  answered(request: ClientRequest): void {
    this.#underWay.delete(request);
  }

  /** A link has given back what it had. They are the next. */
  takeBack(...requests: ClientRequest[]): void {
    for (const request of requests) this.#underWay.delete(request);
    this.#queue.unshift(...requests);
  }

  /** The request that has waited longest, or none. */
  oldest(): ClientRequest | undefined {
    let oldest: ClientRequest | undefined;
    for (const request of this.#underWay) {
      if (oldest === undefined || request.sentMs < oldest.sentMs) oldest = request;
    }
    return oldest ?? this.#queue[0];
  }

  /** Another one of those that wait for a link, each time; or none. */
  inTurn(): ClientRequest | undefined {
    return this.#queue[this.#turns++ % this.#queue.length];
  }

  /** Gives up a request; one that a link has is left to it. Returns whether it did. */
  fail(request: ClientRequest, failure: RequestFailure): boolean {
    const at = this.#queue.indexOf(request);
    if (at < 0) return false;
    this.#queue.splice(at, 1);
    reject(request, failure);
    return true;
  }

  /** Gives up all that wait for a link. */
  failQueued(failure: RequestFailure): void {
    for (const request of this.#queue.splice(0)) reject(request, failure);
  }

  /** Gives up those that were asked for before. Returns whether a link has further ones: its buffers come back when it ends. */
  failAskedBefore(timeMs: number, failure: RequestFailure): boolean {
    const isLate = ({ askedMs }: ClientRequest) => askedMs <= timeMs;
    const late = this.#queue.filter(isLate);
    this.#queue = this.#queue.filter((request) => !isLate(request));
    for (const request of late) reject(request, failure);
    return this.#underWay.values().some(isLate);
  }
}

function reject({ offset, into, reject }: ClientRequest, { errno, detail }: RequestFailure): void {
  reject(new DeviceError(errno, "read", offset, into.length, { detail }));
}
