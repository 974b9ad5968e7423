/** Our commands on the servers of others, with a file system of real files. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { commands } from "../../src/commands/table.ts";
import { runProgram } from "../../src/commands/program.ts";
import { openFileDisk } from "../../src/device/open_file_disk.ts";
import { FakeSurroundings } from "../commands/fake_surroundings.ts";
import { run, temporaryDirectory } from "../testing/process.ts";
import { listenDisk } from "../testing/served_disk.ts";
import { allocatedBytes, makeSparse } from "../testing/storage.ts";
import { type PeerServer, peerTest, startNbdkit, startNbdServer, startQemuNbd } from "./peers.ts";

const MIB = 1024 * 1024;

async function denbd(words: readonly string[], input?: Uint8Array<ArrayBuffer>) {
  const around = new FakeSurroundings({}, input);
  const code = await runProgram(words, commands, "1", around);
  return {
    code,
    out: around.stdoutBytes,
    text: around.written.stdout,
    stderr: around.written.stderr,
    log: around.written.log,
  };
}

async function succeed(...words: string[]): Promise<void> {
  const { code, stderr } = await denbd(words);
  assertEquals([code, stderr], [0, ""], words.join(" "));
}

/** An ext4 image of 64 MiB that holds the project's own source and tests. */
async function makeImage(path: string): Promise<void> {
  const tree = new URL("../../", import.meta.url).pathname;
  using staging = temporaryDirectory();
  await run("cp", ["-r", `${tree}src`, `${tree}tests`, staging.path]);
  await run("mke2fs", ["-q", "-t", "ext4", "-d", staging.path, path, "64M"]);
}

async function assertSameContent(one: string, other: string): Promise<void> {
  await run("cmp", [one, other]);
}

const servers: Record<
  string,
  (image: string, readOnly: boolean) => Promise<PeerServer | ReturnType<typeof listenDisk>>
> = {
  nbdkit: (image) => startNbdkit(["file", image]),
  "qemu-nbd": (image) => startQemuNbd(image, ["--discard=unmap", "--detect-zeroes=unmap"]),
  "nbd-server": (image) => startNbdServer(image, ["trim = true", "flush = true"]),
  denbd: async (image, readOnly) => listenDisk(await openFileDisk(image, { readOnly })),
};

for (const [name, start] of Object.entries(servers)) {
  const programs = ["mke2fs", "e2fsck", ...name === "denbd" ? [] : [name]];

  peerTest(`copy fetches an ext4 image from ${name}, equal and as sparse`, programs, async () => {
    using directory = temporaryDirectory();
    const [image, fetched] = [directory.file("image"), directory.file("fetched")];
    await makeImage(image);
    await using server = await start(image, true);
    await succeed("copy", server.uri, fetched);
    await assertSameContent(image, fetched);
    const [before, after] = [allocatedBytes(image), allocatedBytes(fetched)];
    assert(after <= 1.01 * before, `${after} bytes are allocated instead of ${before}`);
    await run("e2fsck", ["-fn", fetched]);
  });

  peerTest(`copy sends an ext4 image to ${name}, equal and as sparse`, programs, async () => {
    using directory = temporaryDirectory();
    const [image, sent] = [directory.file("image"), directory.file("sent")];
    await makeImage(image);
    makeSparse(sent, 64 * MIB);
    {
      await using server = await start(sent, false);
      await succeed("copy", "--destination-is-zero", image, server.uri);
    }
    await assertSameContent(image, sent);
    const [before, after] = [allocatedBytes(image), allocatedBytes(sent)];
    assert(after <= 1.01 * before, `${after} bytes are allocated instead of ${before}`);
    await run("e2fsck", ["-fn", sent]);
  });

  peerTest(`copy makes old content equal on ${name}`, programs, async () => {
    using directory = temporaryDirectory();
    const [image, sent] = [directory.file("image"), directory.file("sent")];
    await makeImage(image);
    Deno.writeFileSync(sent, new Uint8Array(64 * MIB).fill(0xff));
    {
      await using server = await start(sent, false);
      await succeed("copy", image, server.uri);
    }
    await assertSameContent(image, sent);
  });

  peerTest(`write and read a range of ${name}, wherever it begins`, programs.slice(2), async () => {
    using directory = temporaryDirectory();
    const image = directory.file("image");
    makeSparse(image, MIB);
    const data = new Uint8Array(70_001).map((_, index) => index);
    {
      await using server = await start(image, false);
      const written = await denbd(
        ["write", "--from", "1001", "--size", String(data.length), server.uri],
        data,
      );
      assertEquals([written.code, written.stderr], [0, ""]);
      const { out } = await denbd(["read", "--from", "1001", "--size", String(data.length), server.uri]);
      assertEquals(out, data);
    }
    assertEquals(Deno.readFileSync(image).subarray(1001, 1001 + data.length), data);
  });

  peerTest(`V5: info tells the truth about ${name}`, programs.slice(2), async () => {
    using directory = temporaryDirectory();
    const image = directory.file("image");
    makeSparse(image, 3 * MIB);
    await using server = await start(image, false);
    for (const list of [[], ["--list"]]) {
      const { code, text, stderr } = await denbd(["info", "--json", ...list, server.uri]);
      assertEquals([code, stderr], [0, ""]);
      const [exported] = JSON.parse(text).exports;
      assertEquals([exported["export-size"], exported.is_read_only, exported.can_flush], [
        3 * MIB,
        false,
        true,
      ]);
    }
  });
}

