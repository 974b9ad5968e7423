import type { LinkStatus } from "../remote/link_status.ts";
import { whyNotOwned } from "../device/ownership.ts";
import { counted } from "../base/counted.ts";
import { printable } from "../base/printable.ts";
import { formatSize } from "../base/size_text.ts";
import type { MigrationProgress } from "../migrate/migration.ts";
import type { ClientStatus, ExportStatus, ImageStatus, ProcessStatus } from "../control/status.ts";

/**
 * The status for people: the server, its exports, their clients.
 *
 * @param before An earlier status of the same server, from which rates are made; without it they are left out.
 */
export function formatStatusView(status: ProcessStatus, before: ProcessStatus | null = null): string {
  const seconds = before !== null && before.pid === status.pid
    ? Math.max(status.uptimeMs - before.uptimeMs, 1) / 1000
    : null;
  const lines = [headline(status)];
  if (status.diskThreads != null) lines.push(diskThreadsText(status.diskThreads));
  const strangers = (status.strangers ?? []).filter(({ inVain, turnedAway }) => inVain + turnedAway > 0);
  if (strangers.length > 0) lines.push(`strangers: ${strangers.map(strangersText).join("; ")}`);
  for (const each of status.exports) {
    const earlier = before?.exports.find(({ name }) => name === each.name);
    lines.push("", ...exportLines(each, seconds === null ? undefined : earlier, seconds ?? 1));
  }
  if (status.images.length > 0) lines.push("", ...status.images.flatMap(imageLines));
  return lines.join("\n");
}

function headline(status: ProcessStatus): string {
  const { version, pid, uptimeMs, listening, access, clientsAllowed, hasControl } = status;
  const parts = [`denbd ${version}`, `pid ${pid}`, `up ${formatDuration(uptimeMs)}`, ...listening];
  parts.push(
    access.acl === "list" ? `acl=${counted(access.entries.length, "entry", "entries")}` : `acl=${access.acl}`,
  );
  if (!clientsAllowed) parts.push("no new clients");
  if (!hasControl) parts.push("receiving a migration");
  return parts.join("  ");
}

function diskThreadsText({ count, busy, waiting }: ProcessStatus["diskThreads"]): string {
  return `disk threads: ${busy} of ${count} busy${
    waiting > 0 ? `, ${counted(waiting, "call")} waiting` : ""
  }`;
}

function strangersText({ door, inVain, turnedAway }: ProcessStatus["strangers"][number]): string {
  const away = turnedAway > 0 ? `, ${turnedAway} were turned away` : "";
  return `${inVain} came to nothing at the port of ${door === "channel" ? "channels" : door}${away}`;
}

function exportLines(each: ExportStatus, before: ExportStatus | undefined, seconds: number): string[] {
  const lines = [
    `export "${printable(each.name)}"  ${formatSize(each.sizeBytes)}${each.readOnly ? "  read-only" : ""}  ` +
    printable(each.source),
    `  ${trafficText(each, before, seconds)}`,
  ];
  if (each.migration != null) lines.push(...migrationLines(each.migration));
  const unowned = each.ownership == null ? null : whyNotOwned(printable(each.source), each.ownership);
  if (unowned !== null) lines.push(`  ${each.ownership!.state}: ${printable(unowned)}`);
  if (each.dirtyBytes !== null && each.dirtyBytes > 0) {
    lines.push(`  ${formatSize(each.dirtyBytes)} not synced`);
  }
  if (each.syncFailure !== null) {
    lines.push(`  WRITING HAS ENDED: a sync failed (${printable(each.syncFailure)})`);
  }
  if (each.upstream !== undefined) lines.push(`  ${upstreamText(each.upstream)}`);
  for (const { keptBytes, hits, misses } of each.caches ?? []) {
    lines.push(`  cache: ${formatSize(keptBytes)}, ${hits} hits, ${misses} misses`);
  }
  if (each.reservation !== null) {
    const { holder, awayMs } = each.reservation;
    lines.push(
      `  reserved for ${printable(holder)}${awayMs > 0 ? `, away for ${formatDuration(awayMs)}` : ""}`,
    );
  }
  for (const [operation, { count, p50Us, p99Us, maxUs }] of Object.entries(each.latency)) {
    const times = `p50 ${formatUs(p50Us)}, p99 ${formatUs(p99Us)}, max ${formatUs(maxUs)}`;
    lines.push(`  ${operation.padEnd(7)} ${count} times: ${times}`);
  }
  if (each.clients.length === 0) return lines;
  const rows = each.clients.map((client) =>
    clientRow(client, before?.clients.find(({ id }) => id === client.id), seconds)
  );
  return [...lines, ...table([["client", "rights", "protection", "age", "waiting", "traffic"], ...rows])];
}

const BAR_CELLS = 30;

