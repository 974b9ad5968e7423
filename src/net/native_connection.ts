/**
 * A {@linkcode Connection} over one of the runtime's own TCP or Unix connections.
 *
 * The runtime does the waiting. What needs no waiting is done by direct system calls on the same descriptor:
 * replies leave in the turn in which they were made, and what has already arrived is taken without a trip
 * through the event loop. Where the descriptor cannot be found everything goes through the runtime.
 *
 * Direct receives are safe beside the runtime's because never more than one read is outstanding: as long as the
 * runtime reads, nobody else does.
 *
 * After a receive that found nothing, a connection whose client answers quickly looks again for a few
 * microseconds before it goes to sleep: waking up costs more than that. Whether it pays is learned per
 * connection (see `attention.ts`), and nobody looks again while other work is waiting.
 */
import { canonicalIpAddress, isLoopback } from "../base/ip_address.ts";
import { systemClock } from "../os/clock.ts";
import type { OpenFile } from "../os/file_calls.ts";
import { type Pipe, UNSUPPORTED } from "../os/pipe.ts";
import {
  BROKEN,
  isReadable,
  receiveNow,
  sendFileNow,
  sendNow,
  sendNowAndMore,
  setCongestionControl,
  setKeepAlive,
  setNoDelay,
  setSendBuffer,
  unacknowledgedMs,
  WOULD_BLOCK,
} from "../os/socket_calls.ts";
import { Attention, GATHER_BYTES, GATHER_MS, LOOK_MS } from "./attention.ts";
import { claimDescriptor } from "./connection_descriptor.ts";
import { deadPeers } from "./dead_peers.ts";
import type { Connection, Peer } from "./connection.ts";
import { tcpPeer, unixPeer } from "./peer.ts";

/** A connection that never needs to wait gives others their turn after this long, in milliseconds. */
const TURN_MS = 1;

/** How much of a file is sent in one call: others have their turn in between. */
const FILE_STEP_BYTES = 1024 * 1024;
/** How much of a file is read at once that has left the page cache while its reader took its time. */
const COLD_BYTES = 256 * 1024;
const PAGE_BYTES = 4096;

/**
 * Eight replies of 4 KiB: the peer works on them, and asks for more, while the next are made. Over a Unix socket that
 * is worth the calls; over TCP it is not.
 */
const UNIX_EAGER_BYTES = 32 * 1024;

/** A Unix socket takes as much from us; by default it is a fifth, and a large reply has to be waited for. */
const UNIX_BUFFER_BYTES = 1024 * 1024;

/**
 * Within this machine no wire is ever congested. What the system uses for wires may pace what it sends by timers and
 * take a late answer for a loss (BBR does both), and costs a quarter of the speed; this sends what the peer has room for.
 */
const HERE_CONGESTION_CONTROL = "reno";

/** A peer that is gone is noticed after 15 s where nothing is on its way to it; `dead_peers.ts` has the rest. */
const KEEP_ALIVE = { idleSeconds: 5, intervalSeconds: 5, probes: 2 };

const nowMs = () => systemClock.now();

/** What a connection need not be given because it has it from its listener. */
export interface Inherited {
  /** No delay, and probes. */
  readonly options: boolean;
  readonly congestionControl: boolean;
}

const NOTHING_INHERITED: Inherited = { options: false, congestionControl: false };

function setOptions(fd: number): void {
  setNoDelay(fd);
  setKeepAlive(fd, KEEP_ALIVE);
}

/**
 * Gives a listening TCP socket the options that its connections are to have: the system hands them on, and a connection
 * that is over at once costs less.
 *
 * @param fd `null` where it cannot be told.
 * @param hostname Where it listens.
 */
export function prepareListener(fd: number | null, hostname: string): Inherited {
  if (fd === null) return NOTHING_INHERITED;
  setOptions(fd);
  const congestionControl = isLoopback(hostname) && setCongestionControl(fd, HERE_CONGESTION_CONTROL);
  return { options: true, congestionControl };
}

export class NativeConnection implements Connection {
  readonly peer: Peer;
  readonly sendFile: Connection["sendFile"];
  readonly eagerBytes?: number;
  moveNow: Connection["moveNow"];
  sendPipe: Connection["sendPipe"];
  readonly #conn: Deno.Conn;
  #fd: number | null;
  #watched: Disposable | null = null;
  #closed = false;
  /** When others last had their turn: before it was made, and whenever a read has waited. */
  #turnSinceMs = nowMs();
  readonly #attention = new Attention();
  /** Writes that the runtime does, one after the other; a failed one fails all that follow. */
  #lastWrite: Promise<void> = Promise.resolve();
  #pendingWrites = 0;

