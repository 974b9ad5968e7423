/** What is measured: each cell is one load on one server, giving one number. */

import { run } from "../../tests/testing/process.ts";

export interface Measurement {
  /** What is compared, in the cell's unit. */
  readonly value: number;
  /** Latencies in microseconds, in the cells that measure them. */
  readonly latencies?: { readonly p99: number; readonly p999: number; readonly max: number };
}

export interface Cell {
  readonly name: string;
  /** The load in words. */
  readonly title: string;
  readonly unit: "k/s" | "MB/s" | "µs";
  /** Whether a larger value is the better one. */
  readonly largerIsBetter: boolean;
  /** The image it runs on: full of data, or half of it holes. */
  readonly image: "dense" | "sparse";
  /** Counts towards the geometric mean. */
  readonly inMean: boolean;
  /** Whether it can be measured on this server; default: on all. */
  readonly loads?: (server: string) => boolean;
  /** @param env What a client of ours needs in its environment. */
  measure(uri: string, load: Load, env?: Record<string, string>): Promise<Measurement>;
}

export interface Load {
  /** Before each load is measured: long enough for a just-in-time compiler to have seen its loops. */
  readonly warmUpSeconds: number;
  readonly seconds: number;
  readonly latencySeconds: number;
  readonly imageBytes: number;
  /** The path of the dense image. */
  readonly image: string;
}

/** What is read again and again where a cache is measured. */
const REREAD_BYTES = 48 * 1024 * 1024;

/** The jobs of fio's JSON report, as far as they are read here. */
interface FioReport {
  jobs: { read: FioSide; write: FioSide; error: number }[];
}

interface FioSide {
  iops: number;
  bw_bytes: number;
  total_ios: number;
  clat_ns: { max: number; percentile?: Record<string, number> };
}

/** @param sizeBytes How much of the image is used, from its start. */
async function fio(
  uri: string,
  { warmUpSeconds }: Load,
  sizeBytes: number,
  seconds: number,
  args: readonly string[],
): Promise<FioSide> {
  const common = [
    "--name=cell",
    "--ioengine=nbd",
    `--uri=${uri}`,
    `--size=${sizeBytes}`,
    "--time_based",
    `--runtime=${seconds}`,
    `--ramp_time=${warmUpSeconds}`,
    "--group_reporting",
    "--output-format=json",
  ];
  const { stdout } = await run("fio", [...common, ...args], { timeoutSeconds: seconds + 60 });
  const report: FioReport = JSON.parse(stdout.slice(stdout.indexOf("\n{") + 1));
  const [{ read, write, error }] = report.jobs;
  if (error !== 0) throw new Error(`fio on ${uri}: error ${error}`);
  return read.total_ios > 0 ? read : write;
}

function loadCell(name: string, title: string, unit: "k/s" | "MB/s", args: string): Cell {
  return {
    name,
    title,
    unit,
    largerIsBetter: true,
    image: "dense",
    inMean: true,
    async measure(uri, load) {
      const side = await fio(uri, load, load.imageBytes, load.seconds, args.split(" "));
      return { value: unit === "k/s" ? side.iops / 1e3 : side.bw_bytes / 1e6 };
    },
  };
}

/** A load on the first part of the image, all of which has been read before: what fits a read cache is in it. */
function rereadCell(name: string, title: string, unit: "k/s" | "MB/s", args: string): Cell {
  return {
    ...loadCell(name, title, unit, args),
    async measure(uri, load) {
      const sizeBytes = Math.min(load.imageBytes, REREAD_BYTES);
      const once = ["--name=once", "--ioengine=nbd", `--uri=${uri}`, `--size=${sizeBytes}`];
      await run("fio", [...once, "--rw=read", "--bs=128k", "--iodepth=8"], { timeoutSeconds: 60 });
      const side = await fio(uri, load, sizeBytes, load.seconds, args.split(" "));
      return { value: unit === "k/s" ? side.iops / 1e3 : side.bw_bytes / 1e6 };
    },
  };
}

