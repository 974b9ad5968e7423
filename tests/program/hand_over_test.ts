/** A disk moves from one denbd to another, and everything goes wrong at every step. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { dial } from "../../src/net/dial.ts";
import { Command } from "../../src/wire/nbd/constants.ts";
import { makeSparse } from "../testing/storage.ts";
import { run, type TemporaryDirectory, temporaryDirectory } from "../testing/process.ts";
import { randomFrom } from "../testing/random.ts";
import { RawClient } from "../testing/raw_client.ts";
import { type Look, Relay, type Verdict } from "../testing/relay.ts";
import { denbd, listen, program, proxy, type RunningServer, serve, surroundings } from "./program.ts";

const SIZE_BYTES = 4 * 1024 * 1024;

/** Two hosts, each with its image and its own state. */
class Hosts implements AsyncDisposable {
  readonly #directory: TemporaryDirectory = temporaryDirectory();
  readonly here = this.#directory.file("here.img");
  readonly there = this.#directory.file("there.img");
  readonly sock = this.#directory.file("sock");
  readonly #sockThere = this.#directory.file("sock-there");
  readonly #running: RunningServer[] = [];
  #listenWords: readonly string[] = [];
  relay!: Relay;
  source!: RunningServer;
  destination!: RunningServer;

  /** @param look Sees what goes between them. */
  static async start(
    look: Look = () => "pass",
    sizeBytes = SIZE_BYTES,
    listenWords: readonly string[] = [],
  ): Promise<Hosts> {
    const hosts = new Hosts();
    hosts.#listenWords = listenWords;
    makeSparse(hosts.there, sizeBytes);
    Deno.writeFileSync(hosts.here, randomFrom().bytes(sizeBytes));
    await hosts.startSource();
    await hosts.startDestination(0);
    hosts.relay = new Relay(hosts.destination.port);
    hosts.relay.look = look;
    return hosts;
  }

  async startSource(): Promise<void> {
    this.source = await serve(["--file", this.here, "--sock", this.sock], this.env("here"));
    this.#running.push(this.source);
  }

