/** A {@linkcode Connection} inside TLS whose records are made and opened in the turn in which somebody asks. */
import type { BufferPool, PooledBuffer } from "./buffer_pool.ts";
import type { Connection, Peer } from "./connection.ts";
import type { Carried } from "./tls_stream.ts";
import { giveBack } from "./give_back.ts";
import { HELD_BYTES_MAX, SEAL_BYTES_MAX, type TlsEngine } from "./tls_engine.ts";

type Bytes = Uint8Array<ArrayBuffer>;

/** What is read at once; with {@linkcode HELD_BYTES_MAX} it fits a buffer of twice the size. */
const INBOX_BYTES = 64 * 1024;
/** Who waits may wait for long, and holds no more than this. */
const QUIET_INBOX_BYTES = 4096;
/** A reader with room for so many bytes of records, and what they may complete, gets the plain text without a copy. */
const IN_PLACE_BYTES_MIN = 16 * 1024;
/** So much is worth encrypting and sending before the rest is there. */
const EAGER_BYTES = 64 * 1024;
/** How long the goodbye of TLS may take to leave. */
const GOODBYE_MS = 1000;

export class DirectTlsConnection implements Connection {
  readonly peer: Peer;
  readonly eagerBytes = EAGER_BYTES;
  /** See {@linkcode Connection.readNow}. */
  readonly readNow?: Connection["readNow"];
  readonly #engine: TlsEngine;
  readonly #transport: Connection;
  readonly #pool: BufferPool;
  /** Records that were read while the handshake was under way, and the read that it has left behind. */
  readonly #received: Bytes[];
  #coming: Promise<Bytes | null> | null;
  /** Plain text that was not wanted yet, from `start` to `end`. */
  #surplus: PooledBuffer | null = null;
  #start = 0;
  #end = 0;
  #reading = false;
  /** The transport has ended, or this was closed. */
  #over = false;
  #closed = false;

  /**
   * @param engine Through with the handshake; runs over the transport, which belongs to this from now on.
   * @param carried What was read for the handshake and is still to be opened.
   */
  constructor(
    engine: TlsEngine,
    transport: Connection,
    peer: Peer,
    pool: BufferPool,
    { received, coming }: Carried,
  ) {
    this.peer = peer;
    this.#engine = engine;
    this.#transport = transport;
    this.#pool = pool;
    this.#received = received;
    this.#coming = coming;
    const early = engine.takeEarly();
    if (early.length > 0) this.#keep(early);
    if (transport.readNow !== undefined) this.readNow = this.#readNow.bind(this);
  }

  /**
   * See {@linkcode Connection.read}.
   *
   * @throws {WireError} If what the peer has sent is damaged, forged, or no TLS.
   */
  read(into: Uint8Array): number | null | Promise<number | null> {
    if (this.#reading) throw new Error("a read is outstanding already");
    const count = this.#take(into);
    return count === undefined ? this.#wait(into as Bytes) : count;
  }

  #readNow(into: Uint8Array, patient: boolean): number | null | undefined {
    while (true) {
      const count = this.#take(into);
      if (count !== undefined) return count;
      if (this.#reading || this.#coming !== null || this.#received.length > 0) return undefined;
      const inbox = this.#pool.take(INBOX_BYTES);
      try {
        const space = inbox.bytes.subarray(0, this.#wanted(into));
        const arrived = this.#transport.readNow!(space, patient);
        if (arrived === undefined) return undefined;
        const opened = this.#open(arrived === null ? null : space.subarray(0, arrived), into as Bytes);
        if (opened > 0) return opened;
      } finally {
        this.#pool.give(inbox);
      }
    }
  }

  async #wait(into: Bytes): Promise<number | null> {
    this.#reading = true;
    try {
      while (true) {
        const opened = await this.#next(into);
        if (opened > 0) return opened;
        const count = this.#take(into);
        if (count !== undefined) return count;
      }
    } finally {
      this.#reading = false;
    }
  }

  /** Opens what comes next. Returns how much went into `into`. */
  async #next(into: Bytes): Promise<number> {
    const received = this.#received.shift();
    if (received !== undefined) return this.#open(received, into);
    if (this.#coming !== null) {
      const records = await this.#coming;
      this.#coming = null;
      return this.#open(records, into);
    }
    const inbox = this.#pool.take(QUIET_INBOX_BYTES);
    try {
      const count = await this.#transport.read(inbox.bytes);
      return this.#open(count === null ? null : inbox.bytes.subarray(0, count), into);
    } finally {
      this.#pool.give(inbox);
    }
  }

