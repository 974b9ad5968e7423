/**
 * One client reading one image.
 *
 * All complete requests that have arrived are performed in one go; those that the image answers at once are
 * replied to in one write. Those that must wait are replied to when they are done, in whatever order. When too
 * much is waiting, nothing more is read from the client.
 *
 * The protocol has no way to say that a block of a good request cannot be had: clients wait for it for ever, or
 * give up the server. So a failed read ends the connection, and clients turn to another server.
 */
import type { IpEndpoint } from "../../base/ip_endpoint.ts";
import type { Log } from "../../base/log.ts";
import type { BufferPool } from "../../net/buffer_pool.ts";
import type { Connection } from "../../net/connection.ts";
import type { Clock } from "../../os/clock.ts";
import { encodeChecksumList } from "../../wire/dnbd3/checksum_list.ts";
import {
  Command,
  PAYLOAD_BYTES_MAX,
  PROTOCOL_VERSION,
  REPLY_HEADER_BYTES,
  REQUEST_HEADER_BYTES,
} from "../../wire/dnbd3/constants.ts";
import { decodeRequest, encodeReply, encodeServers, type Request } from "../../wire/dnbd3/message.ts";
import { WireError } from "../../wire/wire_error.ts";
import { Intake } from "../nbd/intake.ts";
import { Outbox } from "../nbd/outbox.ts";
import type { Image, ImageUser } from "./image.ts";

/** Blocks up to this size are answered whole; a larger one is sent in pieces of this size. */
const PIECE_BYTES = 1024 * 1024;
/** Blocks that wait for the image. */
const BLOCKS_WAITING_MAX = 256;
/** Bytes of blocks that wait for the image. */
const BYTES_WAITING_MAX = 16 * 1024 * 1024;
/** Bytes of replies that the client has not taken. */
const UNSENT_BYTES_MAX = 4 * 1024 * 1024;
/** Replies that are ready leave when they are this many bytes, before the rest of the requests is looked at. */
const FLUSH_BYTES = 192 * 1024;
/** A client that sends nothing for this many timeouts is gone. */
const SILENT_TIMEOUTS_MAX = 4;

/** Reads blocks for clients; may fetch what is not here. */
export interface BlockSource {
  /**
   * Fills `into` from `offset`, which lie inside the image.
   *
   * @param hops The hop byte of the client's request.
   * @param client Who asks; null for other protocols.
   * @throws If the block cannot be had.
   */
  readBlock(
    image: Image,
    offset: number,
    into: Uint8Array,
    hops: number,
    client: ImageUser | null,
  ): void | Promise<void>;
}

export interface SessionTerms {
  readonly image: Image;
  /** What the client speaks. */
  readonly version: number;
  /** The client is a proxy. */
  readonly isServer: boolean;
}

/** What a session shares with its server. */
export interface SessionSurroundings {
  readonly connection: Connection;
  readonly pool: BufferPool;
  readonly clock: Clock;
  readonly log: Log;
  readonly source: BlockSource;
  /** The servers to tell this client of. */
  servers(): IpEndpoint[];
}

export class ImageSession implements ImageUser {
  readonly image: Image;
  readonly connection: Connection;
  isServer: boolean;
  /** Blocks asked for. */
  requests = 0;
  /** Bytes of blocks sent. */
  sentBytes = 0;
  readonly #version: number;
  readonly #surroundings: SessionSurroundings;
  readonly #outbox: Outbox;
  #intake!: Intake;
  #running = false;
  #waitingBlocks = 0;
  #waitingBytes = 0;
  /** A block is being sent in pieces; nothing else may be sent meanwhile. */
  #streaming = false;
  #progress: PromiseWithResolvers<void> | null = null;
  #endReason = "";
  #heardMs = 0;
  #unsentBefore = 0;
  #takenMs = 0;
  /** Replies other than blocks repeat the handle of the last block, as clients are used to. */
  #lastHandle = 0n;

  constructor(terms: SessionTerms, surroundings: SessionSurroundings) {
    this.image = terms.image;
    this.isServer = terms.isServer;
    this.connection = surroundings.connection;
    this.#version = terms.version;
    this.#surroundings = surroundings;
    this.#outbox = new Outbox(guarded(surroundings.connection, terms.image), surroundings.pool);
  }