/** Latency at a fixed 5,000 requests per second: what a user feels while the server is far from its limit. */
function latencyCell(name: string, direction: "randread" | "randwrite"): Cell {
  return {
    name,
    title: `latency of 4 KiB random ${direction.slice(4)}s at 5,000/s`,
    unit: "µs",
    largerIsBetter: false,
    image: "dense",
    inMean: false,
    async measure(uri, load) {
      const args = [`--rw=${direction}`, "--bs=4k", "--iodepth=8", "--rate_iops=5000"];
      const { clat_ns: { percentile, max }, iops } = await fio(
        uri,
        load,
        load.imageBytes,
        load.latencySeconds,
        args,
      );
      if (!percentile) throw new Error(`fio on ${uri}: no percentiles`);
      if (iops < 4_500) {
        throw new Error(`fio on ${uri}: only ${Math.round(iops)} of 5000 requests per second`);
      }
      const p99 = percentile["99.000000"] / 1e3;
      return { value: p99, latencies: { p99, p999: percentile["99.900000"] / 1e3, max: max / 1e3 } };
    },
  };
}

const copyCell: Cell = {
  name: "nbdcopy",
  title: "nbdcopy of a half-sparse image",
  unit: "MB/s",
  largerIsBetter: true,
  image: "sparse",
  inMean: true,
  async measure(uri) {
    const { stdout } = await run("nbdinfo", ["--size", uri]);
    const start = performance.now();
    await run("nbdcopy", [uri, "null:"], { timeoutSeconds: 300 });
    return { value: Number(stdout) / 1e3 / (performance.now() - start) };
  },
};

export const cells: readonly Cell[] = [
  loadCell("read-4k-1", "4 KiB random reads, depth 1", "k/s", "--rw=randread --bs=4k --iodepth=1"),
  loadCell("read-4k-8", "4 KiB random reads, depth 8", "k/s", "--rw=randread --bs=4k --iodepth=8"),
  loadCell("read-4k-32", "4 KiB random reads, depth 32", "k/s", "--rw=randread --bs=4k --iodepth=32"),
  loadCell("write-4k-1", "4 KiB random writes, depth 1", "k/s", "--rw=randwrite --bs=4k --iodepth=1"),
  loadCell("write-4k-8", "4 KiB random writes, depth 8", "k/s", "--rw=randwrite --bs=4k --iodepth=8"),
  loadCell("write-4k-32", "4 KiB random writes, depth 32", "k/s", "--rw=randwrite --bs=4k --iodepth=32"),
  loadCell(
    "read-4k-4x16",
    "4 KiB random reads, 4 connections, depth 16 each",
    "k/s",
    "--rw=randread --bs=4k --iodepth=16 --numjobs=4",
  ),
  loadCell(
    "write-4k-4x16",
    "4 KiB random writes, 4 connections, depth 16 each",
    "k/s",
    "--rw=randwrite --bs=4k --iodepth=16 --numjobs=4",
  ),
  loadCell("read-128k-8", "128 KiB sequential reads, depth 8", "MB/s", "--rw=read --bs=128k --iodepth=8"),
  loadCell("write-128k-8", "128 KiB sequential writes, depth 8", "MB/s", "--rw=write --bs=128k --iodepth=8"),
  loadCell("read-1m-4", "1 MiB sequential reads, depth 4", "MB/s", "--rw=read --bs=1m --iodepth=4"),
  copyCell,
  latencyCell("read-latency", "randread"),
  latencyCell("write-latency", "randwrite"),
];

/** What tells the cost of a proxy: of a stream at two depths, for the deeper it is the more of it a proxy can join. */
export const proxyCells: readonly Cell[] = [
  ...cells.filter(({ name }) => ["read-4k-1", "read-4k-32", "read-128k-8"].includes(name)),
  loadCell("read-128k-32", "128 KiB sequential reads, depth 32", "MB/s", "--rw=read --bs=128k --iodepth=32"),
  copyCell,
  ...cells.filter(({ name }) => ["write-4k-32", "write-128k-8"].includes(name)),
  rereadCell("reread-4k-32", "4 KiB random re-reads, depth 32", "k/s", "--rw=randread --bs=4k --iodepth=32"),
  rereadCell(
    "reread-128k-8",
    "128 KiB sequential re-reads, depth 8",
    "MB/s",
    "--rw=read --bs=128k --iodepth=8",
  ),
];
