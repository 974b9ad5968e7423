/**
 * The door for clients that come through a channel: takes connections, runs the handshake, and hands over what
 * has become a channel.
 *
 * Strangers cost little here. How many may be in the handshake at the same time is limited, in all and for each
 * address, as is how long they may take; failures of one address are told to the log once a minute.
 */
import type { KeyList } from "../access/key_list.ts";
import type { Log } from "../base/log.ts";
import type { Connection } from "../net/connection.ts";
import type { Listener } from "../net/listener.ts";
import { acceptSecureConnection, SecureConnection } from "../net/secure_connection.ts";
import type { Clock } from "../os/clock.ts";
import type { EncryptionMode, NoiseIdentity } from "../wire/channel/establish.ts";

/** Connections in the handshake. */
const HALF_OPEN_MAX = 256;
const HALF_OPEN_PER_ADDRESS_MAX = 32;
/** How long one address is not heard of again after a failure. */
const SILENCE_MS = 60_000;
/** Addresses that are kept silent at most. */
const SILENT_ADDRESSES_MAX = 1024;

export interface ChannelEntranceOptions {
  readonly encryption: EncryptionMode;
  /** Who we are; needed unless `encryption` is `off`. */
  readonly identity?: NoiseIdentity;
  /** Who is let in with a key. */
  readonly keys: KeyList;
  readonly log: Log;
  readonly clock: Clock;
  /** How long a handshake may take; 0 = no limit. */
  readonly handshakeMs: number;
}

export class ChannelEntrance {
  readonly #options: ChannelEntranceOptions;
  readonly #log: Log;
  /** How many each address has in the handshake. */
  readonly #perAddress = new Map<string, number>();
  /** What ends each handshake. */
  readonly #handshakes = new Set<AbortController>();
  /** When each address was last complained about. */
  readonly #complaints = new Map<string, number>();

  constructor(options: ChannelEntranceOptions) {
    this.#options = options;
    this.#log = options.log.child("channel");
  }

  /**
   * Takes connections until the listener is closed.
   *
   * @param handle Given each channel; from then on it is the taker's.
   */
  async serve(listener: Listener, handle: (connection: Connection) => void): Promise<void> {
    for (let transport; (transport = await listener.accept()) !== null;) {
      void this.#welcome(transport, handle);
    }
  }

  /** Ends all handshakes. */
  abort(): void {
    for (const handshake of this.#handshakes) handshake.abort(new Error("the server is shutting down"));
  }

  async #welcome(transport: Connection, handle: (connection: Connection) => void): Promise<void> {
    const { address } = transport.peer;
    const fromThere = this.#perAddress.get(address) ?? 0;
    if (this.#handshakes.size >= HALF_OPEN_MAX || fromThere >= HALF_OPEN_PER_ADDRESS_MAX) {
      this.#complain(
        transport,
        `${this.#handshakes.size} handshakes are under way, ${fromThere} of them from there`,
      );
      return transport.close();
    }
    const { encryption, identity, keys, clock, handshakeMs } = this.#options;
    const handshake = new AbortController();
    this.#handshakes.add(handshake);
    this.#perAddress.set(address, fromThere + 1);
    using _timer = handshakeMs === 0 ? null : clock.timer(handshakeMs, () => {
      handshake.abort(new Error(`the handshake took longer than ${handshakeMs / 1000} s`));
    });
    try {
      const accepted = await acceptSecureConnection(transport, {
        encryption,
        identity,
        refuse: (key) => {
          const { rights, reason } = keys.rightsFor(key.toBase64());
          return rights === "none" ? reason : undefined;
        },
        signal: handshake.signal,
      });
      if (accepted instanceof SecureConnection) handle(accepted);
      else this.#complain(transport, accepted.refused);
    } catch (error) {
      this.#complain(transport, error instanceof Error ? error.message : String(error));
    } finally {
      this.#handshakes.delete(handshake);
      const left = this.#perAddress.get(address)! - 1;
      if (left > 0) this.#perAddress.set(address, left);
      else this.#perAddress.delete(address);
    }
  }

  #complain({ peer }: Connection, reason: string): void {
    const now = this.#options.clock.now();
    const last = this.#complaints.get(peer.address);
    if (last !== undefined && now - last < SILENCE_MS) return;
    this.#complaints.delete(peer.address);
    this.#complaints.set(peer.address, now);
    // The oldest comes first.
    const oldest = this.#complaints.keys().next().value;
    if (this.#complaints.size > SILENT_ADDRESSES_MAX && oldest !== undefined) this.#complaints.delete(oldest);
    this.#log.warn(`${peer.text} refused: ${reason}`);
  }
}
