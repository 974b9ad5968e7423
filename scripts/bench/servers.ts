/** Whom is measured: each contender serves one image, over TCP or a Unix socket, for the length of a scope. */

import { findProgram, freePort, run, temporaryDirectory } from "../../tests/testing/process.ts";
import { startNbdkit, startNbdServer, startQemuNbd, untilAnswered } from "../../tests/interop/peers.ts";

export type Transport = "tcp" | "unix" | "protected";

export interface RunningServer extends AsyncDisposable {
  readonly pid: number;
  readonly uri: string;
  /** What a client of ours needs in its environment. */
  readonly clientEnv?: Record<string, string>;
}

export interface Contender {
  readonly name: string;
  /** Ours, as opposed to the peers that it is compared with. */
  readonly ours: boolean;
  readonly transports: readonly Transport[];
  start(image: string, transport: Transport): Promise<RunningServer>;
}

/** How others are told to listen. */
function socketOf(transport: Transport): "tcp" | "unix" {
  return transport === "unix" ? "unix" : "tcp";
}

const both: readonly Transport[] = ["tcp", "unix"];

/** The servers of others that are installed. */
export function installedPeers(): Contender[] {
  const peers: Contender[] = [
    {
      name: "nbdkit",
      ours: false,
      transports: both,
      start: (image, transport) => startNbdkit(["file", image], { transport: socketOf(transport) }),
    },
    {
      name: "qemu-nbd",
      ours: false,
      transports: both,
      start: (image, transport) => startQemuNbd(image, [], { transport: socketOf(transport) }),
    },
    {
      name: "nbd-server",
      ours: false,
      transports: both,
      start: (image, transport) => startNbdServer(image, [], { transport: socketOf(transport) }),
    },
  ];
  return peers.filter(({ name }) => findProgram(name) !== null);
}

export interface CommandOptions {
  /** Default `true`. */
  readonly ours?: boolean;
  /** Whom the command stands in front of; it is started first. */
  readonly upstream?: Contender;
}

/**
 * A contender from a shell command, by default one of ours: `denbd serve --file {file} --port {port}`.
 *
 * It must stay in the foreground and offer the image as its default export. `{port}` stands for a port on 127.0.0.1,
 * `{socket}` for the path of a Unix socket and `{upstream}` for the URI of the upstream, on the same transport; where
 * one command holds both, it serves both.
 */
export function fromCommand(
  name: string,
  commands: readonly string[],
  { ours = true, upstream }: CommandOptions = {},
): Contender {
  const commandFor = (transport: Transport) =>
    commands.find((command) => command.includes(transport === "tcp" ? "{port}" : "{socket}"));
  return {
    name,
    ours,
    transports: both.filter((transport) => commandFor(transport) !== undefined),
    async start(image, transport) {
      await using things = new AsyncDisposableStack();
      const source = upstream === undefined ? null : things.use(await upstream.start(image, transport));
      const directory = things.use(temporaryDirectory());
      const port = freePort();
      const socket = directory.file("socket");
      const values: Record<string, string> = {
        file: image,
        port: String(port),
        socket,
        directory: directory.path,
        upstream: `'${source?.uri}'`,
      };
      const filled = commandFor(transport)!.replace(
        /\{(file|port|socket|directory|upstream)\}/g,
        (_, key) => values[key],
      );
      const child = new Deno.Command("sh", { args: ["-c", `exec ${filled}`], stdin: "null", stdout: "null" })
        .spawn();
      let ended = false;
      const end = child.status.then(() => ended = true);
      things.defer(async () => {
        if (!ended) child.kill("SIGTERM");
        await end;
      });
      const uri = transport === "tcp" ? `nbd://127.0.0.1:${port}/` : `nbd+unix:///?socket=${socket}`;
      try {
        await untilAnswered(uri, () => ended);
      } catch (error) {
        throw new Error(`${filled}: does not serve`, { cause: error });
      }
      const running = things.move();
      return { pid: child.pid, uri, [Symbol.asyncDispose]: () => running.disposeAsync() };
    },
  };
}

/** Watches the memory of a process and its children until stopped. */
export class MemoryWatch {
  readonly #pid: number;
  readonly #timer: ReturnType<typeof setInterval>;
  #peakBytes = 0;

  constructor(pid: number) {
    this.#pid = pid;
    this.#timer = setInterval(() => void this.#look(), 500);
  }

  /** Ends the watch and gives the largest sum of resident memory that was seen, in bytes. */
  async stop(): Promise<number> {
    clearInterval(this.#timer);
    await this.#look();
    return this.#peakBytes;
  }

  async #look(): Promise<void> {
    const args = ["-o", "rss=", "-p", String(this.#pid), "--ppid", String(this.#pid)];
    const { stdout } = await run("ps", args, { code: "any" });
    const sum = stdout.trim().split(/\s+/).reduce((total, kibibytes) => total + Number(kibibytes) * 1024, 0);
    this.#peakBytes = Math.max(this.#peakBytes, sum);
  }
}
