/**
 * What a server hears first. The port is shared: a client of images selects one, and anything that begins like an
 * HTTP request is one.
 */
import { type Conversation, need } from "../conversation.ts";
import { WireError } from "../wire_error.ts";
import { Command, MAGIC, REQUEST_HEADER_BYTES } from "./constants.ts";
import { checkSelectionSize, decodeRequest, decodeSelection, type Selection, viewOf } from "./message.ts";

export type Opening =
  | { readonly kind: "selection"; readonly selection: Selection }
  /** The first bytes of an HTTP request. */
  | { readonly kind: "http"; readonly head: Uint8Array };

/**
 * Hears out the first message of a client. There is no way to refuse it in words: the connection is closed.
 *
 * @throws {WireError} If it is none that a server answers.
 */
export function* hearOpening(): Conversation<Opening> {
  const head = yield* need(REQUEST_HEADER_BYTES);
  const view = viewOf(head);
  if (view.getUint16(0, true) !== MAGIC) {
    if (head[0] === 0x47 || head[0] === 0x50) return { kind: "http", head }; // "G", "P"
    throw new WireError(`first byte 0x${head[0].toString(16).padStart(2, "0")}`);
  }
  const request = decodeRequest(view);
  if (request.command !== Command.SelectImage) {
    throw new WireError(`command ${request.command} before a selection`);
  }
  checkSelectionSize(request.sizeBytes);
  return { kind: "selection", selection: decodeSelection(yield* need(request.sizeBytes)) };
}
