/**
 * One connection to a server, after an image was selected on it.
 *
 * Requests that are handed over in one turn of the event loop leave in one write; blocks are received in place,
 * in whatever order the server sends them. A link never answers for the image: what it could not finish goes back
 * to its owner, once nobody writes to the buffers any more.
 *
 * A server that breaks the protocol ends the link, because from there on no byte of it means anything.
 */
import type { Connection } from "../../net/connection.ts";
import type { Clock } from "../../os/clock.ts";
import {
  Command,
  PAYLOAD_BYTES_MAX,
  REPLY_HEADER_BYTES,
  REQUEST_HEADER_BYTES,
} from "../../wire/dnbd3/constants.ts";
import {
  decodeReply,
  decodeServers,
  encodeRequest,
  type SelectedImage,
  type ServerEntry,
} from "../../wire/dnbd3/message.ts";
import { plainRequest } from "../../wire/dnbd3/handshake_client.ts";
import { WireError } from "../../wire/wire_error.ts";

/** Room for many small replies; a longer block is received where it belongs. */
const RECEIVE_BYTES = 64 * 1024;
/** A block of which at least this much is missing is received in place. */
const IN_PLACE_BYTES_MIN = 16 * 1024;

/** A block that is wanted. */
export interface BlockRequest {
  readonly offset: number;
  /** Where it goes; its length is the block's. */
  readonly into: Uint8Array;
  /** The hop byte; not sent to servers of version 2. */
  readonly hops: number;
}

export interface LinkOwner<Request extends BlockRequest> {
  /** The block is there. The link no longer knows the request. */
  answered(link: ImageLink<Request>, request: Request): void;
  /** The server cannot provide it. The link no longer knows the request. */
  refused(link: ImageLink<Request>, request: Request): void;
  /** The server told of others. */
  told(link: ImageLink<Request>, servers: ServerEntry[]): void;
  /**
   * The link is over, and nobody touches the buffers of its requests any more. Called once.
   *
   * @param unanswered In the order in which they were submitted.
   */
  ended(link: ImageLink<Request>, unanswered: Request[], reason: Error): void;
}

/** A payload that is arriving. */
interface Target {
  readonly command: number;
  /** Of the request, if it is a block. */
  readonly handle: bigint;
  readonly bytes: Uint8Array;
  filled: number;
}

export class ImageLink<Request extends BlockRequest> {
  readonly #connection: Connection;
  readonly #owner: LinkOwner<Request>;
  readonly #clock: Clock;
  readonly #unanswered = new Map<bigint, Request>();
  #queue: Uint8Array[] = [];
  #nextHandle = 1n;
  #sending: Promise<void> | null = null;
  readonly #received = new Uint8Array(RECEIVE_BYTES);
  readonly #view = new DataView(this.#received.buffer);
  #start = 0;
  #end = 0;
  #target: Target | null = null;
  #endReason: Error | null = null;
  /** When the server was last heard, by the clock. */
  heardMs: number;

  /**
   * @param connection With an image selected on it.
   * @param image As the server described it.
   * @param rest What the server sent behind it.
   */
  constructor(
    connection: Connection,
    readonly image: SelectedImage,
    rest: Uint8Array,
    owner: LinkOwner<Request>,
    clock: Clock,
  ) {
    this.#connection = connection;
    this.#owner = owner;
    this.#clock = clock;
    // The handshake reads less at a time than fits in here.
    this.#received.set(rest);
    this.#end = rest.length;
    this.heardMs = clock.now();
    this.#run();
  }

  /** For messages. */
  get peerText(): string {
    return this.#connection.peer.text;
  }

  get peerAddress(): string {
    return this.#connection.peer.address;
  }

  /** Requests handed over and not answered. */
  get unansweredCount(): number {
    return this.#unanswered.size;
  }