  /**
   * @param claim How its descriptor is found.
   * @param inherited What it has from its listener: see {@linkcode prepareListener}.
   */
  constructor(
    conn: Deno.Conn,
    claim: (conn: Deno.Conn) => number | null = claimDescriptor,
    inherited: Inherited = NOTHING_INHERITED,
  ) {
    this.#conn = conn;
    this.#fd = claim(conn);
    this.peer = describePeer(conn, this.#fd);
    if (this.#fd !== null && conn.remoteAddr.transport === "unix") {
      setSendBuffer(this.#fd, UNIX_BUFFER_BYTES);
      this.eagerBytes = UNIX_EAGER_BYTES;
    }
    if (this.#fd !== null) {
      this.sendFile = this.#sendFile.bind(this);
      this.moveNow = this.#moveNow.bind(this);
      this.sendPipe = this.#sendPipe.bind(this);
    }
    if (conn.remoteAddr.transport === "tcp") {
      if (this.#fd === null) {
        (conn as Deno.TcpConn).setNoDelay(true);
        (conn as Deno.TcpConn).setKeepAlive(true);
        return;
      }
      if (!inherited.options) setOptions(this.#fd);
      if (!inherited.congestionControl && staysHere(conn)) {
        setCongestionControl(this.#fd, HERE_CONGESTION_CONTROL);
      }
      this.#watched = this.#watch(this.#fd);
    }
  }

  #watch(fd: number): Disposable {
    return deadPeers.watch({ unheardMs: () => unacknowledgedMs(fd), gone: () => this.close() });
  }

  read(into: Uint8Array): Promise<number | null> | null {
    if (this.#closed) return null;
    return this.#waitAndRead(into);
  }

  async #waitAndRead(into: Uint8Array): Promise<number | null> {
    const sinceMs = nowMs();
    try {
      const count = await this.#conn.read(into);
      this.#turnSinceMs = nowMs();
      if (count !== null) this.#attention.waited(this.#turnSinceMs - sinceMs, this.#turnSinceMs);
      return count;
    } catch {
      return null; // A reset by the peer, or our own close, is the end as far as a reader is concerned.
    }
  }

  readNow(into: Uint8Array, patient: boolean): number | null | undefined {
    if (this.#closed) return null;
    if (this.#fd === null) return undefined;
    const sinceMs = nowMs();
    if (sinceMs - this.#turnSinceMs > TURN_MS) return undefined;
    let count = receiveNow(this.#fd, into as Uint8Array<ArrayBuffer>);
    if (count === WOULD_BLOCK) {
      if (!patient || !this.#look(this.#fd, sinceMs)) return undefined;
      count = receiveNow(this.#fd, into as Uint8Array<ArrayBuffer>);
      if (count === WOULD_BLOCK) return undefined;
    } else if (count > 0 && patient && count < into.length) {
      count = this.#gather(this.#fd, into, count, sinceMs);
    }
    if (count <= 0) return null;
    return count;
  }

  #moveNow(pipe: Pipe, length: number, patient: boolean): number | undefined {
    const fd = this.#fd;
    if (fd === null) return undefined;
    const sinceMs = nowMs();
    if (sinceMs - this.#turnSinceMs > TURN_MS) return undefined;
    let count = pipe.fill(fd, length);
    if (count === WOULD_BLOCK) {
      // Nothing is there, or the pipe is full.
      if (!isReadable(fd) && !(patient && this.#look(fd, sinceMs))) return undefined;
      count = pipe.fill(fd, length);
      if (count === WOULD_BLOCK) return 0;
    }
    if (count === UNSUPPORTED) this.moveNow = undefined;
    return count > 0 ? count : undefined;
  }

  /** Nothing is there: looks again for a while, if that has paid before. @returns Whether something has come. */
  #look(fd: number, sinceMs: number): boolean {
    if (!this.#attention.mayLook(sinceMs)) return false;
    let found: boolean;
    do found = isReadable(fd); while (!found && nowMs() - sinceMs < LOOK_MS);
    this.#attention.looked(found);
    return found;
  }

  /** Something was there before the client can have seen our last reply, so more is on its way. */
  #gather(fd: number, into: Uint8Array, count: number, sinceMs: number): number {
    if (!this.#attention.mayLook(sinceMs)) return count;
    const wanted = Math.min(into.length, GATHER_BYTES);
    while (count < wanted && nowMs() - sinceMs < GATHER_MS) {
      if (!isReadable(fd)) continue;
      const more = receiveNow(fd, into.subarray(count) as Uint8Array<ArrayBuffer>);
      if (more > 0) count += more;
      else break; // The next read will see it, too.
    }
    return count;
  }

  write(bytes: Uint8Array): void | Promise<void> {
    if (this.#closed) throw new Deno.errors.BrokenPipe("the connection is closed");
    if (this.#pendingWrites === 0 && this.#fd !== null) {
      const sent = sendNow(this.#fd, bytes as Uint8Array<ArrayBuffer>);
      if (sent === bytes.length) return;
      if (sent === BROKEN) throw new Deno.errors.BrokenPipe("the peer closed the connection");
      if (sent > 0) bytes = bytes.subarray(sent);
    }
    return this.#later(() => this.#writeThrough(bytes));
  }

  writeNow(bytes: Uint8Array, more: boolean): number {
    if (this.#closed || this.#pendingWrites > 0 || this.#fd === null) return 0;
    const send = more ? sendNowAndMore : sendNow;
    return Math.max(0, send(this.#fd, bytes as Uint8Array<ArrayBuffer>));
  }

  #later(write: () => Promise<void>): Promise<void> {
    this.#pendingWrites++;
    this.#lastWrite = this.#lastWrite.then(write).finally(() => this.#pendingWrites--);
    return this.#lastWrite;
  }

  async #writeThrough(bytes: Uint8Array): Promise<void> {
    while (bytes.length > 0) bytes = bytes.subarray(await this.#conn.write(bytes));
  }

  #sendFile(bytes: Uint8Array, file: OpenFile, offset: number, length: number): void | Promise<void> {
    if (this.#closed) throw new Deno.errors.BrokenPipe("the connection is closed");
    let sent = 0;
    if (this.#pendingWrites === 0) {
      const taken = sendNowAndMore(this.#fd!, bytes as Uint8Array<ArrayBuffer>);
      if (taken === BROKEN) throw new Deno.errors.BrokenPipe("the peer closed the connection");
      bytes = bytes.subarray(Math.max(0, taken));
      if (bytes.length === 0) sent = this.#sendFileNow(file, offset, length);
      if (sent === length) return;
    }
    return this.#later(() => this.#sendFileThrough(bytes, file, offset + sent, length - sent));
  }

  /** Sends what the socket takes of a part of the file. @returns How many bytes that was. */
  #sendFileNow(file: OpenFile, offset: number, length: number): number {
    const count = this.#fd === null
      ? BROKEN
      : sendFileNow(this.#fd, file.fd, offset, Math.min(length, FILE_STEP_BYTES));
    if (count === WOULD_BLOCK) return 0;
    if (count <= 0) this.#failFile();
    return count;
  }

  /** Only a write by the runtime can wait until the socket takes more: now and then a page of the file goes so. */
  async #sendFileThrough(bytes: Uint8Array, file: OpenFile, offset: number, length: number): Promise<void> {
    await this.#writeThrough(bytes);
    while (length > 0) {
      let page = new Uint8Array(Math.min(length, PAGE_BYTES - offset % PAGE_BYTES));
      if (file.readCached(offset, page) !== page.length) {
        page = new Uint8Array(Math.min(length, COLD_BYTES));
        const count = await file.read(offset, page).catch(() => 0);
        if (count !== page.length) this.#failFile();
      }
      await this.#writeThrough(page);
      offset += page.length;
      length -= page.length;
      // What was in the page cache in the beginning may have left it.
      const step = Math.min(length, FILE_STEP_BYTES);
      if (step === 0 || !file.isCached(offset, step)) continue;
      const count = this.#sendFileNow(file, offset, step);
      offset += count;
      length -= count;
    }
  }

  #sendPipe(pipe: Pipe): void | Promise<void> {
    if (this.#closed) throw new Deno.errors.BrokenPipe("the connection is closed");
    if (this.#pendingWrites === 0 && this.#sendPipeNow(pipe)) return;
    return this.#later(() => this.#sendPipeThrough(pipe));
  }

  /** Sends what the socket takes of what the pipe holds. @returns Whether that was all. */
  #sendPipeNow(pipe: Pipe): boolean {
    while (pipe.heldBytes > 0) {
      if (this.#fd === null) throw new Deno.errors.BrokenPipe("the connection is closed");
      const count = pipe.send(this.#fd, pipe.heldBytes, false);
      if (count > 0) continue;
      // Whether the connection is broken a write will say.
      if (count !== WOULD_BLOCK) this.sendPipe = undefined;
      return false;
    }
    return true;
  }

  /** As with a file, only a write by the runtime can wait until the socket takes more. */
  async #sendPipeThrough(pipe: Pipe): Promise<void> {
    while (pipe.heldBytes > 0) {
      const page = new Uint8Array(Math.min(pipe.heldBytes, PAGE_BYTES));
      pipe.take(page);
      await this.#writeThrough(page);
      this.#sendPipeNow(pipe);
    }
  }

  #failFile(): never {
    this.close();
    throw new Deno.errors.BrokenPipe("the connection broke, or the file could not be sent to its end");
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#fd = null;
    this.#watched?.[Symbol.dispose]();
    try {
      this.#conn.close();
    } catch {
      // The runtime had closed it already.
    }
  }
}

/** Whether the peer is on this machine. */
function staysHere({ localAddr, remoteAddr }: Deno.Conn): boolean {
  if (localAddr.transport !== "tcp" || remoteAddr.transport !== "tcp") return false;
  const here = localAddr.hostname;
  return isLoopback(here) || canonicalIpAddress(here) === canonicalIpAddress(remoteAddr.hostname);
}

function describePeer({ remoteAddr }: Deno.Conn, fd: number | null): Peer {
  return remoteAddr.transport === "tcp" ? tcpPeer(remoteAddr.hostname, remoteAddr.port) : unixPeer(fd);
}
