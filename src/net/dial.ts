/** Makes connections to servers. */
import { type Endpoint, formatEndpoint } from "../base/endpoint.ts";
import { nodeModule } from "../base/node_module.ts";
import { reasonOf } from "../os/reason.ts";
import type { Connection } from "./connection.ts";
import { beforeUnixClient } from "./connection_descriptor.ts";
import { NativeConnection } from "./native_connection.ts";
import { NodeConnection } from "./node_connection.ts";

/** No connection came to be: to whom, and why. */
export class DialError extends Error {
  override readonly name = "DialError";
}

export interface DialOptions {
  /** Local IP address to connect from; TCP only. Default: the system's choice. */
  readonly bind?: string;
  /** Ends the attempt with the signal's reason. */
  readonly signal?: AbortSignal;
}

/**
 * Connects to a server. A host name is tried at all its addresses, IPv6 and IPv4 in turn.
 *
 * @throws {DialError} If that fails.
 * @throws The signal's reason if it fires before.
 */
export async function dial(endpoint: Endpoint, options: DialOptions = {}): Promise<Connection> {
  const { bind, signal } = options;
  signal?.throwIfAborted();
  try {
    if (endpoint.transport === "unix") {
      if (bind !== undefined) throw new Error("a Unix socket has no address to bind");
      const claim = beforeUnixClient();
      return new NativeConnection(await Deno.connect({ transport: "unix", path: endpoint.path }), claim);
    }
    const { host, port } = endpoint;
    // The runtime's own connections, which are faster, cannot be bound.
    if (bind !== undefined) return await dialBound(host, port, bind, signal);
    return new NativeConnection(await Deno.connect({ transport: "tcp", hostname: host, port, signal }));
  } catch (error) {
    signal?.throwIfAborted();
    const reason = reasonOf(error, { ENOENT: "there is no such socket" });
    throw new DialError(`cannot connect to ${formatEndpoint(endpoint)}: ${reason}`);
  }
}

async function dialBound(
  host: string,
  port: number,
  bind: string,
  signal: AbortSignal | undefined,
): Promise<Connection> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const net = nodeModule("node:net");
  // Only addresses of the same family can be reached from there.
  const family = net.isIPv6(bind) ? 6 : 4;
  const socket = net.connect({ host, port, localAddress: bind, family, noDelay: true, keepAlive: true });
  const abort = () => reject(signal!.reason);
  socket.once("connect", resolve);
  socket.once("error", reject);
  signal?.addEventListener("abort", abort);
  try {
    await promise;
    return new NodeConnection(socket);
  } catch (error) {
    // A second error would otherwise end the program.
    socket.on("error", () => {});
    socket.destroy();
    throw error;
  } finally {
    signal?.removeEventListener("abort", abort);
  }
}
