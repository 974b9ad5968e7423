/** A file system and fio over `denbd proxy`, while the server behind it is killed again and again. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { delay, systemClock } from "../../src/os/clock.ts";
import { type PeerServer, peerTest, startNbdkit, startQemuNbd, until } from "../interop/peers.ts";
import { freePort, run, temporaryDirectory } from "../testing/process.ts";
import { randomFrom } from "../testing/random.ts";
import { makeSparse } from "../testing/storage.ts";
import { proxy, serve } from "./program.ts";

const MIB = 1024 * 1024;
const KILLS = 10;

/** A server that comes back where it was. */
interface Mortal {
  kill(): Promise<unknown>;
}

/**
 * Kills the server at random moments and starts it again: every second time when the proxy has come back to it, and in
 * between whether it has or not. Returns the last one.
 */
async function killAgainAndAgain<Server extends Mortal>(
  server: Server,
  start: () => Promise<Server>,
  random: ReturnType<typeof randomFrom>,
  reconnects: () => number,
): Promise<Server> {
  for (let kill = 0; kill < KILLS; kill++) {
    await delay(systemClock, 50 + random.below(600));
    await server.kill();
    await delay(systemClock, random.below(300));
    const before = reconnects();
    server = await start();
    if (kill % 2 === 0) await until(() => reconnects() > before);
  }
  return server;
}

/** Makes a file system on the first 32 MiB of the disk, through a file that the kernel shows. */
async function makeFileSystem(socket: string, directory: { file(name: string): string }): Promise<void> {
  const mountPoint = directory.file("mount");
  Deno.mkdirSync(mountPoint);
  const child = new Deno.Command("nbdfuse", {
    args: [`${mountPoint}/disk`, "--unix", socket],
    stdin: "null",
    stdout: "null",
    stderr: "null",
  }).spawn();
  try {
    await until(() => isThere(`${mountPoint}/disk`));
    await run("mkfs.ext4", [
      "-q",
      "-F",
      "-d",
      new URL("../../src", import.meta.url).pathname,
      `${mountPoint}/disk`,
      "32M",
    ]);
    await run("sync", [`${mountPoint}/disk`]);
  } finally {
    await run("umount", [mountPoint], { code: "any" });
    await child.status;
  }
}

function isThere(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
}

/** Writes the 64 MiB behind it at random, with flushes, and reads all of it again. Fails if anything is not as written. */
async function writeAndVerify(socket: string, seed: number): Promise<void> {
  await run("fio", [
    "--name=survival",
    "--ioengine=nbd",
    `--uri=nbd+unix:///?socket=${socket}`,
    "--rw=randwrite",
    "--bsrange=4k-64k",
    "--blockalign=4k",
    "--offset=32m",
    "--size=64m",
    "--io_size=32m",
    "--iodepth=16",
    "--fsync=64",
    "--verify=crc32c",
    "--do_verify=1",
    "--verify_fatal=1",
    "--verify_state_save=0",
    `--randseed=${seed}`,
  ], { timeoutSeconds: 120 });
}

/** All of it, on a server of some kind. */
async function survive<Server extends Mortal>(
  image: string,
  flags: readonly string[],
  start: () => Promise<Server & { readonly uri: string }>,
): Promise<void> {
  const random = randomFrom();
  using directory = temporaryDirectory();
  const socket = directory.file("front");
  makeSparse(image, 96 * MIB);
  let server = await start();
  try {
    await using front = await proxy([...flags, "--unix", socket, server.uri]);
    let killing = true;
    const reconnects = () => [...front.log.matchAll(/reconnected to/g)].length;
    const killed = killAgainAndAgain(server, start, random, reconnects).finally(() => killing = false);
    killed.catch(() => {});
    await makeFileSystem(socket, directory);
    do await writeAndVerify(socket, random.below(2 ** 31)); while (killing);
    server = await killed;
    // Some of the servers died before the proxy had come back to them.
    assert(reconnects() >= KILLS / 2, `seed ${random.seed}: ${reconnects()} reconnects\n${front.log}`);
    assertEquals(await front.stop(), 0, front.log);
    assertEquals([...front.log.matchAll(/may be, too|may be lost/g)], [], front.log);
    // Clean, with everything that was put there.
    const { stdout } = await run("e2fsck", ["-fn", image]);
    assertMatch(stdout, /Pass 5/);
    const text = await run("debugfs", ["-R", "cat commands/proxy.ts", image]);
    assertEquals(text.stdout, Deno.readTextFileSync(new URL("../../src/commands/proxy.ts", import.meta.url)));
  } finally {
    await server.kill();
  }
}

const PROGRAMS = ["fio", "nbdfuse", "mkfs.ext4", "e2fsck", "debugfs"];

peerTest(
  "a file system and fio survive a denbd server that is killed ten times: it is reserved for them",
  PROGRAMS,
  async () => {
    using directory = temporaryDirectory();
    const image = directory.file("image");
    const port = freePort();
    const where = ["--port", String(port), "--state-dir", directory.file("state")];
    await survive(image, [], async () => {
      const server = await serve(["--file", image, "--writers", "one-session", ...where]);
      return { uri: server.uri(), kill: () => server.stop("SIGKILL") };
    });
  },
);

const others: Record<string, (image: string, port: number) => Promise<PeerServer>> = {
  nbdkit: (image, port) => startNbdkit(["file", image], { transport: "tcp", port }),
  "qemu-nbd": (image, port) => startQemuNbd(image, [], { transport: "tcp", port }),
};

for (const [program, start] of Object.entries(others)) {
  peerTest(`a file system and fio survive ${program} being killed ten times, at a sole writer's word`, [
    program,
    ...PROGRAMS,
  ], async () => {
    using directory = temporaryDirectory();
    const image = directory.file("image");
    const port = freePort();
    await survive(image, ["--sole-writer"], async () => {
      const server = await start(image, port);
      return { uri: server.uri, kill: () => server.stop("SIGKILL") };
    });
  });
}
