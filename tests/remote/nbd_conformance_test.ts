import { CacheDisk } from "../../src/device/cache.ts";
import { MemoryStore } from "../../src/device/cache_memory.ts";
import type { BlockDevice } from "../../src/device/device.ts";
import { MemoryDisk } from "../../src/device/memory.ts";
import { ConnectionSet } from "../../src/remote/connection_set.ts";
import { NbdDisk } from "../../src/remote/nbd.ts";
import { openConnection } from "../../src/remote/open_connection.ts";
import type { ClientWishes } from "../../src/wire/nbd/handshake_client.ts";
import { conformance } from "../device/conformance.ts";
import { type ServedDiskOptions, serveDisk } from "../testing/served_disk.ts";

interface Variant {
  readonly name: string;
  readonly wishes?: Partial<ClientWishes>;
  readonly connections?: number;
  readonly server?: ServedDiskOptions;
  readonly operations?: number;
}

/** Reads by {@linkcode NbdDisk.show}. */
class ShownDisk extends NbdDisk {
  override read(offset: number, into: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      this.show(offset, into.length, (bytes, error) => {
        if (bytes === null) return reject(error);
        into.set(bytes as Uint8Array);
        resolve();
      });
    });
  }
}

/** A disk of a server, which ends with it. */
async function openRemote(
  device: BlockDevice,
  { wishes, connections = 1, server }: Omit<Variant, "name">,
  kind = NbdDisk,
) {
  const served = serveDisk(device, server);
  const all = { exportName: "", contexts: ["base:allocation"], ...wishes };
  const opened = await Promise.all(
    Array.from({ length: connections }, () => openConnection(served.dial, all)),
  );
  const disk = new kind(new ConnectionSet(opened));
  return {
    disk,
    async [Symbol.asyncDispose]() {
      await disk.close();
      await served[Symbol.asyncDispose]();
    },
  };
}

const variants: Variant[] = [
  { name: "with extended headers" },
  { name: "with structured replies", wishes: { extended: false } },
  { name: "with simple replies", wishes: { extended: false, structured: false } },
  { name: "of an oldstyle server", server: { oldstyle: true } },
  { name: "over four connections", connections: 4 },
  { name: "cut at every seventh byte", server: { bytesPerRead: 7 }, operations: 60 },
];

for (const { name, operations, ...variant } of variants) {
  conformance(`NbdDisk ${name}`, {
    operations,
    open: (sizeBytes) => openRemote(new MemoryDisk(sizeBytes), variant),
  });
  conformance(`NbdDisk ${name}, shown`, {
    operations,
    open: (sizeBytes) => openRemote(new MemoryDisk(sizeBytes), variant, ShownDisk),
  });
}

const between = {
  "": (disk: BlockDevice) => disk,
  " and its cache": (disk: BlockDevice) => new CacheDisk(disk, new MemoryStore(2 << 20, 512)),
};
for (const [name, wrap] of Object.entries(between)) {
  conformance(`NbdDisk through a proxy${name}`, {
    async open(sizeBytes) {
      const upstream = await openRemote(new MemoryDisk(sizeBytes), {});
      const downstream = await openRemote(wrap(upstream.disk), {});
      return {
        disk: downstream.disk,
        async [Symbol.asyncDispose]() {
          await downstream[Symbol.asyncDispose]();
          await upstream[Symbol.asyncDispose]();
        },
      };
    },
  });
}
