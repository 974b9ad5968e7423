/** From a server's address to a connection that is ready for requests. */
import type { Connection } from "../net/connection.ts";
import { ConversationCutError, converse } from "../net/converse.ts";
import { type Clock, systemClock } from "../os/clock.ts";
import {
  type ClientAgreement,
  type ClientWishes,
  type GreetedForTls,
  negotiateClient,
} from "../wire/nbd/handshake_client.ts";
import { MovedError } from "../wire/nbd/moved_error.ts";
import { WireError } from "../wire/wire_error.ts";
import { type ConnectionOwner, NbdConnection } from "./connection/nbd_connection.ts";
import type { JoinLimits } from "./connection/read_joiner.ts";
import type { Patience } from "./connection/signs_of_life.ts";

/** Makes a connection to the server, or fails, at the latest when the signal fires. */
export type Dial = (signal: AbortSignal | undefined) => Promise<DialledConnection>;

/** A connection to a server, whose greeting comes next unless it came before TLS. */
export interface DialledConnection extends Connection {
  readonly greeted?: GreetedForTls;
}

/** A connection that is through with the handshake. */
export interface OpenedConnection {
  readonly agreement: ClientAgreement;
  readonly peerText: string;
  /** What protects it: `none`, or see `Peer`. */
  readonly protection: string;
  /** Starts transmission, once. */
  start(owner: ConnectionOwner, patience?: Patience, joining?: JoinLimits): NbdConnection;
  /** Closes it instead. */
  close(): void;
}

/**
 * Dials and negotiates.
 *
 * @throws {RefusedError} If the server does not give the export.
 * @throws {WireError} If it breaks the protocol or closes the connection.
 * @throws The signal's reason, or what dialling throws.
 */
export async function openConnection(
  dial: Dial,
  wishes: ClientWishes,
  signal?: AbortSignal,
  clock: Clock = systemClock,
): Promise<OpenedConnection> {
  const connection = await dial(signal);
  const begunMs = clock.now();
  try {
    const { result: agreement, rest } = await converse(
      negotiateClient(wishes, connection.greeted),
      connection,
      {
        signal,
      },
    );
    return {
      agreement,
      peerText: connection.peer.text,
      protection: connection.peer.protection ?? "none",
      start: (owner, patience, joining) =>
        new NbdConnection(connection, agreement, rest, owner, clock, begunMs, patience, joining),
      close: () => connection.close(),
    };
  } catch (error) {
    connection.close();
    if (error instanceof MovedError) {
      // Behind TLS our client has checked the server's certificate.
      error.authenticated = connection.peer.key !== undefined || connection.greeted !== undefined;
    }
    if (connection.greeted !== undefined && error instanceof ConversationCutError && !error.answered) {
      // With TLS 1.3 a client is through with the handshake before the server has looked at its certificate.
      throw new WireError(
        "the server closed the connection behind the TLS handshake; most likely it does not take " +
          "our certificate, or wants one",
      );
    }
    throw error;
  }
}
