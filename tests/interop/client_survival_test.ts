/** Servers of others that are killed and come back where they were. */
import { assertEquals, assertRejects } from "@std/assert";
import { parseDiskLocator } from "../../src/base/uri.ts";
import { DeviceError } from "../../src/device/device_error.ts";
import { openDisk } from "../../src/open_disk.ts";
import { temporaryDirectory } from "../testing/process.ts";
import { makeSparse } from "../testing/storage.ts";
import { type PeerOptions, type PeerServer, peerTest, startNbdkit, startQemuNbd } from "./peers.ts";

const MIB = 1024 * 1024;

const servers: Record<string, (image: string, options: PeerOptions) => Promise<PeerServer>> = {
  nbdkit: (image, options) => startNbdkit(["file", image], options),
  "qemu-nbd": (image, options) => startQemuNbd(image, [], options),
};

const filled = (value: number) => new Uint8Array(65536).fill(value);

for (const [program, start] of Object.entries(servers)) {
  for (const soleWriter of [true, false]) {
    const outcome = soleWriter
      ? "a sole writer notices nothing"
      : "the next flush of one of many writers fails";
    peerTest(`when ${program} is killed and comes back, ${outcome}`, [program], async () => {
      using directory = temporaryDirectory();
      const image = directory.file("image");
      makeSparse(image, 16 * MIB);
      const socket = directory.file("nbd.sock");
      let server = await start(image, { socket });
      const disk = await openDisk(parseDiskLocator(server.uri), { soleWriter, connections: 4 });
      try {
        for (let life = 1; life <= 3; life++) {
          await disk.write(0, filled(life));
          const under = Array.from(
            { length: 32 },
            (_, index) => disk.write((index + 1) * 65536, filled(life + index)),
          );
          await server.stop("SIGKILL");
          await Deno.remove(socket).catch(() => {});
          server = await start(image, { socket });
          await Promise.all(under);
          if (!soleWriter) {
            const error = await assertRejects(async () => await disk.flush(), DeviceError);
            assertEquals(error.errno, "EIO");
          }
          await disk.flush();
          for (let index = -1; index < 32; index++) {
            const content = new Uint8Array(65536);
            await disk.read((index + 1) * 65536, content);
            assertEquals(content, index < 0 ? filled(life) : filled(life + index));
          }
        }
      } finally {
        await disk.close();
        await server.stop();
      }
    });
  }
}
