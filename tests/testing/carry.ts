/** Carries conversations in memory: over bytes that are all known beforehand, or a client against a server. */
import { concat } from "@std/bytes";
import type { Conversation } from "../../src/wire/conversation.ts";

/** The script ended while the conversation needed more bytes. */
export class ScriptEndedError extends Error {
  constructor(readonly missingBytes: number) {
    super(`${missingBytes} bytes short`);
  }
}

/** How a conversation over known bytes ended. */
export interface Carried<T> {
  readonly result: T;
  /** All that it sent. */
  readonly sent: Uint8Array;
  /** What it left of the script. */
  readonly rest: Uint8Array;
}

/** What a conversation did, kept up to date while it runs, so that it can be seen after a failure. */
export interface Trace {
  sent: Uint8Array[];
  /** The largest number of bytes it needed at once. */
  neededBytesMax: number;
  /** Bytes that it was given. */
  takenBytes: number;
}

/** An empty {@linkcode Trace}. */
export function newTrace(): Trace {
  return { sent: [], neededBytesMax: 0, takenBytes: 0 };
}

/**
 * Runs a conversation over the bytes that its peer will have said.
 *
 * @throws {ScriptEndedError} If it needs more, unless it makes do without.
 * @throws What the conversation throws.
 */
export function carry<T>(conversation: Conversation<T>, script: Uint8Array, trace = newTrace()): Carried<T> {
  let step = conversation.next();
  while (!step.done) {
    const effect = step.value;
    switch (effect.kind) {
      case "send":
        trace.sent.push(effect.bytes);
        step = conversation.next();
        break;
      case "need": {
        trace.neededBytesMax = Math.max(trace.neededBytesMax, effect.byteCount);
        const missing = effect.byteCount - (script.length - trace.takenBytes);
        if (missing > 0) {
          step = conversation.throw(new ScriptEndedError(missing));
        } else {
          const from = trace.takenBytes;
          trace.takenBytes += effect.byteCount;
          step = conversation.next(script.slice(from, trace.takenBytes));
        }
        break;
      }
      case "wait":
        throw new Error("carry() cannot wait");
    }
  }
  return { result: step.value, sent: concat(trace.sent), rest: script.slice(trace.takenBytes) };
}

/** How both ends of a conversation ended; exactly one of result and error is there. */
export interface Ended<T> {
  readonly result?: T;
  readonly error?: unknown;
  /** All that this end sent. */
  readonly sent: Uint8Array;
}

/**
 * Plays a client against a server. An end that has finished or failed sends nothing any more, so that the other
 * end's unmet need fails with {@linkcode ScriptEndedError}.
 */
export function play<C, S>(
  client: Conversation<C>,
  server: Conversation<S>,
): { client: Ended<C>; server: Ended<S> } {
  const a = new Player(client);
  const b = new Player(server);
  while (!a.over || !b.over) {
    const moved = [a.run(b), b.run(a)];
    if (!moved.includes(true)) {
      if (!a.over && b.over) a.starve();
      else if (!b.over && a.over) b.starve();
      else throw new Error("both ends wait for each other");
    }
  }
  return { client: a.ended(), server: b.ended() };
}

class Player<T> {
  readonly #conversation: Conversation<T>;
  readonly #sent: Uint8Array[] = [];
  #inbox: Uint8Array = new Uint8Array(0);
  #step: ReturnType<Conversation<T>["next"]> | null;
  #error: unknown;

  constructor(conversation: Conversation<T>) {
    this.#conversation = conversation;
    this.#step = null;
    this.#advance(() => conversation.next());
  }

  get over(): boolean {
    return this.#step === null || this.#step.done === true;
  }

  /** Goes on as far as the bytes at hand allow; tells whether that was any further. */
  run(peer: Player<unknown>): boolean {
    let moved = false;
    while (this.#step !== null && !this.#step.done) {
      const effect = this.#step.value;
      if (effect.kind === "wait") throw new Error("play() cannot wait");
      if (effect.kind === "send") {
        this.#sent.push(effect.bytes);
        peer.#inbox = concat([peer.#inbox, effect.bytes]);
        this.#advance(() => this.#conversation.next());
      } else {
        if (this.#inbox.length < effect.byteCount) return moved;
        const taken = this.#inbox.slice(0, effect.byteCount);
        this.#inbox = this.#inbox.slice(effect.byteCount);
        this.#advance(() => this.#conversation.next(taken));
      }
      moved = true;
    }
    return moved;
  }

  /** Tells the conversation that nothing more will come. */
  starve(): void {
    this.#advance(() => this.#conversation.throw(new ScriptEndedError(1)));
  }

  ended(): Ended<T> {
    const sent = concat(this.#sent);
    return this.#step?.done ? { result: this.#step.value, sent } : { error: this.#error, sent };
  }

  #advance(step: () => ReturnType<Conversation<T>["next"]>): void {
    try {
      this.#step = step();
    } catch (error) {
      this.#step = null;
      this.#error = error;
    }
  }
}
