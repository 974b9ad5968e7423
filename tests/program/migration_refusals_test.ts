/** Destinations that do not take a disk: one clear error on the source, which goes on serving it. */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { dial } from "../../src/net/dial.ts";
import { until } from "../interop/peers.ts";
import { freePort, type TemporaryDirectory, temporaryDirectory } from "../testing/process.ts";
import { randomFrom } from "../testing/random.ts";
import { RawClient } from "../testing/raw_client.ts";
import { Relay, type Verdict } from "../testing/relay.ts";
import { makeSparse, smallFileSystem, storageTest } from "../testing/storage.ts";
import { denbd, listen, type RunningServer, serve } from "./program.ts";

const MIB = 1024 * 1024;
const SIZE_BYTES = 4 * MIB;

/** A host with a disk, and a client of it that stays connected. */
class Source implements AsyncDisposable {
  private constructor(
    readonly sock: string,
    readonly image: string,
    readonly server: RunningServer,
    readonly client: RawClient,
  ) {}

  static async start(directory: TemporaryDirectory, name = "here", sizeBytes = SIZE_BYTES): Promise<Source> {
    const [image, sock] = [directory.file(`${name}.img`), directory.file(`${name}.sock`)];
    Deno.writeFileSync(image, randomFrom().bytes(sizeBytes));
    const server = await serve(["--file", image, "--sock", sock]);
    const client = await RawClient.open(
      await dial({ transport: "tcp", host: "127.0.0.1", port: server.port }),
    );
    return new Source(sock, image, server, client);
  }

  mirror(to: string, options: Parameters<typeof denbd>[1] = {}) {
    return denbd(["mirror", "--sock", this.sock, to], options);
  }

  async migration() {
    const { stdout } = await denbd(["status", "--sock", this.sock, "--json"]);
    return JSON.parse(stdout).exports[0].migration;
  }

  /** Moves it to no avail. @returns What it says. */
  async refused(to: string): Promise<string> {
    const { stdout, stderr } = await this.mirror(to, { code: 1 });
    assertEquals([stdout, stderr.trimEnd().split("\n").length], ["", 1], stderr);
    assertEquals(await this.migration(), null);
    await this.assertServing();
    return stderr;
  }

  /** The client that has been there all the time writes and reads. */
  async assertServing(): Promise<void> {
    const data = randomFrom().bytes(512);
    assertEquals((await this.client.write(512, data)).error, 0);
    assertEquals((await this.client.read(512, 512)).data, data);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.client.connection.close();
    await this.server[Symbol.asyncDispose]();
  }
}

for (const [what, sizeBytes] of [["small", SIZE_BYTES - 512], ["large", SIZE_BYTES + 512]] as const) {
  Deno.test(`mirror: the destination is too ${what}`, async () => {
    using directory = temporaryDirectory();
    await using source = await Source.start(directory);
    const there = directory.file("there.img");
    makeSparse(there, sizeBytes);
    await using destination = await listen(["--file", there]);
    const says = await source.refused(destination.uri());
    assertMatch(says, /^denbd mirror: Remote size does not match local size: /);
    assertStringIncludes(says, String(sizeBytes));
  });
}

Deno.test("mirror: the destination is served, read-only or not, or there is no such export", async () => {
  using directory = temporaryDirectory();
  await using source = await Source.start(directory);
  const [used, readOnly] = ["used.img", "read-only.img"].map((name) => directory.file(name));
  makeSparse(used, SIZE_BYTES);
  makeSparse(readOnly, SIZE_BYTES);
  await using there = await serve(["-e", `used=${used}`, "-e", `old=${readOnly},readonly`]);
  const rejected = "denbd mirror: Mirror was rejected: ";
  assertEquals(
    await source.refused(there.uri("used")),
    `${rejected}the disk there is in use; a disk is received by denbd listen\n`,
  );
  assertEquals(await source.refused(there.uri("old")), `${rejected}the destination is read-only\n`);
  const missing = await source.refused(there.uri("nope"));
  assert(missing.startsWith(rejected) && missing.includes('"nope"'), missing);
});

Deno.test("mirror: another disk is on its way to the destination", async () => {
  using directory = temporaryDirectory();
  await using first = await Source.start(directory, "first");
  await using second = await Source.start(directory, "second");
  const there = directory.file("there.img");
  makeSparse(there, SIZE_BYTES);
  await using destination = await listen(["--file", there]);
  using relay = new Relay(destination.port);
  const halfway = Promise.withResolvers<void>();
  const gate = Promise.withResolvers<void>();
  relay.look = async (direction): Promise<Verdict> => {
    if (direction === "back" || relay.bytesThere < SIZE_BYTES / 2) return "pass";
    halfway.resolve();
    await gate.promise;
    return "pass";
  };
  await first.mirror(`nbd://127.0.0.1:${relay.port}/`);
  await halfway.promise;
  assertMatch(
    await second.refused(destination.uri()),
    /^denbd mirror: Mirror was rejected: the destination is busy: another disk is coming from 127\.0\.0\.1:\d+\n$/,
  );
  gate.resolve();
  assertEquals([await first.server.ended(), await destination.ended()], [0, 0]);
  assertEquals(Deno.readFileSync(there), Deno.readFileSync(first.image));
  await second.assertServing();
});

Deno.test("mirror: the image of the destination is used by another program there", async () => {
  using directory = temporaryDirectory();
  await using source = await Source.start(directory);
  const there = directory.file("there.img");
  makeSparse(there, SIZE_BYTES);
  const port = freePort();
  await using holder = await serve(["--file", there]);
  // Whoever wants to receive into it learns who has it, and nothing listens there.
  const { stderr } = await denbd(["listen", "--file", there, "--port", `${port}`], { code: 1 });
  assertStringIncludes(stderr, "in use");
  assertStringIncludes(stderr, String(holder.pid));
  const says = await source.refused(`nbd://127.0.0.1:${port}/`);
  assertMatch(says, /^denbd mirror: Mirror failed to connect: .*connection refused\n$/);
});

storageTest("mirror: the destination's file system is full in the middle, and then it is not", async () => {
  using directory = temporaryDirectory();
  await using small = await smallFileSystem(SIZE_BYTES);
  await using source = await Source.start(directory, "here", SIZE_BYTES);
  const there = small.file("there.img");
  makeSparse(there, SIZE_BYTES);
  const ballast = small.file("ballast");
  Deno.writeFileSync(ballast, new Uint8Array(MIB));
  await using destination = await listen(["--file", there]);
  await source.mirror(destination.uri());
  await until(async () => (await source.migration()).attempt > 2);
  assertStringIncludes((await source.migration()).lastError, "ENOSPC");
  await source.assertServing();
  const told = source.server.log.split("\n").filter((line) => line.includes("ENOSPC") && /:E:/.test(line));
  assertEquals(told.length, 1, told.join("\n"));
  Deno.removeSync(ballast);
  assertEquals([await source.server.ended(), await destination.ended()], [0, 0]);
  assertEquals(Deno.readFileSync(there), Deno.readFileSync(source.image));
});
