/** From a fresh connection to a server to one inside TLS. */
import type { Connection } from "../net/connection.ts";
import { converse } from "../net/converse.ts";
import { connectTls, type TlsClientSettings } from "../net/tls_client.ts";
import { startTls } from "../wire/nbd/handshake_client.ts";
import { WireError } from "../wire/wire_error.ts";
import type { DialledConnection } from "./open_connection.ts";

/**
 * Asks the server for TLS and runs its handshake.
 *
 * @param transport Belongs to the result from now on; closed on failure.
 * @throws {RefusedError} If the server does not start TLS.
 * @throws {WireError} If it breaks the protocol, or somebody sends in clear what is to be taken for the server's.
 * @throws What {@linkcode connectTls} throws.
 */
export async function openTls(
  transport: Connection,
  settings: TlsClientSettings,
  signal?: AbortSignal,
): Promise<DialledConnection> {
  try {
    const { result: greeted, rest } = await converse(startTls(), transport, { signal });
    if (rest.length > 0) throw new WireError(`${rest.length} bytes in clear behind the answer to STARTTLS`);
    return Object.assign(await connectTls(transport, settings, signal), { greeted });
  } catch (error) {
    transport.close();
    throw error;
  }
}
