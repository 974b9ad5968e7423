/**
 * What a running server says of itself.
 *
 * Everything here is plain data: it is what `status --json` prints. Times are in milliseconds unless the name has
 * another unit, counts begin at the start of what they count for.
 */
import type { LinkStatus } from "../remote/link_status.ts";
import type { Rights } from "../access/acl.ts";
import type { DiskThreads } from "../device/disk_threads.ts";
import type { Ownership } from "../device/ownership.ts";
import type { MigrationProgress } from "../migrate/migration.ts";

/** How long requests took, in microseconds from their last byte in to their reply out. */
export interface Latency {
  readonly count: number;
  /** Of all of them together. */
  readonly sumUs: number;
  readonly p50Us: number;
  readonly p90Us: number;
  readonly p99Us: number;
  readonly p999Us: number;
  readonly maxUs: number;
}

/** A client in transmission. */
export interface ClientStatus {
  readonly id: number;
  /** With port, or uid and pid: `127.0.0.1:43210`, `unix:uid=0,pid=123`. */
  readonly address: string;
  /** What it proved to be (a key, a certificate's name), or `null`. */
  readonly identity: string | null;
  readonly rights: Rights;
  /** What protects its bytes on their way: `none`, or see `Peer`. */
  readonly protection: string;
  readonly ageMs: number;
  /** Answered, refused ones included. */
  readonly requests: number;
  readonly errors: number;
  /** Requests that wait for an answer. */
  readonly inFlight: number;
  readonly readBytes: number;
  readonly writtenBytes: number;
}

/** For whom an export is reserved. */
export interface ReservationStatus {
  /** The first digits of its id; `null` of a client that has none. */
  readonly session: string | null;
  /** Address, as in {@linkcode ClientStatus}, of who came last in its name. */
  readonly holder: string;
  readonly connections: number;
  /** Since when it has no connection; 0 while it has one. */
  readonly awayMs: number;
}

/** What a cache has done since the start; see `CacheCounts`. */
export interface CacheStatus {
  readonly keptBytes: number;
  readonly hits: number;
  readonly misses: number;
  readonly prefetchedBytes: number;
  readonly discardedFetches: number;
}

/** One disk on offer. */
export interface ExportStatus {
  readonly name: string;
  /** Path or URI of the disk. */
  readonly source: string;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly uuid: string | null;
  readonly generation: number | null;
  readonly requests: number;
  readonly errors: number;
  readonly readBytes: number;
  readonly writtenBytes: number;
  /** Written and not yet synced; `null` where nobody counts. */
  readonly dirtyBytes: number | null;
  /** Why nothing can be written any more: the failed sync, which holds until the disk is opened anew. */
  readonly syncFailure: string | null;
  /** How many may write at a time. */
  readonly writers: "any" | "one-session";
  readonly reservation: ReservationStatus | null;
  readonly migration: MigrationProgress | null;
  /** What is kept of who owns the disk; `null` where nothing is. */
  readonly ownership: Ownership | null;
  /** The connections to the server that has the disk; absent if it is here. */
  readonly upstream?: LinkStatus;
  /** Caches in front of the disk, the one that is asked last first; absent where there can be none. */
  readonly caches?: readonly CacheStatus[];
  /** By operation: `read`, `write`, `flush`… Operations that never ran are missing. */
  readonly latency: Readonly<Record<string, Latency>>;
  readonly clients: readonly ClientStatus[];
}

/** A migration under way, as flexnbd counts. */
export interface MirrorStatus {
  /** Bytes per second since the attempt began. */
  readonly bytesPerSecond: number;
  readonly durationSeconds: number;
  readonly secondsLeft: number;
  readonly bytesLeft: number;
  /** Bytes per second; `null` without limit. */
  readonly speedLimit: number | null;
}

export interface AccessStatus {
  /** `open`: everybody may write; `list`: the entries decide; `closed`: nobody may enter. */
  readonly acl: "open" | "list" | "closed";
  readonly entries: readonly string[];
  readonly defaultDeny: boolean;
}

/** One revision of a dnbd3 image. */
export interface ImageStatus {
  readonly name: string;
  readonly revision: number;
  readonly sizeBytes: number;
  /** Of its blocks, from 0 to 100; below that it is being copied, or was. */
  readonly completePercent: number;
  readonly clients: number;
  readonly sentBytes: number;
  /** There is no list of checksums: nobody can tell whether it is sound. */
  readonly unverified: boolean;
  /** Why it is refused to everybody, or `null`. */
  readonly quarantine: string | null;
  /** Hash blocks of 16 MiB that do not fit their checksum, and are refused. */
  readonly badHashBlocks: readonly number[];
  /** How it is being copied from other servers; `null` if it is not. */
  readonly copy: CopyStatus | null;
}

