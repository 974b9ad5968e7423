/** Puts the status of a server together. */
import type { AccessList } from "../access/acl.ts";
import { describeDiskThreads } from "../device/disk_threads.ts";
import type { MigrationProgress } from "../migrate/migration.ts";
import type { Export, ExportTable } from "../server/export_table.ts";
import type { NbdServer } from "../server/nbd/server.ts";
import type { StrangerCounts } from "../server/strangers.ts";
import type { Holder } from "../server/writer_sessions.ts";
import type {
  AccessStatus,
  ExportStatus,
  ImageStatus,
  MirrorStatus,
  ProcessStatus,
  ReservationStatus,
} from "./status.ts";

/** The parts of a running server. */
export interface ServerParts {
  readonly version: string;
  readonly instance: string;
  readonly exports: ExportTable;
  readonly nbd: NbdServer;
  readonly access: AccessStatus;
  /** The disks are ours: not so while a migration is being received. Default `true`. */
  readonly hasControl?: boolean;
  /** Of dnbd3, if it is served. */
  readonly images?: readonly ImageStatus[];
  /** Where others than clients of NBD come, and what those came to. */
  readonly otherDoors?: readonly { readonly door: "channel" | "dnbd3"; readonly strangers: StrangerCounts }[];
  /** How far the migration of an export is; `null` if there is none. */
  migrationOf(exported: Export): MigrationProgress | null;
  /** Where it listens, as in {@linkcode ProcessStatus}. */
  listening(): readonly string[];
  /** What is behind an export. Default: nothing to tell. */
  about?(exported: Export): Pick<ExportStatus, "upstream" | "caches">;
  nowMs(): number;
  readonly startedAtMs: number;
}

export function describeServer(parts: ServerParts): ProcessStatus {
  const { version, instance, nbd, access } = parts;
  const nowMs = parts.nowMs();
  const described = describeExports(parts, nowMs);
  return {
    version,
    pid: Deno.pid,
    uptimeMs: Math.round(nowMs - parts.startedAtMs),
    instance,
    listening: parts.listening(),
    clientsAllowed: !nbd.draining,
    hasControl: parts.hasControl ?? true,
    mirror: asFlexnbd(described.find(({ migration }) => migration !== null)?.migration ?? null),
    access,
    exports: described,
    images: parts.images ?? [],
    strangers: [{ door: "nbd" as const, strangers: nbd.strangers }, ...parts.otherDoors ?? []].map(
      ({ door, strangers: { inVain, turnedAway } }) => ({ door, inVain, turnedAway }),
    ),
    diskThreads: describeDiskThreads(),
  };
}

/** flexnbd's figures: over all of the attempt, in whole seconds, of which it counts one too many. */
function asFlexnbd(migration: MigrationProgress | null): MirrorStatus | null {
  if (migration === null) return null;
  const { bytesSent, bytesLeft, durationMs, speedLimit } = migration;
  const durationSeconds = Math.floor(durationMs / 1000);
  const bytesPerSecond = Math.floor(bytesSent / (durationSeconds + 1));
  const secondsLeft = Math.floor(bytesLeft / (bytesPerSecond + 1));
  return { bytesPerSecond, durationSeconds, secondsLeft, bytesLeft, speedLimit };
}

/** The state of an access list. */
export function describeAccess(access: AccessList): AccessStatus {
  const { entries, defaultDeny } = access;
  const acl = access.isOpen ? "open" : entries.length === 0 ? "closed" : "list";
  return { acl, entries, defaultDeny };
}

function describeReservation(holder: Holder | null): ReservationStatus | null {
  if (holder === null) return null;
  const { session, who, connections, awayMs } = holder;
  return { session, holder: who, connections, awayMs: Math.round(awayMs) };
}

function describeExports(parts: ServerParts, nowMs: number): ExportStatus[] {
  const { exports, nbd, migrationOf } = parts;
  const clients = nbd.clients();
  return exports.list().map((exported) => {
    const { traffic, device } = exported;
    return {
      name: exported.name,
      source: exported.source,
      sizeBytes: exported.sizeBytes,
      readOnly: exported.readOnly || !device.can.write,
      uuid: device.identity?.uuid ?? null,
      generation: device.identity?.generation ?? null,
      requests: traffic.requests,
      errors: traffic.errors,
      readBytes: traffic.readBytes,
      writtenBytes: traffic.writtenBytes,
      dirtyBytes: traffic.dirtyBytes,
      syncFailure: device.syncFailure ?? null,
      writers: exported.writers ?? "any",
      reservation: describeReservation(nbd.writersOf(exported).holder),
      migration: migrationOf(exported),
      ownership: exported.ownership?.latest?.ownership ?? null,
      ...parts.about?.(exported),
      latency: traffic.latencies(),
      clients: clients.filter(({ session }) => session.exported === exported).map((client) => ({
        id: client.id,
        address: client.peer.text,
        identity: client.peer.key ?? client.peer.certificateName ?? null,
        rights: client.rights,
        protection: client.peer.protection ?? "none",
        ageMs: Math.round(nowMs - client.connectedAtMs),
        requests: client.session.traffic.requests,
        errors: client.session.traffic.errors,
        inFlight: client.session.inFlight,
        readBytes: client.session.traffic.readBytes,
        writtenBytes: client.session.traffic.writtenBytes,
      })),
    };
  });
}
