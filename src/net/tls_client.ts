/** TLS for the client's side of a connection that has begun in clear. */
import type { TLSSocket } from "node:tls";
import { nodeModule } from "../base/node_module.ts";
import type { Connection } from "./connection.ts";
import { checkCertificate } from "./tls_certificate.ts";
import {
  Carrier,
  handshakeEnd,
  type Secured,
  secured,
  TLS_VERSION_MIN,
  type TlsCertificate,
  tlsProtection,
} from "./tls_stream.ts";

/** How a client speaks TLS. */
export interface TlsClientSettings {
  /** The host name or IP address that the server's certificate must be for. */
  readonly serverName: string;
  /** Certificates in PEM, one of which has signed the server's. Absent: the public ones that the runtime has. */
  readonly authorities?: string;
  /** What we show if the server asks. */
  readonly identity?: TlsCertificate;
  /** Take any certificate for any name: whoever is in between reads everything. Default `false`. */
  readonly trustAnybody?: boolean;
}

/**
 * Runs the handshake of TLS as the client.
 *
 * @param transport Belongs to the result from now on; closed on failure.
 * @throws {Error} If the handshake fails, or the server's certificate is not good.
 * @throws The signal's reason.
 */
export async function connectTls(
  transport: Connection,
  settings: TlsClientSettings,
  signal?: AbortSignal,
): Promise<Connection> {
  const { serverName, authorities, identity, trustAnybody = false } = settings;
  const { connect } = nodeModule("node:tls");
  const { isIP } = nodeModule("node:net");
  const done = Promise.withResolvers<Secured>();
  const fail = (error: Error & { code?: string }) => done.reject(new Error(reason(error, serverName)));
  const carrier = new Carrier(transport, () => fail(new Error("the server closed the connection")));
  const socket: TLSSocket = connect({
    socket: carrier.stream,
    // An address is no name to ask for (RFC 6066, section 3), but one to compare.
    ...(isIP(serverName) === 0 ? { servername: serverName } : { host: serverName }),
    ca: authorities,
    cert: identity?.certificate,
    key: identity?.privateKey,
    minVersion: TLS_VERSION_MIN,
    rejectUnauthorized: !trustAnybody,
  }, () => done.resolve(secured(socket, carrier, transport)));
  socket.on("error", fail);
  let met: Secured;
  try {
    met = await handshakeEnd(done, transport, signal);
    if (!trustAnybody) {
      const certificate = socket.getPeerX509Certificate();
      if (!socket.authorized || certificate === undefined) {
        throw new Error("the server has shown no certificate");
      }
      checkCertificate(certificate);
    }
  } catch (error) {
    socket.destroy();
    transport.close();
    throw error;
  }
  const { peer } = transport;
  const text = `${peer.text} (${socket.getProtocol()})`;
  return met.connection({ ...peer, text, protection: tlsProtection(socket) });
}

/** What a failed handshake means for who started it. */
function reason({ code, message }: Error & { code?: string }, serverName: string): string {
  if (code === "ERR_TLS_CERT_ALTNAME_INVALID") {
    const names = message.replace(/^.*altnames: /, "").replace(/[: ]+$/, "");
    return `the server's certificate is not for "${serverName}": ${names}`;
  }
  if (code !== undefined && /VERIFY|SELF_SIGNED|ISSUER|CERT_/.test(code)) {
    return "the server's certificate is not good: signed by none of the authorities that we trust, " +
      `expired, or not made for servers (${message})`;
  }
  return `the TLS handshake failed: ${message}`;
}
