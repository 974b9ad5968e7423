/** A connection to another denbd that takes the disk over: the data go over it, and it tells checksums of what came. */
import type { BlockDevice } from "../device/device.ts";
import { type Carrier, NbdDisk } from "../remote/nbd.ts";
import { Transaction } from "../remote/connection/nbd_transaction.ts";
import { Command, CommandFlag } from "../wire/nbd/constants.ts";
import { CRC32_CONTEXT } from "../wire/nbd/migration_message.ts";
import type { Attempt } from "./handover.ts";
import type { SourceOwnership } from "./source_ownership.ts";

/** Carries requests over one connection. */
export interface DataLine extends Carrier {
  /** Resolves, with the reason, when the connection is over. */
  readonly over: Promise<Error>;
  /** Ends the connection without a goodbye. */
  cut(reason: Error): void;
}

export class DenbdAttempt implements Attempt {
  readonly disk: BlockDevice;
  readonly lost: Promise<Error>;
  readonly #line: DataLine;
  readonly #ownership: SourceOwnership;

  /** @param resumes The destination has said that it holds what was sent before. */
  constructor(line: DataLine, ownership: SourceOwnership, readonly resumes: boolean) {
    this.#line = line;
    this.#ownership = ownership;
    this.lost = line.over;
    this.disk = new NbdDisk(line);
  }

  checksum(offset: number, length: number): Promise<number> {
    const transaction = new Transaction(Command.BLOCK_STATUS, CommandFlag.REQ_ONE, offset, length, null);
    return new Promise((resolve, reject) => {
      transaction.settled = (error) => {
        if (error !== null) reject(error);
        else resolve(transaction.statuses.get(CRC32_CONTEXT)![0].status);
      };
      this.#line.submit(transaction);
    });
  }

  async finish(leave: () => Promise<void>): Promise<void> {
    await this.#ownership.finish(leave);
    this.#line.cut(new Error("the disk was handed over"));
    await this.#line.over;
  }

  async abandon(reason: Error): Promise<void> {
    this.#line.cut(reason);
    await this.#line.over;
  }
}
