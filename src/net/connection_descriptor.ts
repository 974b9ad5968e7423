/**
 * Finds the file descriptor behind one of the runtime's connections, for socket options and for reads and
 * writes that need no waiting.
 *
 * The runtime tells it for some kinds only. Otherwise the descriptor is the open socket whose two ends are the
 * connection's. Unix sockets have no address at the client's end, so there it is the socket that is bound to
 * the listener's path and that no other connection has claimed: it is unique as long as connections are
 * accepted, and claimed, one after the other.
 */
import { canonicalIpAddress } from "../base/ip_address.ts";
import {
  isListening,
  localAddress,
  peerAddress,
  type SocketAddress,
  socketCallsWork,
} from "../os/socket_calls.ts";

const claimed = new Set<number>();
/** A search ends after this many descriptors, open or not, that are no connection of ours. */
const OTHERS_MAX = 1024;

/**
 * Finds and claims the descriptor of a connection that was just accepted or made.
 *
 * @returns The descriptor, or `null` where it cannot be told. {@linkcode releaseDescriptor} it before the
 *   connection is closed.
 */
export function claimDescriptor(connection: Deno.Conn): number | null {
  if (!socketCallsWork()) return null;
  const told = toldDescriptor(connection);
  const fd = told !== null && belongsTo(told, connection) ? told : search(connection);
  if (fd !== null) claimed.add(fd);
  return fd;
}

/** The system gives out the lowest free number, so the search goes from below and ends soon. */
function search(connection: Deno.Conn): number | null {
  let others = 0;
  for (let fd = 0; others < OTHERS_MAX; fd++) {
    if (claimed.has(fd)) continue;
    if (belongsTo(fd, connection)) return fd;
    others++;
  }
  return null;
}

/** Takes a claim back. */
export function releaseDescriptor(fd: number): void {
  claimed.delete(fd);
}

function toldDescriptor(connection: Deno.Conn): number | null {
  for (const symbol of Object.getOwnPropertySymbols(connection)) {
    if (symbol.description !== "Deno.internal.fd") continue;
    const value = (connection as unknown as Record<symbol, unknown>)[symbol];
    return typeof value === "number" ? value : null;
  }
  return null;
}

function belongsTo(fd: number, connection: Deno.Conn): boolean {
  const local = localAddress(fd);
  const peer = peerAddress(fd);
  if (local === null || peer === null || isListening(fd)) return false;
  return sameEnd(local, connection.localAddr) && sameEnd(peer, connection.remoteAddr);
}

function sameEnd(end: SocketAddress, addr: Deno.Addr): boolean {
  if (end.transport === "unix") {
    return addr.transport === "unix" && end.path === (addr.path ?? "");
  }
  return addr.transport === "tcp" && end.port === addr.port &&
    canonicalIpAddress(end.address) === canonicalIpAddress(addr.hostname);
}
