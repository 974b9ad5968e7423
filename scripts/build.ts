/**
 * `deno task build`: makes `dist/denbd`, one executable.
 *
 * `deno compile` where the runtime part that it links with can be had; else, or with `--portable`, the
 * self-extracting file of `build/portable.ts`. It says which one it made, and starts it once to be sure.
 */

import { parseArgs } from "@std/cli/parse-args";
import config from "../deno.json" with { type: "json" };
import { run } from "../tests/testing/process.ts";
import { buildPortable } from "./build/portable.ts";

const root = new URL("..", import.meta.url).pathname;
const dist = `${root}dist`;
const output = `${dist}/denbd`;
const entry = `${root}main.ts`;

/** What denbd may do: the network, files, its environment, facts about the system, and libc. No programs. */
const permissions = [
  "--allow-net",
  "--allow-read",
  "--allow-write",
  "--allow-env",
  "--allow-sys",
  "--allow-ffi",
];

/**
 * Without the first of them, the first error that is made, caught or not, has the whole program parsed once more to find
 * its lines. By the second, what is young in the heap has room for 4 MiB rather than 16, which costs no speed: after
 * waves of strangers a server keeps 170 MB instead of 220.
 */
const engine = "--v8-flags=--no-enable-lazy-source-positions,--max-semi-space-size=4";
const flags = [...permissions, engine];

const options = parseArgs(Deno.args, {
  boolean: ["portable"],
  unknown: (word: string) => {
    say(`build: unknown option: ${word}\nusage: deno task build [--portable]`);
    Deno.exit(2);
  },
});

function say(text: string): void {
  Deno.stderr.writeSync(new TextEncoder().encode(text + "\n"));
}

/** Whether `deno compile` could do it; says why not. */
async function compile(): Promise<boolean> {
  // It overwrites nothing that it did not make itself, such as a portable build.
  const fresh = `${dist}/denbd-compiled`;
  const args = ["compile", "--quiet", "--no-prompt", ...flags, "--output", fresh, entry];
  const { code, stderr } = await run(Deno.execPath(), args, { code: "any", timeoutSeconds: 300 });
  if (code === 0) {
    Deno.renameSync(fresh, output);
    return true;
  }
  say(stderr.trimEnd());
  return false;
}

Deno.mkdirSync(dist, { recursive: true });
const compiled = !options.portable && await compile();
if (!compiled) {
  if (!options.portable) {
    say("\n*** deno compile failed (above): making a PORTABLE, self-extracting file instead. ***\n");
  }
  await buildPortable({
    output,
    entry,
    version: config.version,
    flags,
    runtime: Deno.execPath(),
    cache: dist,
  });
}
// What it unpacks belongs to this build, and goes with it.
const cache = `${dist}/cache`;
await Deno.remove(cache, { recursive: true }).catch(() => {});
const { stdout } = await run(output, ["--version"], { env: { XDG_CACHE_HOME: cache } });
if (stdout.trim() !== `denbd ${config.version}`) throw new Error(`${output} --version says ${stdout}`);
const megabytes = (Deno.statSync(output).size / 1e6).toFixed(0);
const kind = compiled
  ? "COMPILED by deno compile"
  : "PORTABLE: unpacks itself at its first start, into a cache directory";
say(`dist/denbd, ${megabytes} MB, ${kind}`);
