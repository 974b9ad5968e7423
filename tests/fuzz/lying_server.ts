/**
 * An NBD server that keeps the protocol as strangely as it may, and breaks it now and then.
 *
 * Whatever it says about the content of its disk is true, except beside an error: a client that accepts a broken reply
 * is found out by what it believes to have read.
 */
import { concat } from "@std/bytes";
import type { Connection } from "../../src/net/connection.ts";
import { converse } from "../../src/net/converse.ts";
import {
  encodeBlockStatus,
  encodeDataChunkHeader,
  encodeErrorChunk,
  encodeHoleChunk,
  encodeNoneChunk,
  type StatusExtent,
} from "../../src/wire/nbd/chunk.ts";
import { ChunkType, Command, ReplyFlag, WireErrno } from "../../src/wire/nbd/constants.ts";
import { type Agreement, greetOldstyle, negotiateNewstyle } from "../../src/wire/nbd/handshake_server.ts";
import {
  decodeRequest,
  encodeChunkHeader,
  encodeSimpleReply,
  type Request,
  requestBytes,
} from "../../src/wire/nbd/transmission.ts";
import { viewOf } from "../testing/hex.ts";
import { anOffer, hallOf } from "../testing/nbd_hall.ts";
import { damaged, pick } from "./damage.ts";
import type { Random } from "./fuzzer.ts";
import { turns } from "./turns.ts";

export interface Habits {
  /** Probability per reply that it breaks the protocol. */
  readonly lies: number;
  /** Probability per request that it fails. */
  readonly errors: number;
  /** Greets in oldstyle. */
  readonly oldstyle: boolean;
}

export class LyingServer {
  /** The content of the disk. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly #random: Random;
  readonly #habits: Habits;
  /** Whether a reply broke the protocol: from then on a client may give up. */
  lied = false;

  constructor(sizeBytes: number, random: Random, habits: Habits) {
    this.bytes = new Uint8Array(sizeBytes);
    this.#random = random;
    this.#habits = habits;
  }

  /** Serves one client until it leaves, or the server has had enough. Never throws for what the client does. */
  async serve(connection: Connection): Promise<void> {
    const offer = anOffer({ sizeBytes: this.bytes.length, contexts: ["base:allocation"] });
    try {
      const conversation = this.#habits.oldstyle ? greetOldstyle(offer) : negotiateNewstyle(hallOf([offer]));
      const { result, rest } = await converse<Agreement | null>(conversation, connection);
      if (result !== null) await this.#transmit(connection, result, rest);
    } catch {
      // The client went away in the middle of something.
    } finally {
      connection.close();
    }
  }

