/** The README's "Moving a disk while it is in use" as an operator does it: the commands are taken from there. */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { dial } from "../../src/net/dial.ts";
import { until } from "../interop/peers.ts";
import { freePort, run, type TemporaryDirectory, temporaryDirectory } from "../testing/process.ts";
import { randomFrom } from "../testing/random.ts";
import { RawClient } from "../testing/raw_client.ts";
import { Relay, type Verdict } from "../testing/relay.ts";
import {
  denbd,
  program,
  type RunningProgram,
  type RunningServer,
  serve,
  start,
  surroundings,
} from "./program.ts";

const SIZE_BYTES = 16 * 1024 * 1024;

/** The commands of the section, without their comments. */
function runbook(): string[] {
  const readme = Deno.readTextFileSync(new URL("../../README.md", import.meta.url));
  const [, section] = /^##+ Moving a disk while it is in use\n(.*?)^##/ms.exec(readme)!;
  const blocks = [...section.matchAll(/^```sh\n(.*?)^```$/gms)].map(([, text]) => text);
  return blocks.join("").trim().split("\n").map((line) => line.replace(/\s+#.*$/, ""));
}

/** The two hosts of the runbook. What goes between them can be held up in the middle of the disk. */
class Hosts implements AsyncDisposable {
  readonly #directory: TemporaryDirectory = temporaryDirectory();
  readonly here = this.#directory.file("here.img");
  readonly there = this.#directory.file("there.img");
  readonly sock = this.#directory.file("disk.sock");
  readonly relay = new Relay(freePort());
  readonly #running: RunningProgram[] = [];
  /** A third of the disk has gone over, and no more does until the link is let go. */
  readonly halfway: Promise<void>;
  letGo!: () => void;
  source!: RunningServer;
  destination!: RunningProgram;

  constructor() {
    const halfway = Promise.withResolvers<void>();
    const gate = Promise.withResolvers<void>();
    this.halfway = halfway.promise;
    this.letGo = gate.resolve;
    this.relay.look = async (direction): Promise<Verdict> => {
      if (direction === "back" || this.relay.bytesThere < SIZE_BYTES / 3) return "pass";
      halfway.resolve();
      await gate.promise;
      return "pass";
    };
  }

  /** Both hosts are up, by the first block of the runbook. */
  static async start(): Promise<Hosts> {
    const hosts = new Hosts();
    Deno.writeFileSync(hosts.here, randomFrom().bytes(SIZE_BYTES));
    await hosts.startSource();
    await hosts.type("truncate");
    await hosts.startDestination();
    return hosts;
  }

  async startSource(): Promise<void> {
    this.source = await serve(["--file", this.here, "--sock", this.sock], { env: this.env("here") });
    this.#running.push(this.source);
  }

  async startDestination(): Promise<void> {
    const [, ...words] = this.#line("denbd listen").split(/\s+/);
    // Otherwise it does not say when it is ready.
    this.destination = await start([...words, "--verbose"], { env: this.env("there") });
    this.#running.push(this.destination);
    await this.destination.logged(/serving 1 export on/);
  }

  /** Runs the command of the runbook that begins so. @returns What it prints. */
  async type(beginning: string, until = ""): Promise<string> {
    const line = this.#line(beginning) + until;
    const script = `denbd() { '${await program()}' "$@"; }\n${line}`;
    return (await run("sh", ["-c", script], { env: surroundings })).stdout;
  }

  async status() {
    const { stdout } = await denbd(["status", "--sock", this.sock, "--json"]);
    return JSON.parse(stdout).exports[0].migration;
  }

  own(side: "here" | "there", ...words: string[]) {
    return denbd(["own", ...words, this[side]], { env: this.env(side) });
  }

  /** Serves an image, which must not be served. @returns Why not. */
  async refused(side: "here" | "there"): Promise<string> {
    const args = ["serve", "--port", "0", "--file", this[side]];
    return (await denbd(args, { env: this.env(side), code: 1 })).stderr;
  }

  /** The disk has changed hands, to the byte. */
  async assertMoved(): Promise<void> {
    assertEquals(await this.source.ended(), 0);
    await this.destination.logged(/served from now on/);
    assertStringIncludes((await this.own("here")).stdout, "state=moved");
    assertStringIncludes((await this.own("there")).stdout, "state=owner");
    assertStringIncludes(await this.refused("here"), "has moved to");
    assertEquals(await this.destination.stop(), 0);
    assert(equal(Deno.readFileSync(this.there), Deno.readFileSync(this.here)), "the images differ");
  }

  env(side: string) {
    return { STATE_DIRECTORY: this.#directory.file(`state-${side}`) };
  }

  #line(beginning: string): string {
    const line = runbook().find((each) => each.startsWith(beginning));
    if (line === undefined) throw new Error(`the runbook has no ${beginning}`);
    const port = /^denbd mirror /.test(line) ? this.relay.port : this.relay.target;
    return line.replace("/srv/disk.img", this.there)
      .replace("/run/disk.sock", this.sock)
      .replace("/run/there.sock", this.#directory.file("there.sock"))
      .replace("-s 20G", `-s ${SIZE_BYTES}`)
      .replace("--port 4779", `--port ${port}`)
      .replace(/192\.0\.2\.[67]/, "127.0.0.1");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.letGo();
    for (const each of this.#running) await each[Symbol.asyncDispose]();
    this.relay[Symbol.dispose]();
    this.#directory[Symbol.dispose]();
  }
}

function equal(one: Uint8Array, other: Uint8Array): boolean {
  return one.length === other.length && one.every((byte, at) => byte === other[at]);
}

async function connect(server: RunningServer): Promise<RawClient> {
  return await RawClient.open(await dial({ transport: "tcp", host: "127.0.0.1", port: server.port }));
}

async function write(client: RawClient, fill: number): Promise<void> {
  assertEquals((await client.write(fill * 4096, new Uint8Array(4096).fill(fill))).error, 0);
}

Deno.test("README, moving a disk: start, watch, throttle, break, again, finish", async () => {
  await using hosts = await Hosts.start();
  const client = await connect(hosts.source);
  assertEquals(await hosts.type("denbd mirror "), "Migration started\n");
  await hosts.halfway;
  await write(client, 1);
  const [bar] = /\[#+-+\] .*/.exec(await hosts.type("denbd status", " | grep -m 1 -F '[#'"))!;
  assertMatch(bar, /^\[#+-+\] [1-9]\d? % .* left, .*\/s/);
  assertEquals(await hosts.type("denbd mirror-speed"), "updated\n");
  assertEquals((await hosts.status()).speedLimit, 20 * 1024 * 1024);
  await write(client, 2);
  assertEquals(await hosts.type("denbd break"), "mirror stopped\n");
  assertEquals(await hosts.status(), null);
  // Clients notice nothing.
  await write(client, 3);
  assertStringIncludes((await hosts.own("here")).stdout, "state=owner");
  assertStringIncludes((await hosts.own("there")).stdout, "state=receiving");
  hosts.letGo();
  assertEquals(await hosts.type("denbd mirror "), "Migration started\n");
  await hosts.assertMoved();
  client.connection.close();
  const moved = Deno.readFileSync(hosts.there);
  for (const fill of [1, 2, 3]) assertEquals(moved[fill * 4096], fill);
});

Deno.test("README, moving a disk: the destination's host dies in the middle, and the same command there ends it", async () => {
  await using hosts = await Hosts.start();
  const client = await connect(hosts.source);
  await hosts.type("denbd mirror ");
  await hosts.halfway;
  await hosts.destination.stop("SIGKILL");
  hosts.letGo();
  await until(async () => (await hosts.status()).lastError !== null);
  await write(client, 1);
  // It is no disk, and says so.
  assertStringIncludes((await hosts.own("there")).stdout, "state=receiving");
  assertStringIncludes(await hosts.refused("there"), hosts.there);
  await hosts.startDestination();
  await hosts.assertMoved();
  client.connection.close();
  assertEquals(Deno.readFileSync(hosts.there)[4096], 1);
});

Deno.test("README, moving a disk: the source's host dies in the middle, and is told to move it again", async () => {
  await using hosts = await Hosts.start();
  await hosts.type("denbd mirror ");
  await hosts.halfway;
  await hosts.source.stop("SIGKILL");
  assertStringIncludes((await hosts.own("here")).stdout, "state=owner");
  hosts.letGo();
  await hosts.startSource();
  const client = await connect(hosts.source);
  await write(client, 1);
  assertEquals(await hosts.type("denbd mirror "), "Migration started\n");
  await hosts.assertMoved();
  client.connection.close();
});