/** An image that a proxy copies. */
export interface CopyStatus {
  /** The server that it is copied from at the moment, or `null`. */
  readonly uplink: string | null;
  /** All that are known, with the median of their round-trip times; `null` before one was measured. */
  readonly servers: readonly {
    readonly server: string;
    readonly roundTripMs: number | null;
    readonly failures: number;
    /** How often it was caught sending what is not in the image. */
    readonly lies: number;
  }[];
  readonly receivedBytes: number;
  /** Blocks that clients wait for. */
  readonly waiting: number;
  /** Hash blocks that arrived and did not fit their checksum. */
  readonly mismatches: number;
  /** Why nothing is kept of it any more, or `null`. */
  readonly writeProblem: string | null;
}

/** What those came to who came to a port and were no clients, since the start of the server. */
export interface StrangerStatus {
  readonly door: "nbd" | "channel" | "dnbd3";
  /** They were heard, and came to nothing. */
  readonly inVain: number;
  /** They were closed as soon as they were accepted: their address had had more than its share. */
  readonly turnedAway: number;
}

/** A whole server process. */
export interface ProcessStatus {
  readonly version: string;
  readonly pid: number;
  readonly uptimeMs: number;
  /** Of this run of the program; another one after each start. `null` where it has none. */
  readonly instance: string | null;
  /** Where it listens: `127.0.0.1:10809`, `unix:/run/disk.sock`. */
  readonly listening: readonly string[];
  /** New clients are let in. */
  readonly clientsAllowed: boolean;
  /** The disk is ours: not so while a migration is being received. */
  readonly hasControl: boolean;
  /** The first migration that there is. */
  readonly mirror: MirrorStatus | null;
  readonly access: AccessStatus;
  /** In order; the first is the one that the status line gives the size of. */
  readonly exports: readonly ExportStatus[];
  /** Of dnbd3. */
  readonly images: readonly ImageStatus[];
  readonly strangers: readonly StrangerStatus[];
  /** Where calls of disks wait that cannot be done at once. */
  readonly diskThreads: DiskThreads;
}

/**
 * The status as flexnbd prints it: `key=value` pairs, each followed by a space, in a fixed order.
 *
 * Behind flexnbd's keys come ours, and only when there is something to say: `acl=open`, `sync_failed=true`.
 *
 * @see spec: flexnbd section 11
 */
export function formatStatusLine(status: ProcessStatus): string {
  const { mirror, exports } = status;
  const pairs: [string, string | number | boolean][] = [
    ["pid", status.pid],
    ["size", exports[0]?.sizeBytes ?? 0],
    ["is_mirroring", mirror !== null],
    ["clients_allowed", status.clientsAllowed],
    ["num_clients", exports.reduce((count, each) => count + each.clients.length, 0)],
    ["has_control", status.hasControl],
  ];
  if (mirror !== null) {
    pairs.push(
      ["migration_speed", Math.floor(mirror.bytesPerSecond)],
      ["migration_duration", Math.floor(mirror.durationSeconds)],
      ["migration_seconds_left", Math.floor(mirror.secondsLeft)],
      ["migration_bytes_left", mirror.bytesLeft],
    );
    if (mirror.speedLimit !== null) pairs.push(["migration_speed_limit", mirror.speedLimit]);
  }
  if (status.access.acl === "open") pairs.push(["acl", "open"]);
  const turnedAway = status.strangers.reduce((count, each) => count + each.turnedAway, 0);
  if (turnedAway > 0) pairs.push(["turned_away", turnedAway]);
  const quarantined = status.images.filter(({ quarantine }) => quarantine !== null).length;
  if (quarantined > 0) pairs.push(["quarantined", quarantined]);
  if (exports.some((each) => each.syncFailure !== null)) pairs.push(["sync_failed", true]);
  for (const { upstream, caches = [] } of exports.slice(0, 1)) {
    if (upstream !== undefined) pairs.push(...upstreamPairs(upstream));
    const cache = caches.at(-1);
    if (cache === undefined) continue;
    pairs.push(["cache_bytes", cache.keptBytes], ["cache_hits", cache.hits], ["cache_misses", cache.misses]);
  }
  return pairs.map(([key, value]) => `${key}=${value} `).join("");
}

function upstreamPairs(upstream: LinkStatus): [string, string | number | boolean][] {
  const { state, reconnects, resent, unanswered, fenced, reserved, replayBytes, doubt } = upstream;
  const pairs: [string, string | number | boolean][] = [
    ["upstream", state],
    ["reconnects", reconnects],
    ["resent", resent],
    ["unanswered", unanswered],
    ["fenced", fenced ? "yes" : "no"],
    ["reserved", reserved ? "yes" : "no"],
    ["replay_bytes", replayBytes],
  ];
  if (doubt !== null) pairs.push(["next_flush", "fails"]);
  return pairs;
}
