/**
 * A connection inside a connection: the channel.
 *
 * `openSecureConnection` and `acceptSecureConnection` run the handshake; what they return is a
 * {@linkcode Connection} like any other, for any protocol. It differs in one respect: a stream that ends without
 * the peer having closed it is an error and not an end.
 */
import {
  type Established,
  initiate,
  type InitiateOptions,
  type Refusal,
  respond,
  type RespondOptions,
} from "../wire/channel/establish.ts";
import { isDirect } from "../wire/channel/frame.ts";
import type { Protection } from "../wire/channel/hello.ts";
import { BufferPool } from "./buffer_pool.ts";
import type { Connection, Peer } from "./connection.ts";
import { converse } from "./converse.ts";
import { DirectFrameReceiver } from "./direct_frame_receiver.ts";
import { DirectFrameSender } from "./direct_frame_sender.ts";
import { FrameReceiver } from "./frame_receiver.ts";
import { FrameSender } from "./frame_sender.ts";

/** About as long as encryption takes, others make as much. */
const EAGER_BYTES = 64 * 1024;

/** What all channels read into and write from. */
const pool = new BufferPool(8 * 1024 * 1024);

/** A {@linkcode Connection} whose bytes are protected on the way. */
export class SecureConnection implements Connection {
  /** The transport's, with the key that this peer has proven, and the protection. */
  readonly peer: Peer;
  readonly protection: Protection;
  /** The same 32 bytes at both ends and in no other channel; a `checksum` channel has none. */
  readonly handshakeHash: Uint8Array | undefined;
  readonly #transport: Connection;
  readonly #sender: FrameSender | DirectFrameSender;
  readonly #receiver: FrameReceiver | DirectFrameReceiver;
  /** See {@linkcode Connection.readNow}. */
  readonly readNow?: Connection["readNow"];
  /** See {@linkcode Connection.eagerBytes}: other threads encrypt. */
  readonly eagerBytes?: number;
  #closed = false;
  readonly #left = Promise.withResolvers<void>();

  /**
   * @param transport Carried the handshake; belongs to this connection from now on.
   * @param received Bytes of the peer that arrived behind the handshake.
   */
  constructor(transport: Connection, channel: Established, received: Uint8Array = new Uint8Array(0)) {
    const { protection, peerKey, handshakeHash } = channel;
    const byLibcrypto = protection === "noise" && isDirect(channel);
    this.peer = {
      ...withKey(transport.peer, peerKey?.toBase64()),
      protection: byLibcrypto ? "noise by libcrypto" : protection,
    };
    this.protection = protection;
    this.handshakeHash = handshakeHash;
    this.#transport = transport;
    const fail = (error: unknown) => {
      this.#sender.fail(error);
      this.#closed = true;
      transport.close();
      this.#left.resolve();
    };
    if (isDirect(channel)) {
      const receiver = new DirectFrameReceiver(transport, channel.opener, pool, received, fail);
      this.#sender = new DirectFrameSender(transport, channel.sealer, pool);
      this.#receiver = receiver;
      if (transport.readNow !== undefined) {
        this.readNow = (into, patient) => receiver.readNow(into as Uint8Array<ArrayBuffer>, patient);
      }
    } else {
      this.eagerBytes = EAGER_BYTES;
      this.#sender = new FrameSender(transport, channel.sealer, pool);
      this.#receiver = new FrameReceiver(transport, channel.opener, pool, received, fail);
    }
  }

  /**
   * See {@linkcode Connection.read}; here `null` says that the peer has closed the channel.
   *
   * @throws {WireError} If the stream was cut, damaged or forged from here on. What was read before is good.
   */
  read(into: Uint8Array): number | null | Promise<number | null> {
    return this.#receiver.read(into as Uint8Array<ArrayBuffer>);
  }

  write(bytes: Uint8Array): void | Promise<void> {
    return this.#sender.write(bytes as Uint8Array<ArrayBuffer>);
  }

  /**
   * See {@linkcode Connection.close}. The peer sees a good end if everything written before had been taken by
   * the transport, and a cut connection otherwise. The transport is closed a moment later.
   */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#receiver.end();
    void this.#sender.finish().then(() => {
      this.#transport.close();
      this.#left.resolve();
    });
  }

  /** See {@linkcode Connection.left}. */
  get left(): Promise<void> {
    return this.#left.promise;
  }
}

function withKey(peer: Peer, key: string | undefined): Peer {
  return key === undefined ? peer : { ...peer, key, text: `${peer.text} (key ${key})` };
}

/** Ends a handshake early: by a deadline, or because the program stops. */
export interface HandshakeLimit {
  readonly signal?: AbortSignal;
}

/**
 * Opens a channel over a fresh connection to a server.
 *
 * On failure the connection is closed.
 *
 * @throws What {@linkcode initiate} throws, and what `converse` throws.
 */
export async function openSecureConnection(
  transport: Connection,
  options: InitiateOptions & HandshakeLimit,
): Promise<SecureConnection> {
  try {
    const { result, rest } = await converse(initiate(options), transport, {
      signal: options.signal,
    });
    return new SecureConnection(transport, result, rest);
  } catch (error) {
    transport.close();
    throw error;
  }
}

/**
 * Accepts a channel on a fresh connection from a client.
 *
 * On failure, and when the client is not let in, the connection is closed.
 *
 * @returns The channel, or why the client was not let in.
 * @throws What {@linkcode respond} throws, and what `converse` throws.
 */
export async function acceptSecureConnection(
  transport: Connection,
  options: RespondOptions & HandshakeLimit,
): Promise<SecureConnection | Refusal> {
  try {
    const { result, rest } = await converse(respond(options), transport, {
      signal: options.signal,
    });
    if ("sealer" in result) return new SecureConnection(transport, result, rest);
    transport.close();
    return result;
  } catch (error) {
    transport.close();
    throw error;
  }
}
