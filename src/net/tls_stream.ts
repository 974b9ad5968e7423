/**
 * TLS between a {@linkcode Connection} below and a {@linkcode Connection} above: what both its ends need.
 *
 * The runtime upgrades its own connections for clients only, without client certificates, and trusts public
 * authorities beside those that it is given. Its Node-compatible sockets can do all, over anything that reads and
 * writes.
 */
import type { Socket } from "node:net";
import type { TLSSocket } from "node:tls";
import { nodeModule } from "../base/node_module.ts";
import type { Connection, Peer } from "./connection.ts";
import { BufferPool } from "./buffer_pool.ts";
import { DirectTlsConnection } from "./direct_tls_connection.ts";
import { NodeConnection } from "./node_connection.ts";
import { TlsEngine } from "./tls_engine.ts";

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
  done: PromiseWithResolvers<Secured>,
  transport: Connection,
  signal: AbortSignal | undefined,
): Promise<Secured> {
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

/** What a carrier has read beyond what TLS was given. */
export interface Carried {
  readonly received: Uint8Array<ArrayBuffer>[];
  /** The read that is outstanding; `null` is the end. */
  readonly coming: Promise<Uint8Array<ArrayBuffer> | null> | null;
}

/** A handshake is short, and strangers begin many. */
const CARRIER_BYTES_MIN = 4 * 1024;
const CARRIER_BYTES = 64 * 1024;

/** A stream of Node over a connection, for TLS to run over. */
export class Carrier {
  readonly stream: Socket;
  readonly #transport: Connection;
  #readBytes = CARRIER_BYTES_MIN;
  #coming: Promise<Uint8Array<ArrayBuffer> | null> | null = null;
  #released = false;

  /** @param onEnd Told when the peer has ended, and what it had sent before has had its effect. */
  constructor(transport: Connection, onEnd: () => void) {
    this.#transport = transport;
    const { Duplex } = nodeModule("node:stream");
    const stream = new Duplex({
      read: () => this.#read(),
      write(chunk: Uint8Array, _encoding, done) {
        writeTo(transport, chunk).then(() => done(), done);
      },
      destroy(error, done) {
        transport.close();
        done(error);
      },
    });
    this.stream = stream as Socket;
    stream.once("end", () => setTimeout(onEnd));
  }

  /** Reads no more. What is written still leaves. */
  release(): Carried {
    this.#released = true;
    this.stream.removeAllListeners("data");
    const received: Uint8Array<ArrayBuffer>[] = [];
    for (let chunk; (chunk = this.stream.read()) !== null;) received.push(new Uint8Array(chunk));
    return { received, coming: this.#coming };
  }

  #read(): void {
    if (this.#released) return;
    const chunk = new Uint8Array(this.#readBytes);
    const read = (count: number | null) => {
      if (count === chunk.length) this.#readBytes = CARRIER_BYTES;
      return count === null ? null : chunk.subarray(0, count);
    };
    const count = this.#transport.read(chunk);
    if (!(count instanceof Promise)) return this.#give(read(count));
    const coming = this.#coming = count.then(read);
    coming.then((bytes) => {
      if (this.#released) return;
      this.#coming = null;
      this.#give(bytes);
    }, (error) => this.stream.destroy(error));
  }

  #give(bytes: Uint8Array<ArrayBuffer> | null): void {
    const { Buffer } = nodeModule("node:buffer");
    this.stream.push(bytes === null ? null : Buffer.from(bytes.buffer, 0, bytes.length));
  }
}

async function writeTo(transport: Connection, bytes: Uint8Array): Promise<void> {
  await transport.write(bytes);
}

/** A socket whose handshake is done, as a connection. */
export interface Secured {
  readonly socket: TLSSocket;
  /** @param peer The transport's, with what is known now. */
  connection(peer: Peer): Connection;
}

/** What all connections inside TLS read into. */
const pool = new BufferPool(8 * 1024 * 1024);

/** To be called in the turn in which the socket says that its handshake is done. */
export function secured(socket: TLSSocket, carrier: Carrier, transport: Connection): Secured {
  const engine = TlsEngine.takeOver(socket);
  if (engine === null) {
    return { socket, connection: (peer) => new TlsConnection(socket, peer, transport) };
  }
  socket.on("error", () => {});
  const carried = carrier.release();
  return {
    socket,
    connection: (peer) => new DirectTlsConnection(engine, transport, peer, pool, carried),
  };
}
