/**
 * One executable without a compiler: a shell script (`portable.sh`) with the running Deno and the bundled program
 * behind it, compressed. What it needs on the target is in every Debian, however small: sh, gzip, coreutils, find.
 */

import { gzipSync } from "node:zlib";
import { run, temporaryDirectory } from "../../tests/testing/process.ts";

export interface Portable {
  /** Where to write the executable. */
  readonly output: string;
  /** The main module. */
  readonly entry: string;
  readonly version: string;
  /** Permissions and engine flags for `deno run`. */
  readonly flags: readonly string[];
  /** What runs the program. */
  readonly runtime: string;
  /** A directory in which the compressed runtime, which rarely changes, is kept for the next build. */
  readonly cache: string;
}

/**
 * Nothing is loaded from outside or looked up: what runs is what was packed. The runtime may keep what it compiled,
 * in the same private directory: that saves a fifth of the time to start.
 */
const closed = [
  "--quiet",
  "--no-config",
  "--no-lock",
  "--no-npm",
  "--no-remote",
  "--cached-only",
  "--no-prompt",
];

interface Part {
  readonly compressed: Uint8Array;
  readonly sha256: string;
  /** What `cksum` prints: checksum and size. */
  readonly cksum: string;
}

/** Makes the executable. */
export async function buildPortable(
  { output, entry, version, flags, runtime: runtimePath, cache }: Portable,
): Promise<void> {
  const runtime = await packRuntime(runtimePath, cache);
  const program = await packProgram(entry);
  const template = Deno.readTextFileSync(new URL("portable.sh", import.meta.url));
  const fixed: Record<string, string> = {
    VERSION: version,
    ID: `${version}-${program.sha256.slice(0, 8)}${runtime.sha256.slice(0, 8)}`,
    FLAGS: ["run", ...closed, ...flags].join(" "),
    RUNTIME_CKSUM: runtime.cksum,
    RUNTIME_SHA256: runtime.sha256,
    RUNTIME_BYTES: String(runtime.compressed.length),
    PROGRAM_CKSUM: program.cksum,
    PROGRAM_SHA256: program.sha256,
    PROGRAM_BYTES: String(program.compressed.length),
  };
  // The script states where it ends itself, so the numbers in it have a fixed width; `tail` counts from one.
  const width = 10;
  const fill = (values: Record<string, string>) =>
    template.replace(/@([A-Z0-9_]+)@/g, (mark, name) => values[name] ?? mark);
  const blank = "0".repeat(width);
  const { length } = new TextEncoder().encode(fill({ ...fixed, RUNTIME_AT: blank, PROGRAM_AT: blank }));
  const script = fill({
    ...fixed,
    RUNTIME_AT: String(length + 1).padStart(width, "0"),
    PROGRAM_AT: String(length + runtime.compressed.length + 1).padStart(width, "0"),
  });
  const temporary = `${output}.new`;
  {
    using file = Deno.openSync(temporary, { create: true, write: true, truncate: true, mode: 0o755 });
    for (const bytes of [new TextEncoder().encode(script), runtime.compressed, program.compressed]) {
      for (let done = 0; done < bytes.length;) done += file.writeSync(bytes.subarray(done));
    }
  }
  Deno.chmodSync(temporary, 0o755);
  Deno.renameSync(temporary, output);
}

async function packRuntime(path: string, cache: string): Promise<Part> {
  const bytes = Deno.readFileSync(path);
  const sha256 = await hash(bytes);
  const kept = `${cache}/runtime-${sha256.slice(0, 16)}.gz`;
  let compressed: Uint8Array;
  try {
    compressed = Deno.readFileSync(kept);
  } catch {
    compressed = gzipSync(bytes, { level: 6 });
    Deno.writeFileSync(`${kept}.new`, compressed);
    Deno.renameSync(`${kept}.new`, kept);
  }
  return { compressed, sha256, cksum: await posixChecksum(path) };
}

