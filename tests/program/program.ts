/**
 * The program as its users have it: the built executable, made anew first when a source is newer.
 *
 * Set DENBD_PROGRAM to the path of another executable to test that one.
 */

import { type Finished, run, type RunOptions } from "../testing/process.ts";

const root = new URL("../../", import.meta.url).pathname;

let built: Promise<string> | undefined;

/** The path of the executable. */
export function program(): Promise<string> {
  return built ??= findOrBuild();
}

/** Runs denbd to its end. */
export async function denbd(args: readonly string[], options?: RunOptions): Promise<Finished> {
  return await run(await program(), [...args], { ...options, env: { ...withState(), ...options?.env } });
}

/** All that the server with this control socket tells of itself. */
// deno-lint-ignore no-explicit-any
export async function statusOf(sock: string): Promise<any> {
  return JSON.parse((await denbd(["status", "--json", "--sock", sock])).stdout);
}

/** A portable build unpacks itself beside the executable rather than into the user's cache. */
export const surroundings = { XDG_CACHE_HOME: `${root}dist/cache` };

let state: string | undefined;

/** Where the servers of this test module keep the identities of their disks, rather than with those of the machine. */
function stateDirectory(): string {
  if (state !== undefined) return state;
  const path = state = Deno.makeTempDirSync({ prefix: "denbd-test-state-" });
  globalThis.addEventListener("unload", () => Deno.removeSync(path, { recursive: true }));
  return path;
}

function withState(): Record<string, string> {
  return { ...surroundings, STATE_DIRECTORY: stateDirectory() };
}

async function findOrBuild(): Promise<string> {
  const given = Deno.env.get("DENBD_PROGRAM");
  if (given !== undefined) return given;
  const path = `${root}dist/denbd`;
  Deno.mkdirSync(`${root}dist`, { recursive: true });
  // Tests in other processes want it as well: one builds, the others wait.
  using lock = Deno.openSync(`${root}dist/.lock`, { create: true, write: true });
  await lock.lock(true);
  if (modifiedMs(path) < newest()) {
    await run(Deno.execPath(), [
      "run",
      "-NRWES",
      "--allow-ffi",
      "--allow-run",
      `${root}scripts/build.ts`,
      "--portable",
    ], {
      timeoutSeconds: 300,
    });
  }
  return path;
}

function newest(): number {
  const files = [`${root}main.ts`, `${root}deno.json`, Deno.execPath()];
  for (const folder of [`${root}src`, `${root}scripts`]) collectFiles(folder, files);
  return Math.max(...files.map(modifiedMs));
}

function collectFiles(folder: string, into: string[]): void {
  for (const entry of Deno.readDirSync(folder)) {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory) collectFiles(path, into);
    else into.push(path);
  }
}

function modifiedMs(path: string): number {
  try {
    return Deno.statSync(path).mtime!.getTime();
  } catch {
    return 0;
  }
}

export interface StartOptions {
  readonly env?: Record<string, string>;
}

/** A denbd in the background, killed at the end of its scope. */
export class RunningProgram implements AsyncDisposable {
  readonly pid: number;
  readonly #child: Deno.ChildProcess;
  readonly #log: string[] = [];
  readonly #watchers = new Set<() => void>();
  readonly #ended: Promise<number>;
  #over = false;

