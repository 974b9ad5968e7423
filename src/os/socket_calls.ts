/**
 * System calls on sockets that the runtime does not offer, on descriptors that belong to its own connections.
 *
 * The runtime waits for sockets; what is done here never waits. A descriptor must not be used after its
 * connection was closed: the number may mean something else by then.
 */
import { type Libc, libc } from "./libc.ts";

/** {@linkcode receiveNow} and {@linkcode sendNow}: nothing can be done without waiting. */
export const WOULD_BLOCK = -1;
/** {@linkcode receiveNow} and {@linkcode sendNow}: the connection is broken. */
export const BROKEN = -2;

const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_MORE = 0x8000;
const EINTR = 4;
const EAGAIN = 11;

const SOL_SOCKET = 1;
const SO_SNDBUF = 7;
const SO_PEERCRED = 17;
const SO_ACCEPTCONN = 30;
const SO_KEEPALIVE = 9;
const SO_COOKIE = 57;
const IPPROTO_TCP = 6;
const TCP_NODELAY = 1;
const TCP_KEEPIDLE = 4;
const TCP_KEEPINTVL = 5;
const TCP_KEEPCNT = 6;
const TCP_INFO = 11;
const TCP_CONGESTION = 13;
/** Of `struct tcp_info`, as far as it is read here. */
const TCP_INFO_BYTES = 60;

const AF_UNIX = 1;
const AF_INET = 2;
const AF_INET6 = 10;
const ADDRESS_BYTES = 128;

/**
 * Whether these calls work here; where they do not, connections use the runtime's own reads and writes only.
 * Everything below may be called only where this is true.
 */
export function socketCallsWork(): boolean {
  return libc() !== null;
}

let opened: Libc | undefined;

function calls(): Libc {
  return opened ??= libc()!;
}

/** `struct pollfd` { int fd; short events, revents }, little endian. */
const polled = new Int32Array(2);
const POLLIN = 1;

/**
 * Whether a receive would find something, be it the end. Unlike a receive that finds nothing this takes no lock of
 * the socket, which would hold up the arrival of what is awaited.
 */
export function isReadable(fd: number): boolean {
  polled[0] = fd;
  polled[1] = POLLIN;
  return calls().poll(polled, 1, 0) > 0;
}

/** Receives what is there: a count (0 at the end of the stream), {@linkcode WOULD_BLOCK} or {@linkcode BROKEN}. */
export function receiveNow(fd: number, into: Uint8Array<ArrayBuffer>): number {
  const count = calls().recv(fd, into, into.length, MSG_DONTWAIT);
  return count >= 0 ? count : failure();
}

/** Sends what the system takes: a count, {@linkcode WOULD_BLOCK} or {@linkcode BROKEN}. */
export function sendNow(fd: number, bytes: Uint8Array<ArrayBuffer>): number {
  const count = calls().send(fd, bytes, bytes.length, MSG_DONTWAIT | MSG_NOSIGNAL);
  return count >= 0 ? count : failure();
}

/** As {@linkcode sendNow}, for bytes that more follow at once: they leave together. */
export function sendNowAndMore(fd: number, bytes: Uint8Array<ArrayBuffer>): number {
  const count = calls().send(fd, bytes, bytes.length, MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE);
  return count >= 0 ? count : failure();
}

/**
 * Sends what the system takes of a file's bytes, without having them copied to us: a count (0 at the end of the
 * file), {@linkcode WOULD_BLOCK} or {@linkcode BROKEN}. The socket must be one that does not wait, as the runtime's
 * are; what is not in the page cache is waited for.
 */
export function sendFileNow(fd: number, file: number, offset: number, length: number): number {
  fileOffset[0] = offset; // modulo 2^32
  fileOffset[1] = offset / 0x1_0000_0000;
  const count = calls().sendfile(fd, file, fileOffset, length);
  return count >= 0 ? count : failure();
}

/** `off_t`, little endian. */
const fileOffset = new Uint32Array(2);

function failure(): number {
  const errno = calls().errno[0];
  return errno === EAGAIN || errno === EINTR ? WOULD_BLOCK : BROKEN;
}

/** One end of a socket. */
export type SocketAddress =
  | { readonly transport: "tcp"; readonly address: string; readonly port: number }
  | { readonly transport: "unix"; readonly path: string };

/** The address a socket is bound to, or `null` if the descriptor is no socket of a family we know. */
export function localAddress(fd: number): SocketAddress | null {
  const length = new Uint32Array([ADDRESS_BYTES]);
  const bytes = new Uint8Array(ADDRESS_BYTES);
  return calls().getsockname(fd, bytes, length) === 0 ? parseAddress(bytes, length[0]) : null;
}

/** The address a socket is connected to, or `null` if it is not connected. */
export function peerAddress(fd: number): SocketAddress | null {
  const length = new Uint32Array([ADDRESS_BYTES]);
  const bytes = new Uint8Array(ADDRESS_BYTES);
  return calls().getpeername(fd, bytes, length) === 0 ? parseAddress(bytes, length[0]) : null;
}

