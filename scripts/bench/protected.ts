/**
 * What encryption costs: the same requests through nothing, a channel (by Web Crypto and by libcrypto) and TLS, and
 * through nbdkit's TLS.
 *
 * The load is denbd's own client, because no other knows the channel; its part of the work is the same for all. What
 * TLS costs is measured with nbdcopy as well, whose client is in C.
 */
import { startNbdkit, untilAnswered } from "../../tests/interop/peers.ts";
import { Authority } from "../../tests/testing/certificates.ts";
import { findProgram, freePort, run, temporaryDirectory } from "../../tests/testing/process.ts";
import type { Cell } from "./cells.ts";
import type { Contender, RunningServer } from "./servers.ts";

const LOAD = new URL("load.ts", import.meta.url).pathname;

type Size = "128k" | "4k";
const BYTES = { "128k": 128 * 1024, "4k": 4096 };
const DEPTHS = { "128k": 8, "4k": 32 };
const TITLES = { "128k": "128 KiB sequential", "4k": "4 KiB random" };

/** The cells of this part. */
export const protectedCells: readonly Cell[] = [ownCell, nbdcopyCell].flatMap((cell) =>
  (["128k", "4k"] as const).flatMap((size) => [cell("read", size), cell("write", size)])
);

/** A load by denbd's own client. */
function ownCell(direction: "read" | "write", size: Size): Cell {
  return {
    ...cellOf(`${direction}-${size}-${DEPTHS[size]}`, `${TITLES[size]} ${direction}s`, size),
    async measure(uri, { seconds }, env) {
      const load = [uri, direction, `${BYTES[size]}`, `${DEPTHS[size]}`, `${seconds}`];
      const permissions = ["-NRWES", "--allow-ffi", "--allow-run"];
      const { stdout } = await run(Deno.execPath(), ["run", "-q", ...permissions, LOAD, ...load], {
        env,
        timeoutSeconds: seconds + 60,
      });
      return { value: Number(stdout) * (size === "4k" ? 1e-3 : BYTES[size] / 1e6) };
    },
  };
}

/** The image once from its start to its end, by nbdcopy. */
function nbdcopyCell(direction: "read" | "write", size: Size): Cell {
  return {
    ...cellOf(`nbdcopy-${direction}-${size}-${DEPTHS[size]}`, `nbdcopy, ${direction}s of ${size}`, size),
    loads: (server) => !server.includes("channel"),
    async measure(uri, { imageBytes, image }) {
      const ways = direction === "read" ? [uri, "null:"] : [image, uri];
      const words = ["--connections=1", "--allocated", `--request-size=${BYTES[size]}`];
      const startMs = performance.now();
      await run("nbdcopy", [...words, `--requests=${DEPTHS[size]}`, ...ways], { timeoutSeconds: 300 });
      const seconds = (performance.now() - startMs) / 1000;
      return { value: imageBytes / seconds / (size === "4k" ? BYTES[size] * 1e3 : 1e6) };
    },
  };
}

function cellOf(name: string, title: string, size: Size): Omit<Cell, "measure"> {
  return {
    name,
    title: `${title}, depth ${DEPTHS[size]}`,
    unit: size === "4k" ? "k/s" : "MB/s",
    largerIsBetter: true,
    image: "dense",
    inMean: true,
  };
}

/** Those who are compared: ours through channels and through TLS, with ours plain and nbdkit with TLS. */
export function protectedContenders(program: string): Contender[] {
  const ours = (name: string, start: Contender["start"]): Contender => ({
    name,
    ours: true,
    transports: ["protected"],
    start,
  });
  const channel = (name: string, crypto: Record<string, string>) =>
    ours(name, (image) =>
      serve(program, image, async (port, directory) => {
        const home = `${directory}/home`;
        await run(program, ["keygen", `${directory}/key`]);
        const { stdout } = await run(program, ["keygen"], { env: { HOME: home, XDG_CONFIG_HOME: "" } });
        Deno.writeTextFileSync(`${directory}/peers`, stdout);
        const keys = ["--key", `${directory}/key`, "--authorized-peers", `${directory}/peers`];
        return {
          words: ["--channel-port", `${port}`, ...keys],
          env: crypto,
          uri: `nbd+noise://127.0.0.1:${port}/`,
          clientEnv: { ...crypto, HOME: home, XDG_CONFIG_HOME: "" },
        };
      }));
  const contenders = [
    // What the others are compared with.
    {
      ...ours("denbd-plain", (image) =>
        serve(program, image, (port) => ({
          words: ["--port", `${port}`],
          uri: `nbd://127.0.0.1:${port}/`,
        }))),
      ours: false,
    },
    channel("denbd-channel", { DENBD_CRYPTO: "" }),
    channel("denbd-channel-openssl", { DENBD_CRYPTO: "openssl" }),
    ours("denbd-tls", (image) =>
      serve(program, image, async (port, directory) => {
        const { path, client } = await certificates(directory);
        return {
          words: ["--port", `${port}`, "--tls", "prefer", "--tls-certificates", path],
          uri: `nbds://localhost:${port}/?tls-certificates=${client}`,
        };
      })),
  ];
  if (findProgram("nbdkit") === null) return contenders;
  return [...contenders, {
    name: "nbdkit-tls",
    ours: false,
    transports: ["protected"],
    async start(image) {
      const directory = temporaryDirectory();
      const { path, client } = await certificates(directory.path);
      const words = ["--tls=require", `--tls-certificates=${path}`, "file", image];
      const server = await startNbdkit(words, { transport: "tcp" });
      return {
        pid: server.pid,
        uri: `nbds://localhost:${server.port}/?tls-certificates=${client}`,
        async [Symbol.asyncDispose]() {
          await server.stop();
          directory[Symbol.dispose]();
        },
      };
    },
  }];
}

async function certificates(directory: string): Promise<{ path: string; client: string }> {
  const authority = await Authority.create(`${directory}/authority`);
  await authority.issue("server", { names: "DNS:localhost" });
  return { path: authority.path, client: authority.clientFiles("client", authority) };
}

/** How to serve on a port, and how that is reached. */
interface Way {
  readonly words: readonly string[];
  readonly env?: Record<string, string>;
  readonly uri: string;
  readonly clientEnv?: Record<string, string>;
}

async function serve(
  program: string,
  image: string,
  prepare: (port: number, directory: string) => Way | Promise<Way>,
): Promise<RunningServer> {
  const directory = temporaryDirectory();
  const port = freePort();
  const { words, env, uri, clientEnv } = await prepare(port, directory.path);
  const common = ["serve", "--state-dir", directory.path, "--file", image];
  const plain = directory.file("socket");
  const child = new Deno.Command(program, {
    // The Unix socket is there to ask whether it serves.
    args: [...common, ...words, "--unix", plain],
    env,
    stdin: "null",
    stdout: "null",
    stderr: "null",
  }).spawn();
  let ended = false;
  const end = child.status.then(() => ended = true);
  const stop = async () => {
    if (!ended) child.kill("SIGTERM");
    await end;
    directory[Symbol.dispose]();
  };
  try {
    await untilAnswered(`nbd+unix:///?socket=${plain}`, () => ended);
  } catch (error) {
    await stop();
    throw error;
  }
  return { pid: child.pid, uri, clientEnv, [Symbol.asyncDispose]: stop };
}
