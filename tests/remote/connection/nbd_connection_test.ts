import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import type { Connection } from "../../../src/net/connection.ts";
import { systemClock } from "../../../src/os/clock.ts";
import { NbdConnection } from "../../../src/remote/connection/nbd_connection.ts";
import { Transaction } from "../../../src/remote/connection/nbd_transaction.ts";
import { Command, TransmissionFlag } from "../../../src/wire/nbd/constants.ts";
import type { ClientAgreement } from "../../../src/wire/nbd/handshake_client.ts";

const AGREEMENT: ClientAgreement = {
  sizeBytes: 1024 * 1024,
  transmissionFlags: TransmissionFlag.HAS_FLAGS,
  style: "fixed-newstyle",
  structured: false,
  extended: false,
  contexts: [],
};

/** A connection that a server ends when it is told to, and over which nothing leaves any more. */
class StuckConnection implements Connection {
  readonly peer = { transport: "memory", address: "memory", text: "memory" } as const;
  readonly end = Promise.withResolvers<null>();
  readonly #closed = Promise.withResolvers<never>();
  /** Bytes that were handed over. */
  handedOver = 0;
  closed = false;

  constructor() {
    this.#closed.promise.catch(() => {});
  }

  read(): Promise<null> {
    return this.end.promise;
  }

  write(bytes: Uint8Array): Promise<never> {
    this.handedOver += bytes.length;
    return this.#closed.promise;
  }

  close(): void {
    this.closed = true;
    this.#closed.reject(new Error("the connection is closed"));
  }
}

Deno.test(
  "a connection that the server ends is closed, and gives back what was still leaving",
  { permissions: "none" },
  async () => {
    const connection = new StuckConnection();
    const over = Promise.withResolvers<{ unanswered: Transaction[]; reason: Error }>();
    const owner = {
      answered: () => assert(false, "nothing was answered"),
      ended: (_: NbdConnection, unanswered: Transaction[], reason: Error) =>
        over.resolve({ unanswered, reason }),
    };
    const nbd = new NbdConnection(connection, AGREEMENT, new Uint8Array(0), owner, systemClock, 0);
    const requests = [0, 1].map((at) =>
      new Transaction(Command.WRITE, 0, at * 4096, 4096, new Uint8Array(4096))
    );
    nbd.submit(requests[0]);
    // So that the second waits behind what does not leave.
    while (connection.handedOver === 0) await undefined;
    nbd.submit(requests[1]);
    connection.end.resolve(null);
    const { unanswered, reason } = await over.promise;
    assertEquals(unanswered, requests);
    assertStringIncludes(reason.message, "the server closed the connection");
    assert(connection.closed);
  },
);
