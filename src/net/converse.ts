/**
 * Carries a {@linkcode Conversation} over a {@linkcode Connection}.
 *
 * What the conversation sends is gathered and leaves in one write, just before the next wait for bytes. What
 * arrives beyond the bytes it needed is kept and returned: a peer may pipeline its first requests behind the
 * handshake.
 */
import { concat } from "@std/bytes";
import { WireError } from "../wire/wire_error.ts";
import type { Conversation, Effect } from "../wire/conversation.ts";
import type { Connection } from "./connection.ts";

/** Gathered bytes above this leave at once, so that a long answer does not pile up. */
const GATHERED_BYTES_MAX = 64 * 1024;
/**
 * One read of a handshake; larger needs are read in place. What is said before transmission is short, and whoever says
 * nothing has one such buffer for as long as it stays, which lives outside the heap and is collected late.
 */
const CHUNK_BYTES = 512;

/** The peer ended the connection in the middle of a conversation. */
export class ConversationCutError extends WireError {
  /** @param answered Whether the peer had sent anything at all before. */
  constructor(readonly answered: boolean, missingBytes: number) {
    super(
      answered
        ? `the peer closed the connection in the middle of the handshake, ${missingBytes} bytes short`
        : "the peer closed the connection before it said anything",
    );
  }
}

export interface ConverseOptions {
  /** When it fires, the connection is closed and the conversation ends with the signal's reason. */
  readonly signal?: AbortSignal;
  /** Bytes of the peer that were read before. */
  readonly received?: Uint8Array;
}

/** How a conversation ended. */
export interface Conversed<T> {
  readonly result: T;
  /** Bytes of the peer that arrived beyond the conversation's end; empty most of the time. */
  readonly rest: Uint8Array;
}

/**
 * Runs a conversation to its end.
 *
 * On failure the connection is left to the caller, who closes it. Errors of the connection are thrown into the
 * conversation, so that one that can do without an answer may catch them.
 *
 * @throws {ConversationCutError} If the peer closes while bytes are needed.
 * @throws The signal's reason if it fires, whatever the conversation throws, whatever the connection throws.
 */
export async function converse<T>(
  conversation: Conversation<T>,
  connection: Connection,
  options: ConverseOptions = {},
): Promise<Conversed<T>> {
  const { signal } = options;
  const abort = () => connection.close();
  signal?.addEventListener("abort", abort);
  const outbox = new Outbox(connection);
  const inbox = new Inbox(connection, options.received);
  try {
    signal?.throwIfAborted();
    let step = conversation.next();
    while (!step.done) {
      let answer: unknown;
      try {
        answer = await perform(step.value, inbox, outbox, signal);
      } catch (error) {
        signal?.throwIfAborted();
        step = conversation.throw(error);
        continue;
      }
      signal?.throwIfAborted();
      step = conversation.next(answer);
    }
    await outbox.flush();
    return { result: step.value, rest: inbox.surplus };
  } catch (error) {
    throw signal?.aborted ? signal.reason : error;
  } finally {
    signal?.removeEventListener("abort", abort);
    // Lets a conversation that was abandoned half-way run its `finally` blocks.
    conversation.return(undefined as T);
  }
}

async function perform(
  effect: Effect,
  inbox: Inbox,
  outbox: Outbox,
  signal: AbortSignal | undefined,
): Promise<unknown> {
  switch (effect.kind) {
    case "send":
      return await outbox.add(effect.bytes);
    case "need":
      await outbox.flush();
      return await inbox.take(effect.byteCount);
    case "wait":
      await outbox.flush();
      return await endedBy(signal, effect.promise);
  }
}

/** Waits for a promise, but no longer than until the signal fires. */
async function endedBy<T>(signal: AbortSignal | undefined, promise: Promise<T>): Promise<T> {
  if (signal === undefined) return await promise;
  signal.throwIfAborted();
  const { promise: ended, reject } = Promise.withResolvers<never>();
  const end = () => reject(signal.reason);
  signal.addEventListener("abort", end, { once: true });
  try {
    return await Promise.race([promise, ended]);
  } finally {
    signal.removeEventListener("abort", end);
  }
}

/** Gathers what is to be sent. */
class Outbox {
  readonly #connection: Connection;
  #gathered: Uint8Array[] = [];
  #gatheredBytes = 0;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  async add(bytes: Uint8Array): Promise<void> {
    this.#gathered.push(bytes);
    this.#gatheredBytes += bytes.length;
    if (this.#gatheredBytes > GATHERED_BYTES_MAX) await this.flush();
  }

  async flush(): Promise<void> {
    if (this.#gatheredBytes === 0) return;
    const bytes = this.#gathered.length === 1 ? this.#gathered[0] : concat(this.#gathered);
    this.#gathered = [];
    this.#gatheredBytes = 0;
    await this.#connection.write(bytes);
  }
}

/** Cuts the incoming stream into the pieces that are asked for. */
class Inbox {
  readonly #connection: Connection;
  #answered: boolean;
  surplus: Uint8Array;

  constructor(connection: Connection, received: Uint8Array = new Uint8Array(0)) {
    this.#connection = connection;
    this.surplus = received;
    this.#answered = received.length > 0;
  }

  async take(byteCount: number): Promise<Uint8Array> {
    const taken = new Uint8Array(byteCount);
    let filled = this.#moveSurplus(taken, 0);
    while (filled < byteCount) {
      const missing = byteCount - filled;
      if (missing >= CHUNK_BYTES) {
        filled += await this.#read(taken.subarray(filled), missing);
      } else {
        const chunk = new Uint8Array(CHUNK_BYTES);
        this.surplus = chunk.subarray(0, await this.#read(chunk, missing));
        filled += this.#moveSurplus(taken, filled);
      }
    }
    return taken;
  }

  #moveSurplus(target: Uint8Array, at: number): number {
    const moved = this.surplus.subarray(0, target.length - at);
    target.set(moved, at);
    this.surplus = this.surplus.subarray(moved.length);
    return moved.length;
  }

  async #read(into: Uint8Array, missingBytes: number): Promise<number> {
    // Who speaks before it is asked is answered, or refused, in the turn in which it came.
    const there = this.#connection.readNow?.(into, false);
    const count = there === undefined ? await this.#connection.read(into) : there;
    if (count === null) throw new ConversationCutError(this.#answered, missingBytes);
    this.#answered = true;
    return count;
  }
}
