/**
 * One READ for several of neighbouring ranges.
 *
 * It belongs to one connection. Each part is settled as soon as its data are there, and is all that anybody else knows
 * of: it has its own deadline, is counted, and is sent again if the connection is lost before. As it is a part that
 * keeps others from its range, a WRITE to a part that has arrived may be with the server together with the rest; none
 * meets a range whose data are still to come.
 */
import { Command } from "../../wire/nbd/constants.ts";
import { Transaction } from "./nbd_transaction.ts";

export class JoinedRead extends Transaction {
  /** Those that have no answer yet, in the order of their ranges. */
  readonly parts: Transaction[];

  /** @param parts At least two READs without a buffer, each of which begins where the one before ends. */
  constructor(parts: Transaction[]) {
    const [{ offset, openPipe }] = parts;
    const last = parts[parts.length - 1];
    super(Command.READ, 0, offset, last.offset + last.length - offset, null);
    this.parts = parts;
    this.openPipe = openPipe;
  }

  /** Shows the parts that are left what came for all of them. @returns Them; they are no longer its own. */
  takeParts(): Transaction[] {
    const data = this.take() as Uint8Array;
    for (const part of this.parts) {
      const at = part.offset - this.offset;
      part.shown = data.subarray(at, at + part.length);
    }
    return this.parts.splice(0);
  }
}
