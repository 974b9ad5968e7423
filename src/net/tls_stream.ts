/**
 * TLS between a {@linkcode Connection} below and a {@linkcode Connection} above: what both its ends need.
 *
 * The runtime upgrades its own connections for clients only, without client certificates, and trusts public
 * authorities beside those that it is given. Its Node-compatible sockets can do all, over anything that reads and
 * writes.
 */
import { Buffer } from "node:buffer";
import type { Socket } from "node:net";
import { Duplex } from "node:stream";
import type { TLSSocket } from "node:tls";
import type { Connection, Peer } from "./connection.ts";
import process from "node:process";
import { NativeConnection } from "./native_connection.ts";
import { NodeConnection } from "./node_connection.ts";

/** A certificate with its chain, and its private key, in PEM. */
export interface TlsCertificate {
  readonly certificate: string;
  readonly privateKey: string;
}

/** The oldest version that is spoken. */
export const TLS_VERSION_MIN = "TLSv1.2";

/** Version and suite that were agreed on. */
export function tlsProtection(socket: TLSSocket): string {
  return `${socket.getProtocol()} ${socket.getCipher().name}`;
}

/** How long the goodbye of TLS may take to leave. */
const GOODBYE_MS = 1000;

/** A connection inside TLS. */
export class TlsConnection extends NodeConnection {
  readonly #tls: TLSSocket;
  readonly #transport: Connection;
  #closing = false;

  /** @param socket Through with the handshake; runs over the transport, which belongs to this from now on. */
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

/**
 * Waits for a handshake of TLS, which ends by what the caller resolves or rejects `done` with, or by the signal.
 *
 * On failure the transport is closed.
 */
export async function handshakeEnd(
  done: PromiseWithResolvers<TLSSocket>,
  transport: Connection,
  signal: AbortSignal | undefined,
): Promise<TLSSocket> {
  const abort = () => done.reject(signal!.reason);
  signal?.addEventListener("abort", abort);
  try {
    signal?.throwIfAborted();
    return await done.promise;
  } catch (error) {
    transport.close();
    throw error;
  } finally {
    signal?.removeEventListener("abort", abort);
  }
}

/**
 * What TLS runs over: the connection's own socket, if the system lets the runtime have it a second time, which
 * saves a trip of every byte through here, or else a stream over the connection.
 *
 * @param onEnd Told when the peer has ended, and what it had sent before has had its effect.
 */
export function carrierOf(transport: Connection, onEnd: () => void): Socket {
  const fd = transport instanceof NativeConnection ? transport.duplicateDescriptor() : null;
  if (fd === null) return streamOver(transport, onEnd);
  const { Socket } = process.getBuiltinModule("node:net");
  const socket = new Socket({ fd, readable: true, writable: true });
  socket.once("end", () => setTimeout(onEnd));
  return socket;
}

/**
 * A stream of Node over a connection.
 *
 * @param onEnd Told when the peer has ended, and what it had sent before has had its effect.
 */
function streamOver(transport: Connection, onEnd: () => void): Socket {
  const stream = new Duplex({
    read() {
      const chunk = new Uint8Array(64 * 1024);
      const give = (count: number | null) => {
        this.push(count === null ? null : Buffer.from(chunk.buffer, 0, count));
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
  stream.once("end", () => setTimeout(onEnd));
  return stream as Socket;
}

async function writeTo(transport: Connection, bytes: Uint8Array): Promise<void> {
  await transport.write(bytes);
}