/** The port that a TCP socket is connected to; `null` if it is no such socket. */
export function peerPort(fd: number): number | null {
  asked[0] = ADDRESS_BYTES;
  if (calls().getpeername(fd, answered, asked) !== 0) return null;
  // The family is little endian, as this machine is; the port big endian.
  const family = answered[0];
  return family === AF_INET || family === AF_INET6 ? answered[2] * 256 + answered[3] : null;
}

const asked = new Uint32Array(1);
const answered = new Uint8Array(ADDRESS_BYTES);

/** Whether a socket listens. */
export function isListening(fd: number): boolean {
  return getOption(fd, SOL_SOCKET, SO_ACCEPTCONN) === 1;
}

/** A number that no other socket of this machine has, nor will have until it is booted anew; `null` if there is none. */
export function socketCookie(fd: number): bigint | null {
  const value = new BigUint64Array(1);
  const length = new Uint32Array([8]);
  return calls().getsockopt(fd, SOL_SOCKET, SO_COOKIE, value, length) === 0 ? value[0] : null;
}

/** Process, user and group at the other end of a Unix socket, or `null`. */
export function peerCredentials(fd: number): { pid: number; uid: number; gid: number } | null {
  const value = new Int32Array(3);
  const length = new Uint32Array([12]);
  const result = calls().getsockopt(fd, SOL_SOCKET, SO_PEERCRED, value, length);
  return result === 0 ? { pid: value[0], uid: value[1], gid: value[2] } : null;
}

/** Has TCP send at once what is there. */
export function setNoDelay(fd: number): void {
  setOption(fd, IPPROTO_TCP, TCP_NODELAY, 1);
}

/** When a silent peer is given up. */
export interface KeepAlive {
  /** Silence before the first probe. */
  readonly idleSeconds: number;
  readonly intervalSeconds: number;
  readonly probes: number;
}

/** Has the system probe a silent TCP peer. */
export function setKeepAlive(fd: number, keepAlive: KeepAlive): void {
  setOption(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  setOption(fd, IPPROTO_TCP, TCP_KEEPIDLE, keepAlive.idleSeconds);
  setOption(fd, IPPROTO_TCP, TCP_KEEPINTVL, keepAlive.intervalSeconds);
  setOption(fd, IPPROTO_TCP, TCP_KEEPCNT, keepAlive.probes);
}

/**
 * For how long a TCP peer has acknowledged nothing although something is on its way to it, in milliseconds; 0 if nothing
 * is. A peer that has no room acknowledges that.
 */
export function unacknowledgedMs(fd: number): number {
  const info = new DataView(new ArrayBuffer(TCP_INFO_BYTES));
  const length = new Uint32Array([TCP_INFO_BYTES]);
  const bytes = new Uint8Array(info.buffer);
  if (calls().getsockopt(fd, IPPROTO_TCP, TCP_INFO, bytes, length) !== 0 || length[0] < TCP_INFO_BYTES) {
    return 0;
  }
  const [probes, unackedSegments, lastAckMs] = [
    info.getUint8(3),
    info.getUint32(24, true),
    info.getUint32(56, true),
  ];
  return probes > 0 || unackedSegments > 0 ? lastAckMs : 0;
}

/** How much a socket takes before its reader has; the system may give less. */
export function setSendBuffer(fd: number, byteCount: number): void {
  setOption(fd, SOL_SOCKET, SO_SNDBUF, byteCount);
}

/** Has TCP send by one of the system's ways to avoid congestion, such as `reno`. @returns Whether it may be used. */
export function setCongestionControl(fd: number, name: string): boolean {
  const text = new TextEncoder().encode(name);
  return calls().setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, text, text.length) === 0;
}

function getOption(fd: number, level: number, name: number): number | null {
  const value = new Int32Array(1);
  const length = new Uint32Array([4]);
  return calls().getsockopt(fd, level, name, value, length) === 0 ? value[0] : null;
}

function setOption(fd: number, level: number, name: number, value: number): boolean {
  return calls().setsockopt(fd, level, name, new Int32Array([value]), 4) === 0;
}

function parseAddress(bytes: Uint8Array<ArrayBuffer>, length: number): SocketAddress | null {
  const view = new DataView(bytes.buffer);
  switch (view.getUint16(0, true)) {
    case AF_INET:
      return { transport: "tcp", address: bytes.subarray(4, 8).join("."), port: view.getUint16(2) };
    case AF_INET6: {
      const words = Array.from({ length: 8 }, (_, i) => view.getUint16(8 + 2 * i).toString(16));
      return { transport: "tcp", address: words.join(":"), port: view.getUint16(2) };
    }
    case AF_UNIX: {
      const path = bytes.subarray(2, Math.min(length, ADDRESS_BYTES));
      const end = path.indexOf(0, 1);
      return { transport: "unix", path: new TextDecoder().decode(end < 0 ? path : path.subarray(0, end)) };
    }
    default:
      return null;
  }
}
