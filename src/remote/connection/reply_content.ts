/**
 * What replies say to their requests, apart from data, and whether they say all that they must.
 *
 * @see NBD proto.md, "Structured reply types"
 */
import { printable } from "../../base/printable.ts";
import { decodeBlockStatusPayload, decodeErrorPayload, decodeHolePayload } from "../../wire/nbd/chunk.ts";
import { CHUNK_ERROR_BIT, ChunkType, Command } from "../../wire/nbd/constants.ts";
import { errnoName } from "../../wire/nbd/error_code.ts";
import type { ClientAgreement } from "../../wire/nbd/handshake_client.ts";
import { WireError } from "../../wire/wire_error.ts";
import type { Transaction } from "./nbd_transaction.ts";
import { Probe } from "./probe.ts";

/**
 * Takes in the payload of a chunk that may answer the request and is no OFFSET_DATA.
 *
 * @param type A {@linkcode ChunkType}.
 * @param payloadBytes As the header claims; they are all there from `at`.
 * @throws {WireError} If it is malformed, or speaks of what was not asked, or was answered before.
 */
export function takeContent(
  agreement: ClientAgreement,
  transaction: Transaction,
  type: number,
  view: DataView,
  at: number,
  payloadBytes: number,
): void {
  if (type === ChunkType.OFFSET_HOLE) {
    const { offset, length } = decodeHolePayload(view, at, transaction);
    transaction.claim(offset - transaction.offset, length).fill(0);
  } else if (type === ChunkType.BLOCK_STATUS || type === ChunkType.BLOCK_STATUS_EXT) {
    const { extended, contexts } = agreement;
    const { contextId, extents } = decodeBlockStatusPayload(view, at, extended, payloadBytes, transaction);
    const context = contexts.find(({ id }) => id === contextId);
    if (context === undefined) {
      throw new WireError(`status of metadata context ${contextId}, which was not agreed`);
    }
    if (transaction.statuses.has(context.name)) {
      throw new WireError(`second status of metadata context ${printable(context.name)}`);
    }
    transaction.statuses.set(context.name, extents);
  } else if ((type & CHUNK_ERROR_BIT) !== 0) {
    const { error, text } = decodeErrorPayload(view, at, type, payloadBytes, transaction);
    const detail = text === "" ? undefined : `the server says "${printable(text)}"`;
    transaction.failure ??= { errno: errnoName(error), detail };
  }
}

/**
 * Holds what came against the request, when the server says that this was all and names no error.
 *
 * @throws {WireError} If something is missing.
 */
export function checkSuccess(agreement: ClientAgreement, transaction: Transaction): void {
  if (transaction.type === Command.READ) {
    if (transaction.isComplete) return;
    throw new WireError(`READ of ${transaction.length} bytes succeeded with some missing`);
  }
  if (transaction.type !== Command.BLOCK_STATUS || transaction instanceof Probe) return;
  for (const { name } of agreement.contexts) {
    if (transaction.statuses.has(name)) continue;
    throw new WireError(`no status of metadata context ${printable(name)}`);
  }
}