  /** Ends the session at once. */
  drop(reason: string): void {
    if (this.#endReason === "") this.#endReason = reason;
    this.connection.close();
    this.#progressed();
  }

  /**
   * Drops a client that has been silent for too long, stopped in the middle of a request, or takes nothing.
   *
   * @param timeoutMs The client timeout of the configuration.
   */
  checkAlive(timeoutMs: number): void {
    if (!this.#running) return;
    const now = this.#surroundings.clock.now();
    const { unsentBytes } = this.#outbox;
    if (unsentBytes === 0 || unsentBytes !== this.#unsentBefore) this.#takenMs = now;
    this.#unsentBefore = unsentBytes;
    if (now - this.#takenMs >= timeoutMs) return this.drop("it takes no data");
    const silentMs = now - this.#heardMs;
    const busy = this.#waitingBlocks > 0 || this.#streaming || unsentBytes > 0;
    if (silentMs >= timeoutMs && !busy && this.#intake.available > 0) {
      this.drop("stopped in the middle of a request");
    } else if (silentMs >= timeoutMs * SILENT_TIMEOUTS_MAX && !busy) this.drop("silent for too long");
  }

  /**
   * Serves the client until it leaves, breaks the protocol, or is dropped.
   *
   * @param received Requests that came with the selection.
   * @returns Why it ended, for the log. Never throws; the connection is closed.
   */
  async run(received: Uint8Array): Promise<string> {
    this.#intake = new Intake(this.#surroundings.pool, received);
    this.#heardMs = this.#takenMs = this.#surroundings.clock.now();
    this.#running = true;
    let reason: string;
    try {
      reason = await this.#serve();
    } catch (error) {
      reason = error instanceof WireError ? `protocol error: ${error.message}` : `failed: ${error}`;
    }
    this.#running = false;
    this.connection.close();
    // Buffers go back only when the image has let go of them.
    while (this.#waitingBlocks > 0 || this.#streaming) await this.#wait();
    this.#intake.close();
    this.#outbox.rest();
    return this.#endReason === "" ? reason : this.#endReason;
  }

  async #serve(): Promise<string> {
    const { clock } = this.#surroundings;
    while (this.#endReason === "") {
      const wantedBytes = this.#performAll();
      if (!this.#streaming) this.#outbox.flush();
      if (this.#outbox.broken) return "the connection broke";
      if (this.#endReason !== "") break;
      if (wantedBytes === 0) {
        if (!this.#streaming && this.#outbox.unsentBytes > UNSENT_BYTES_MAX) await this.#outbox.drained();
        else await this.#wait();
        continue;
      }
      const idle = this.#waitingBlocks === 0 && this.#intake.available === 0;
      if (idle) this.#outbox.rest();
      const reading = this.#intake.fill(this.connection, wantedBytes, idle);
      const count = reading instanceof Promise ? await reading : reading;
      if (count === null) {
        return this.#intake.available === 0
          ? "closed by the client"
          : "closed by the client in the middle of a request";
      }
      this.#heardMs = clock.now();
    }
    return this.#endReason;
  }

  /** Performs the requests that are there. Returns how many bytes the next one needs, or 0 if it must wait. */
  #performAll(): number {
    const intake = this.#intake;
    while (this.#endReason === "") {
      if (this.#streaming) return 0;
      if (this.#waitingBlocks >= BLOCKS_WAITING_MAX || this.#waitingBytes >= BYTES_WAITING_MAX) return 0;
      if (this.#outbox.unsentBytes > UNSENT_BYTES_MAX) return 0;
      if (intake.available < REQUEST_HEADER_BYTES) return REQUEST_HEADER_BYTES;
      const request = decodeRequest(intake.view, intake.start);
      if (request.command === Command.GetBlock) {
        if (request.sizeBytes > PIECE_BYTES && this.#isInside(request)) {
          // It leaves in pieces, between which no other reply may come.
          if (this.#waitingBlocks > 0) return 0;
          this.#streaming = true;
        }
        intake.start += REQUEST_HEADER_BYTES;
        this.#block(request);
      } else {
        if (request.sizeBytes > PAYLOAD_BYTES_MAX) {
          throw new WireError(`payload of ${request.sizeBytes} bytes with command ${request.command}`);
        }
        // Nothing but a selection has a payload; one that comes all the same is read past.
        const total = REQUEST_HEADER_BYTES + request.sizeBytes;
        if (intake.available < total) return total;
        intake.start += total;
        this.#perform(request);
      }
    }
    return 0;
  }

  #perform({ command }: Request): void {
    switch (command) {
      case Command.GetServers: {
        const entries = this.#surroundings.servers().map((server) => ({ ...server, failures: 0 }));
        return this.#reply(command, encodeServers(entries));
      }
      case Command.Keepalive:
        return this.#reply(command, NOTHING);
      case Command.GetChecksums: {
        const { checksums } = this.image;
        return this.#reply(command, checksums === null ? NOTHING : encodeChecksumList(checksums));
      }
      case Command.SetClientMode:
        this.isServer = false;
        return;
      default:
        this.#surroundings.log.debug(`unknown command ${command} is not answered`);
    }
  }

  #reply(command: number, payload: Uint8Array): void {
    const outbox = this.#outbox;
    outbox.reserve(REPLY_HEADER_BYTES + payload.length);
    encodeReply(outbox.view, outbox.at, command, payload.length, this.#lastHandle);
    outbox.bytes.set(payload, outbox.at + REPLY_HEADER_BYTES);
    outbox.commit(REPLY_HEADER_BYTES + payload.length);
  }

  /** Whether a block lies in the image. A client of version 2 has a longer offset instead of hops. */
  #isInside({ offset, sizeBytes, hops }: Request): boolean {
    if (hops !== 0 && this.#version < PROTOCOL_VERSION) return false;
    return offset < this.image.sizeBytes && offset + sizeBytes <= this.image.sizeBytes;
  }

  #block(request: Request): void {
    const { offset, sizeBytes, hops, handle } = request;
    const outbox = this.#outbox;
    this.requests++;
    this.#lastHandle = handle;
    if (!this.#isInside(request)) {
      outbox.reserve(REPLY_HEADER_BYTES);
      encodeReply(outbox.view, outbox.at, Command.Error, 0, handle);
      return outbox.commit(REPLY_HEADER_BYTES);
    }
    if (this.#streaming) {
      this.#stream(request).catch((error) => this.#readFailed(error)).finally(() => {
        this.#streaming = false;
        this.#progressed();
      });
      return;
    }
    const total = REPLY_HEADER_BYTES + sizeBytes;
    outbox.reserve(total);
    const at = outbox.at + REPLY_HEADER_BYTES;
    const into = outbox.bytes.subarray(at, at + sizeBytes);
    let reading: void | Promise<void>;
    try {
      reading = this.#surroundings.source.readBlock(this.image, offset, into, hops, this);
    } catch (error) {
      return this.#readFailed(error);
    }
    if (reading !== undefined) return this.#blockLater(request, reading);
    encodeReply(outbox.view, outbox.at, Command.GetBlock, sizeBytes, handle);
    outbox.commit(total);
    this.#count(sizeBytes);
    if (total >= FLUSH_BYTES) outbox.flush();
  }

  /** The image takes its time; the reply keeps its place. */
  #blockLater({ sizeBytes, handle }: Request, reading: Promise<void>): void {
    const region = this.#outbox.setAside(REPLY_HEADER_BYTES + sizeBytes);
    this.#waitingBlocks++;
    this.#waitingBytes += sizeBytes;
    reading.then(() => {
      encodeReply(region.view, region.at, Command.GetBlock, sizeBytes, handle);
      this.#count(sizeBytes);
      region.send(REPLY_HEADER_BYTES + sizeBytes);
    }, (error) => {
      region.drop();
      this.#readFailed(error);
    }).finally(() => {
      this.#waitingBlocks--;
      this.#waitingBytes -= sizeBytes;
      this.#progressed();
    });
  }

  /** Sends a large block piece by piece, as the client takes it. */
  async #stream({ offset, sizeBytes, hops, handle }: Request): Promise<void> {
    const outbox = this.#outbox;
    outbox.reserve(REPLY_HEADER_BYTES);
    encodeReply(outbox.view, outbox.at, Command.GetBlock, sizeBytes, handle);
    outbox.commit(REPLY_HEADER_BYTES);
    for (let done = 0; done < sizeBytes && this.#endReason === ""; done += PIECE_BYTES) {
      const length = Math.min(PIECE_BYTES, sizeBytes - done);
      outbox.reserve(length);
      const into = outbox.bytes.subarray(outbox.at, outbox.at + length);
      await this.#surroundings.source.readBlock(this.image, offset + done, into, hops, this);
      outbox.commit(length);
      outbox.flush();
      this.#count(length);
      if (outbox.broken) return;
      await outbox.drained();
    }
  }

  #count(byteCount: number): void {
    this.sentBytes += byteCount;
    this.image.sentBytes += byteCount;
  }

  #readFailed(error: unknown): void {
    this.drop(`a read failed: ${error instanceof Error ? error.message : error}`);
  }

  #progressed(): void {
    this.#progress?.resolve();
    this.#progress = null;
  }

  #wait(): Promise<void> {
    this.#progress ??= Promise.withResolvers<void>();
    return this.#progress.promise;
  }
}

const NOTHING = new Uint8Array();

/** A connection that carries nothing read from an image once its file has changed. */
function guarded(connection: Connection, image: Image): Connection {
  return {
    peer: connection.peer,
    read: (into) => connection.read(into),
    write(bytes) {
      if (!image.isUnchanged()) throw new Error("the image changed");
      return connection.write(bytes);
    },
    close: () => connection.close(),
  };
}
