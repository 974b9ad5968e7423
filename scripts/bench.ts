/**
 * `deno task bench`: the same loads on us and on the servers of others, on the same file, in turn.
 *
 * Each measurement starts its server anew, and the servers take turns within each repeat, in an order that
 * rotates: what else the machine does then hits all of them. Judge by the median and the worst tenth.
 */

import { parseArgs } from "@std/cli/parse-args";
import { temporaryDirectory } from "../tests/testing/process.ts";
import { type Cell, cells as allCells, type Load, proxyCells } from "./bench/cells.ts";
import { protectedCells, protectedContenders } from "./bench/protected.ts";
import { proxyContenders } from "./bench/proxied.ts";
import { formatReport, formatSummary, type ReportInput, type Results } from "./bench/report.ts";
import { type Contender, fromCommand, installedPeers, MemoryWatch, type Transport } from "./bench/servers.ts";

const PROGRAM = new URL("../dist/denbd", import.meta.url).pathname;
/** What a portable build unpacks stays beside it. */
const DENBD = `env XDG_CACHE_HOME=${new URL("../dist/cache", import.meta.url).pathname} ${PROGRAM}`;
const encoder = new TextEncoder();

const usage = `deno task bench [options]

  --cells LIST        cells to run; a word that is no cell's name matches every cell whose name begins with it. All: ${
  allCells.map(({ name }) => name).join(", ")
}
  --servers LIST      contenders to run, by name (default: all)
  --server-cmd N=CMD  one more contender of ours, named N: a shell command that stays in the foreground and serves
                      {file} on 127.0.0.1:{port} or on the Unix socket {socket}; {directory} is a place for files.
                      Repeatable; the same name twice gives one command per transport
  --transport LIST    tcp, unix (default: both); or protected: what a channel and TLS cost, reads and writes, beside
                      nbdkit's TLS, with cells of its own
  --proxy             what a proxy costs, with and without its cache, beside nbdkit's nbd plugin, all in front of
                      denbd serve, with cells of its own
  --repeats N         measurements per cell and server (default 3)
  --seconds N         length of each, after one second to warm up, or three with --proxy (default 3)
  --latency-seconds N length of the latency cells (default: 60, or --seconds where that is given)
  --quick             half as long, and latencies for ten seconds, once: everything in 20 minutes
  --size MIB          the image, all data and in the page cache (default 1024)
  --copy-size MIB     the image for nbdcopy, every second MiB a hole (default 4096)
  --dir DIR           where the images are made (default: the temporary directory)
  --json FILE         also writes every measurement there
  --list              prints cells and contenders, runs nothing
`;

const options = parseArgs(Deno.args, {
  string: [
    "cells",
    "servers",
    "server-cmd",
    "transport",
    "repeats",
    "seconds",
    "latency-seconds",
    "size",
    "copy-size",
    "dir",
    "json",
  ],
  boolean: ["proxy", "quick", "list", "help"],
  collect: ["server-cmd"],
  unknown: (word: string) => fail(`unknown option: ${word}`),
});

function print(text: string): void {
  Deno.stdout.writeSync(encoder.encode(text));
}

function note(text: string): void {
  Deno.stderr.writeSync(encoder.encode(text));
}

function fail(message: string): never {
  note(`bench: ${message}\n`);
  Deno.exit(2);
}

function positive(value: string | undefined, name: string, fallback: number): number {
  const number = value === undefined ? fallback : Number(value);
  if (!(number > 0)) fail(`--${name} wants a number above zero, not '${value}'`);
  return number;
}

function words(list: string | undefined): string[] {
  return list?.split(",").map((word) => word.trim()).filter((word) => word !== "") ?? [];
}

/** Those of `all` that the list names, whole or by their beginning, in the order of `all`; every word must match something. */
function choose<T extends { readonly name: string }>(
  all: readonly T[],
  list: string | undefined,
  what: string,
): T[] {
  const wanted = words(list);
  if (wanted.length === 0) return [...all];
  for (const word of wanted) {
    if (!all.some(({ name }) => name.startsWith(word))) fail(`no ${what} named ${word}`);
  }
  const isNamed = (word: string, name: string) =>
    all.some((one) => one.name === word) ? name === word : name.startsWith(word);
  return all.filter(({ name }) => wanted.some((word) => isNamed(word, name)));
}

function contenders(): Contender[] {
  const commands = new Map<string, string[]>();
  for (const definition of options["server-cmd"] as string[]) {
    const equals = definition.indexOf("=");
    if (equals < 1) fail(`--server-cmd wants NAME=COMMAND, not '${definition}'`);
    const name = definition.slice(0, equals);
    commands.set(name, [...commands.get(name) ?? [], definition.slice(equals + 1)]);
  }
  return [
    ...[...commands].map(([name, list]) => fromCommand(name, list)),
    ...ourselves(),
    ...installedPeers(),
  ];
}

/** The built executable, if there is one. */
function ourselves(): Contender[] {
  try {
    Deno.statSync(PROGRAM);
  } catch {
    return [];
  }
  return [fromCommand("denbd", [
    `${DENBD} serve --state-dir {directory} --addr 127.0.0.1 --port {port} --file {file}`,
    `${DENBD} serve --state-dir {directory} --unix {socket} --file {file}`,
  ])];
}

