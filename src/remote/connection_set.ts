/**
 * Connections to one export, used as long as they last: the carrier of a disk that does not reconnect.
 *
 * A request goes to the connection with the fewest unanswered ones. Several connections are used only where the
 * server promises that a flush on one covers what was answered on all.
 */
import type { NbdConnection } from "./connection/nbd_connection.ts";
import type { Carrier } from "./nbd.ts";
import { type ExportFacts, exportFacts } from "./nbd_export.ts";
import type { Failure, Transaction } from "./connection/nbd_transaction.ts";
import type { OpenedConnection } from "./open_connection.ts";

export class ConnectionSet implements Carrier {
  readonly facts: ExportFacts;
  readonly extended: boolean;
  /** Those that are not over. */
  readonly #connections = new Set<NbdConnection>();
  /** Those of them that take new requests. */
  readonly #usable: NbdConnection[] = [];
  /** Why no new request is taken. */
  #lost: Failure | null = null;

  /** @param opened At least one, all of the same export. */
  constructor(opened: readonly OpenedConnection[]) {
    this.facts = exportFacts(opened[0].agreement);
    this.extended = opened[0].agreement.extended;
    for (const each of opened) {
      const connection = each.start(this);
      this.#connections.add(connection);
      this.#usable.push(connection);
    }
  }

  submit(transaction: Transaction): void {
    if (this.#lost !== null) return transaction.fail(this.#lost);
    let best = this.#usable[0];
    for (const connection of this.#usable) {
      if (connection.unansweredCount < best.unansweredCount) best = connection;
    }
    best.submit(transaction);
  }

  async close(): Promise<void> {
    this.#lost ??= { errno: "ESHUTDOWN", detail: "the disk was closed" };
    await Promise.all([...this.#connections].map((connection) => connection.disconnect()));
  }

  answered(connection: NbdConnection, transaction: Transaction, failure: Failure | null): void {
    if (failure === null) transaction.succeed();
    else transaction.fail(failure);
    // A server that is going down may still answer what it has, and is then left politely.
    if (failure?.errno === "ESHUTDOWN") this.#retire(connection, failure);
    if (connection.unansweredCount === 0 && !this.#usable.includes(connection)) void connection.disconnect();
  }

  ended(connection: NbdConnection, unanswered: Transaction[], reason: Error): void {
    const detail = `the connection to ${connection.peerText} is lost: ${reason.message}`;
    const failure: Failure = { errno: "EIO", detail, cause: reason };
    this.#connections.delete(connection);
    this.#retire(connection, failure);
    for (const transaction of unanswered) transaction.fail(this.#lost ?? failure);
  }

  #retire(connection: NbdConnection, failure: Failure): void {
    const at = this.#usable.indexOf(connection);
    if (at >= 0) this.#usable.splice(at, 1);
    if (this.#usable.length === 0) this.#lost ??= failure;
  }
}
