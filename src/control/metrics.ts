/**
 * The status of a server as Prometheus reads it: text format 0.0.4.
 *
 * Names and labels are stable: they are changed only with a new name beside the old one.
 */
import { judgeHealth } from "./health.ts";
import type { ExportStatus, ImageStatus, Latency, ProcessStatus } from "./status.ts";

export const METRICS_CONTENT_TYPE = "text/plain; version=0.0.4";

type Labels = Readonly<Record<string, string>>;
/** A label set with its value; the name's ending for what belongs to a summary. */
type Sample = readonly [labels: Labels, value: number, ending?: string];

interface Family {
  readonly name: string;
  readonly type: "gauge" | "counter" | "summary";
  readonly help: string;
  readonly samples: readonly Sample[];
}

/** Formats all of it. Families without a sample are left out. */
export function formatMetrics(status: ProcessStatus): string {
  return [
    ...processFamilies(status),
    ...exportFamilies(status.exports),
    ...imageFamilies(status.images),
    ...migrationFamilies(status),
  ]
    .filter(({ samples }) => samples.length > 0)
    .map(formatFamily)
    .join("");
}

function processFamilies(status: ProcessStatus): Family[] {
  const { state } = judgeHealth(status);
  return [
    gauge("denbd_build_info", "Which denbd this is; always 1.", [[{ version: status.version }, 1]]),
    gauge("denbd_uptime_seconds", "Since the start of the server.", [[{}, status.uptimeMs / 1000]]),
    gauge(
      "denbd_health",
      "1 for the state that the server is in.",
      (["fine", "degraded", "failed"] as const).map((each) => [{ state: each }, Number(each === state)]),
    ),
    gauge("denbd_clients_allowed", "1 while new clients are let in.", [[{}, Number(status.clientsAllowed)]]),
    gauge("denbd_has_control", "1 while the disk belongs to this server.", [[{}, Number(status.hasControl)]]),
    gauge("denbd_access_open", "1 if everybody who can connect may write.", [
      [{}, Number(status.access.acl === "open")],
    ]),
    counter(
      "denbd_strangers_in_vain_total",
      "Connections that were heard and came to nothing.",
      status.strangers.map(({ door, inVain }) => [{ door }, inVain]),
    ),
    counter(
      "denbd_strangers_turned_away_total",
      "Connections closed at once because their address had had more than its share.",
      status.strangers.map(({ door, turnedAway }) => [{ door }, turnedAway]),
    ),
    gauge("denbd_disk_threads", "Calls of disks that may wait at the same time.", [
      [{}, status.diskThreads.count],
    ]),
    gauge("denbd_disk_threads_busy", "Calls of disks that are under way.", [[{}, status.diskThreads.busy]]),
    gauge("denbd_disk_calls_waiting", "Calls of disks that wait for a thread.", [
      [{}, status.diskThreads.waiting],
    ]),
  ];
}