/** Writes data that does not compress, every `step`-th MiB of it, and pushes it to the disk so that it is quiet. */
function makeImage(path: string, mebibytes: number, step: number): void {
  using file = Deno.openSync(path, { create: true, write: true });
  const block = new Uint8Array(1 << 20);
  for (let at = 0; at < block.length; at += 65536) crypto.getRandomValues(block.subarray(at, at + 65536));
  for (let index = 0; index < mebibytes; index += step) {
    new DataView(block.buffer).setUint32(0, index);
    file.seekSync(index * block.length, Deno.SeekMode.Start);
    for (let done = 0; done < block.length;) done += file.writeSync(block.subarray(done));
  }
  file.truncateSync(mebibytes * block.length);
  file.syncSync();
}

if (options.help) {
  print(usage);
  Deno.exit(0);
}

const transports = options.transport === undefined ? ["tcp", "unix"] : words(options.transport);
for (const word of transports) {
  if (!["tcp", "unix", "protected"].includes(word)) fail(`no transport named ${word}`);
}
const isProtected = transports.includes("protected");
if (isProtected && transports.length > 1) fail("protected goes with no other transport");
if (isProtected && options.proxy) fail("--proxy goes with tcp and unix");
const cells: Cell[] = choose(
  options.proxy ? proxyCells : isProtected ? protectedCells : allCells,
  options.cells,
  "cell",
);
const servers = choose(
  options.proxy
    ? ourselves().flatMap((direct) => proxyContenders(DENBD, direct))
    : isProtected
    ? protectedContenders(PROGRAM)
    : contenders(),
  options.servers,
  "contender",
);
const repeats = positive(options.repeats, "repeats", 3);
const seconds = positive(options.seconds, "seconds", options.quick ? 1.5 : 3);
const imageMebibytes = positive(options.size, "size", 1024);
const copyMebibytes = positive(options["copy-size"], "copy-size", 4096);
const measuredFor = {
  // A program in front of another sees the fewer, larger requests.
  warmUpSeconds: options.proxy ? 3 : 1,
  seconds,
  latencySeconds: positive(
    options["latency-seconds"] ?? options.seconds,
    "latency-seconds",
    options.quick ? 10 : 60,
  ),
  imageBytes: imageMebibytes * 2 ** 20,
};

if (options.list) {
  print(cells.map(({ name, unit }) => `cell ${name} (${unit})\n`).join(""));
  print(servers.map(({ name, transports }) => `server ${name} (${transports.join(", ")})\n`).join(""));
  Deno.exit(0);
}
if (servers.length === 0) fail("no server to measure: nothing is installed and dist/denbd is not built");

if (options.dir !== undefined) Deno.env.set("TMPDIR", options.dir);
using directory = temporaryDirectory();
Deno.addSignalListener("SIGINT", () => {
  directory[Symbol.dispose]();
  Deno.exit(130);
});
const images = { dense: directory.file("dense.img"), sparse: directory.file("sparse.img") };
const load: Load = { ...measuredFor, image: images.dense };
if (cells.some(({ image }) => image === "dense")) makeImage(images.dense, imageMebibytes, 1);
if (cells.some(({ image }) => image === "sparse")) makeImage(images.sparse, copyMebibytes, 2);

const everything: unknown[] = [];
const reports: ReportInput[] = [];
for (const transport of transports as Transport[]) {
  const results: Results = new Map();
  const peakMemory = new Map<string, number>();
  const present = servers.filter((server) => server.transports.includes(transport));
  for (const cell of cells) {
    const row = new Map(present.map(({ name }) => [name, []]));
    results.set(cell.name, row);
    const times = options.quick && !cell.inMean ? 1 : repeats;
    for (let repeat = 0; repeat < times; repeat++) {
      const turn = [...present.slice(repeat % present.length), ...present.slice(0, repeat % present.length)];
      for (const server of turn.filter(({ name }) => cell.loads?.(name) ?? true)) {
        await measure(cell, server, transport, results, peakMemory);
      }
    }
  }
  // Of a proxy, or of encryption, the ratio to each of the others counts, and the best of these does without.
  const against = options.proxy || isProtected
    ? present.filter(({ ours }) => !ours).map(({ name }) => name)
    : undefined;
  reports.push({ transport, cells, servers: present, against, results, peakMemory });
  print(formatReport(reports.at(-1)!) + "\n\n");
}
const comparable = !options.proxy && !isProtected && servers.filter(({ ours }) => ours).length === 1 &&
  servers.length > 1;
if (comparable && reports.every((report) => report.servers.length === servers.length)) {
  print(formatSummary(reports) + "\n");
}
if (options.json !== undefined) {
  Deno.writeTextFileSync(options.json, JSON.stringify(everything, null, 1) + "\n");
}

/** One measurement. A server that fails one is told of and goes on without it. */
async function measure(
  cell: Cell,
  server: Contender,
  transport: Transport,
  results: Results,
  peakMemory: Map<string, number>,
): Promise<void> {
  try {
    await using running = await server.start(images[cell.image], transport);
    const memory = new MemoryWatch(running.pid);
    try {
      const measurement = await cell.measure(running.uri, load, running.clientEnv);
      results.get(cell.name)!.get(server.name)!.push(measurement);
      everything.push({ transport, cell: cell.name, server: server.name, ...measurement });
      note(`${transport} ${cell.name} ${server.name}: ${measurement.value.toFixed(1)} ${cell.unit}\n`);
    } finally {
      peakMemory.set(server.name, Math.max(peakMemory.get(server.name) ?? 0, await memory.stop()));
    }
  } catch (error) {
    note(`${transport} ${cell.name} ${server.name}: ${error instanceof Error ? error.message : error}\n`);
  }
}
