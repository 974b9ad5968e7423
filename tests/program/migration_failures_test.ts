/** Migrations that fail at every point, under a stock client: libnbd's shell, on one connection from beginning to end. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { peerTest, startNbdkit, until } from "../interop/peers.ts";
import { freePort, run, type TemporaryDirectory, temporaryDirectory } from "../testing/process.ts";
import { randomFrom } from "../testing/random.ts";
import { Relay, type Verdict } from "../testing/relay.ts";
import { makeSparse } from "../testing/storage.ts";
import { denbd, listen, type RunningServer, serve } from "./program.ts";

const SIZE_BYTES = 4 * 1024 * 1024;

/** Writes and reads back until a file appears; any error ends it with exit code 1. */
const LOAD = `
import os, random, time
known = {}
random.seed(1)
while not os.path.exists(STOP):
    at = 4096 * random.randrange(h.get_size() // 4096)
    data = random.randbytes(4096)
    h.pwrite(data, at)
    known[at] = data
    at = random.choice(list(known))
    assert h.pread(4096, at) == known[at]
    if random.random() < 0.02: h.flush()
    time.sleep(0.001)
for at in known: assert h.pread(4096, at) == known[at]
print("fine", len(known))
`;

/** A disk under load, and a place that it could move to, with something in between. */
class Hosts implements AsyncDisposable {
  readonly #directory: TemporaryDirectory = temporaryDirectory();
  readonly here = this.#directory.file("here.img");
  readonly there = this.#directory.file("there.img");
  readonly sock = this.#directory.file("sock");
  readonly stop = this.#directory.file("stop");
  readonly relay = new Relay(freePort());
  source!: RunningServer;
  destination!: RunningServer;

