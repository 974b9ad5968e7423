/** Carries out the source's part of a change of ownership: with a real record, and a destination that is asked. */
import type { RecordStore } from "../device/ownership.ts";
import { converse } from "../net/converse.ts";
import type { Dial } from "../remote/open_connection.ts";
import { askContexts } from "../wire/nbd/handshake_client.ts";
import {
  decodeMigrationAnswer,
  encodeMigrationRequest,
  type MigrationAnswer,
  type MigrationRequest,
} from "../wire/nbd/migration_message.ts";
import type { SourceConversation } from "./ownership_source.ts";

/** Asks the destination. `null`: no answer came. */
export type AskDestination = (request: MigrationRequest) => Promise<MigrationAnswer | null>;

/** What else a conversation needs. */
export interface CarriedOut {
  readonly store: RecordStore;
  readonly ask: AskDestination;
  /** Default: there is nothing to be left. */
  leave?(): Promise<void>;
}

/** Runs a conversation to its end. @throws What it throws, and what writing the record throws. */
export async function carryOut<T>(conversation: SourceConversation<T>, by: CarriedOut): Promise<T> {
  let step = conversation.next();
  while (!step.done) {
    const effect = step.value;
    let given: unknown;
    try {
      if (effect.kind === "write") await by.store.write(effect.record);
      else if (effect.kind === "ask") given = await by.ask(effect.request);
      else await by.leave?.();
    } catch (error) {
      step = conversation.throw(error);
      continue;
    }
    step = conversation.next(given);
  }
  return step.value;
}

/**
 * Asks a server about a migration, over a connection made for it.
 *
 * @param signal When it fires there is no answer.
 * @returns `null` if no answer came, whatever the reason; that is told to `failed`.
 */
export async function askDestination(
  dial: Dial,
  exportName: string,
  request: MigrationRequest,
  signal: AbortSignal,
  failed: (reason: Error) => void = () => {},
): Promise<MigrationAnswer | null> {
  let connection;
  try {
    connection = await dial(signal);
    const conversation = askContexts(exportName, [encodeMigrationRequest(request)], connection.greeted);
    const { result } = await converse(conversation, connection, { signal });
    return decodeMigrationAnswer(result ?? []);
  } catch (error) {
    failed(error as Error);
    return null;
  } finally {
    connection?.close();
  }
}
