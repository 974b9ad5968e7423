/**
 * Handshakes without sockets.
 *
 * A handshake is a generator that asks for bytes, hands over bytes and, where cryptography needs it, waits for
 * a promise. It reads top to bottom like the specification. `net/converse.ts` carries one over a connection; a
 * test carries it over an array, or plays a client against a server.
 */

/** What a conversation asks of whoever carries it. */
export type Effect =
  /** Wants exactly this many bytes; resumed with a `Uint8Array` of that length which it may keep. */
  | { readonly kind: "need"; readonly byteCount: number }
  /** Hands over bytes to send; resumed with nothing. The carrier may gather several before it writes. */
  | { readonly kind: "send"; readonly bytes: Uint8Array }
  /** Waits; resumed with what the promise resolved to. */
  | { readonly kind: "wait"; readonly promise: Promise<unknown> };

/** A handshake that ends with a `T`. */
// deno-lint-ignore no-explicit-any
export type Conversation<T> = Generator<Effect, T, any>;

/** Asks for exactly `byteCount` bytes. The caller has checked the count against its limit. */
export function* need(byteCount: number): Conversation<Uint8Array> {
  return yield { kind: "need", byteCount };
}

/** Hands over bytes, which the conversation does not touch again. */
export function* send(bytes: Uint8Array): Conversation<void> {
  yield { kind: "send", bytes };
}

/** Waits for a promise and returns its value. */
export function* wait<T>(promise: Promise<T>): Conversation<T> {
  return yield { kind: "wait", promise };
}
