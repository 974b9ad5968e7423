/**
 * Finds the file descriptor behind one of the runtime's connections, for socket options and for reads and
 * writes that need no waiting.
 *
 * The runtime tells it for some kinds only. Otherwise the descriptor is the open socket whose two ends are the
 * connection's, which TCP has once. Unix sockets have no address at the client's end. Those that were accepted from
 * one path are told apart because they are accepted, and claimed, one after the other: it is the one that nobody has
 * claimed before. One that we have made ourselves is the only one with that address which was not there before.
 *
 * The runtime may keep a descriptor open for a moment after its connection was closed. Such a socket must not be
 * taken for that of a new connection, so every socket that was ever claimed is remembered by its cookie for as long
 * as it is open.
 */
import { canonicalIpAddress } from "../base/ip_address.ts";
import {
  isListening,
  localAddress,
  peerAddress,
  peerPort,
  type SocketAddress,
  socketCallsWork,
  socketCookie,
} from "../os/socket_calls.ts";

/** Cookies of the sockets that were claimed, by descriptor; some may be closed by now. */
const claimed = new Map<number, bigint>();
/** A search ends after this many descriptors, open or not, that are no connection of ours. */
const OTHERS_MAX = 1024;

/**
 * Finds and claims the descriptor of a connection that was just accepted or made.
 *
 * @returns The descriptor, or `null` where it cannot be told. It must not be used any more when the connection is
 *   closed.
 */
export function claimDescriptor(connection: Deno.Conn): number | null {
  if (!socketCallsWork() || isUnixClient(connection)) return null;
  const told = toldDescriptor(connection);
  const fd = told !== null && fits(told, connection) ? told : search(connection);
  const cookie = fd === null ? null : socketCookie(fd);
  if (fd === null || cookie === null) return null;
  claimed.set(fd, cookie);
  return fd;
}

/**
 * Looks at what is there before a connection to a Unix socket is made.
 *
 * @returns Finds and claims the descriptor of that connection, afterwards; as {@linkcode claimDescriptor}. `null` also
 *   if another one was made at the same time.
 */
export function beforeUnixClient(): (connection: Deno.Conn) => number | null {
  if (!socketCallsWork()) return () => null;
  const before = new Set(unclaimedUnixClients().map(({ cookie }) => cookie));
  return ({ remoteAddr }) => {
    const path = remoteAddr.transport === "unix" ? remoteAddr.path ?? "" : null;
    const made = unclaimedUnixClients().filter((each) => each.path === path && !before.has(each.cookie));
    if (made.length !== 1) return null;
    const [{ fd, cookie }] = made;
    claimed.set(fd, cookie);
    return fd;
  };
}

/** Connected Unix sockets without an address of their own, as far as nobody has claimed them. */
function unclaimedUnixClients(): { fd: number; cookie: bigint; path: string }[] {
  const clients: { fd: number; cookie: bigint; path: string }[] = [];
  let others = 0;
  for (let fd = 0; others < OTHERS_MAX; fd++) {
    if (isClaimed(fd)) continue;
    others++;
    const local = localAddress(fd);
    if (local?.transport !== "unix" || local.path !== "" || isListening(fd)) continue;
    const peer = peerAddress(fd);
    const cookie = socketCookie(fd);
    if (peer?.transport === "unix" && cookie !== null) clients.push({ fd, cookie, path: peer.path });
  }
  return clients;
}

function isUnixClient({ localAddr }: Deno.Conn): boolean {
  return localAddr.transport === "unix" && !localAddr.path;
}

/** The system gives out the lowest free number, so the search goes from below and ends soon. */
function search(connection: Deno.Conn): number | null {
  let others = 0;
  for (let fd = 0; others < OTHERS_MAX; fd++) {
    if (isClaimed(fd)) continue;
    if (belongsTo(fd, connection)) return fd;
    others++;
  }
  return null;
}

/** Whether the socket that the descriptor means now is one that was claimed before. */
function isClaimed(fd: number): boolean {
  const cookie = claimed.get(fd);
  if (cookie === undefined) return false;
  if (socketCookie(fd) === cookie) return true;
  claimed.delete(fd);
  return false;
}

function toldDescriptor(connection: Deno.Conn): number | null {
  for (const symbol of Object.getOwnPropertySymbols(connection)) {
    if (symbol.description !== "Deno.internal.fd") continue;
    const value = (connection as unknown as Record<symbol, unknown>)[symbol];
    return typeof value === "number" ? value : null;
  }
  return null;
}

/** Whether a descriptor that was told may be the connection's; what is told need not be searched. */
function fits(fd: number, connection: Deno.Conn): boolean {
  const { remoteAddr } = connection;
  return remoteAddr.transport === "tcp" ? peerPort(fd) === remoteAddr.port : belongsTo(fd, connection);
}

/** The descriptor of a listening TCP socket; `null` where it cannot be told. */
export function listenerDescriptor({ hostname, port }: Deno.NetAddr): number | null {
  if (!socketCallsWork()) return null;
  const address = canonicalIpAddress(hostname);
  for (let fd = 0; fd < OTHERS_MAX; fd++) {
    if (!isListening(fd)) continue;
    const local = localAddress(fd);
    if (local?.transport !== "tcp" || local.port !== port) continue;
    if (canonicalIpAddress(local.address) === address) return fd;
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
