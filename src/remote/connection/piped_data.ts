/**
 * The data of a READ on their way into a pipe, in which they are handed on without having been read.
 *
 * A pipe may take no more before they are all in: then they are taken out again, and go on elsewhere.
 */
import type { Connection } from "../../net/connection.ts";
import { type Pipe, pipes } from "../../os/pipe.ts";
import type { Transaction } from "./nbd_transaction.ts";

export class PipedData {
  readonly #connection: Connection;
  readonly #pipe: Pipe;
  /** What the pipe held before them. */
  readonly #headBytes: number;
  readonly #transaction: Transaction;
  /** To be called when they are all in. */
  readonly complete: () => void;

  constructor(connection: Connection, pipe: Pipe, transaction: Transaction, complete: () => void) {
    this.#connection = connection;
    this.#pipe = pipe;
    this.#headBytes = pipe.heldBytes;
    this.#transaction = transaction;
    this.complete = complete;
  }

  /** How many bytes are still to come. */
  get missingBytes(): number {
    return this.#headBytes + this.#transaction.length - this.#pipe.heldBytes;
  }

  /** Moves what the connection has received. @returns As {@linkcode Connection.moveNow}. */
  move(): number | undefined {
    return this.#connection.moveNow?.(this.#pipe, this.missingBytes, true);
  }

  /** Puts in a copy of what was received. @returns How many bytes of it. */
  put(bytes: Uint8Array<ArrayBuffer>): number {
    // On a connection that turned out not to move anything, all would have to be copied.
    return this.#connection.moveNow === undefined ? 0 : this.#pipe.put(bytes);
  }

  /** They are all in: the pipe is the READ's. */
  handOver(): void {
    this.#transaction.piped = this.#pipe;
  }

  /** Takes out what is in, and gives the pipe back. @returns Where all of the data go, and how many bytes are there. */
  takeOut(): { bytes: Uint8Array; filled: number } {
    const bytes = this.#transaction.claim(0, this.#transaction.length) as Uint8Array<ArrayBuffer>;
    const filled = this.#pipe.heldBytes - this.#headBytes;
    this.#pipe.take(new Uint8Array(this.#headBytes));
    this.#pipe.take(bytes.subarray(0, filled));
    this.giveBack();
    return { bytes, filled };
  }

  giveBack(): void {
    pipes.give(this.#pipe);
  }
}
