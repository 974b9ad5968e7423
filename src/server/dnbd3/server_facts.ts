/** The facts that a dnbd3 server tells of itself over HTTP. */
import { formatIpEndpoint } from "../../base/ip_endpoint.ts";
import type { Clock } from "../../os/clock.ts";
import type { Json } from "../../wire/dnbd3/http.ts";
import type { RpcGroup } from "./http_rpc.ts";
import type { Image } from "./image.ts";
import type { ImageCopy } from "./image_copy.ts";
import { worldWideName } from "./image_name.ts";
import type { ImageTable } from "./image_table.ts";
import type { ImageServer } from "./server.ts";

/** What is wrong with an image: bits of `problems`. */
const Problem = { Read: 1, Write: 2, Changed: 4, NoUplink: 8, Queue: 16 } as const;
/** Round-trip times that are told of each server. */
const ROUND_TRIPS = 5;

export interface FactSources {
  readonly server: ImageServer;
  readonly table: ImageTable;
  readonly version: string;
  readonly clock: Clock;
  readonly startedAtMs: number;
  /** The effective settings as the text of a `server.conf`. */
  /** The end of the log file, or null if there is none. */
  logText(): string | null;
  configText(): string;
  /** Bytes of the file system that holds the images. */
  space(): Promise<{ readonly totalBytes: number; readonly freeBytes: number }>;
  /** Unix time in ms. */
  wallMs(): number;
  /** Of a proxy. */
  readonly proxy?: {
    readonly receivedBytes: number;
    /** The copy of an image that is being made, or null. */
    copyOf(image: Image): ImageCopy | null;
    /** What is known of each of the alt-servers, in their order. */
    records(): readonly { readonly roundTripsMs: readonly number[]; readonly failures: number }[];
  };
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
        bytesReceived: sources.proxy?.receivedBytes ?? 0,
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
      return {
        images: table.list().map((image) =>
          imageFacts(image, sources.proxy?.copyOf(image) ?? null, sources.wallMs())
        ),
      };
    case "logfile":
      return { logfile: sources.logText() };
    case "config":
      return { config: sources.configText() };
    case "altservers": {
      const records = sources.proxy?.records();
      return {
        altservers: server.altServers.map((each, index) => ({
          comment: each.comment,
          host: formatIpEndpoint(each),
          rtt: roundTripsUs(records?.[index].roundTripsMs ?? []),
          isPrivate: each.isPrivate,
          isClientOnly: each.isClientOnly,
          numFails: records?.[index].failures ?? 0,
        })),
      };
    }
  }
}

/** Five of them, in microseconds, the oldest first. */
function roundTripsUs(roundTripsMs: readonly number[]): number[] {
  const all = roundTripsMs.map((ms) => Math.round(ms * 1000));
  return [...Array<number>(ROUND_TRIPS).fill(all[0] ?? 0), ...all].slice(-ROUND_TRIPS);
}

function imageFacts(image: Image, copy: ImageCopy | null, wallMs: number): Json {
  const problems = (image.badHashBlocks.size > 0 ? Problem.Read : 0) |
    (copy?.problems.write ? Problem.Write : 0) |
    (image.quarantine === null ? 0 : Problem.Changed) |
    (copy?.problems.noUplink ? Problem.NoUplink : 0) |
    (copy?.problems.queue ? Problem.Queue : 0);
  const server = copy?.uplink?.status().server ?? null;
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
    ...copy !== null && copy.receivedBytes > 0 ? { bytesReceived: copy.receivedBytes } : {},
    ...server === null ? {} : { uplinkServer: server },
  };
}
