/** Says who is at the other end of a connection. */

import { canonicalIpAddress } from "../base/ip_address.ts";
import { bracketed } from "../base/endpoint.ts";
import { peerCredentials } from "../os/socket_calls.ts";
import type { Peer } from "./connection.ts";

/** The peer of a TCP connection. */
export function tcpPeer(hostname: string, port: number): Peer {
  // The runtime writes IPv4 addresses as we do, and there may be many connections.
  const address = hostname.includes(":") ? canonicalIpAddress(hostname) : hostname;
  return { transport: "tcp", address, text: `${bracketed(address)}:${port}` };
}

/** The peer of a Unix socket: the process at its other end, where the descriptor is known. */
export function unixPeer(fd: number | null): Peer {
  const credentials = fd === null ? null : peerCredentials(fd);
  if (credentials === null) return { transport: "unix", address: "unix", text: "unix" };
  const { pid, uid } = credentials;
  return { transport: "unix", address: `unix:uid=${uid}`, text: `unix:uid=${uid},pid=${pid}` };
}
