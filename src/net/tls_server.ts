/** TLS for the server's side of a connection that has begun in clear. */
import type { TLSSocket } from "node:tls";
import { nodeModule } from "../base/node_module.ts";
import type { Connection, Peer } from "./connection.ts";
import { shownCertificate } from "./shown_certificate.ts";
import { checkCertificate, commonName } from "./tls_certificate.ts";
import {
  Carrier,
  handshakeEnd,
  type Secured,
  secured,
  TLS_VERSION_MIN,
  type TlsCertificate,
  tlsProtection,
} from "./tls_stream.ts";

/** How a server speaks TLS. */
export interface TlsServerSettings extends TlsCertificate {
  /** Certificates in PEM: clients must have one that is signed by one of these. Absent: clients need none. */
  readonly clientAuthorities?: string;
}

/** Runs the handshake of TLS as the server; see {@linkcode prepareTlsServer}. */
export type AcceptTls = (transport: Connection, signal?: AbortSignal) => Promise<Connection>;

/**
 * Prepares a certificate for use.
 *
 * @returns Runs a handshake over a connection, which belongs to the result from then on, or is closed. It throws if
 *   the handshake fails, or the client has not shown the certificate that it must have, or the signal's reason.
 * @throws {Error} If certificate and key are malformed or do not belong together.
 */
export function prepareTlsServer(settings: TlsServerSettings): AcceptTls {
  const { certificate, privateKey, clientAuthorities } = settings;
  const { createPrivateKey, X509Certificate } = nodeModule("node:crypto");
  const tls = nodeModule("node:tls");
  if (!new X509Certificate(certificate).checkPrivateKey(createPrivateKey(privateKey))) {
    throw new Error("the private key is not the one of the certificate");
  }
  if (clientAuthorities !== undefined) new X509Certificate(clientAuthorities);
  const options = {
    cert: certificate,
    key: privateKey,
    ca: clientAuthorities,
    minVersion: TLS_VERSION_MIN,
    requestCert: clientAuthorities !== undefined,
    // We look at the verdict ourselves, and so can say what was wrong.
    rejectUnauthorized: false,
  } as const;
  return async (transport, signal) => {
    const done = Promise.withResolvers<Secured>();
    const fail = ({ message }: Error) => {
      const reason = message === "socket hang up" ? "the client closed the connection" : message;
      done.reject(new Error(`the TLS handshake failed: ${reason}`));
    };
    // The runtime says nothing when this happens during the handshake.
    const carrier = new Carrier(transport, () => fail(new Error("the client closed the connection")));
    // Only servers of the runtime, not its bare sockets, look at what a client's certificate is worth.
    const server = tls.createServer(options, (socket) => done.resolve(secured(socket, carrier, transport)));
    server.on("tlsClientError", fail);
    server.emit("connection", carrier.stream);
    const { socket, connection } = await handshakeEnd(done, transport, signal);
    const peer = { ...transport.peer, protection: tlsProtection(socket) };
    const protocol = socket.getProtocol();
    if (clientAuthorities === undefined) return connection(describe(peer, `${protocol}`));
    try {
      const certificateName = clientName(socket);
      const certificate = shownCertificate(socket, clientAuthorities);
      const named = { ...peer, certificateName, certificate };
      return connection(describe(named, `${protocol}, certificate of "${certificateName}"`));
    } catch (error) {
      socket.on("error", () => {});
      socket.destroy();
      transport.close();
      throw new Error(`a client certificate is required: ${(error as Error).message}`);
    }
  };
}

function describe(peer: Peer, note: string): Peer {
  return { ...peer, text: `${peer.text} (${note})` };
}

/**
 * The name of a client that has shown a good certificate.
 *
 * @throws {Error} If it has not.
 */
function clientName(socket: TLSSocket): string {
  // The runtime lets every session resume, and calls all that have a certificate good.
  if (socket.isSessionReused()) throw new Error("the client resumed a session instead of showing one");
  const certificate = socket.getPeerX509Certificate();
  if (certificate === undefined) throw new Error("the client has none");
  const { subject, issuer } = certificate;
  const whose = (text: string) => JSON.stringify(text.replaceAll("\n", ", "));
  checkCertificate(certificate);
  if (!socket.authorized) {
    throw new Error(
      `that of ${whose(subject)} by ${whose(issuer)} is not signed by our authority, or not made for clients`,
    );
  }
  const name = commonName(certificate);
  if (name === undefined) throw new Error(`that of ${whose(subject)} has no common name`);
  return name;
}