  async #transmit(connection: Connection, agreed: Agreement, rest: Uint8Array): Promise<void> {
    const random = this.#random;
    const reader = new Reader(connection, rest);
    const headerBytes = requestBytes(agreed.extended);
    /** Requests on their way, each with the pieces of its reply that are left, in order. */
    let open: { execute: () => Uint8Array[]; pieces: Uint8Array[] | null }[] = [];
    let writing = Promise.resolve();
    while (true) {
      const header = await reader.take(headerBytes);
      if (header === null) return;
      const request: Request = { flags: 0, type: 0, cookie: 0n, offset: 0, length: 0 };
      decodeRequest(viewOf(header), 0, agreed.extended, request);
      const payload = request.type === Command.WRITE ? await reader.take(request.length) : new Uint8Array(0);
      if (payload === null) return;
      if (request.type === Command.DISC) return;
      open.push({ execute: () => this.#reply(request, payload, agreed), pieces: null });
      if (this.lied && random.chance(0.1)) return;
      // Requests are executed in any order, as are pieces of different replies; sooner or later, but all.
      writing = writing.then(async () => {
        await turns(random.below(30));
        while (open.length > 0) {
          const each = pick(random, open);
          each.pieces ??= each.execute();
          const piece = each.pieces.shift();
          if (piece !== undefined) connection.write(piece);
          open = open.filter(({ pieces }) => pieces?.length !== 0);
          if (random.chance(0.3)) await turns(random.below(10));
        }
      }).catch(() => {});
    }
  }

  /** A reply in pieces, none of which may be cut. */
  #reply(request: Request, payload: Uint8Array, agreed: Agreement): Uint8Array[] {
    const random = this.#random;
    const { type, offset, length } = request;
    // What fails may be done nevertheless; a client must not count on either.
    if (type === Command.WRITE) this.bytes.set(payload, offset);
    if (type === Command.WRITE_ZEROES || type === Command.TRIM) this.bytes.fill(0, offset, offset + length);
    const fails = random.chance(this.#habits.errors);
    const breaks = random.chance(this.#habits.lies);
    const pieces = agreed.structured
      ? this.#chunks(request, agreed, fails, breaks)
      : [this.#simple(request, fails)];
    if (!breaks) return pieces;
    this.lied = true;
    return this.#broken(request, agreed, pieces);
  }

  #simple(request: Request, fails: boolean): Uint8Array {
    const header = new Uint8Array(16);
    encodeSimpleReply(viewOf(header), 0, request.cookie, fails ? WireErrno.EIO : 0);
    if (fails || request.type !== Command.READ) return header;
    return concat([header, this.bytes.subarray(request.offset, request.offset + request.length)]);
  }

  #chunks(request: Request, agreed: Agreement, fails: boolean, breaks: boolean): Uint8Array[] {
    const random = this.#random;
    const { type, cookie, offset, length } = request;
    const { extended } = agreed;
    const made: Uint8Array[] = [];
    if (type === Command.READ) {
      const cuts = Array.from({ length: random.below(5) }, () => random.below(length + 1)).sort((a, b) =>
        a - b
      );
      const edges = [0, ...cuts, length];
      for (let i = 1; i < edges.length; i++) {
        if (edges[i] > edges[i - 1]) {
          const piece = this.#content(request, agreed, offset + edges[i - 1], edges[i] - edges[i - 1]);
          // With an error beside them, which will not be taken away, the data mean nothing.
          if (fails && !breaks && viewOf(piece).getUint16(6) === ChunkType.OFFSET_DATA) {
            piece[piece.length - 1] ^= 0xff;
          }
          made.push(piece);
        }
      }
      made.sort(() => random.chance(0.5) ? 1 : -1);
    } else if (type === Command.BLOCK_STATUS && !fails) {
      made.push(
        chunk((view) =>
          encodeBlockStatus(view, 0, extended, 0, cookie, offset, 1, this.#extents(offset, length))
        ),
      );
    } else if (!extended && !fails && random.chance(0.5)) {
      return [this.#simple(request, false)];
    }
    if (fails) {
      if (!extended && random.chance(0.2)) return [this.#simple(request, true)];
      const at = offset + random.below(length + 1);
      made.splice(
        random.below(made.length + 1),
        0,
        chunk((view) =>
          random.chance(0.5)
            ? encodeErrorChunk(view, 0, extended, 0, cookie, offset, WireErrno.EIO, "text\n")
            : encodeErrorOffsetChunk(view, extended, cookie, offset, at)
        ),
      );
    }
    if (made.length === 0 || random.chance(0.5)) {
      made.push(chunk((view) => encodeNoneChunk(view, 0, extended, cookie, offset)));
    } else {
      setFlags(made.at(-1)!, ReplyFlag.DONE | (random.chance(0.1) ? 0x8000 : 0));
    }
    return made;
  }

  /** A data or hole chunk that tells the truth about a range, which may lie anywhere. */
  #content(
    { cookie, offset: asked }: Request,
    { extended }: Agreement,
    at: number,
    length: number,
  ): Uint8Array {
    const data = new Uint8Array(length);
    const from = Math.max(0, at), to = Math.min(this.bytes.length, at + length);
    if (to > from) data.set(this.bytes.subarray(from, to), from - at);
    if (this.#random.chance(0.7) && data.every((byte) => byte === 0)) {
      return chunk((view) => encodeHoleChunk(view, 0, extended, 0, cookie, asked, Math.max(0, at), length));
    }
    const header = chunk((view) =>
      encodeDataChunkHeader(view, 0, extended, 0, cookie, asked, Math.max(0, at), length)
    );
    return concat([header, data]);
  }

  /** True extents, cut as it pleases; the last may run past the range. */
  #extents(offset: number, length: number): StatusExtent[] {
    const random = this.#random;
    const extents: StatusExtent[] = [];
    let at = offset;
    do {
      const last = random.chance(0.3);
      const count = Math.max(1, last ? offset + length - at : random.below(offset + length - at + 1));
      const zero = this.bytes.subarray(at, at + count).every((byte) => byte === 0);
      extents.push({ length: count, status: zero ? pick(random, [0, 1, 2, 3]) : random.below(2) });
      at += count;
    } while (at < offset + length && random.chance(0.9));
    if (at === offset + length && random.chance(0.2)) {
      const { length: count } = extents.pop()!;
      extents.push({ length: count + random.below(1000), status: 0 });
    }
    return extents;
  }

  /** The reply with one thing wrong. */
  #broken(request: Request, agreed: Agreement, pieces: Uint8Array[]): Uint8Array[] {
    const random = this.#random;
    const { cookie, offset, length, type } = request;
    const { extended } = agreed;
    const any = random.below(pieces.length);
    const anywhere = Math.max(0, offset - 1 - random.below(100)) + random.below(length + 200);
    switch (random.below(agreed.structured ? 12 : 4)) {
      case 0: {
        // Another cookie, of no request: that of another one would be a lie about content.
        const wrong = pieces[any].slice();
        viewOf(wrong).setBigUint64(8, cookie ^ (1n << 63n));
        return pieces.with(any, wrong);
      }
      case 1: {
        const wrong = pieces[any].slice();
        viewOf(wrong).setUint32(0, random.below(2 ** 32));
        return pieces.with(any, wrong);
      }
      case 2:
        return [...pieces, pieces[any]];
      case 3:
        return [random.bytes(1 + random.below(100)), ...pieces];
      case 4:
        return pieces.toSpliced(any, 1);
      case 5:
        return pieces.toSpliced(any, 0, pieces[random.below(pieces.length)]);
      case 6: {
        const wrong = pieces[any].slice();
        setFlags(wrong, viewOf(wrong).getUint16(4) ^ ReplyFlag.DONE);
        return pieces.with(any, wrong);
      }
      case 7:
        return pieces.toSpliced(
          any,
          0,
          this.#content(request, agreed, anywhere, 1 + random.below(length + 100)),
        );
      case 8: {
        // A length that does not fit what follows.
        const wrong = pieces[any].slice();
        viewOf(wrong).setUint32(extended ? 28 : wrong.length >= 20 ? 16 : 12, random.below(2 ** 32));
        return pieces.with(any, wrong);
      }
      case 9: {
        const payload = random.bytes(random.below(50));
        const wrong = chunk((view) =>
          encodeChunkHeader(
            view,
            0,
            extended,
            random.below(2),
            pick(random, [0, 1, 2, 3, 5, 6, 0x7fff, 0x8001, 0x8002]),
            cookie,
            offset,
            payload.length,
          )
        );
        // A hole where there is none, or data that are not there, would be a lie about content.
        if (type === Command.READ && [1, 2].includes(viewOf(wrong).getUint16(6))) {
          return pieces.toSpliced(any, 1);
        }
        return pieces.toSpliced(any, 0, concat([wrong, payload]));
      }
      case 10: {
        const extents = [{ length: 0, status: 0 }, ...this.#extents(offset, length)].slice(
          0,
          1 + random.below(3),
        );
        const id = random.below(3);
        const wrong = chunk((view) =>
          encodeBlockStatus(view, 0, extended, random.below(2), cookie, offset, id, extents)
        );
        return pieces.toSpliced(any, 0, wrong);
      }
      default:
        // Damage to data would be a lie about content.
        return type === Command.READ ? [] : pieces.map((piece) => damaged(piece, random));
    }
  }
}

/** What `encode` writes. */
function chunk(encode: (view: DataView) => number): Uint8Array<ArrayBuffer> {
  const room = new Uint8Array(4096);
  return room.slice(0, encode(viewOf(room)));
}

/** An ERROR_OFFSET chunk without text: error, text length, offset. */
function encodeErrorOffsetChunk(
  view: DataView,
  extended: boolean,
  cookie: bigint,
  requestOffset: number,
  offset: number,
): number {
  const header = encodeChunkHeader(view, 0, extended, 0, ChunkType.ERROR_OFFSET, cookie, requestOffset, 14);
  view.setUint32(header, WireErrno.EIO);
  view.setUint16(header + 4, 0);
  view.setBigUint64(header + 6, BigInt(offset));
  return header + 14;
}

function setFlags(piece: Uint8Array, flags: number): void {
  viewOf(piece).setUint16(4, flags);
}

/** Cuts a connection's bytes into the pieces asked for. */
class Reader {
  readonly #connection: Connection;
  #bytes: Uint8Array;

  constructor(connection: Connection, received: Uint8Array) {
    this.#connection = connection;
    this.#bytes = received;
  }

  /** @returns `null` at the end. */
  async take(byteCount: number): Promise<Uint8Array | null> {
    while (this.#bytes.length < byteCount) {
      const into = new Uint8Array(65536);
      const count = await this.#connection.read(into);
      if (count === null) return null;
      this.#bytes = concat([this.#bytes, into.subarray(0, count)]);
    }
    const taken = this.#bytes.slice(0, byteCount);
    this.#bytes = this.#bytes.subarray(byteCount);
    return taken;
  }
}
