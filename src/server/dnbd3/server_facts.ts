/** The facts that a dnbd3 server tells of itself over HTTP. */
import { formatIpEndpoint } from "../../base/ip_endpoint.ts";
import type { Clock } from "../../os/clock.ts";
import type { Json } from "../../wire/dnbd3/http.ts";
import type { RpcGroup } from "./http_rpc.ts";
import type { Image } from "./image.ts";
import { worldWideName } from "./image_name.ts";
import type { ImageTable } from "./image_table.ts";
import type { ImageServer } from "./server.ts";

/** What is wrong with an image: bits of `problems`. */
const Problem = { Read: 1, Changed: 4 } as const;

export interface FactSources {
  readonly server: ImageServer;
  readonly table: ImageTable;
  readonly version: string;
  readonly clock: Clock;
  readonly startedAtMs: number;
  /** The effective settings as the text of a `server.conf`. */
  configText(): string;
  /** Bytes of the file system that holds the images. */
  space(): Promise<{ readonly totalBytes: number; readonly freeBytes: number }>;
  /** Unix time in ms. */
  wallMs(): number;
}

export async function serverFacts(
  sources: FactSources,
  group: RpcGroup,
): Promise<{ readonly [key: string]: Json }> {
  const { server, table } = sources;
  switch (group) {
    case "stats": {
      const sessions = server.sessions();
      const servers = sessions.filter((session) => session.isServer).length;
      return {
        // Nothing is fetched from other servers.
        bytesReceived: 0,
        bytesSent: server.sentBytes,
        clientCount: sessions.length - servers,
        serverCount: servers,
        uptime: Math.floor((sources.clock.now() - sources.startedAtMs) / 1000),
      };
    }
    case "version":
      return { version: `denbd ${sources.version}`, build: "Release" };
    case "space": {
      const { totalBytes, freeBytes } = await sources.space();
      return { spaceTotal: totalBytes, spaceFree: freeBytes };
    }
    case "clients":
      return {
        clients: server.sessions().map((session) => ({
          address: session.connection.peer.text,
          imageId: session.image.id,
          isServer: session.isServer ? 1 : 0,
          bytesSent: session.sentBytes,
        })),
      };
    case "images":
      return { images: table.list().map((image) => imageFacts(image, sources.wallMs())) };
    case "logfile":
      return { logfile: null };
    case "config":
      return { config: sources.configText() };
    case "altservers":
      return {
        altservers: server.altServers.map((each) => ({
          comment: each.comment,
          host: formatIpEndpoint(each),
          rtt: [0, 0, 0, 0, 0],
          isPrivate: each.isPrivate,
          isClientOnly: each.isClientOnly,
          numFails: 0,
        })),
      };
  }
}

function imageFacts(image: Image, wallMs: number): Json {
  const problems = (image.badHashBlocks.size > 0 ? Problem.Read : 0) |
    (image.quarantine === null ? 0 : Problem.Changed);
  return {
    id: image.id,
    name: image.name,
    wwn: worldWideName(image.name),
    rid: image.revision,
    users: image.users.size,
    complete: image.map?.percent ?? 100,
    idle: Math.max(0, Math.floor((wallMs - image.accessedAtMs) / 1000)),
    size: image.sizeBytes,
    problems,
  };
}
