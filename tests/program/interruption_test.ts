/** Copies that are interrupted, and streams that cannot be used. */
import { assertEquals } from "@std/assert";
import { MemoryDisk } from "../../src/device/memory.ts";
import { run, temporaryDirectory } from "../testing/process.ts";
import { listenDisk, type ListeningDisk } from "../testing/served_disk.ts";
import { program, start, surroundings } from "./program.ts";

/** A disk all of whose reads wait. */
function waitingDisk(): ListeningDisk & { readonly asked: Promise<void>; answer(): void } {
  const asked = Promise.withResolvers<void>();
  const answer = Promise.withResolvers<void>();
  const disk = new class extends MemoryDisk {
    override async read(offset: number, into: Uint8Array) {
      asked.resolve();
      await answer.promise;
      super.read(offset, into);
    }
  }(1 << 20);
  disk.write(0, new Uint8Array(1 << 20).fill(7));
  return Object.assign(listenDisk(disk), { asked: asked.promise, answer: answer.resolve });
}

for (const signal of ["SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP"] as const) {
  Deno.test(`${signal} ends a copy with one line and exit code 1, and what it had made is removed`, async () => {
    using directory = temporaryDirectory();
    await using source = waitingDisk();
    await using copying = await start(["copy", source.uri, directory.file("copy")]);
    await source.asked;
    const code = copying.stop(signal);
    source.answer();
    assertEquals([await code, copying.log], [1, `denbd copy: interrupted by ${signal}`]);
    assertEquals([...Deno.readDirSync(directory.path)], []);
  });
}

Deno.test("a copy whose starter has SIGHUP ignored, as nohup does, goes on when the terminal is closed", async () => {
  using directory = temporaryDirectory();
  await using source = waitingDisk();
  const copying = new Deno.Command("sh", {
    args: ["-c", 'trap "" HUP; exec "$@"', "sh", await program(), "copy", source.uri, directory.file("copy")],
    env: surroundings,
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).spawn();
  await source.asked;
  copying.kill("SIGHUP");
  source.answer();
  const { code, stderr } = await copying.output();
  assertEquals([code, new TextDecoder().decode(stderr)], [0, ""]);
  assertEquals(Deno.readFileSync(directory.file("copy")), new Uint8Array(1 << 20).fill(7));
});

Deno.test("a standard input that cannot be read is named", async () => {
  using directory = temporaryDirectory();
  Deno.writeFileSync(directory.file("image"), new Uint8Array(512));
  const command = '"$0" write "$1" </';
  const { stderr } = await run("sh", ["-c", command, await program(), directory.file("image")], {
    env: surroundings,
    code: 1,
  });
  assertEquals(stderr, "denbd write: cannot read standard input: it is a directory\n");
});
