/** Another server that has the same images, as the operator describes it. */
import type { IpEndpoint } from "../../base/ip_endpoint.ts";

export interface AltServer extends IpEndpoint {
  /** Copied from, but never told to clients. */
  readonly isPrivate: boolean;
  /** Told to clients, but never copied from. */
  readonly isClientOnly: boolean;
  readonly comment: string;
  /** Beginnings of the names of the images it has; none: it has all. */
  readonly namespaces: readonly string[];
}

/** Whether the server is for images of this name: one of its prefixes is the beginning, byte for byte. */
export function coversImage(server: AltServer, imageName: string): boolean {
  return server.namespaces.length === 0 || server.namespaces.some((prefix) => imageName.startsWith(prefix));
}
