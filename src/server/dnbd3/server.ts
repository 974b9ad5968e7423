/**
 * A dnbd3 server: takes connections, hears which image is wanted, and runs a session for each client.
 *
 * The protocol has no words for a refusal. Whoever asks for an image that is not here, or says something else
 * first, is disconnected; the reason goes to the log.
 */
import { parseIpAddress } from "../../base/ip_address.ts";
import type { Log } from "../../base/log.ts";
import { printable } from "../../base/printable.ts";
import { BufferPool } from "../../net/buffer_pool.ts";
import type { Connection } from "../../net/connection.ts";
import { ConversationCutError, converse } from "../../net/converse.ts";
import type { Listener } from "../../net/listener.ts";
import { type Clock, delay } from "../../os/clock.ts";
import { SelectFlag } from "../../wire/dnbd3/constants.ts";
import { hearOpening, type Opening } from "../../wire/dnbd3/handshake_server.ts";
import { answeredVersion, encodeSelectedImage, type Selection } from "../../wire/dnbd3/message.ts";
import { type StrangerCounts, type StrangerLimits, Strangers } from "../strangers.ts";
import type { AltServer } from "./alt_server.ts";
import type { Image } from "./image.ts";
import { type ImageTrouble, reluctanceMs } from "./reluctance.ts";
import { serversFor } from "./server_list.ts";
import { type BlockSource, ImageSession } from "./session.ts";

/** The keys of `server.conf` that concern clients; a reload may change them. */
export interface ImageServerSettings {
  /** In ms. */
  readonly clientTimeout: number;
  /** In microseconds. */
  readonly serverPenalty: number;
  /** In microseconds. */
  readonly clientPenalty: number;
  readonly maxClients: number;
}

/** Finds the image that a client selects. */
export interface ImageFinder {
  /**
   * @param asker What the client says of itself.
   * @returns The image, or null if this client cannot have it.
   */
  findFor(
    selection: Selection,
    asker: { readonly isServer: boolean; readonly replicates: boolean },
  ): Promise<Image | null>;
  /** What stands in the way of serving an image that is not all here. */
  troubleOf(image: Image): ImageTrouble;
}

export interface ImageServerOptions {
  readonly finder: ImageFinder;
  readonly source: BlockSource;
  readonly settings: ImageServerSettings;
  readonly altServers: readonly AltServer[];
  readonly clock: Clock;
  readonly log: Log;
  /** Numbers from 0 to below 1. Default: by chance. */
  readonly random?: () => number;
  /** Answers an HTTP request whose first bytes are these, and closes the connection in the end. */
  readonly http?: (connection: Connection, head: Uint8Array) => Promise<void>;
}

/** Who read more than this has used the image, whoever it was. */
const ACCESS_BYTES = 40960;
/** Connections that have no image yet. */
const WITHOUT_IMAGE_MAX = 500;
/** Of these so many may not have said which they want. A building of clients may share an address. */
const STRANGERS: StrangerLimits = { halfOpen: 400, halfOpenPerAddress: 200, inVainPerSecond: 1000 };

export class ImageServer {
  settings: ImageServerSettings;
  altServers: readonly AltServer[];
  /** Bytes of blocks sent by sessions that have ended. */
  #sentBefore = 0;
  readonly #options: ImageServerOptions;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #pool = new BufferPool();
  readonly #listeners = new Set<Listener>();
  readonly #sessions = new Map<number, ImageSession>();
  readonly #connections = new Map<Connection, Promise<void>>();
  readonly #strangers: Strangers;
  #lastId = 0;
  #sweep: Disposable | null = null;
  #closed = false;

  constructor(options: ImageServerOptions) {
    this.#options = options;
    this.settings = options.settings;
    this.altServers = options.altServers;
    this.#clock = options.clock;
    this.#log = options.log;
    this.#strangers = new Strangers(STRANGERS, this.#log, this.#clock);
  }

