/** What goes over the wire, request by request, for those who look on. */
import { Broadcast, type Missed } from "../../base/broadcast.ts";
import { CommandFlag, commandName } from "../../wire/nbd/constants.ts";
import type { Request } from "../../wire/nbd/transmission.ts";

/** A request, or a reply or one chunk of it. Plain data, printed as JSON. */
export interface TracedMessage {
  /** The client's number in the status. */
  readonly client: number;
  /** Monotonic, in milliseconds. */
  readonly atMs: number;
  /** The command, or `reply`. */
  readonly message: string;
  /** In hexadecimal, as 64 bits have no room in a number. */
  readonly cookie: string;
  readonly [fact: string]: unknown;
}

/** The trace of a whole server. Switched on by following it, and off by leaving. */
export class WireTrace {
  readonly #now: () => number;
  readonly #broadcast = new Broadcast<TracedMessage>((wanted) => this.#wanted = wanted);
  #wanted = false;

  /** @param now Monotonic, in milliseconds. */
  constructor(now: () => number) {
    this.#now = now;
  }

  follow(signal: AbortSignal): AsyncGenerator<TracedMessage | Missed, void> {
    return this.#broadcast.follow(signal);
  }

  /** Whether somebody follows. */
  get wanted(): boolean {
    return this.#wanted;
  }

  push(client: number, message: string, cookie: bigint, facts: Record<string, unknown>): void {
    const text = `0x${cookie.toString(16).padStart(16, "0")}`;
    const atMs = Math.round(this.#now() * 1000) / 1000;
    this.#broadcast.push({ client, atMs, message, cookie: text, ...facts });
  }
}

/** The part of one client. */
export class ClientTrace {
  readonly #whole: WireTrace;
  readonly #client: number;

  constructor(whole: WireTrace, client: number) {
    this.#whole = whole;
    this.#client = client;
  }

  /** Whether it is worth telling anything: replies are too many to gather facts that nobody reads. */
  get wanted(): boolean {
    return this.#whole.wanted;
  }

  request(request: Readonly<Request>): void {
    if (!this.wanted) return;
    this.#whole.push(this.#client, commandName(request.type), request.cookie, requestFacts(request));
  }

  reply(cookie: bigint, facts: Record<string, unknown>): void {
    this.#whole.push(this.#client, "reply", cookie, facts);
  }
}

function requestFacts({ flags, offset, length }: Readonly<Request>): Record<string, unknown> {
  const names = Object.entries(CommandFlag).filter(([, bit]) => (flags & bit) !== 0).map(([name]) => name);
  return { offset, length, ...names.length === 0 ? {} : { flags: names } };
}
