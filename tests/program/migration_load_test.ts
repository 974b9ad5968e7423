/** A disk moves under fio, which verifies what it wrote and goes through a proxy that follows the disk. */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { peerTest, until } from "../interop/peers.ts";
import { run, temporaryDirectory } from "../testing/process.ts";
import { randomFrom } from "../testing/random.ts";
import { allocatedBytes, makeSparse } from "../testing/storage.ts";
import { denbd, listen, proxy, serve } from "./program.ts";

const MIB = 1024 * 1024;
const SIZE_BYTES = 256 * MIB;
/** Where fio writes: a small part, so that most holes stay. */
const LOAD_BYTES = SIZE_BYTES / 32;

/** Every other MiB of it is a hole. */
function makeHalfSparse(path: string): void {
  makeSparse(path, SIZE_BYTES);
  using file = Deno.openSync(path, { write: true });
  const data = randomFrom().bytes(MIB);
  for (let at = 0; at < SIZE_BYTES; at += 2 * MIB) {
    // No two of them are alike.
    data.set(new TextEncoder().encode(`at ${at};`));
    file.seekSync(at, Deno.SeekMode.Start);
    for (let done = 0; done < MIB;) done += file.writeSync(data.subarray(done));
  }
}

peerTest(
  "a half-sparse disk moves under fio behind a proxy: equal to the byte, holes are kept, fio finds no fault",
  [
    "fio",
  ],
  async () => {
    using directory = temporaryDirectory();
    const [here, there, sock] = ["here", "there", "sock"].map((name) => directory.file(name));
    makeHalfSparse(here);
    makeSparse(there, SIZE_BYTES);
    const env = (side: string) => ({ env: { STATE_DIRECTORY: directory.file(`state-${side}`) } });
    await using source = await serve(["--file", here, "--sock", sock], env("here"));
    await using destination = await listen(["--file", there], env("there"));
    await using front = await proxy([source.uri(), "--follow", destination.uri()]);
    const load = ["--rw=randwrite", "--bs=4k", "--iodepth=4", "--rate_iops=,400", `--size=${LOAD_BYTES}`];
    const verify = ["--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0"];
    const writing = run("fio", ["--name=x", "--ioengine=nbd", `--uri=${front.uri()}`, ...load, ...verify], {
      timeoutSeconds: 120,
    });
    const written = async () => {
      const { stdout } = await denbd(["status", "--sock", sock, "--json"]);
      return JSON.parse(stdout).exports[0].writtenBytes as number;
    };
    await until(async () => await written() > 50 * 4096);
    await denbd(["mirror", "--sock", sock, destination.uri()]);
    assertEquals([await source.ended(), await destination.ended()], [0, 0]);
    // Nobody serves the disk now, and fio waits: this is how it was handed over.
    await run("cmp", [here, there]);
    const [ours, theirs] = [allocatedBytes(here), allocatedBytes(there)];
    assert(Math.abs(theirs - ours) <= ours / 100, `${theirs} bytes are allocated, and were ${ours}`);
    const movedBytes = Deno.readFileSync(there).subarray(0, LOAD_BYTES);
    await using successor = await serve(["--file", there, "--port", `${destination.port}`], env("there"));
    assertMatch((await writing).stdout, /err= 0/);
    assertStringIncludes(front.log, "following");
    assertEquals([await front.stop(), await successor.stop()], [0, 0]);
    // fio had not been done before.
    const after = Deno.readFileSync(there).subarray(0, LOAD_BYTES);
    assert(after.some((byte, at) => byte !== movedBytes[at]), "nothing was written after the hand-over");
  },
);
