/**
 * The programs of others that we must get along with: found, skipped or required, and started as servers.
 *
 * With `DENBD_REQUIRE_PEERS=1` in the environment a missing program fails the test; otherwise the test is skipped
 * and its name says why.
 */

import {
  findProgram,
  freePort,
  isAlive,
  run,
  type TemporaryDirectory,
  temporaryDirectory,
} from "../testing/process.ts";

const peersRequired = Deno.env.get("DENBD_REQUIRE_PEERS") === "1";

/** Registers a test that needs programs of others. */
export function peerTest(name: string, programs: readonly string[], test: () => Promise<void> | void): void {
  const missing = programs.filter((program) => findProgram(program) === null);
  if (missing.length === 0) {
    Deno.test(name, test);
  } else if (peersRequired) {
    Deno.test(name, () => {
      throw new Error(`not installed: ${missing.join(", ")}`);
    });
  } else {
    Deno.test.ignore(`${name} (skipped, not installed: ${missing.join(", ")})`, test);
  }
}

/** A server of others, stopped at the end of its scope: `await using server = await startNbdkit(…)`. */
export interface PeerServer extends AsyncDisposable {
  readonly pid: number;
  /** The NBD URI of its export. */
  readonly uri: string;
  /** The path of the Unix socket; empty when it listens on TCP. */
  readonly socket: string;
  /** The port on 127.0.0.1; 0 when it listens on a Unix socket. */
  readonly port: number;
  /** Ends the server with a signal and waits until it is gone. */
  stop(signal?: "SIGTERM" | "SIGKILL"): Promise<void>;
}

export interface PeerOptions {
  /** Where to listen. Default `unix`, which cannot collide with anything. */
  readonly transport?: "unix" | "tcp";
  /** A TCP port, for a server that comes back where it was. Default: one that is free. */
  readonly port?: number;
  /** A socket path, for a server that comes back where it was. Default: in a directory of its own. */
  readonly socket?: string;
  /** The name of the export. Default: the empty name; nbd-server, which knows none, has `disk`. */
  readonly exportName?: string;
}

/**
 * Starts nbdkit: `startNbdkit(["--filter=error", "file", path, "error-rate=10%"])`.
 *
 * @param args Filters, plugin and their parameters.
 */
export function startNbdkit(args: readonly string[], options: PeerOptions = {}): Promise<PeerServer> {
  return startPeer("", options, ({ pidFile, socket, port, exportName }) => {
    const where = socket ? ["--unix", socket] : ["--ipaddr", "127.0.0.1", "--port", String(port)];
    const name = exportName ? ["--exportname", exportName] : [];
    const common = ["--foreground", "--exit-with-parent", "--pidfile", pidFile];
    return startForeground("nbdkit", [...common, ...where, ...name, ...args], pidFile);
  });
}

/**
 * Starts qemu-nbd on a raw image.
 *
 * @param args More options, such as `--read-only`.
 */
export function startQemuNbd(image: string, args: readonly string[] = [], options: PeerOptions = {}) {
  return startPeer("", options, ({ pidFile, socket, port, exportName }) => {
    const where = socket ? ["--socket", socket] : ["--bind", "127.0.0.1", "--port", String(port)];
    const common = ["--pid-file", pidFile, "--persistent", "--shared=16", "--format=raw"];
    const name = ["--export-name", exportName];
    return startForeground("qemu-nbd", [...common, ...where, ...name, ...args, image], pidFile);
  });
}

/**
 * Starts nbd-server on a raw image.
 *
 * In the foreground it serves a single client, so it goes into the background, and says nowhere when it listens.
 *
 * @param settings Further lines of the export's section, such as `readonly = true`.
 */
