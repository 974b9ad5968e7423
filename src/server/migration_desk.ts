/** Where a source of a migration is heard that speaks of its disk to one of our exports. */
import type { Peer } from "../net/connection.ts";
import {
  decodeMigrationRequest,
  encodeMigrationAnswer,
  type MigrationAnswer,
  type MigrationRequest,
} from "../wire/nbd/migration_message.ts";
import { WireError } from "../wire/wire_error.ts";

/** A client's session, as far as it matters here. */
export interface WritingSession {
  readonly traffic: { readonly writtenBytes: number };
  abort(reason: string): void;
  forbidWrites(): void;
}

export interface MigrationDesk {
  /** Answers one message. Never throws. */
  answer(request: MigrationRequest, peer: Peer): Promise<MigrationAnswer>;
  /**
   * A client that may write has come.
   *
   * @param id Of the migration that it brings the data of; `null` for any other client.
   * @returns What is to be called when it has gone and all that it asked for is done.
   */
  enter(id: string | null, session: WritingSession): () => void;
}

/**
 * Answers a query of one client's handshake that begins with `MIGRATION_QUERY`.
 *
 * @param begun Told the id of a migration whose data may come over this connection.
 * @returns The contexts to grant.
 */
export async function answerQuery(
  desk: MigrationDesk,
  query: string,
  peer: Peer,
  begun: (id: string) => void,
): Promise<string[]> {
  let request;
  try {
    request = decodeMigrationRequest(query);
  } catch (error) {
    if (!(error instanceof WireError)) throw error;
    return [encodeMigrationAnswer({ is: "refused", why: "policy", reason: error.message })];
  }
  const answer = await desk.answer(request, peer);
  if (answer.is === "fresh" || answer.is === "resume") begun(request.id);
  return [encodeMigrationAnswer(answer)];
}