function migrationLines(migration: MigrationProgress): string[] {
  const { destination, phase, attempt, pass, bytesTotal, bytesLeft, bytesPerSecond, leftMs } = migration;
  const part = bytesTotal === 0 ? 1 : 1 - bytesLeft / bytesTotal;
  const full = Math.floor(part * BAR_CELLS);
  const bar = `[${"#".repeat(full)}${"-".repeat(BAR_CELLS - full)}] ${Math.floor(part * 100)} %`;
  const parts = [`${formatSize(bytesLeft)} left`, `${formatSize(bytesPerSecond)}/s`];
  if (migration.speedLimit !== null) parts.push(`limit ${formatSize(migration.speedLimit)}/s`);
  if (leftMs !== null) parts.push(`about ${formatDuration(leftMs)} to go`);
  const lines = [
    `  moving to ${printable(destination)}: ${phase}, attempt ${attempt}, pass ${pass}`,
    `  ${bar}  ${parts.join(", ")}`,
  ];
  if (migration.writersLimit !== null) {
    lines.push(`  clients may write ${formatSize(migration.writersLimit)}/s`);
  }
  if (!migration.converges) {
    lines.push("  IT DOES NOT CONVERGE: clients write faster than the disk can be moved");
  }
  if (migration.lastError !== null) {
    lines.push(`  the last attempt failed: ${printable(migration.lastError)}`);
  }
  return lines;
}

function imageLines(image: ImageStatus): string[] {
  const { name, revision, sizeBytes, clients, sentBytes, completePercent, copy, badHashBlocks } = image;
  const facts = [`${formatSize(sizeBytes)}`, counted(clients, "client"), `${formatSize(sentBytes)} sent`];
  if (completePercent < 100) facts.push(`${completePercent} % here`);
  if (image.unverified) facts.push("unverified");
  const lines = [`image ${printable(name)}:${revision}  ${facts.join(", ")}`];
  if (image.quarantine !== null) lines.push(`  REFUSED: ${printable(image.quarantine)}`);
  if (badHashBlocks.length > 0) lines.push(`  REFUSED: hash blocks ${badHashBlocks.join(", ")} are damaged`);
  if (copy === null) return lines;
  const servers = copy.servers.map(({ server, roundTripMs, failures, lies }) => {
    const time = roundTripMs === null ? "not measured" : formatUs(roundTripMs * 1000);
    const failed = failures > 0 ? `, failed ${failures} times` : "";
    return `${server} (${time}${failed}${lies > 0 ? `, SENT BAD DATA ${lies} times` : ""})`;
  });
  lines.push(
    `  copied from ${copy.uplink ?? "nobody at the moment"}: ${formatSize(copy.receivedBytes)} received, ` +
      `${copy.waiting} blocks waited for, ${copy.mismatches} hash blocks did not fit`,
  );
  if (servers.length > 0) lines.push(`  servers: ${servers.join(", ")}`);
  if (copy.writeProblem !== null) lines.push(`  NOTHING MORE IS KEPT: ${printable(copy.writeProblem)}`);
  return lines;
}

function clientRow(client: ClientStatus, before: ClientStatus | undefined, seconds: number): string[] {
  const who = client.identity === null ? client.address : `${client.address} (${client.identity})`;
  return [
    printable(who),
    client.rights,
    client.protection ?? "",
    formatDuration(client.ageMs),
    String(client.inFlight),
    trafficText(client, before, seconds),
  ];
}

type Counts = Pick<ClientStatus, "requests" | "errors" | "readBytes" | "writtenBytes">;

function trafficText(now: Counts, before: Counts | undefined, seconds: number): string {
  const parts = [
    `${counted(now.requests, "request")}${rate(now.requests, before?.requests, seconds, String)}`,
    `${formatSize(now.readBytes)} read${rate(now.readBytes, before?.readBytes, seconds, formatSize)}`,
    `${formatSize(now.writtenBytes)} written${
      rate(now.writtenBytes, before?.writtenBytes, seconds, formatSize)
    }`,
  ];
  if (now.errors > 0) parts.push(counted(now.errors, "error"));
  return parts.join(", ");
}

function rate(
  now: number,
  before: number | undefined,
  seconds: number,
  format: (value: number) => string,
): string {
  if (before === undefined || now < before) return "";
  return ` (${format(Math.round((now - before) / seconds))}/s)`;
}

/** Rows with their columns aligned, the first row being the heads. */
function table(rows: readonly string[][]): string[] {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  return rows.map((row) =>
    "  " + row.map((cell, column) => cell.padEnd(widths[column])).join("  ").trimEnd()
  );
}

/** `850 ms`, `12 s`, `3 min`, `2 h 5 min`, `4 d 3 h`. */
export function formatDuration(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const seconds = Math.floor(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

function formatUs(us: number): string {
  if (us < 1000) return `${Math.round(us)} µs`;
  return us < 1_000_000 ? `${(us / 1000).toFixed(1)} ms` : `${(us / 1_000_000).toFixed(1)} s`;
}

function upstreamText(upstream: LinkStatus): string {
  const { state, peer, protection, trouble, reconnects, attempts, resent, unanswered } = upstream;
  const { fenced, reserved, doubt } = upstream;
  const parts = [
    `${state}, ${printable(peer)}, protection ${protection}`,
    `${reconnects} reconnects${attempts > 0 ? ` and ${attempts} attempts since` : ""}`,
    `${resent} resent`,
    `${unanswered} unanswered`,
    fenced ? "fenced" : "fenced=no",
  ];
  if (reserved) parts.push("reserved");
  if (trouble !== null) parts.push(printable(trouble));
  if (doubt !== null) parts.push(`THE NEXT FLUSH FAILS: ${printable(doubt)}`);
  return `server: ${parts.join(", ")}`;
}
