import { printable } from "../base/printable.ts";
import { formatSize } from "../base/size_text.ts";
import { type FileLocator, formatDiskLocator, type ImageLocator, type NbdLocator } from "../base/uri.ts";
import type { BlockDevice } from "../device/device.ts";
import { segments } from "../device/segments.ts";
import { listNbdContexts, listNbdExports, openDisk, openImageLocator, openNbdLocator } from "../open_disk.ts";
import { TransmissionFlag } from "../wire/nbd/constants.ts";
import type { ClientAgreement } from "../wire/nbd/handshake_client.ts";
import { command } from "./command.ts";
import { forEver, namedDisk, reachOptions } from "./disk_options.ts";
import { UsageError } from "./usage_error.ts";

/** What JSON is made of. */
type Facts = Readonly<Record<string, unknown>>;

export const info = command({
  name: "info",
  summary: "Tells what a disk is, or which exports a server has",
  usage: [
    "info [--json] [--list] DISK",
    "info --map [--totals] [--json] DISK",
    "info --addr ADDR --port PORT [OPTIONS]",
  ],
  description: `DISK is a file, a block device or a URI such as nbd://host/export.

With --json the facts have the names that nbdinfo gives them.`,
  positional: { name: "DISK", help: "The disk to look at", max: 1 },
  options: {
    json: { type: "flag", help: "Write JSON" },
    list: { type: "flag", help: "Describe every export of the server" },
    map: { type: "flag", help: "Show where there are data and where holes" },
    totals: { type: "flag", help: "With --map: only how much of each" },
    ...reachOptions,
  },
  examples: [
    { text: "All exports of a server", command: "denbd info --list nbd://127.0.0.1" },
    { text: "How much of an image is in use", command: "denbd info --map --totals disk.img" },
  ],
  async run({ options, args, stdout, log }) {
    const locator = namedDisk(args, options);
    const { json, list, map, totals, bind } = options;
    if (totals && !map) throw new UsageError("--totals goes with --map");
    if (list && map) throw new UsageError("--list and --map exclude each other");
    if (list && locator.kind !== "nbd") throw new UsageError("--list needs a server");
    const connect = { bind, deadlineMs: forEver(options.deadline), log };
    if (map) {
      const disk = await openDisk(locator, { ...connect, readOnly: true });
      try {
        const runs = await mergedRuns(disk);
        const rows = totals ? totalRows(runs, disk.sizeBytes) : mapRows(runs);
        await stdout.write(
          json ? jsonText(rows.map(({ facts }) => facts)) : lines(rows.map(({ text }) => text)),
        );
      } finally {
        await disk.close();
      }
    } else if (locator.kind === "nbd") {
      const server = await describeServer(locator, list, connect);
      await stdout.write(json ? jsonText(server) : serverText(server));
    } else if (locator.kind === "image") {
      const facts = await describeImage(locator, connect);
      await stdout.write(json ? jsonText(facts) : `image="${escaped(locator.name)}":\n${factLines(facts)}`);
    } else {
      const facts = await describeFile(locator);
      await stdout.write(json ? jsonText(facts) : `${locator.path}:\n${factLines(facts)}`);
    }
  },
});

type Connect = Parameters<typeof openNbdLocator>[1];

// --- Servers ---

interface ServerFacts extends Facts {
  readonly protocol: string;
  readonly exports: readonly Facts[];
}

async function describeServer(locator: NbdLocator, list: boolean, connect: Connect): Promise<ServerFacts> {
  if (!list) {
    const { agreement, facts } = await describeExport(locator, "", connect);
    return { ...protocolFacts(agreement, locator), exports: [facts] };
  }
  const listing = await listNbdExports(locator, connect);
  const exports: Facts[] = [];
  let protocol: Facts & { protocol: string } | undefined;
  for (const { name, description } of listing.exports) {
    const each = { ...locator, exportName: name };
    try {
      const { agreement, facts } = await describeExport(each, description, connect);
      protocol ??= protocolFacts(agreement, locator);
      exports.push(facts);
    } catch (error) {
      // One that is busy or forbidden does not hide the others.
      exports.push({ "export-name": name, uri: formatDiskLocator(each), error: (error as Error).message });
    }
  }
  return { ...(protocol ?? protocolFacts(listing, locator)), exports };
}

function protocolFacts(
  agreement: Pick<ClientAgreement, "style" | "structured" | "extended">,
  locator: NbdLocator,
) {
  const { style, structured, extended } = agreement;
  const protocol = style === "fixed-newstyle" ? "newstyle-fixed" : style;
  return { protocol, TLS: locator.tls !== undefined, structured, extended };
}