export function startNbdServer(image: string, settings: readonly string[] = [], options: PeerOptions = {}) {
  return startPeer("disk", options, async ({ pidFile, socket, port, exportName, uri, directory }) => {
    const where = socket ? [`unixsock = ${socket}`] : ["listenaddr = 127.0.0.1", `port = ${port}`];
    const generic = ["[generic]", "allowlist = true", ...where];
    const section = [`[${exportName}]`, `exportname = ${image}`, ...settings];
    const configuration = directory.file("nbd-server.conf");
    Deno.writeTextFileSync(configuration, [...generic, ...section].join("\n") + "\n");
    await run("nbd-server", ["-C", configuration, "-p", pidFile], { timeoutSeconds: 20 });
    await untilAnswered(uri);
    const pid = Number(Deno.readTextFileSync(pidFile));
    return { pid, ended: async () => await until(() => !isAlive(pid)) };
  });
}

interface Place {
  readonly pidFile: string;
  readonly socket: string;
  readonly port: number;
  readonly exportName: string;
  readonly uri: string;
  readonly directory: TemporaryDirectory;
}

interface Started {
  readonly pid: number;
  /** Resolves when the process has ended. */
  ended(): Promise<unknown>;
}

/** A free port may be taken by another between the question and its use: that one case is tried again. */
async function startPeer(
  defaultName: string,
  options: PeerOptions,
  start: (place: Place) => Promise<Started>,
): Promise<PeerServer> {
  const { transport = "unix", exportName = defaultName } = options;
  for (let attempt = 1;; attempt++) {
    const directory = temporaryDirectory();
    const socket = transport === "unix" ? options.socket ?? directory.file("socket") : "";
    const port = transport === "tcp" ? options.port ?? freePort() : 0;
    const path = encodeURIComponent(exportName);
    const uri = socket ? `nbd+unix:///${path}?socket=${socket}` : `nbd://127.0.0.1:${port}/${path}`;
    let started: Started;
    try {
      started = await start({ pidFile: directory.file("pid"), socket, port, exportName, uri, directory });
    } catch (error) {
      directory[Symbol.dispose]();
      if (port !== 0 && options.port === undefined && attempt < 5 && /in use/i.test(String(error))) continue;
      throw error;
    }
    const { pid, ended } = started;
    let stopping: Promise<void> | undefined;
    const stop = (signal: "SIGTERM" | "SIGKILL" = "SIGTERM") =>
      stopping ??= (async () => {
        if (isAlive(pid)) Deno.kill(pid, signal);
        await ended();
        directory[Symbol.dispose]();
      })();
    return { pid, uri, socket, port, stop, [Symbol.asyncDispose]: () => stop() };
  }
}

/** Starts a program that writes its pid file once it listens, and waits for that. */
async function startForeground(program: string, args: readonly string[], pidFile: string): Promise<Started> {
  using watcher = Deno.watchFs(pidFile.slice(0, pidFile.lastIndexOf("/")));
  const child = new Deno.Command(program, {
    args: [...args],
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).spawn();
  const complaints = new Response(child.stderr).text();
  const early = child.status.then(async ({ code }) => {
    throw new Error(
      `${program} ${args.join(" ")}: ended with exit code ${code}\n${await complaints}`.trimEnd(),
    );
  });
  const listening = (async () => {
    for await (const { kind, paths } of watcher) {
      // It is created empty, then written.
      if (kind === "modify" && paths.includes(pidFile) && Deno.readTextFileSync(pidFile).endsWith("\n")) {
        return;
      }
    }
  })();
  await Promise.race([early, listening]);
  early.catch(() => {});
  return { pid: child.pid, ended: () => Promise.all([child.status, complaints]) };
}

/** Waits until an NBD server answers, for one that does not tell when it is ready; gives up when `ended` says so. */
export async function untilAnswered(uri: string, ended: () => boolean = () => false): Promise<void> {
  await until(async () => {
    if (ended()) throw new Error("the server has ended");
    return (await run("nbdinfo", ["--size", uri], { code: "any" })).code === 0;
  });
}

/**
 * Waits for something that nobody announces, asking again and again for at most ten seconds.
 * Where an event can be had (a process's end, a file that appears), wait for that instead.
 */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  for (let attempt = 0; !await condition(); attempt++) {
    if (attempt === 500) throw new Error(`waited for ten seconds in vain: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