  /** How many bytes of records a reader wants at once. */
  #wanted(into: Uint8Array): number {
    const inPlace = into.length - HELD_BYTES_MAX;
    return inPlace < IN_PLACE_BYTES_MIN ? INBOX_BYTES : Math.min(INBOX_BYTES, inPlace);
  }

  /** Opens records, into the reader's memory or the surplus. Returns how much went to the reader. */
  #open(records: Bytes | null, into: Bytes): number {
    if (records === null) this.#over = true;
    if (records === null || this.#closed) return 0;
    const neededBytes = records.length + HELD_BYTES_MAX;
    if (into.length >= neededBytes) {
      const opened = this.#engine.open(records, into);
      this.#refuse();
      return opened;
    }
    const surplus = this.#pool.take(neededBytes);
    this.#start = 0;
    this.#end = this.#engine.open(records, surplus.bytes);
    if (this.#end > 0) this.#surplus = surplus;
    else this.#pool.give(surplus);
    this.#refuse();
    return 0;
  }

  /** Tells the peer what is wrong with what it has sent. */
  #refuse(): void {
    if (this.#engine.failure === null || this.#over) return;
    this.#over = true;
    this.#send(this.#engine.takeAlert());
  }

  /** Gives out what is there; `undefined` if nothing is yet. */
  #take(into: Uint8Array): number | null | undefined {
    const surplus = this.#surplus;
    if (this.#closed) return null;
    if (surplus !== null) {
      const part = surplus.bytes.subarray(this.#start, Math.min(this.#end, this.#start + into.length));
      into.set(part);
      this.#start += part.length;
      if (this.#start === this.#end) this.#dropSurplus();
      return part.length;
    }
    if (this.#engine.failure !== null) throw this.#engine.failure;
    return this.#over || this.#engine.ended ? null : undefined;
  }

  #keep(parts: readonly Bytes[]): void {
    this.#surplus = this.#pool.take(parts.reduce((sum, { length }) => sum + length, 0));
    for (const part of parts) {
      this.#surplus.bytes.set(part, this.#end);
      this.#end += part.length;
    }
  }

  #dropSurplus(): void {
    if (this.#surplus !== null) this.#pool.give(this.#surplus);
    this.#surplus = null;
  }

  /** See {@linkcode Connection.write}; what is encrypted and has not left is held here, as much as was written. */
  write(bytes: Uint8Array): void | Promise<void> {
    if (this.#closed) throw new Deno.errors.BrokenPipe("the connection is closed");
    if (this.#engine.failure !== null) throw this.#engine.failure;
    let last: Promise<void> | undefined;
    for (let at = 0; at < bytes.length; at += SEAL_BYTES_MAX) {
      const sealed = this.#engine.seal((bytes as Bytes).subarray(at, at + SEAL_BYTES_MAX));
      const sent = this.#transport.write(sealed);
      if (sent === undefined) {
        giveBack(sealed);
        continue;
      }
      // Should one fail, all that follow do.
      last?.catch(() => {});
      last = sent.then(() => giveBack(sealed));
    }
    return last;
  }

  /** Sends what nobody waits for. Returns when it has left, or cannot. */
  async #send(records: Bytes): Promise<void> {
    try {
      if (records.length > 0) await this.#transport.write(records);
    } catch {
      // The transport is gone, and with it whoever could have been told.
    }
  }

  /** Says goodbye as TLS wants it, so that the peer can tell the end from a cut. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#dropSurplus();
    const late = Promise.withResolvers<void>();
    const timer = setTimeout(late.resolve, GOODBYE_MS);
    void Promise.race([late.promise, this.#send(this.#engine.sealEnd())]).then(() => {
      clearTimeout(timer);
      this.#transport.close();
      this.#engine.release();
    });
  }
}
