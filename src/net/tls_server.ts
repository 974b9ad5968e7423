/**
 * TLS for the server's side of a connection that has begun in clear.
 *
 * The runtime upgrades its own connections for clients only; its Node-compatible sockets do it for servers, over
 * anything that reads and writes.
 */
import type { Socket } from "node:net";
import { Buffer } from "node:buffer";
import process from "node:process";
import { Duplex } from "node:stream";
import type { SecureContext, TLSSocket } from "node:tls";
import type { Connection, Peer } from "./connection.ts";
import { NodeConnection } from "./node_connection.ts";

/** The server's certificate with its chain, and its private key, in PEM. */
export interface TlsCertificate {
  readonly certificate: string;
  readonly privateKey: string;
}

/** How long the goodbye of TLS may take to leave. */
const GOODBYE_MS = 1000;

/**
 * Prepares a certificate for use.
 *
 * @throws {Error} If certificate and key are malformed or do not belong together.
 */
export function tlsContext({ certificate, privateKey }: TlsCertificate): SecureContext {
  // Loaded at the first use: few servers speak TLS, and every start would pay for it.
  const { createPrivateKey, X509Certificate } = process.getBuiltinModule("node:crypto");
  if (!new X509Certificate(certificate).checkPrivateKey(createPrivateKey(privateKey))) {
    throw new Error("the private key is not the one of the certificate");
  }
  return process.getBuiltinModule("node:tls").createSecureContext({
    cert: certificate,
    key: privateKey,
    minVersion: "TLSv1.2",
  });
}

/**
 * Runs the handshake of TLS as the server.
 *
 * @param transport Belongs to the result from now on; closed on failure.
 * @param signal Ends the handshake with its reason.
 * @throws {Error} If the handshake fails.
 */
export async function acceptTls(
  transport: Connection,
  context: SecureContext,
  signal?: AbortSignal,
): Promise<Connection> {
  const secure = Promise.withResolvers<void>();
  const fail = (error: Error) => secure.reject(new Error(`the TLS handshake failed: ${error.message}`));
  // The socket itself says nothing when this happens during the handshake.
  const cut = () => fail(new Error("the client closed the connection"));
  const stream = streamOver(transport, cut) as Socket;
  const { TLSSocket } = process.getBuiltinModule("node:tls");
  const socket = new TLSSocket(stream, { isServer: true, secureContext: context });
  const abort = () => secure.reject(signal!.reason);
  socket.once("secure", secure.resolve);
  socket.once("error", fail);
  signal?.addEventListener("abort", abort);
  try {
    signal?.throwIfAborted();
    await secure.promise;
  } catch (error) {
    // A second error would otherwise end the program.
    socket.on("error", () => {});
    socket.destroy();
    transport.close();
    throw error;
  } finally {
    signal?.removeEventListener("abort", abort);
    socket.off("error", fail);
  }
  const { peer } = transport;
  return new TlsConnection(socket, { ...peer, text: `${peer.text} (${socket.getProtocol()})` }, transport);
}

class TlsConnection extends NodeConnection {
  readonly #tls: TLSSocket;
  readonly #transport: Connection;
  #closing = false;

  constructor(socket: TLSSocket, peer: Peer, transport: Connection) {
    super(socket, peer);
    this.#tls = socket;
    this.#transport = transport;
  }

  /** Says goodbye as TLS wants it, so that the peer can tell the end from a cut. */
  override close(): void {
    if (this.#closing) return;
    this.#closing = true;
    const finish = () => {
      clearTimeout(timer);
      super.close();
      this.#transport.close();
    };
    const timer = setTimeout(finish, GOODBYE_MS);
    this.#tls.end(finish);
  }
}

/** A stream of Node over a connection. `onEnd` is told when the peer has ended. */
function streamOver(transport: Connection, onEnd: () => void): Duplex {
  return new Duplex({
    read() {
      const chunk = new Uint8Array(64 * 1024);
      const give = (count: number | null) => {
        this.push(count === null ? null : Buffer.from(chunk.buffer, 0, count));
        if (count === null) onEnd();
      };
      const count = transport.read(chunk);
      if (count instanceof Promise) count.then(give, (error) => this.destroy(error));
      else give(count);
    },
    write(chunk: Uint8Array, _encoding, done) {
      writeTo(transport, chunk).then(() => done(), done);
    },
    destroy(error, done) {
      transport.close();
      done(error);
    },
  });
}

async function writeTo(transport: Connection, bytes: Uint8Array): Promise<void> {
  await transport.write(bytes);
}
