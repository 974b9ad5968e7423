/**
 * What encryption costs: the same reads through nothing, a channel and TLS, and through nbdkit's TLS.
 *
 * The load is denbd's own (`denbd bench`), because no other client knows the channel; its part of the work is the same
 * for all.
 */
import { startNbdkit, untilAnswered } from "../../tests/interop/peers.ts";
import { Authority } from "../../tests/testing/certificates.ts";
import { findProgram, freePort, run, temporaryDirectory } from "../../tests/testing/process.ts";
import type { Cell } from "./cells.ts";
import type { Contender, RunningServer } from "./servers.ts";

/** Requests of one measurement and second: about what a server manages. */
const REQUESTS_PER_SECOND = { "128k": 4000, "4k": 40_000 };

/** The cells of this part, with the program that loads. */
export function protectedCells(program: string): Cell[] {
  const cell = (
    name: string,
    title: string,
    size: "128k" | "4k",
    depth: number,
    args: readonly string[],
  ): Cell => ({
    name,
    title,
    unit: size === "4k" ? "k/s" : "MB/s",
    largerIsBetter: true,
    image: "dense",
    inMean: true,
    async measure(uri, { seconds }) {
      const requests = Math.round(REQUESTS_PER_SECOND[size] * seconds);
      const words = ["--json", "-n", `${requests}`, "-b", size, "--depth", `${depth}`, ...args];
      const [where, home] = uri.split(" ");
      const { stdout } = await run(program, ["bench", ...words, where], {
        env: home === undefined ? {} : { HOME: home, XDG_CONFIG_HOME: "" },
        timeoutSeconds: 300,
      });
      const [{ requestsPerSecond, bytesPerSecond }] = JSON.parse(stdout);
      return { value: size === "4k" ? requestsPerSecond / 1e3 : bytesPerSecond / 1e6 };
    },
  });
  return [
    cell("protected-128k-8", "128 KiB sequential reads, depth 8", "128k", 8, ["--sequential"]),
    cell("protected-4k-32", "4 KiB random reads, depth 32", "4k", 32, []),
  ];
}

/** Those who are compared: ours plain, through a channel and through TLS, and nbdkit with TLS. */
export function protectedContenders(program: string): Contender[] {
  const ours = (name: string, start: Contender["start"]): Contender => ({
    name,
    ours: true,
    transports: ["protected"],
    start,
  });
  const contenders = [
    ours("denbd-plain", (image) =>
      serve(program, image, (port) => ({
        words: ["--port", `${port}`],
        uri: `nbd://127.0.0.1:${port}/`,
      }))),
    ours("denbd-channel", (image) =>
      serve(program, image, async (port, directory) => {
        const home = `${directory}/home`;
        await run(program, ["keygen", `${directory}/key`]);
        const { stdout } = await run(program, ["keygen"], { env: { HOME: home, XDG_CONFIG_HOME: "" } });
        Deno.writeTextFileSync(`${directory}/peers`, stdout);
        const keys = ["--key", `${directory}/key`, "--authorized-peers", `${directory}/peers`];
        return {
          words: ["--channel-port", `${port}`, ...keys],
          uri: `nbd+noise://127.0.0.1:${port}/ ${home}`,
        };
      })),
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

/** How to serve on a port, and the URI of that, with the client's home behind it where one is needed. */
type Way = { readonly words: readonly string[]; readonly uri: string };

async function serve(
  program: string,
  image: string,
  prepare: (port: number, directory: string) => Way | Promise<Way>,
): Promise<RunningServer> {
  const directory = temporaryDirectory();
  const port = freePort();
  const { words, uri } = await prepare(port, directory.path);
  const common = ["serve", "--state-dir", directory.path, "--read-only", "--file", image];
  const plain = directory.file("socket");
  const child = new Deno.Command(program, {
    // The Unix socket is there to ask whether it serves.
    args: [...common, ...words, "--unix", plain],
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
  return { pid: child.pid, uri, [Symbol.asyncDispose]: stop };
}