  /** Asks for a block. Not to be called after {@linkcode LinkOwner.ended}, through which it may come back. */
  submit(request: Request): void {
    const handle = this.#nextHandle++;
    this.#unanswered.set(handle, request);
    const { offset, into } = request;
    const hops = this.image.version < 3 ? 0 : request.hops;
    this.#queue.push(
      encodeRequest({ command: Command.GetBlock, sizeBytes: into.length, offset, hops, handle }),
    );
    this.#sendSoon();
  }

  /** Sends a request that has nothing but a command. */
  ask(command: number): void {
    this.#queue.push(plainRequest(command));
    this.#sendSoon();
  }

  /** Ends the link at once. Idempotent; the owner hears of it when all buffers are at rest. */
  close(reason: Error): void {
    this.#endReason ??= reason;
    this.#connection.close();
  }

  #sendSoon(): void {
    this.#sending ??= Promise.resolve().then(() => this.#send());
  }

  async #send(): Promise<void> {
    try {
      while (this.#queue.length > 0 && this.#endReason === null) {
        const bytes = new Uint8Array(this.#queue.length * REQUEST_HEADER_BYTES);
        this.#queue.forEach((request, index) => bytes.set(request, index * REQUEST_HEADER_BYTES));
        this.#queue = [];
        await this.#connection.write(bytes);
      }
    } catch (error) {
      this.close(error as Error);
    } finally {
      this.#sending = null;
    }
  }

  async #run(): Promise<void> {
    try {
      // What came behind the handshake is looked at when the owner has got hold of the link.
      await undefined;
      this.#parse();
      await this.#receive();
    } catch (error) {
      this.#endReason ??= error as Error;
    }
    this.close(new Error("the server closed the connection"));
    await this.#sending;
    const unanswered = [...this.#unanswered.values()];
    this.#unanswered.clear();
    this.#owner.ended(this, unanswered, this.#endReason!);
  }

  async #receive(): Promise<void> {
    while (true) {
      const target = this.#target;
      // A target that waits has emptied the buffer.
      const inPlace = target !== null && target.bytes.length - target.filled >= IN_PLACE_BYTES_MIN;
      const into = inPlace ? target.bytes.subarray(target.filled) : this.#room();
      const there = this.#connection.readNow?.(into, true);
      const count = there === undefined ? await this.#connection.read(into) : there;
      // After a close the server's last words no longer count.
      if (count === null || this.#endReason !== null) return;
      this.heardMs = this.#clock.now();
      if (inPlace) target.filled += count;
      else this.#end += count;
      this.#parse();
    }
  }

  /** The free end of the buffer: never empty, for what is left in it is the beginning of a header. */
  #room(): Uint8Array {
    this.#received.copyWithin(0, this.#start, this.#end);
    this.#end -= this.#start;
    this.#start = 0;
    return this.#received.subarray(this.#end);
  }

  /** Takes from the buffer all that is complete. */
  #parse(): void {
    while (this.#target === null ? this.#parseHeader() : this.#fillTarget(this.#target));
  }

  #fillTarget(target: Target): boolean {
    const count = Math.min(this.#end - this.#start, target.bytes.length - target.filled);
    target.bytes.set(this.#received.subarray(this.#start, this.#start + count), target.filled);
    target.filled += count;
    this.#start += count;
    if (target.filled < target.bytes.length) return false;
    this.#target = null;
    if (target.command === Command.GetBlock) {
      const request = this.#unanswered.get(target.handle)!;
      this.#unanswered.delete(target.handle);
      this.#owner.answered(this, request);
    } else if (target.command === Command.GetServers) {
      this.#owner.told(this, decodeServers(target.bytes));
    }
    return true;
  }

  /** @returns `false` if the rest of it is still to come. */
  #parseHeader(): boolean {
    if (this.#end - this.#start < REPLY_HEADER_BYTES) return false;
    const { command, sizeBytes, handle } = decodeReply(this.#view, this.#start);
    this.#start += REPLY_HEADER_BYTES;
    let bytes: Uint8Array;
    if (command === Command.GetBlock || command === Command.Error) {
      const request = this.#unanswered.get(handle);
      if (request === undefined) throw new WireError(`reply with the unknown handle ${handle}`);
      const wanted = command === Command.Error ? 0 : request.into.length;
      if (sizeBytes !== wanted) throw new WireError(`reply of ${sizeBytes} bytes where ${wanted} are due`);
      if (command === Command.Error) {
        this.#unanswered.delete(handle);
        this.#owner.refused(this, request);
        return true;
      }
      bytes = request.into;
    } else {
      if (sizeBytes > PAYLOAD_BYTES_MAX) {
        throw new WireError(`payload of ${sizeBytes} bytes with command ${command}`);
      }
      bytes = new Uint8Array(sizeBytes);
    }
    this.#target = { command, handle, bytes, filled: 0 };
    return true;
  }
}
