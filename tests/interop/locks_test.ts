/** Two programs never write the same image: we and QEMU refuse what the other holds, and say who holds it. */

import { assertEquals, assertMatch } from "@std/assert";
import { run, temporaryDirectory } from "../testing/process.ts";
import { denbd, serve } from "../program/program.ts";
import { peerTest, startQemuNbd } from "./peers.ts";

Deno.test("a second server of the same image is refused with the pid of the first", async () => {
  using directory = temporaryDirectory();
  const path = directory.file("image");
  Deno.writeFileSync(path, new Uint8Array(1 << 20));
  await using server = await serve(["--file", path]);
  const { code, stderr } = await denbd(["serve", "--file", path, "--port", "0"], { code: "any" });
  assertEquals(code, 1);
  assertMatch(stderr, new RegExp(`in use by .*\\b${server.pid}\\b`));
  // When the first has ended, even by force, the image is free.
  await server.stop("SIGKILL");
  await using second = await serve(["--file", path]);
  assertEquals(await second.stop(), 0);
});

peerTest("qemu-io is refused an image that we serve to write, and may read one that we only read", [
  "qemu-io",
], async () => {
  using directory = temporaryDirectory();
  const path = directory.file("image");
  Deno.writeFileSync(path, new Uint8Array(1 << 20));
  {
    await using server = await serve(["--file", path]);
    const { code, stdout, stderr } = await run("qemu-io", ["-f", "raw", "-c", "read 0 512", path], {
      code: "any",
    });
    assertEquals(code, 1, stdout);
    assertMatch(stderr, /lock/);
    assertEquals(await server.stop(), 0);
  }
  await using server = await serve(["--file", path, "--read-only"]);
  await run("qemu-io", ["-r", "-f", "raw", "-c", "read 0 512", path]);
  const { code } = await run("qemu-io", ["-f", "raw", "-c", "write 0 512", path], { code: "any" });
  assertEquals(code, 1);
  assertEquals(await server.stop(), 0);
});

peerTest("an image that qemu-nbd has open is refused with its pid", ["qemu-nbd"], async () => {
  using directory = temporaryDirectory();
  const path = directory.file("image");
  Deno.writeFileSync(path, new Uint8Array(1 << 20));
  await using qemu = await startQemuNbd(path);
  for (const command of [["serve", "--file", path, "--port", "0"], ["write", "--size", "4", path]]) {
    const { code, stderr } = await denbd(command, { code: "any", stdin: "xxxx" });
    assertEquals([command[0], code], [command[0], 1]);
    assertMatch(stderr, new RegExp(`in use by qemu-nbd.*\\b${qemu.pid}\\b`));
  }
});
