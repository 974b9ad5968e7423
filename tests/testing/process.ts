/** Running other programs in tests: to the end with {@linkcode run}, and found by {@linkcode findProgram}. */

import process from "node:process";

/** How a program ended and what it said. */
export interface Finished {
  /** The exit code; 124 or 137 when it was stopped for taking too long. */
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
  /** Standard output as it came. */
  readonly bytes: Uint8Array<ArrayBuffer>;
}

export interface RunOptions {
  /** Given as standard input; otherwise there is none. */
  readonly stdin?: string | Uint8Array<ArrayBuffer>;
  /** Added to the environment. */
  readonly env?: Record<string, string>;
  readonly cwd?: string;
  /** After this the program is killed. Default 60. */
  readonly timeoutSeconds?: number;
  /** The exit code that is no failure; `"any"` accepts all. Default 0. */
  readonly code?: number | "any";
}

/**
 * Runs a program to its end.
 *
 * @throws {Error} If it ends with another code than expected; the message holds the command and what it printed.
 */
export async function run(
  program: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<Finished> {
  const { stdin, env, cwd, timeoutSeconds = 60, code: expected = 0 } = options;
  // `timeout` and not a timer here: it needs no clean-up, and it also ends a program that ignores SIGTERM.
  const child = new Deno.Command("timeout", {
    args: ["--kill-after=5", String(timeoutSeconds), program, ...args],
    stdin: stdin === undefined ? "null" : "piped",
    stdout: "piped",
    stderr: "piped",
    env,
    cwd,
  }).spawn();
  const feeding = stdin === undefined ? null : feed(child.stdin, stdin);
  const [output] = await Promise.all([child.output(), feeding]);
  const decoder = new TextDecoder();
  const stdout = decoder.decode(output.stdout);
  const stderr = decoder.decode(output.stderr);
  if (expected !== "any" && output.code !== expected) {
    const command = [program, ...args].join(" ");
    throw new Error(
      `${command}: exit code ${output.code} instead of ${expected}\n${stdout}${stderr}`.trimEnd(),
    );
  }
  return { code: output.code, stdout, stderr, bytes: output.stdout as Uint8Array<ArrayBuffer> };
}

async function feed(
  stream: WritableStream<Uint8Array<ArrayBuffer>>,
  input: string | Uint8Array<ArrayBuffer>,
) {
  const writer = stream.getWriter();
  try {
    await writer.write(typeof input === "string" ? new TextEncoder().encode(input) : input);
    await writer.close();
  } catch {
    // The program ended without reading all of it: its exit code tells.
  }
}

/** The path of an installed program, or `null`. Looks in PATH, and where Debian keeps programs for root. */
export function findProgram(name: string): string | null {
  const path = Deno.env.get("PATH") ?? "/usr/bin:/bin";
  for (const folder of [...path.split(":"), "/usr/sbin", "/sbin"]) {
    const candidate = `${folder}/${name}`;
    try {
      const { isFile, mode } = Deno.statSync(candidate);
      if (isFile && (mode ?? 0) & 0o111) return candidate;
    } catch {
      // Not in this folder.
    }
  }
  return null;
}

/** A temporary directory that is removed, with all in it, at the end of its scope. */
export interface TemporaryDirectory extends Disposable {
  readonly path: string;
  /** The path of a file of that name in the directory. */
  file(name: string): string;
}

/** Makes a temporary directory: `using directory = temporaryDirectory()`. */
export function temporaryDirectory(): TemporaryDirectory {
  const path = Deno.makeTempDirSync({ prefix: "denbd-test-" });
  return {
    path,
    file: (name) => `${path}/${name}`,
    [Symbol.dispose]: () => Deno.removeSync(path, { recursive: true }),
  };
}

/** A TCP port on the loopback that is free now. For programs that cannot ask the kernel for one themselves. */
export function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

/** Whether a process exists. (Deno reads nothing under /proc without all permissions, hence the signal.) */
export function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}
