/**
 * Sockets that systemd opened for us and handed over as descriptors 3, 4, … (socket activation).
 *
 * The runtime can adopt such a descriptor only through its Node layer, so these connections take a longer way than
 * native ones and are somewhat slower.
 *
 * @see sd_listen_fds(3)
 */

import type { Server, Socket } from "node:net";
import { formatEndpoint } from "../base/endpoint.ts";
import { canonicalIpAddress } from "../base/ip_address.ts";
import { nodeModule } from "../base/node_module.ts";
import { isListening, localAddress, type SocketAddress, socketCallsWork } from "../os/socket_calls.ts";
import type { Connection } from "./connection.ts";
import type { Listener } from "./listener.ts";
import { NodeConnection } from "./node_connection.ts";
import { unixPeer } from "./peer.ts";

const FIRST_DESCRIPTOR = 3;
/** More than anybody has; a larger number is a mistake. */
const DESCRIPTORS_MAX = 1024;

/**
 * The descriptors that were handed over: LISTEN_FDS of them, if LISTEN_PID says that they are ours.
 *
 * @param env Looks a variable up.
 * @throws {TypeError} If the count is not a number that can be.
 */
export function activatedDescriptors(env: (name: string) => string | undefined, pid: number): number[] {
  const count = env("LISTEN_FDS");
  if (count === undefined || Number(env("LISTEN_PID")) !== pid) return [];
  if (!/^\d{1,4}$/.test(count) || Number(count) > DESCRIPTORS_MAX) {
    throw new TypeError(`LISTEN_FDS is no number of descriptors: ${count.slice(0, 20)}`);
  }
  return Array.from({ length: Number(count) }, (_, index) => FIRST_DESCRIPTOR + index);
}

/**
 * Takes connections from a listening socket that was handed over. Its file, if it has one, belongs to whoever made
 * it and stays.
 *
 * @throws {TypeError} If the descriptor is no listening TCP or Unix socket.
 */
export async function listenDescriptor(fd: number): Promise<Listener> {
  const address = socketCallsWork() ? localAddress(fd) : null;
  if (address === null || !isListening(fd)) {
    throw new TypeError(`descriptor ${fd} is no listening TCP or Unix socket`);
  }
  const server = nodeModule("node:net").createServer({
    allowHalfOpen: true,
    pauseOnConnect: true,
    noDelay: true,
    keepAlive: true,
    keepAliveInitialDelay: 30_000,
  });
  const listener = new ActivatedListener(server, address);
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen({ fd }, () => {
      server.off("error", reject);
      resolve();
    });
  });
  return listener;
}

class ActivatedListener implements Listener {
  readonly text: string;
  readonly port: number | null;
  readonly #server: Server;
  readonly #waiting: Connection[] = [];
  #wake: (() => void) | null = null;
  #closed = false;

  constructor(server: Server, address: SocketAddress) {
    this.#server = server;
    this.text = describeAddress(address);
    this.port = address.transport === "tcp" ? address.port : null;
    server.on("connection", (socket: Socket) => {
      this.#waiting.push(connectionOver(socket));
      this.#wake?.();
    });
  }

  async accept(): Promise<Connection | null> {
    while (!this.#closed) {
      const connection = this.#waiting.shift();
      if (connection !== undefined) return connection;
      await new Promise<void>((resolve) => this.#wake = resolve);
    }
    return null;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#server.close();
    for (const connection of this.#waiting.splice(0)) connection.close();
    this.#wake?.();
  }
}

function describeAddress(address: SocketAddress): string {
  if (address.transport === "unix") return formatEndpoint(address);
  return formatEndpoint({ transport: "tcp", host: canonicalIpAddress(address.address), port: address.port });
}

/** The Node layer tells the descriptor of Unix sockets only, and that in a field of its own. */
function connectionOver(socket: Socket): Connection {
  if (socket.remoteAddress !== undefined) return new NodeConnection(socket);
  const { fd } = (socket as unknown as { _handle: { fd?: number } })._handle;
  return new NodeConnection(socket, unixPeer(fd ?? null));
}
