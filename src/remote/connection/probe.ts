/**
 * A question to which the server needs no disk: who owes its answer for long is gone, and not only slow.
 *
 * Its form is said in `wire/nbd/denbd_context.ts`.
 */
import { Command, CommandFlag, TransmissionFlag } from "../../wire/nbd/constants.ts";
import { probeContextId, type ProbeWindow } from "../../wire/nbd/denbd_context.ts";
import type { ClientAgreement } from "../../wire/nbd/handshake_client.ts";
import { denbdFacts } from "../nbd_export.ts";
import { Transaction } from "./nbd_transaction.ts";

/** Length of a range u64, id of a context u32. */
const PAYLOAD_BYTES = 12;

export class Probe extends Transaction {
  /** @param agreement With a server that has a {@linkcode probeWindow}. */
  constructor({ blockSizes, contexts }: ClientAgreement) {
    const lengthBytes = blockSizes?.minimum ?? 1;
    const payload = new Uint8Array(PAYLOAD_BYTES);
    const view = new DataView(payload.buffer);
    view.setBigUint64(0, BigInt(lengthBytes));
    view.setUint32(8, probeContextId(contexts)!);
    super(Command.BLOCK_STATUS, CommandFlag.PAYLOAD_LEN, 0, lengthBytes, payload);
  }
}

/**
 * What the server leaves room for a probe behind; `null` if none can be sent to it, or it answers none.
 *
 * @throws {WireError} If what it says of itself is malformed.
 */
export function probeWindow(agreement: ClientAgreement): ProbeWindow | null {
  const offered = (agreement.transmissionFlags & TransmissionFlag.BLOCK_STATUS_PAYLOAD) !== 0;
  return offered && agreement.extended ? denbdFacts(agreement).window ?? null : null;
}
