import type { Conversation } from "../../../src/wire/conversation.ts";

/** The recorded bytes ended while the conversation wanted more. */
export class CutShort extends Error {}

/** Plays a conversation against recorded bytes of the other side. */
export function play<T>(
  conversation: Conversation<T>,
  incoming: Uint8Array,
): { result: T; sent: number[]; rest: number } {
  const sent: number[] = [];
  let at = 0;
  let step = conversation.next();
  while (!step.done) {
    const effect = step.value;
    if (effect.kind === "send") {
      sent.push(...effect.bytes);
      step = conversation.next();
    } else if (effect.kind === "need") {
      if (at + effect.byteCount > incoming.length) throw new CutShort();
      step = conversation.next(incoming.slice(at, at += effect.byteCount));
    } else {
      throw new Error("nothing to wait for here");
    }
  }
  return { result: step.value, sent, rest: incoming.length - at };
}
