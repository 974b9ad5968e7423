import { assertEquals, assertRejects } from "@std/assert";
import { isAlive, run, temporaryDirectory } from "../testing/process.ts";
import { type PeerServer, peerTest, startNbdkit, startNbdServer, startQemuNbd } from "./peers.ts";

const sizeBytes = 3 << 20;

for (const transport of ["unix", "tcp"] as const) {
  const kinds: [string, (image: string) => Promise<PeerServer>][] = [
    ["nbdkit", (image) => startNbdkit(["file", image], { transport })],
    ["qemu-nbd", (image) => startQemuNbd(image, [], { transport })],
    ["nbd-server", (image) => startNbdServer(image, [], { transport })],
  ];
  for (const [program, start] of kinds) {
    peerTest(
      `${program} over ${transport} is started and leaves nothing behind`,
      [program, "nbdinfo"],
      async () => {
        using directory = temporaryDirectory();
        const image = directory.file("image");
        Deno.writeFileSync(image, new Uint8Array(sizeBytes));
        let pid: number;
        {
          await using server = await start(image);
          pid = server.pid;
          const { stdout } = await run("nbdinfo", ["--size", server.uri]);
          assertEquals(Number(stdout), sizeBytes);
        }
        assertEquals(isAlive(pid), false);
      },
    );
  }
}

Deno.test("run() tells the command and its output when the exit code is another", async () => {
  const error = await assertRejects(() => run("sh", ["-c", "echo seen; exit 3"]), Error);
  assertEquals(error.message, "sh -c echo seen; exit 3: exit code 3 instead of 0\nseen");
});

Deno.test("run() ends a program that takes too long", async () => {
  const { code } = await run("sleep", ["60"], { timeoutSeconds: 0.1, code: "any" });
  assertEquals(code, 124);
});
