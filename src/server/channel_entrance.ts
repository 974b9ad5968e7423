/**
 * The door for clients that come through a channel: takes connections, runs the handshake, and hands over what
 * has become a channel.
 *
 * Strangers cost little here: how many may be in the handshake at the same time is limited, as is how long they
 * may take.
 */
import type { KeyList } from "../access/key_list.ts";
import type { Log } from "../base/log.ts";
import type { Connection } from "../net/connection.ts";
import type { Listener } from "../net/listener.ts";
import { acceptSecureConnection, SecureConnection } from "../net/secure_connection.ts";
import type { Clock } from "../os/clock.ts";
import type { MakeRecordCipher } from "../wire/channel/direct_cipher_state.ts";
import type { EncryptionMode, NoiseIdentity } from "../wire/channel/establish.ts";
import { type StrangerCounts, type StrangerLimits, Strangers } from "./strangers.ts";

const LIMITS: StrangerLimits = { halfOpen: 256, halfOpenPerAddress: 32, inVainPerSecond: 1000 };
/** Who comes to nothing when keys have been computed with has cost as much as so many that did so before. */
const KEYS_TIMES = 10;

export interface ChannelEntranceOptions {
  readonly encryption: EncryptionMode;
  /** Who we are; needed unless `encryption` is `off`. */
  readonly identity?: NoiseIdentity;
  /** What records are encrypted by. Default: Web Crypto. */
  readonly makeRecordCipher?: MakeRecordCipher;
  /** Who is let in with a key. */
  readonly keys: KeyList;
  readonly log: Log;
  readonly clock: Clock;
  /** How long a handshake may take; 0 = no limit. */
  readonly handshakeMs: number;
}

export class ChannelEntrance {
  readonly #options: ChannelEntranceOptions;
  readonly #strangers: Strangers;
  /** What ends each handshake. */
  readonly #handshakes = new Set<AbortController>();

  constructor(options: ChannelEntranceOptions) {
    this.#options = options;
    this.#strangers = new Strangers(LIMITS, options.log.child("channel"), options.clock);
  }

  /**
   * Takes connections until the listener is closed.
   *
   * @param handle Given each channel; from then on it is the taker's.
   */
  async serve(listener: Listener, handle: (connection: Connection) => void): Promise<void> {
    await this.#strangers.attend(listener, (transport) => void this.#welcome(transport, handle));
  }

  /** What has come of those who came, and were not let in. */
  get strangers(): StrangerCounts {
    return this.#strangers;
  }

  /** Ends all handshakes. */
  abort(): void {
    for (const handshake of this.#handshakes) handshake.abort(new Error("the server is shutting down"));
  }

  async #welcome(transport: Connection, handle: (connection: Connection) => void): Promise<void> {
    const { peer } = transport;
    const { encryption, identity, makeRecordCipher, keys, handshakeMs } = this.#options;
    const handshake = new AbortController();
    this.#handshakes.add(handshake);
    using _stranger = this.#strangers.enter(peer, (reason) => handshake.abort(reason), handshakeMs);
    let times = 1;
    try {
      const accepted = await acceptSecureConnection(transport, {
        encryption,
        identity,
        makeRecordCipher,
        computes: () => times = KEYS_TIMES,
        refuse: (key) => {
          const { rights, reason } = keys.rightsFor(key.toBase64());
          return rights === "none" ? reason : undefined;
        },
        signal: handshake.signal,
      });
      if (accepted instanceof SecureConnection) handle(accepted);
      else this.#strangers.turnAway(peer, accepted.refused, times);
    } catch (error) {
      this.#strangers.turnAway(peer, error instanceof Error ? error.message : String(error), times);
    } finally {
      this.#handshakes.delete(handshake);
    }
  }
}
