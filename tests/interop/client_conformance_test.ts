/** The servers of others must look to us like any disk. */
import { parseDiskLocator } from "../../src/base/uri.ts";
import { openDisk } from "../../src/open_disk.ts";
import { conformance } from "../device/conformance.ts";
import { findProgram, temporaryDirectory } from "../testing/process.ts";
import { makeSparse } from "../testing/storage.ts";
import { type PeerServer, peerTest, startNbdkit, startNbdServer, startQemuNbd } from "./peers.ts";

interface Variant {
  readonly name: string;
  readonly program: "nbdkit" | "qemu-nbd" | "nbd-server";
  readonly connections?: number;
  start(image: string): Promise<PeerServer>;
}

const variants: Variant[] = [
  { name: "nbdkit", program: "nbdkit", start: (image) => startNbdkit(["file", image]) },
  {
    name: "nbdkit over four connections",
    program: "nbdkit",
    connections: 4,
    start: (image) => startNbdkit(["file", image]),
  },
  {
    name: "nbdkit over TCP",
    program: "nbdkit",
    start: (image) => startNbdkit(["file", image], { transport: "tcp" }),
  },
  {
    name: "nbdkit without structured replies",
    program: "nbdkit",
    start: (image) => startNbdkit(["--no-sr", "file", image]),
  },
  {
    name: "nbdkit without fixed newstyle",
    program: "nbdkit",
    start: (image) => startNbdkit(["--mask-handshake=0", "file", image]),
  },
  {
    name: "nbdkit with blocks of 4096 bytes, strictly, and at most 64 KiB at a time",
    program: "nbdkit",
    start: (image) =>
      startNbdkit([
        "--filter=blocksize-policy",
        "file",
        image,
        "blocksize-minimum=4096",
        "blocksize-preferred=4096",
        "blocksize-maximum=64k",
        "blocksize-error-policy=error",
      ]),
  },
  {
    name: "nbdkit whose answers are late",
    program: "nbdkit",
    start: (image) => startNbdkit(["--filter=delay", "file", image, "rdelay=3ms", "wdelay=1ms"]),
  },
  { name: "qemu-nbd", program: "qemu-nbd", start: (image) => startQemuNbd(image) },
  { name: "nbd-server", program: "nbd-server", start: (image) => startNbdServer(image) },
];

for (const { name, program, connections, start } of variants) {
  if (findProgram(program) === null) {
    peerTest(`V2: ${name} does what every disk does`, [program], () => {});
    continue;
  }
  conformance(name, {
    sizeBytes: 1 << 20,
    operations: 250,
    async open(sizeBytes) {
      const directory = temporaryDirectory();
      const image = directory.file("disk.img");
      makeSparse(image, sizeBytes);
      const server = await start(image);
      const disk = await openDisk(parseDiskLocator(server.uri), { connections });
      return {
        disk,
        async [Symbol.asyncDispose]() {
          await disk.close();
          await server[Symbol.asyncDispose]();
          directory[Symbol.dispose]();
        },
      };
    },
  });
}
