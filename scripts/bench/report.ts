/** Numbers into tables. */

import type { Cell, Measurement } from "./cells.ts";

/** What was measured on one transport: cell name, then server name, then one entry per repeat. */
export type Results = Map<string, Map<string, Measurement[]>>;

export interface ReportInput {
  readonly transport: string;
  readonly cells: readonly Cell[];
  readonly servers: readonly { readonly name: string; readonly ours: boolean }[];
  /** With whom ours are compared one by one; default: with the best of the others. */
  readonly against?: readonly string[];
  readonly results: Results;
  /** Server name to bytes. */
  readonly peakMemory: ReadonlyMap<string, number>;
}

/** The value below which this part (0 to 1) of the sorted numbers lies. */
export function quantile(numbers: readonly number[], part: number): number {
  const sorted = numbers.toSorted((a, b) => a - b);
  const position = part * (sorted.length - 1);
  const below = Math.floor(position);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (position - below);
}

export function geometricMean(numbers: readonly number[]): number {
  return Math.exp(numbers.reduce((sum, number) => sum + Math.log(number), 0) / numbers.length);
}

/** A table in Markdown: one row per cell, minimum/median/maximum per server, and the ratios. */
export function formatReport(input: ReportInput): string {
  const { cells, servers, against, results } = input;
  if (against === undefined) return formatAgainstBest(input);
  const pairs = servers.filter(({ ours }) => ours).flatMap(({ name }) =>
    against.map((other) => [name, other])
  );
  const header = [
    input.transport,
    "unit",
    ...servers.map(({ name }) => `${name} min/med/max`),
    ...pairs.map(([name, other]) => `${name} ÷ ${other}`),
  ];
  const rows = cells.filter(({ name }) => results.has(name)).map((cell) => {
    const values = (name: string) => results.get(cell.name)!.get(name)?.map(({ value }) => value) ?? [];
    const ratios = pairs.map((pair) => {
      const [our, other] = pair.map((name) => values(name));
      if (our.length === 0 || other.length === 0) return "";
      const ratio = quantile(our, 0.5) / quantile(other, 0.5);
      return (cell.largerIsBetter ? ratio : 1 / ratio).toFixed(2);
    });
    return [cell.name, cell.unit, ...servers.map(({ name }) => formatSpread(values(name))), ...ratios];
  });
  return [
    formatTable([header, ...rows, memoryRow(input)]),
    ...formatLatencies(cells, servers, results),
  ].join("\n\n");
}

function formatAgainstBest(input: ReportInput): string {
  const { transport, cells, servers, results } = input;
  const ours = servers.filter((server) => server.ours);
  const peers = servers.filter((server) => !server.ours);
  const ratios = new Map(ours.map(({ name }) => [name, [] as number[]]));
  const withRatio = ours.length > 0 && peers.length > 0;
  const header = [
    transport,
    "unit",
    ...servers.map(({ name }) => `${name} min/med/max`),
    ...(withRatio ? ours.flatMap(({ name }) => [`${name} ÷ best peer`, "its worst tenth"]) : []),
  ];
  const rows = cells.filter(({ name }) => results.has(name)).map((cell) => {
    const row = results.get(cell.name)!;
    const values = (name: string) => row.get(name)?.map(({ value }) => value) ?? [];
    const columns = servers.map(({ name }) => formatSpread(values(name)));
    const best = bestOf(peers.map(({ name }) => values(name)).filter(({ length }) => length > 0), cell);
    const comparisons = !withRatio ? [] : ours.flatMap(({ name }) => {
      const numbers = values(name);
      if (numbers.length === 0 || best === undefined) return ["", ""];
      const versus = (value: number) => cell.largerIsBetter ? value / best : best / value;
      const ratio = versus(quantile(numbers, 0.5));
      if (cell.inMean) ratios.get(name)!.push(ratio);
      return [ratio.toFixed(2), versus(quantile(numbers, cell.largerIsBetter ? 0.1 : 0.9)).toFixed(2)];
    });
    return [cell.name, cell.unit, ...columns, ...comparisons];
  });
  const mean = ["geometric mean", "", ...servers.map(() => "")];
  for (const { name } of withRatio ? ours : []) {
    const numbers = ratios.get(name)!;
    mean.push(numbers.length > 0 ? geometricMean(numbers).toFixed(2) : "", "");
  }
  const lines = formatTable([header, ...rows, memoryRow(input), ...(withRatio ? [mean] : [])]);
  return [lines, ...formatLatencies(cells, servers, results)].join("\n\n");
}