function exportFamilies(exports: readonly ExportStatus[]): Family[] {
  const each = (value: (exported: ExportStatus) => number | null): Sample[] =>
    exports.flatMap((exported): Sample[] => {
      const number = value(exported);
      return number === null ? [] : [[{ export: exported.name }, number]];
    });
  return [
    gauge("denbd_export_size_bytes", "Size that clients see.", each((it) => it.sizeBytes)),
    gauge("denbd_export_read_only", "1 if nobody may write.", each((it) => Number(it.readOnly))),
    gauge("denbd_export_clients", "Clients in transmission.", each((it) => it.clients.length)),
    gauge(
      "denbd_export_requests_in_flight",
      "Requests that wait for an answer.",
      each((it) => it.clients.reduce((count, { inFlight }) => count + inFlight, 0)),
    ),
    counter("denbd_export_requests_total", "Requests answered, refused ones too.", each((it) => it.requests)),
    counter("denbd_export_errors_total", "Requests answered with an error.", each((it) => it.errors)),
    counter("denbd_export_read_bytes_total", "Bytes asked for by READ.", each((it) => it.readBytes)),
    counter("denbd_export_written_bytes_total", "Bytes of WRITE requests.", each((it) => it.writtenBytes)),
    gauge(
      "denbd_upstream_connected",
      "1 while there is a connection to the server that has the disk.",
      each(({ upstream }) => upstream === undefined ? null : Number(upstream.state === "connected")),
    ),
    gauge(
      "denbd_upstream_attempts",
      "How often a connection was tried for since there was one last.",
      each(({ upstream }) => upstream?.attempts ?? null),
    ),
    gauge(
      "denbd_upstream_requests_unanswered",
      "Requests that the server owes an answer.",
      each(({ upstream }) => upstream?.unanswered ?? null),
    ),
    counter(
      "denbd_upstream_reconnects_total",
      "How often connections were made anew.",
      each(({ upstream }) => upstream?.reconnects ?? null),
    ),
    counter(
      "denbd_upstream_errors_total",
      "Requests that the server answered with an error.",
      each(({ upstream }) => upstream?.errors ?? null),
    ),
    gauge("denbd_export_unsynced_bytes", "Written since the last sync.", each((it) => it.dirtyBytes)),
    gauge(
      "denbd_export_sync_failed",
      "1 after a failed sync, which ends all writing.",
      each((it) => Number(it.syncFailure !== null)),
    ),
    {
      name: "denbd_export_request_duration_seconds",
      type: "summary",
      help: "From the last byte of a request in to its answer out, since the start.",
      samples: exports.flatMap((exported) =>
        Object.entries(exported.latency).flatMap(([operation, latency]) =>
          quantiles({ export: exported.name, operation }, latency)
        )
      ),
    },
  ];
}

function quantiles(labels: Labels, { count, sumUs, p50Us, p90Us, p99Us, p999Us }: Latency): Sample[] {
  const at: [string, number][] = [["0.5", p50Us], ["0.9", p90Us], ["0.99", p99Us], ["0.999", p999Us]];
  return [
    ...at.map(([quantile, us]): Sample => [{ ...labels, quantile }, us / 1e6]),
    [labels, sumUs / 1e6, "_sum"],
    [labels, count, "_count"],
  ];
}

function imageFamilies(images: readonly ImageStatus[]): Family[] {
  const each = (value: (image: ImageStatus) => number): Sample[] =>
    images.map((image) => [{ image: image.name, revision: `${image.revision}` }, value(image)]);
  return [
    gauge("denbd_image_clients", "Clients of the dnbd3 image.", each((it) => it.clients)),
    counter("denbd_image_sent_bytes_total", "Bytes of its blocks sent.", each((it) => it.sentBytes)),
    gauge("denbd_image_complete_ratio", "Share of it that is here.", each((it) => it.completePercent / 100)),
    gauge("denbd_image_quarantined", "1 if it is refused.", each((it) => Number(it.quarantine !== null))),
    gauge("denbd_image_bad_blocks", "Hash blocks that are refused.", each((it) => it.badHashBlocks.length)),
  ];
}

function migrationFamilies({ mirror }: ProcessStatus): Family[] {
  const one = (value: number | null | undefined): Sample[] =>
    value === null || value === undefined ? [] : [[{}, value]];
  return [
    gauge("denbd_migration_active", "1 while a disk moves away.", one(Number(mirror !== null))),
    gauge("denbd_migration_left_bytes", "Still to be sent.", one(mirror?.bytesLeft)),
    gauge("denbd_migration_speed_bytes_per_second", "Since the attempt began.", one(mirror?.bytesPerSecond)),
    gauge("denbd_migration_limit_bytes_per_second", "What it is throttled to.", one(mirror?.speedLimit)),
  ];
}

function gauge(name: string, help: string, samples: readonly Sample[]): Family {
  return { name, type: "gauge", help, samples };
}

function counter(name: string, help: string, samples: readonly Sample[]): Family {
  return { name, type: "counter", help, samples };
}

function formatFamily({ name, type, help, samples }: Family): string {
  const lines = samples.map(([labels, value, ending = ""]) => {
    const pairs = Object.entries(labels).map(([label, text]) => `${label}="${escapeLabel(text)}"`);
    return `${name}${ending}${pairs.length === 0 ? "" : `{${pairs.join(",")}}`} ${value}\n`;
  });
  return `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${lines.join("")}`;
}

function escapeLabel(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
}