  /** Listens on the port that it had. */
  async startDestination(port = this.relay.target): Promise<void> {
    const words = ["--file", this.there, "--port", String(port), "--sock", this.#sockThere];
    words.push(...this.#listenWords);
    this.destination = await listen(words, this.env("there"));
    this.#running.push(this.destination);
  }

  async mirror(): Promise<void> {
    await denbd(["mirror", "--sock", this.sock, `nbd://127.0.0.1:${this.relay.port}/`]);
  }

  /** How each of them sees who owns the disk. */
  async owners(): Promise<string> {
    const states = [];
    for (const side of ["here", "there"] as const) {
      const { stdout } = await denbd(["own", this[side]], this.env(side));
      states.push(/state=(\S+)/.exec(stdout)![1]);
    }
    return states.join(" ");
  }

  own(side: "here" | "there", ...words: string[]) {
    return denbd(["own", ...words, this[side]], this.env(side));
  }

  /** The first screen that is watched. */
  async statusThere() {
    const script = `'${await program()}' status --sock '${this.#sockThere}' --watch | head -n 8`;
    return await run("sh", ["-c", script], { env: surroundings });
  }

  /** Tries to serve an image, to no avail. */
  async refused(side: "here" | "there"): Promise<string> {
    const args = ["serve", "--port", "0", "--file", this[side]];
    return (await denbd(args, { ...this.env(side), code: 1, timeoutSeconds: 30 })).stderr;
  }

  assertSame(): void {
    assertEquals(Deno.readFileSync(this.there), Deno.readFileSync(this.here));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const program of this.#running) await program[Symbol.asyncDispose]();
    this.relay?.[Symbol.dispose]();
    this.#directory[Symbol.dispose]();
  }

  env(side: string) {
    return { env: { STATE_DIRECTORY: this.#directory.file(`state-${side}`) } };
  }
}

/** Does something once, when a text goes by. */
function once(direction: "there" | "back", text: string, act: () => ReturnType<Look>): Look {
  let done = false;
  return (way, piece) => {
    if (done || way !== direction || !piece.includes(text)) return "pass";
    done = true;
    return act();
  };
}

async function writeBlock(port: number): Promise<void> {
  const connection = await dial({ transport: "tcp", host: "127.0.0.1", port });
  const client = await RawClient.open(connection);
  assertEquals((await client.write(512, new Uint8Array(512).fill(9))).error, 0);
  connection.close();
}

Deno.test("a disk moves: both exit with 0, one owns it, the other says where it is", async () => {
  await using hosts = await Hosts.start();
  const { stdout } = await denbd(["status", "--sock", hosts.sock, "--json"]);
  assertEquals(JSON.parse(stdout).exports[0].ownership, { state: "owner", epoch: 1 });
  await hosts.mirror();
  assertEquals([await hosts.source.ended(), await hosts.destination.ended()], [0, 0]);
  hosts.assertSame();
  assertEquals(await hosts.owners(), "moved owner");
  assertStringIncludes(await hosts.refused("here"), `has moved to nbd://127.0.0.1:${hosts.relay.port}/`);
});

Deno.test("who has received a disk lets nobody in before it exits, and the disk stays as it was", async () => {
  await using hosts = await Hosts.start();
  let refusal = "";
  // From the hand-over on the destination waits for this word.
  hosts.relay.look = once("there", "verb=acknowledge", async (): Promise<Verdict> => {
    const { stderr } = await denbd(["write", hosts.destination.uri()], { stdin: "stray", code: 1 });
    refusal = stderr;
    return "pass";
  });
  await hosts.mirror();
  assertEquals([await hosts.source.ended(), await hosts.destination.ended()], [0, 0]);
  assertStringIncludes(refusal, "the disk has been received, and is not served by who received it");
  hosts.assertSame();
});

Deno.test("the source is killed before it says commit: it owns the disk, and the destination hears of it", async () => {
  await using hosts = await Hosts.start();
  hosts.relay.look = once("back", "is=prepared", () => {
    hosts.source.signal("SIGKILL");
    return "cut";
  });
  await hosts.mirror();
  await hosts.source.ended();
  assertEquals(await hosts.owners(), "owner prepared");
  assertStringIncludes(await hosts.refused("there"), "in use");
  await hosts.startSource();
  await hosts.destination.logged(/migration \S+ from \S+: receiving$/);
  await writeBlock(hosts.source.port);
  await hosts.mirror();
  assertEquals([await hosts.source.ended(), await hosts.destination.ended()], [0, 0]);
  hosts.assertSame();
  assertEquals(await hosts.owners(), "moved owner");
});

for (const heard of [false, true]) {
  const what = heard ? "after the destination has heard" : "before the destination hears";
  Deno.test(`the source is killed ${what} its commit: it learns that the disk has moved`, async () => {
    await using hosts = await Hosts.start();
    hosts.relay.look = once(heard ? "back" : "there", heard ? "is=owner" : "verb=commit", () => {
      hosts.source.signal("SIGKILL");
      return "cut";
    });
    await hosts.mirror();
    await hosts.source.ended();
    assertEquals(await hosts.owners(), heard ? "in-doubt owner" : "in-doubt prepared");
    assertStringIncludes(await hosts.refused("here"), "has moved to");
    assertEquals(await hosts.destination.ended(), 0);
    hosts.assertSame();
    assertEquals(await hosts.owners(), "moved owner");
  });

  Deno.test(`the destination is killed ${what} the commit: the source waits for it, and it owns the disk`, async () => {
    await using hosts = await Hosts.start();
    const killed = Promise.withResolvers<void>();
    hosts.relay.look = once(heard ? "back" : "there", heard ? "is=owner" : "verb=commit", () => {
      hosts.destination.signal("SIGKILL");
      killed.resolve();
      return "cut";
    });
    await hosts.mirror();
    await killed.promise;
    await hosts.destination.ended();
    assertEquals(await hosts.owners(), heard ? "in-doubt owner" : "in-doubt prepared");
    await hosts.startDestination();
    assertEquals(await hosts.source.ended(), 0);
    assertEquals(await hosts.destination.ended(), 0);
    hosts.assertSame();
    assertEquals(await hosts.owners(), "moved owner");
  });
}

/** The source has said that the disk is the destination's, and nobody has heard it. */
async function killBothAtCommit(hosts: Hosts): Promise<void> {
  hosts.relay.look = once("there", "verb=commit", () => {
    hosts.source.signal("SIGKILL");
    hosts.destination.signal("SIGKILL");
    return "cut";
  });
  await hosts.mirror();
  await Promise.all([hosts.source.ended(), hosts.destination.ended()]);
}

Deno.test("both are killed at the commit: the first contact settles it", async () => {
  await using hosts = await Hosts.start();
  await killBothAtCommit(hosts);
  assertEquals(await hosts.owners(), "in-doubt prepared");
  assertStringIncludes(await hosts.refused("there"), "has not been handed over");
  assertStringIncludes(await hosts.refused("here"), "is in doubt");
  await hosts.startDestination();
  assertStringIncludes(await hosts.refused("here"), "has moved to");
  assertEquals(await hosts.destination.ended(), 0);
  hosts.assertSame();
  assertEquals(await hosts.owners(), "moved owner");
});

Deno.test("the destination is gone for good: the source stays in doubt until somebody claims the disk", async () => {
  await using hosts = await Hosts.start();
  await killBothAtCommit(hosts);
  for (let i = 0; i < 2; i++) assertStringIncludes(await hosts.refused("here"), "is in doubt");
  assertEquals(await hosts.owners(), "in-doubt prepared");
  assertStringIncludes((await hosts.own("here", "--claim")).stdout, "may have taken it over");
  await hosts.startSource();
  await writeBlock(hosts.source.port);
  // Should it come back after all, it is told.
  await hosts.startDestination();
  await hosts.destination.logged(/migration \S+ from \S+: receiving$/);
  assertEquals(await hosts.owners(), "owner receiving");
});

Deno.test("the source is gone for good: the destination stays prepared until somebody claims the disk", async () => {
  await using hosts = await Hosts.start();
  hosts.relay.look = once("there", "verb=commit", () => {
    hosts.source.signal("SIGKILL");
    return "cut";
  });
  await hosts.mirror();
  await hosts.source.ended();
  // It waits, and says for whom.
  const status = (await hosts.statusThere()).stdout;
  assertStringIncludes(status, "prepared: ");
  assertStringIncludes(status, "has not been handed over");
  await hosts.destination.stop();
  assertStringIncludes(await hosts.refused("there"), "has not been handed over");
  assertStringIncludes((await hosts.own("there", "--claim")).stdout, "may still own it");
  await using server = await serve(["--file", hosts.there], hosts.env("there"));
  await writeBlock(server.port);
});

Deno.test("a proxy in front of the client follows the disk: all writes succeed, and are there", async () => {
  await using hosts = await Hosts.start(undefined, 16 * 1024 * 1024, ["--then-serve"]);
  const place = `nbd://127.0.0.1:${hosts.relay.port}/`;
  await using front = await proxy([hosts.source.uri(), "--follow", place]);
  const connection = await dial({ transport: "tcp", host: "127.0.0.1", port: front.port });
  const client = await RawClient.open(connection);
  const random = randomFrom();
  const expected = Deno.readFileSync(hosts.here);
  const writeSome = async (count: number) => {
    for (let i = 0; i < count; i++) {
      const offset = 512 * random.below(expected.length / 512);
      const data = random.bytes(512);
      expected.set(data, offset);
      assertEquals((await client.write(offset, data)).error, 0);
      if (random.chance(0.1)) assertEquals((await client.ask({ type: Command.FLUSH })).error, 0);
    }
  };
  await writeSome(50);
  await hosts.mirror();
  let over = false;
  const moving = hosts.source.ended().then((code) => {
    over = true;
    return code;
  });
  while (!over) await writeSome(5);
  assertEquals(await moving, 0);
  await writeSome(50);
  assertEquals((await client.ask({ type: Command.FLUSH })).error, 0);
  assertStringIncludes(front.log, "following");
  connection.close();
  assertEquals(Deno.readFileSync(hosts.there), expected);
  assertEquals(await hosts.owners(), "moved owner");
});

Deno.test("a disk that had one writer at a time has one where it has moved to, also when that starts again", async () => {
  const words = ["--then-serve", "--writers", "one-session", "--reservation-timeout", "0"];
  await using hosts = await Hosts.start(undefined, SIZE_BYTES, words);
  const place = `nbd://127.0.0.1:${hosts.relay.port}/`;
  await using front = await proxy([hosts.source.uri(), "--follow", place]);
  const connection = await dial({ transport: "tcp", host: "127.0.0.1", port: front.port });
  const client = await RawClient.open(connection);
  const writeThrough = async () => assertEquals((await client.write(0, new Uint8Array(512))).error, 0);
  const writeBeside = async (port: number) => {
    const words = ["write", "--size", "1", `nbd://127.0.0.1:${port}/`];
    const { stderr } = await denbd(words, { code: 1, stdin: "x" });
    assertStringIncludes(stderr, "it is reserved for 127.0.0.1:");
  };
  await hosts.mirror();
  assertEquals(await hosts.source.ended(), 0);
  await writeThrough();
  await writeBeside(hosts.destination.port);
  await hosts.destination.stop("SIGKILL");
  const where = [
    "--port",
    String(hosts.relay.target),
    "--writers",
    "one-session",
    "--reservation-timeout",
    "0",
  ];
  await using again = await serve(["--file", hosts.there, ...where], hosts.env("there"));
  // Before the proxy is there again as after that.
  await writeBeside(again.port);
  await writeThrough();
  await writeBeside(again.port);
  connection.close();
});

Deno.test("a proxy does not go to a place that it was not told of", async () => {
  await using hosts = await Hosts.start(undefined, SIZE_BYTES, ["--then-serve"]);
  await using front = await proxy([hosts.source.uri()]);
  await hosts.mirror();
  await front.logged(/cannot reconnect: the disk has moved to .*, which is not followed/);
  assertEquals(await hosts.source.ended(), 0);
});

/** So large that what was on its way when the link was cut is little of it. */
const LARGE_BYTES = 96 * 1024 * 1024;

for (const changed of [false, true]) {
  const outcome = changed
    ? "a destination that was changed meanwhile gets all of it again"
    : "it goes on with what is missing";
  Deno.test(`the link is cut after 60 % of a disk: ${outcome}`, async () => {
    let cutAt = 0;
    await using hosts = await Hosts.start(undefined, LARGE_BYTES);
    hosts.relay.look = async () => {
      if (cutAt > 0 || hosts.relay.bytesThere < 0.6 * LARGE_BYTES) return "pass";
      cutAt = hosts.relay.bytesThere;
      // Nobody gets through until the destination has been changed.
      if (changed) await changeDestination(hosts);
      return "cut";
    };
    await hosts.mirror();
    assertEquals([await hosts.source.ended(), await hosts.destination.ended()], [0, 0]);
    hosts.assertSame();
    assertEquals(await hosts.owners(), "moved owner");
    const again = hosts.relay.bytesThere - cutAt;
    if (changed) assert(again > LARGE_BYTES, `only ${again} bytes`);
    else assert(again < 0.5 * LARGE_BYTES, `${again} bytes`);
  });
}

/** Starts it anew on an image that has been written to. */
async function changeDestination(hosts: Hosts): Promise<void> {
  await hosts.destination.stop("SIGKILL");
  using file = Deno.openSync(hosts.there, { write: true });
  file.writeSync(new Uint8Array(4096).fill(1));
  await hosts.startDestination();
}