  constructor(child: Deno.ChildProcess) {
    this.#child = child;
    this.pid = child.pid;
    const reading = this.#readLog(child.stderr);
    this.#ended = Promise.all([child.status, reading]).then(([{ code }]) => {
      this.#over = true;
      for (const look of this.#watchers) look();
      return code;
    });
  }

  async #readLog(stream: ReadableStream<Uint8Array<ArrayBuffer>>): Promise<void> {
    let rest = "";
    for await (const part of stream.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + part).split("\n");
      rest = lines.pop()!;
      this.#log.push(...lines);
      for (const look of this.#watchers) look();
    }
    if (rest !== "") this.#log.push(rest);
  }

  /** What it has written to standard error so far. */
  get log(): string {
    return this.#log.join("\n");
  }

  /**
   * Waits for a line of the log, past or future.
   *
   * @throws {Error} If the program ends without one.
   */
  logged(pattern: RegExp): Promise<RegExpExecArray> {
    return new Promise((resolve, reject) => {
      const look = () => {
        for (const line of this.#log) {
          const match = pattern.exec(line);
          if (match) {
            this.#watchers.delete(look);
            return resolve(match);
          }
        }
        if (this.#over) {
          this.#watchers.delete(look);
          reject(new Error(`denbd ended without logging ${pattern}\n${this.log}`));
        }
      };
      this.#watchers.add(look);
      look();
    });
  }

  signal(signal: Deno.Signal): void {
    if (!this.#over) this.#child.kill(signal);
  }

  /** The exit code, when it has ended (128 and the number if by a signal). */
  ended(): Promise<number> {
    return this.#ended;
  }

  /** Sends a signal and waits for the end. @returns The exit code. */
  async stop(signal: Deno.Signal = "SIGTERM"): Promise<number> {
    this.signal(signal);
    return await this.#ended;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop("SIGKILL");
  }
}

/** A denbd that serves. */
export class RunningServer extends RunningProgram {
  /** Where it listens, as its log has it: `127.0.0.1:41563`, `unix:/tmp/x`. */
  listening: readonly string[] = [];

  /** The first TCP port. */
  get port(): number {
    const address = this.listening.find((text) => !text.startsWith("unix:"));
    return Number(address?.slice(address.lastIndexOf(":") + 1));
  }

  /** The NBD URI of an export, over TCP where it listens there. */
  uri(exportName = ""): string {
    const name = encodeURIComponent(exportName);
    const [unix] = this.listening.filter((text) => text.startsWith("unix:"));
    return this.port ? `nbd://127.0.0.1:${this.port}/${name}` : `nbd+unix:///${name}?socket=${unix.slice(5)}`;
  }
}

/**
 * Starts `denbd serve` and waits until it serves: `await using server = await serve(["--file", image])`.
 *
 * On a port that the kernel gives, unless the arguments say where. Its log is verbose.
 */
export function serve(args: readonly string[], options?: StartOptions): Promise<RunningServer> {
  return startServing("serve", args, options);
}

/** The same with `denbd proxy`: `await using front = await proxy([server.uri()])`. */
export function proxy(args: readonly string[], options?: StartOptions): Promise<RunningServer> {
  return startServing("proxy", args, options);
}

/** The same with `denbd listen`: `await using there = await listen(["--file", image])`. */
export function listen(args: readonly string[], options?: StartOptions): Promise<RunningServer> {
  return startServing("listen", args, options);
}

async function startServing(
  command: string,
  args: readonly string[],
  options: StartOptions | undefined,
): Promise<RunningServer> {
  const placed = args.some((word, index) =>
    ["--port", "-p", "--unix", "-U"].includes(word) || (word === "--addr" && args[index + 1].startsWith("/"))
  );
  const words = [command, ...(placed ? [] : ["--port", "0"]), "--verbose", ...args];
  const server = new RunningServer(await spawn(words, options));
  try {
    const [, addresses] = await server.logged(/: serving \d+ exports? on (.*)$/);
    server.listening = addresses.split(", ");
  } catch (error) {
    await server[Symbol.asyncDispose]();
    throw error;
  }
  return server;
}

/** Starts denbd and returns at once. Its log is collected, whatever it prints on standard output dropped. */
export async function start(args: readonly string[], options?: StartOptions): Promise<RunningProgram> {
  return new RunningProgram(await spawn(args, options));
}

async function spawn(args: readonly string[], { env }: StartOptions = {}): Promise<Deno.ChildProcess> {
  const command = new Deno.Command(await program(), {
    args: [...args],
    stdin: "null",
    stdout: "null",
    stderr: "piped",
    env: { ...withState(), ...env },
  });
  return command.spawn();
}