async function packProgram(entry: string): Promise<Part> {
  using directory = temporaryDirectory();
  const bundle = directory.file("denbd.js");
  await run(Deno.execPath(), [
    "bundle",
    "--quiet",
    "--platform=deno",
    "--sourcemap=inline",
    "-o",
    bundle,
    entry,
  ]);
  const text = shortenSourceMap(
    asciiComments(Deno.readTextFileSync(bundle)),
    new URL(`file://${bundle}`),
    new URL(`file://${entry}`),
  );
  Deno.writeTextFileSync(bundle, text);
  const bytes = Deno.readFileSync(bundle);
  return {
    compressed: gzipSync(bytes, { level: 9 }),
    sha256: await hash(bytes),
    cksum: await posixChecksum(bundle),
  };
}

/**
 * Puts a question mark for whatever is not ASCII in comments; elsewhere the bundler has escaped it. A single such
 * character has the engine keep the whole program in two bytes a character, and costs a start 4 ms.
 */
export function asciiComments(text: string): string {
  return text.replace(/^\s*(\/\*|\*|\/\/).*/gm, (comment) => comment.replace(/[^\0-\x7f]/g, "?"));
}

/**
 * Keeps the lines of an inline source map and drops columns, names and the sources' text: the map is read at every
 * start, and whole took a seventh of it. Names the files from the project's root (`denbd:///src/…`): logs and stack
 * traces say the same on every machine.
 */
export function shortenSourceMap(text: string, bundle: URL, entry: URL): string {
  const root = new URL(".", entry).href;
  return text.replace(/(?<=\/\/# sourceMappingURL=data:application\/json;base64,)\S+/, (encoded) => {
    const map = JSON.parse(new TextDecoder().decode(Uint8Array.fromBase64(encoded)));
    const sources = map.sources.map((source: string) => {
      const { href } = new URL(source, bundle);
      return href.startsWith(root)
        ? `denbd:///${href.slice(root.length)}`
        : `denbd:///dependency/${href.split("/").pop()}`;
    });
    const mappings = keepLines(map.mappings);
    const short = { version: map.version, sources, names: [], mappings };
    return new TextEncoder().encode(JSON.stringify(short)).toBase64();
  });
}

const BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/** Mappings in which a segment is kept only where the source or its line is another than that of the one before it. */
function keepLines(mappings: string): string {
  // Every number but the column in the bundle counts from the segment before, kept or not.
  let [source, line, column] = [0, 0, 0];
  let [keptSource, keptLine, keptColumn] = [0, 0, 0];
  return mappings.split(";").map((segments) => {
    const kept: string[] = [];
    let [at, keptAt] = [0, 0];
    for (const segment of segments.split(",")) {
      const [atStep = 0, sourceStep, lineStep, columnStep] = decodeNumbers(segment);
      at += atStep;
      if (sourceStep === undefined) continue;
      source += sourceStep;
      line += lineStep;
      column += columnStep;
      if (kept.length > 0 && source === keptSource && line === keptLine) continue;
      kept.push(encodeNumbers([at - keptAt, source - keptSource, line - keptLine, column - keptColumn]));
      [keptAt, keptSource, keptLine, keptColumn] = [at, source, line, column];
    }
    return kept.join(",");
  }).join(";");
}

/** Numbers of a segment: five bits a letter, lowest first, the sixth tells that more follow; the lowest bit is the sign. */
function decodeNumbers(segment: string): number[] {
  const numbers: number[] = [];
  let [value, shift] = [0, 0];
  for (const letter of segment) {
    const bits = BASE64.indexOf(letter);
    value |= (bits & 31) << shift;
    shift += 5;
    if ((bits & 32) !== 0) continue;
    numbers.push((value & 1) === 0 ? value >> 1 : -(value >> 1));
    value = shift = 0;
  }
  return numbers;
}

function encodeNumbers(numbers: readonly number[]): string {
  return numbers.map((number) => {
    let letters = "";
    let rest = number < 0 ? -number << 1 | 1 : number << 1;
    for (; rest > 31; rest >>= 5) letters += BASE64[rest & 31 | 32];
    return letters + BASE64[rest];
  }).join("");
}

async function hash(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex();
}

async function posixChecksum(path: string): Promise<string> {
  const { stdout } = await run("cksum", [path]);
  return stdout.split(" ").slice(0, 2).join(" ");
}
