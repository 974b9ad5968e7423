import { concat } from "@std/bytes";
import type { Conversation } from "../../../src/wire/conversation.ts";

/** What each end of a played conversation came to. */
export interface Played<A, B> {
  readonly client: PromiseSettledResult<A>;
  readonly server: PromiseSettledResult<B>;
  /** All bytes that each end sent, after they were altered. */
  readonly sent: { readonly client: Uint8Array; readonly server: Uint8Array };
}

/** Alters what one end sends: given each piece and where in its stream it begins. */
export type Alter = (from: "client" | "server", bytes: Uint8Array, at: number) => Uint8Array;

/** The peer has ended, and what it sent does not suffice. */
export class PlayedOutError extends Error {}

/** One direction: bytes in order, and an end. */
class Pipe {
  sent: Uint8Array<ArrayBufferLike> = new Uint8Array(0);
  #taken = 0;
  #ended = false;
  #changed = Promise.withResolvers<void>();

  push(bytes: Uint8Array): void {
    this.sent = concat([this.sent, bytes]);
    this.#wake();
  }
  end(): void {
    this.#ended = true;
    this.#wake();
  }
  async take(byteCount: number): Promise<Uint8Array> {
    while (this.sent.length - this.#taken < byteCount) {
      if (this.#ended) throw new PlayedOutError(`${byteCount} bytes are not there`);
      await this.#changed.promise;
    }
    this.#taken += byteCount;
    return this.sent.slice(this.#taken - byteCount, this.#taken);
  }
  #wake(): void {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }
}

/** Plays a client against a server, with no socket between them. */
export async function play<A, B>(
  client: Conversation<A>,
  server: Conversation<B>,
  alter: Alter = (_from, bytes) => bytes,
): Promise<Played<A, B>> {
  const up = new Pipe();
  const down = new Pipe();
  const [clientResult, serverResult] = await Promise.allSettled([
    carry(client, "client", up, down, alter),
    carry(server, "server", down, up, alter),
  ]);
  return { client: clientResult, server: serverResult, sent: { client: up.sent, server: down.sent } };
}

async function carry<T>(
  conversation: Conversation<T>,
  from: "client" | "server",
  outgoing: Pipe,
  incoming: Pipe,
  alter: Alter,
): Promise<T> {
  let position = 0;
  try {
    let step = conversation.next();
    while (!step.done) {
      const effect = step.value;
      if (effect.kind === "send") {
        outgoing.push(alter(from, effect.bytes, position));
        position += effect.bytes.length;
        step = conversation.next();
        continue;
      }
      let answer: unknown;
      try {
        answer = await (effect.kind === "wait" ? effect.promise : incoming.take(effect.byteCount));
      } catch (error) {
        step = conversation.throw(error);
        continue;
      }
      step = conversation.next(answer);
    }
    return step.value;
  } finally {
    outgoing.end();
  }
}