  /** Clients that have an image, in the order in which they came. */
  sessions(): ImageSession[] {
    return [...this.#sessions.values()];
  }

  /** What has come of those who came, and were no clients. */
  get strangers(): StrangerCounts {
    return this.#strangers;
  }

  /** Bytes of blocks sent to all clients. */
  get sentBytes(): number {
    return this.sessions().reduce((sum, session) => sum + session.sentBytes, this.#sentBefore);
  }

  /** Takes connections until the listener is closed. */
  async serve(listener: Listener): Promise<void> {
    this.#listeners.add(listener);
    try {
      await this.#strangers.attend(listener, (connection) => this.handle(connection));
    } finally {
      this.#listeners.delete(listener);
    }
  }

  /** Serves one connection. Never throws; {@linkcode close} waits for its end. */
  handle(connection: Connection): void {
    if (this.#closed) return connection.close();
    const isFull = this.#connections.size - this.#sessions.size >= WITHOUT_IMAGE_MAX;
    const why = `${WITHOUT_IMAGE_MAX} others have not got an image yet`;
    if (isFull && !this.#strangers.makeRoom(why)) {
      this.#strangers.turnAway(connection.peer, why);
      return connection.close();
    }
    const id = ++this.#lastId;
    const log = this.#log.child(`dnbd3-${id}`);
    const serving = this.#serveClient(id, connection, log).catch((error) => {
      log.error(`${connection.peer.text}: ${error}`);
    }).finally(() => {
      connection.close();
      this.#connections.delete(connection);
    });
    this.#connections.set(connection, serving);
  }

  /** Disconnects everybody and takes nobody any more. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const listener of this.#listeners) listener.close();
    for (const session of this.#sessions.values()) session.drop("the server is shutting down");
    for (const connection of this.#connections.keys()) connection.close();
    await Promise.all(this.#connections.values());
    this.#sweep?.[Symbol.dispose]();
    this.#sweep = null;
  }

  async #serveClient(id: number, connection: Connection, log: Log): Promise<void> {
    const { peer } = connection;
    const heard = await this.#hear(connection);
    if (heard === null) return;
    const { opening, rest } = heard;
    if (opening.kind === "http") {
      const { http } = this.#options;
      if (http === undefined) return log.info(`${peer.text} refused: it speaks HTTP`);
      return await http(connection, concatenated(opening.head, rest));
    }
    const { selection } = opening;
    const isServer = (selection.flags & SelectFlag.Server) !== 0;
    const replicates = isServer && (selection.flags & SelectFlag.Replication) !== 0;
    const image = await this.#options.finder.findFor(selection, { isServer, replicates });
    if (image === null) {
      return log.info(`${peer.text} refused: no image ${printable(selection.name)}:${selection.revision}`);
    }
    if (!await this.#isWelcome(image)) {
      return log.info(
        `${peer.text} refused: ${printable(`${image}`)} can hardly be served; others may do better`,
      );
    }
    if (this.#sessions.size >= this.settings.maxClients) {
      return log.warn(`${peer.text} refused: ${this.settings.maxClients} clients are here`);
    }
    const address = parseIpAddress(peer.address);
    const version = answeredVersion(selection.version);
    const session = new ImageSession({ image, version, isServer }, {
      connection,
      pool: this.#pool,
      clock: this.#clock,
      log,
      source: this.#options.source,
      servers: () => address === null ? [] : serversFor(address, image.name, this.altServers),
    });
    this.#sessions.set(id, session);
    image.enter(session);
    if (!isServer) image.accessedAtMs = Date.now();
    const startedMs = this.#clock.now();
    let reason = "the image changed";
    try {
      // Quarantine drops the users it finds, and this one was not among them while the image was looked for.
      if (this.#closed || image.quarantine !== null) return;
      const { name, revision, sizeBytes } = image;
      await connection.write(encodeSelectedImage({ version, name, revision, sizeBytes }));
      log.info(`${peer.text} reads ${printable(`${image}`)}${isServer ? " as a server" : ""}`);
      this.#startSweep();
      const penaltyMs = (isServer ? this.settings.serverPenalty : this.settings.clientPenalty) / 1000;
      if (penaltyMs > 0) await delay(this.#clock, penaltyMs);
      reason = await session.run(rest);
    } catch (error) {
      reason = `the connection broke: ${error instanceof Error ? error.message : error}`;
    } finally {
      this.#sessions.delete(id);
      image.leave(session);
      if (session.sentBytes > ACCESS_BYTES) image.accessedAtMs = Date.now();
      this.#sentBefore += session.sentBytes;
      const seconds = ((this.#clock.now() - startedMs) / 1000).toFixed(1);
      log.info(
        `${peer.text} left ${printable(`${image}`)} after ${seconds} s: ${reason}; ` +
          `${session.requests} blocks, ${session.sentBytes} bytes`,
      );
    }
  }

  /** Waits as long as the state of an image demands. @returns Whether one more client may have it. */
  async #isWelcome(image: Image): Promise<boolean> {
    if (image.map === null) return true;
    const { finder, random = Math.random } = this.#options;
    const waitMs = reluctanceMs(finder.troubleOf(image), image.map.percent, random());
    if (waitMs !== null && waitMs > 0) await delay(this.#clock, waitMs);
    return waitMs !== null;
  }

  async #hear(connection: Connection): Promise<{ opening: Opening; rest: Uint8Array } | null> {
    const ended = new AbortController();
    const { peer } = connection;
    using _stranger = this.#strangers.enter(
      peer,
      (reason) => ended.abort(reason),
      this.settings.clientTimeout,
    );
    try {
      const { result, rest } = await converse(hearOpening(), connection, { signal: ended.signal });
      return { opening: result, rest };
    } catch (error) {
      // Whether a server is there is often asked so.
      if (error instanceof ConversationCutError && !error.answered) this.#strangers.spend(peer);
      else this.#strangers.turnAway(peer, error instanceof Error ? error.message : String(error));
      return null;
    }
  }

  #startSweep(): void {
    if (this.#sweep !== null || this.#closed) return;
    const { clientTimeout } = this.settings;
    this.#sweep = this.#clock.timer(Math.max(20, clientTimeout / 8), () => {
      this.#sweep = null;
      for (const session of this.#sessions.values()) session.checkAlive(clientTimeout);
      if (this.#sessions.size > 0) this.#startSweep();
    }, { background: true });
  }
}

function concatenated(one: Uint8Array, other: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(one.length + other.length);
  bytes.set(one);
  bytes.set(other, one.length);
  return bytes;
}
