/** Questions to a server that need no disk: each takes a connection of its own, and leaves it. */
import { converse } from "../net/converse.ts";
import type { Conversation } from "../wire/conversation.ts";
import { type GreetedForTls, listContexts, listExports, type Listing } from "../wire/nbd/handshake_client.ts";
import type { Dial } from "./open_connection.ts";

/**
 * The names of a server's exports.
 *
 * @throws {RefusedError} If the server does not list.
 * @throws {WireError} If it breaks the protocol.
 * @throws The signal's reason, or what dialling throws.
 */
export function askForExports(dial: Dial, signal?: AbortSignal): Promise<Listing> {
  return ask(dial, (greeted) => listExports({ details: false, greeted }), signal);
}

/** The metadata contexts of an export, or `null` if the server does not tell. Throws as the other does. */
export function askForContexts(
  dial: Dial,
  exportName: string,
  signal?: AbortSignal,
): Promise<string[] | null> {
  return ask(dial, (greeted) => listContexts(exportName, greeted), signal);
}

async function ask<Result>(
  dial: Dial,
  conversation: (greeted: GreetedForTls | undefined) => Conversation<Result>,
  signal: AbortSignal | undefined,
): Promise<Result> {
  const connection = await dial(signal);
  try {
    return (await converse(conversation(connection.greeted), connection, { signal })).result;
  } finally {
    connection.close();
  }
}