  static async start(): Promise<Hosts> {
    const hosts = new Hosts();
    Deno.writeFileSync(hosts.here, randomFrom().bytes(SIZE_BYTES));
    makeSparse(hosts.there, SIZE_BYTES);
    hosts.source = await serve(["--file", hosts.here, "--sock", hosts.sock, ...hosts.#state("here")]);
    await hosts.startDestination();
    return hosts;
  }

  async startDestination(): Promise<void> {
    const words = ["--file", this.there, "--port", `${this.relay.target}`, ...this.#state("there")];
    this.destination = await listen(words);
  }

  #state(side: string): string[] {
    return ["--state-dir", this.#directory.file(`state-${side}`)];
  }

  async migration() {
    const { stdout } = await denbd(["status", "--sock", this.sock, "--json"]);
    return JSON.parse(stdout).exports[0].migration;
  }

  mirror(to = `nbd://127.0.0.1:${this.relay.port}/`, code: number | "any" = 0) {
    return denbd(["mirror", "--sock", this.sock, to], { code });
  }

  async break(): Promise<void> {
    assertEquals((await denbd(["break", "--sock", this.sock])).stdout, "mirror stopped\n");
  }

  /** Begins a migration that must not come to its end. */
  async failing(to?: string): Promise<void> {
    const { code } = await this.mirror(to, "any");
    if (code !== 0) return;
    await until(async () => (await this.migration()).lastError !== null);
    this.relay.look = () => "pass";
    this.relay.cut();
    await this.break();
  }

  /** Once when this goes by, or so many bytes have: does something, and cuts the link, again and again. */
  async cutAt(
    direction: "there" | "back",
    when: string | number,
    act: () => void | Promise<void> = () => {},
  ) {
    const before = this.relay.bytesThere;
    let acted: void | Promise<void> | null = null;
    this.relay.look = async (way, piece): Promise<Verdict> => {
      const is = typeof when === "string" ? piece.includes(when) : this.relay.bytesThere - before >= when;
      if (way !== direction || !is) return "pass";
      await (acted ??= act());
      return "cut";
    };
    await this.failing();
    assert(acted !== null, `nothing came to ${when}`);
  }

  /** The destination's program falls at that moment, and is started again. */
  async killAt(direction: "there" | "back", when: string | number): Promise<void> {
    await this.cutAt(direction, when, async () => void await this.destination.stop("SIGKILL"));
    await this.destination.stop("SIGKILL");
    await this.startDestination();
  }

  /** Broken off at that moment; what goes by then arrives afterwards. */
  async breakAt(direction: "there" | "back", when: string | number): Promise<void> {
    const before = this.relay.bytesThere;
    const reached = Promise.withResolvers<void>();
    const gate = Promise.withResolvers<void>();
    this.relay.look = async (way, piece): Promise<Verdict> => {
      const is = typeof when === "string" ? piece.includes(when) : this.relay.bytesThere - before >= when;
      if (way !== direction || !is) return "pass";
      reached.resolve();
      await gate.promise;
      return "pass";
    };
    const mirroring = this.mirror(undefined, "any");
    await reached.promise;
    using control = await Deno.connect({ transport: "unix", path: this.sock });
    await control.write(new TextEncoder().encode("break\n\n"));
    // Who is asked later is answered later: when this is, it has been broken off.
    await this.migration();
    gate.resolve();
    const answer = new Uint8Array(100);
    const count = await control.read(answer);
    assertEquals(new TextDecoder().decode(answer.subarray(0, count ?? 0)), "0: mirror stopped\n");
    await mirroring;
    this.relay.look = () => "pass";
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.source?.[Symbol.asyncDispose]();
    await this.destination?.[Symbol.asyncDispose]();
    this.relay[Symbol.dispose]();
    this.#directory[Symbol.dispose]();
  }
}

const failures: readonly ((hosts: Hosts) => Promise<void>)[] = [
  // It does not begin.
  (hosts) => hosts.failing(`nbd://127.0.0.1:${freePort()}/`),
  (hosts) => hosts.failing(hosts.source.uri()),
  (hosts) => hosts.cutAt("back", "NBDMAGIC"),
  (hosts) => hosts.cutAt("there", "verb=hello"),
  (hosts) => hosts.cutAt("back", "is=fresh"),
  (hosts) => hosts.breakAt("back", "NBDMAGIC"),
  // In the middle.
  ...[0.01, 0.2, 0.4, 0.6, 0.8, 0.99].map((part) => (hosts: Hosts) =>
    hosts.cutAt("there", part * SIZE_BYTES)
  ),
  (hosts) => hosts.killAt("there", 0.5 * SIZE_BYTES),
  (hosts) => hosts.breakAt("there", 0.5 * SIZE_BYTES),
  async (hosts) => {
    const faults = ["error-pwrite=ENOSPC", "error-pwrite-rate=100%"];
    await using full = await startNbdkit(["--filter=error", "memory", `${SIZE_BYTES}`, ...faults], {
      transport: "tcp",
    });
    await hosts.failing(full.uri);
  },
  // In the end.
  (hosts) => hosts.cutAt("back", SIZE_BYTES),
  (hosts) => hosts.cutAt("there", "verb=prepare"),
  (hosts) => hosts.cutAt("back", "is=prepared"),
  (hosts) => hosts.killAt("there", "verb=prepare"),
  (hosts) => hosts.killAt("back", "is=prepared"),
  (hosts) => hosts.breakAt("there", "verb=prepare"),
  (hosts) => hosts.breakAt("back", "is=prepared"),
];

peerTest(
  `${failures.length} migrations fail, at every point: a stock client sees no error and no reconnect`,
  [
    "nbdsh",
    "nbdkit",
  ],
  async () => {
    await using hosts = await Hosts.start();
    const { source } = hosts;
    const script = `STOP = ${JSON.stringify(hosts.stop)}\n${LOAD}`;
    // Another Python earlier in PATH would lack the module.
    const env = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" };
    const load = run("nbdsh", ["--uri", source.uri(), "-c", script], { env, timeoutSeconds: 300 });
    const requests = async () => {
      const { stdout } = await denbd(["status", "--sock", hosts.sock, "--json"]);
      const [{ clients, ownership, errors }] = JSON.parse(stdout).exports;
      assertEquals([clients.map(({ id }: { id: number }) => id), ownership.state, errors], [[1], "owner", 0]);
      return clients[0].requests as number;
    };
    await source.logged(/client-1 .* opened ""/);
    for (const fail of failures) {
      await fail(hosts);
      // The client goes on, and is the one that it was.
      const before = await requests();
      await until(async () => await requests() > before);
    }
    Deno.writeTextFileSync(hosts.stop, "");
    assertMatch((await load).stdout, /^fine \d+\n$/);
    await hosts.mirror();
    assertEquals([await source.ended(), await hosts.destination.ended()], [0, 0]);
    assertEquals(Deno.readFileSync(hosts.there), Deno.readFileSync(hosts.here));
  },
);