async function describeExport(locator: NbdLocator, description: string, connect: Connect) {
  const { disk, agreement } = await openNbdLocator(locator, { ...connect, readOnly: true });
  await disk.close();
  // Contexts are told before transmission only; the size only afterwards can be believed of every server.
  const agreed = agreement.contexts.map((context) => context.name);
  const contexts = await listNbdContexts(locator, connect).catch(() => null) ?? agreed;
  const { canonicalName, transmissionFlags, sizeBytes } = agreement;
  const has = (flag: number) => (transmissionFlags & flag) !== 0;
  const told = description || agreement.description || "";
  const facts: Facts = {
    "export-name": canonicalName ?? locator.exportName,
    ...(told === "" ? {} : { description: told }),
    uri: formatDiskLocator(locator),
    "export-size": sizeBytes,
    "export-size-str": formatSize(sizeBytes),
    is_read_only: has(TransmissionFlag.READ_ONLY),
    is_rotational: has(TransmissionFlag.ROTATIONAL),
    can_flush: has(TransmissionFlag.SEND_FLUSH),
    can_fua: has(TransmissionFlag.SEND_FUA),
    can_trim: has(TransmissionFlag.SEND_TRIM),
    can_zero: has(TransmissionFlag.SEND_WRITE_ZEROES),
    can_fast_zero: has(TransmissionFlag.SEND_FAST_ZERO),
    can_cache: has(TransmissionFlag.SEND_CACHE),
    can_df: has(TransmissionFlag.SEND_DF),
    can_multi_conn: has(TransmissionFlag.CAN_MULTI_CONN),
    ...blockSizeFacts(agreement.blockSizes),
    contexts,
  };
  return { agreement, facts };
}

function blockSizeFacts(sizes: ClientAgreement["blockSizes"]): Facts {
  if (sizes === undefined) return {};
  return {
    block_size_minimum: sizes.minimum,
    block_size_preferred: sizes.preferred,
    block_size_maximum: sizes.maximumPayload,
  };
}

function serverText({ protocol, TLS, structured, extended, exports }: ServerFacts): string {
  const replies = extended ? ", extended headers" : structured ? ", structured replies" : "";
  const parts = [`protocol: ${protocol} ${TLS ? "using" : "without"} TLS${replies}\n`];
  for (const { "export-name": name, "export-size-str": sizeText, ...facts } of exports) {
    parts.push(`export="${escaped(String(name))}":\n`, factLines(withSizeText(facts, sizeText)));
  }
  if (exports.length === 0) parts.push("no exports\n");
  return parts.join("");
}

function withSizeText(facts: Facts, sizeText: unknown): Facts {
  return sizeText === undefined
    ? facts
    : { ...facts, "export-size": `${facts["export-size"]} (${sizeText})` };
}

// --- Images ---

async function describeImage(locator: ImageLocator, connect: Connect): Promise<Facts> {
  const disk = await openImageLocator(locator, connect);
  const { image } = disk.client;
  const { server, verified } = disk.client.status();
  await disk.close();
  return {
    uri: formatDiskLocator({ ...locator, name: image.name, revision: image.revision }),
    protocol: `dnbd3 version ${image.version}`,
    revision: image.revision,
    size: image.sizeBytes,
    server,
    checksums: verified,
  };
}

// --- Files ---

async function describeFile({ path }: FileLocator): Promise<Facts> {
  const disk = await openDisk({ kind: "file", path }, { readOnly: true });
  await disk.close();
  const status = await Deno.stat(path);
  const allocated = status.isFile && status.blocks !== null ? { allocated: status.blocks * 512 } : {};
  return { kind: status.isFile ? "file" : "block device", size: disk.sizeBytes, ...allocated };
}

// --- Maps ---

/** A run of bytes, as long as its kind lasts. */
interface Run {
  readonly offset: number;
  length: number;
  readonly kind: "data" | "zero" | "hole";
}

/** The bits of `base:allocation` and the words of nbdinfo. */
const kinds = {
  data: { type: 0, description: "data" },
  zero: { type: 2, description: "zero" },
  hole: { type: 3, description: "hole,zero" },
} as const;

async function mergedRuns(disk: BlockDevice): Promise<Run[]> {
  const runs: Run[] = [];
  for await (const { offset, length, kind } of segments(disk, 0, disk.sizeBytes)) {
    const last = runs.at(-1);
    if (last?.kind === kind) last.length += length;
    else runs.push({ offset, length, kind });
  }
  return runs;
}

interface Row {
  readonly facts: Facts;
  readonly text: string;
}

function mapRows(runs: readonly Run[]): Row[] {
  return runs.map(({ offset, length, kind }) => {
    const { type, description } = kinds[kind];
    return {
      facts: { offset, length, type, description },
      text: `${pad(offset, 10)}  ${pad(length, 10)}  ${pad(type, 3)}  ${description}`,
    };
  });
}

function totalRows(runs: readonly Run[], sizeBytes: number): Row[] {
  const rows: Row[] = [];
  for (const [kind, { type, description }] of Object.entries(kinds)) {
    const size = runs.filter((run) => run.kind === kind).reduce((sum, run) => sum + run.length, 0);
    if (size === 0) continue;
    const percent = 100 * size / sizeBytes;
    rows.push({
      facts: { size, percent, type, description },
      text: `${pad(size, 10)}  ${pad(percent.toFixed(1), 5)}%  ${pad(type, 3)}  ${description}`,
    });
  }
  return rows;
}

// --- Text ---

function pad(value: number | string, width: number): string {
  return String(value).padStart(width);
}

function lines(rows: readonly string[]): string {
  return rows.map((row) => `${row}\n`).join("");
}

function jsonText(value: unknown): string {
  return JSON.stringify(value, null, 2) + "\n";
}

/** `  name: value`, and lists with an entry per line. What servers say is escaped. */
function factLines(facts: Facts): string {
  return lines(
    Object.entries(facts).flatMap(([name, value]) => {
      if (!Array.isArray(value)) return [`  ${name}: ${typeof value === "string" ? escaped(value) : value}`];
      return value.length === 0
        ? []
        : [`  ${name}:`, ...value.map((entry) => `    ${escaped(String(entry))}`)];
    }),
  );
}

function escaped(text: string): string {
  return printable(text, 4096);
}
