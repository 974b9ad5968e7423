/** A real file system goes through every way of copying, ours and others', and stays equal and as sparse. */

import { assert, assertEquals } from "@std/assert";
import { run, temporaryDirectory } from "../testing/process.ts";
import { denbd, serve } from "../program/program.ts";
import { peerTest, startNbdkit } from "./peers.ts";

const programs = ["mke2fs", "e2fsck", "qemu-img", "nbdcopy", "nbdkit"];

/** Makes an ext4 image with this project's sources in it; returns its path. */
async function makeImage(path: string): Promise<string> {
  const tree = new URL("../../src", import.meta.url).pathname;
  Deno.writeFileSync(path, new Uint8Array());
  Deno.truncateSync(path, 128 << 20);
  await run("mke2fs", ["-q", "-t", "ext4", "-d", tree, path], { env: withSbin });
  return path;
}

const withSbin = { PATH: `${Deno.env.get("PATH")}:/usr/sbin:/sbin` };

function allocatedBytes(path: string): number {
  return Deno.statSync(path).blocks! * 512;
}

async function checkCopy(original: string, copy: string, how: string): Promise<void> {
  await run("qemu-img", ["compare", "-f", "raw", "-F", "raw", original, copy]);
  await run("e2fsck", ["-fn", copy], { env: withSbin });
  const [before, after] = [allocatedBytes(original), allocatedBytes(copy)];
  assert(
    Math.abs(after - before) <= before * 0.01,
    `${how}: ${after} bytes allocated, ${before} in the original`,
  );
}

peerTest(
  "an ext4 image is read by qemu-img, nbdcopy and denbd copy, equal and as sparse",
  programs,
  async () => {
    using directory = temporaryDirectory();
    const image = await makeImage(directory.file("image"));
    // What lies in the image's file as zeroes may come out as holes: compare with one that has none of them.
    const original = directory.file("original");
    await run("qemu-img", ["convert", "-f", "raw", "-O", "raw", "-S", "4k", image, original]);
    await using server = await serve(["--file", original, "--read-only"]);
    const copies: [string, (copy: string) => Promise<unknown>][] = [
      [
        "qemu-img",
        (copy) => run("qemu-img", ["convert", "-f", "raw", "-O", "raw", "-S", "4k", server.uri(), copy]),
      ],
      ["nbdcopy", (copy) => run("nbdcopy", [server.uri(), copy])],
      ["denbd", (copy) => denbd(["copy", server.uri(), copy])],
      [
        "denbd-pipe",
        async (copy) => Deno.writeFileSync(copy, (await denbd(["copy", server.uri(), "-"])).bytes),
      ],
    ];
    for (const [how, make] of copies) {
      const copy = directory.file(how);
      await make(copy);
      if (how !== "denbd-pipe") await checkCopy(original, copy, how);
      else await run("qemu-img", ["compare", "-f", "raw", "-F", "raw", original, copy]);
    }
  },
);

peerTest(
  "an ext4 image is written by qemu-img, nbdcopy and denbd copy, equal and as sparse",
  programs,
  async () => {
    using directory = temporaryDirectory();
    const image = await makeImage(directory.file("image"));
    const original = directory.file("original");
    await run("qemu-img", ["convert", "-f", "raw", "-O", "raw", "-S", "4k", image, original]);
    const copies: [string, (uri: string) => Promise<unknown>][] = [
      [
        "qemu-img",
        (uri) => run("qemu-img", ["convert", "-n", "-f", "raw", "-O", "raw", "-S", "4k", original, uri]),
      ],
      ["nbdcopy", (uri) => run("nbdcopy", ["--flush", original, uri])],
      ["denbd", (uri) => denbd(["copy", original, uri])],
      ["denbd-pipe", (uri) => denbd(["copy", "-", uri], { stdin: Deno.readFileSync(original) })],
    ];
    for (const [how, copyTo] of copies) {
      const copy = directory.file(how);
      Deno.writeFileSync(copy, new Uint8Array());
      Deno.truncateSync(copy, Deno.statSync(original).size);
      await using server = await serve(["--file", copy]);
      await copyTo(server.uri());
      assertEquals(await server.stop(), 0);
      await checkCopy(original, copy, how);
    }
  },
);

peerTest("denbd copy overwrites what a destination held before", programs, async () => {
  using directory = temporaryDirectory();
  const original = await makeImage(directory.file("image"));
  const copy = directory.file("copy");
  Deno.writeFileSync(copy, new Uint8Array(Deno.statSync(original).size).fill(0xff));
  await using server = await serve(["--file", copy]);
  await denbd(["copy", original, server.uri()]);
  assertEquals(await server.stop(), 0);
  await run("qemu-img", ["compare", "-f", "raw", "-F", "raw", original, copy]);
});

peerTest("denbd copy reports a source that fails, and leaves no copy", programs, async () => {
  using directory = temporaryDirectory();
  const original = await makeImage(directory.file("image"));
  await using source = await startNbdkit(["--filter=error", "file", original, "error-pread-rate=50%"]);
  const copy = directory.file("copy");
  const { code, stderr } = await denbd(["copy", source.uri, copy], { code: "any" });
  assertEquals(code, 1);
  assert(/^denbd copy: .*\n$/.test(stderr), stderr);
  assert(![...Deno.readDirSync(directory.path)].some(({ name }) => name === "copy"));
});

peerTest("denbd copy obeys the block sizes of a server that insists on them", programs, async () => {
  using directory = temporaryDirectory();
  const original = await makeImage(directory.file("image"));
  const copy = directory.file("copy");
  Deno.writeFileSync(copy, new Uint8Array());
  Deno.truncateSync(copy, Deno.statSync(original).size);
  const policy = ["blocksize-minimum=4096", "blocksize-maximum=64k", "blocksize-error-policy=error"];
  await using server = await startNbdkit(["--filter=blocksize-policy", "file", copy, ...policy]);
  await denbd(["copy", original, server.uri]);
  await run("qemu-img", ["compare", "-f", "raw", "-F", "raw", original, copy]);
});