function memoryRow({ servers, peakMemory }: ReportInput): string[] {
  return ["peak memory", "MB", ...servers.map(({ name }) => formatMegabytes(peakMemory.get(name)))];
}

/**
 * One table over all transports: the medians on the first of them, and the ratio to the best peer on each.
 *
 * @param reports With the same cells, and one server of ours.
 */
export function formatSummary(reports: readonly ReportInput[]): string {
  const [{ cells, servers }] = reports;
  const ours = servers.find((server) => server.ours)!;
  const peers = servers.filter((server) => !server.ours);
  const median = (report: ReportInput, cell: Cell, name: string) => {
    const values = report.results.get(cell.name)?.get(name)?.map(({ value }) => value) ?? [];
    return values.length > 0 ? quantile(values, 0.5) : undefined;
  };
  const ratios = reports.map((report) =>
    cells.map((cell) => {
      const our = median(report, cell, ours.name);
      const theirs = peers.map(({ name }) => median(report, cell, name)).filter((value) =>
        value !== undefined
      );
      if (our === undefined || theirs.length === 0) return undefined;
      return cell.largerIsBetter ? our / Math.max(...theirs) : Math.min(...theirs) / our;
    })
  );
  const rows = cells.map((cell, index) => [
    `${cell.title}, ${cell.unit}`,
    ...servers.map(({ name }) => {
      const value = median(reports[0], cell, name);
      return value === undefined ? "" : formatNumber(value);
    }),
    ...ratios.map((column) => column[index]?.toFixed(2) ?? ""),
  ]);
  const means = ratios.map((column) => {
    const counted = column.filter((ratio, index) => ratio !== undefined && cells[index].inMean);
    return counted.length > 0 ? geometricMean(counted as number[]).toFixed(2) : "";
  });
  const header = [
    "load",
    ...servers.map(({ name }) => name),
    ...reports.map(({ transport }) => `÷ best peer, ${transport}`),
  ];
  return formatTable([header, ...rows, ["geometric mean", ...servers.map(() => ""), ...means]]);
}

function formatLatencies(
  cells: ReportInput["cells"],
  servers: ReportInput["servers"],
  results: Results,
): string[] {
  return cells.filter(({ name, unit }) => unit === "µs" && results.has(name)).map((cell) => {
    const rows = servers.map(({ name }) => {
      const seen = (results.get(cell.name)!.get(name) ?? []).map(({ latencies }) => latencies!);
      if (seen.length === 0) return [name, "", "", ""];
      const median = (pick: (latency: (typeof seen)[0]) => number) =>
        quantile(seen.map(pick), 0.5).toFixed(0);
      return [name, median(({ p99 }) => p99), median(({ p999 }) => p999), median(({ max }) => max)];
    });
    return formatTable([[`${cell.name} at 5,000/s, µs`, "p99", "p99.9", "max"], ...rows]);
  });
}

function bestOf(contenders: readonly number[][], { largerIsBetter }: Cell): number | undefined {
  if (contenders.length === 0) return undefined;
  const medians = contenders.map((numbers) => quantile(numbers, 0.5));
  return largerIsBetter ? Math.max(...medians) : Math.min(...medians);
}

function formatSpread(numbers: readonly number[]): string {
  if (numbers.length === 0) return "";
  return [0, 0.5, 1].map((part) => formatNumber(quantile(numbers, part))).join("/");
}

function formatNumber(value: number): string {
  return value < 100 ? value.toFixed(1) : value.toFixed(0);
}

function formatMegabytes(bytes: number | undefined): string {
  return bytes === undefined ? "" : (bytes / 1e6).toFixed(0);
}

function formatTable(rows: readonly string[][]): string {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0), 3));
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  const pad = (row: readonly string[]) =>
    line(
      widths.map((width, column) =>
        column === 0 ? row[0].padEnd(width) : (row[column] ?? "").padStart(width)
      ),
    );
  const rule = line(
    widths.map((width, column) => column === 0 ? "-".repeat(width) : "-".repeat(width - 1) + ":"),
  );
  return [pad(rows[0]), rule, ...rows.slice(1).map(pad)].join("\n");
}
