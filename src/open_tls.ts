/** From what a URI says of TLS to TLS: whom we trust, and who we are. */
import type { NbdLocator, TlsLocator } from "./base/uri.ts";
import type { Connection } from "./net/connection.ts";
import type { TlsClientSettings } from "./net/tls_client.ts";
import type { TlsCertificate } from "./net/tls_stream.ts";
import { reasonOf } from "./os/reason.ts";
import type { DialledConnection } from "./remote/open_connection.ts";
import { openTls } from "./remote/start_tls.ts";

/** Whom the certificate of a server on a Unix socket must be for, if nothing else is said. */
const UNIX_SERVER_NAME = "localhost";

/**
 * Starts TLS on a fresh connection to a server.
 *
 * The files are read each time: they may be new when a connection is made again.
 *
 * @throws {Error} If a file cannot be used; the message says which.
 * @throws What {@linkcode openTls} throws. The connection is closed then.
 */
export async function startTlsTo(
  { server }: NbdLocator,
  tls: TlsLocator,
  transport: Connection,
  signal?: AbortSignal,
): Promise<DialledConnection> {
  try {
    const serverName = tls.hostname ?? (server.transport === "tcp" ? server.host : UNIX_SERVER_NAME);
    const { trustAnybody } = tls;
    return await openTls(transport, { serverName, trustAnybody, ...await credentials(tls) }, signal);
  } catch (error) {
    transport.close();
    throw error;
  }
}

async function credentials(
  { certificatesPath }: TlsLocator,
): Promise<Pick<TlsClientSettings, "authorities" | "identity">> {
  if (certificatesPath === undefined) return {};
  const [authorities, certificate, privateKey] = await Promise.all(
    ["ca-cert.pem", "client-cert.pem", "client-key.pem"].map((name) =>
      readIfThere(`${certificatesPath}/${name}`)
    ),
  );
  if (authorities === undefined) {
    throw new Error(`cannot read ${certificatesPath}/ca-cert.pem: it does not exist`);
  }
  return { authorities, identity: identityOf(certificatesPath, certificate, privateKey) };
}

function identityOf(
  path: string,
  certificate: string | undefined,
  privateKey: string | undefined,
): TlsCertificate | undefined {
  if (certificate === undefined && privateKey === undefined) return undefined;
  if (certificate !== undefined && privateKey !== undefined) return { certificate, privateKey };
  const [there, missing] = certificate === undefined ? ["key", "cert"] : ["cert", "key"];
  throw new Error(`there is ${path}/client-${there}.pem, but no client-${missing}.pem`);
}

async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw new Error(`cannot read ${path}: ${reasonOf(error)}`);
  }
}
