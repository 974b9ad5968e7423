/** Which servers a client is told of. */
import type { IpEndpoint } from "../../base/ip_endpoint.ts";
import type { IpAddress } from "../../base/ip_address.ts";
import { type AltServer, coversImage } from "./alt_server.ts";
import { SERVER_ENTRIES_MAX } from "../../wire/dnbd3/constants.ts";

/**
 * The servers for a client, nearest first: those whose address begins with the most of the client's. Equally near
 * ones keep the order of the configuration.
 */
export function serversFor(
  client: IpAddress,
  imageName: string,
  servers: readonly AltServer[],
): IpEndpoint[] {
  return servers
    .filter((server) => !server.isPrivate && coversImage(server, imageName))
    .map((server) => ({ server, closeness: closeness(client, server.address) }))
    .sort((one, other) => other.closeness - one.closeness)
    .slice(0, SERVER_ENTRIES_MAX)
    .map(({ server }) => ({ address: server.address, port: server.port }));
}

/** How many leading groups of 4 bits two addresses share; less than none if they are of different families. */
export function closeness(one: IpAddress, other: IpAddress): number {
  if (one.length !== other.length) return -1;
  for (let index = 0; index < one.length; index++) {
    const difference = one[index] ^ other[index];
    if (difference !== 0) return 2 * index + (difference < 16 ? 1 : 0);
  }
  return 2 * one.length;
}