peerTest("read and write an nbdkit that greets as of old", ["nbdkit"], async () => {
  using directory = temporaryDirectory();
  const image = directory.file("image");
  makeSparse(image, MIB);
  await using server = await startNbdkit(["--oldstyle", "file", image]);
  const data = new Uint8Array(1000).fill(7);
  // It offers FLUSH and then refuses it: the data are there, but whether they are durable nobody knows.
  const { code, stderr } = await denbd(["write", "--from", "5", server.uri], data);
  assertEquals(code, 1);
  assertStringIncludes(stderr, "cannot flush");
  assertEquals((await denbd(["read", "--from", "5", "--size", "1000", server.uri])).out, data);
});

peerTest(
  "copy fails when the source fails a request, and writes no zeroes in its place",
  ["nbdkit"],
  async () => {
    using directory = temporaryDirectory();
    const [image, fetched, old] = [directory.file("image"), directory.file("fetched"), directory.file("old")];
    Deno.writeFileSync(image, new Uint8Array(8 * MIB).fill(1));
    const errors = ["--filter=error", "file", image, "error-pread-rate=30%", "error-pread=EIO"];
    await using server = await startNbdkit(errors);
    const created = await denbd(["copy", server.uri, fetched]);
    assertEquals(created.code, 1);
    assertStringIncludes(created.stderr, "EIO");
    assertEquals([...Deno.readDirSync(directory.path)].map(({ name }) => name), ["image"]);
    Deno.writeFileSync(old, new Uint8Array(8 * MIB).fill(2));
    assertEquals((await denbd(["copy", server.uri, old])).code, 1);
    assertEquals(Deno.readFileSync(old).includes(0), false);
  },
);

peerTest("copy fails when the destination is full", ["nbdkit"], async () => {
  using directory = temporaryDirectory();
  const image = directory.file("image");
  Deno.writeFileSync(image, new Uint8Array(MIB).fill(1));
  await using server = await startNbdkit([
    "--filter=error",
    "memory",
    "1M",
    "error-pwrite-rate=100%",
    "error-pwrite=ENOSPC",
  ]);
  const { code, stderr } = await denbd(["copy", image, server.uri]);
  assertEquals(code, 1);
  assertStringIncludes(stderr, "ENOSPC");
});

peerTest("write warns where a server offers no flush", ["nbd-server"], async () => {
  using directory = temporaryDirectory();
  const image = directory.file("image");
  makeSparse(image, MIB);
  await using server = await startNbdServer(image);
  const { code, log } = await denbd(["write", server.uri], new Uint8Array(1000).fill(7));
  assertEquals(code, 0);
  assertStringIncludes(log, `${server.uri} cannot flush: nobody can tell when the data are durable`);
});
