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

const variants: Variant[] = [
  { name: "with extended headers" },
  { name: "with structured replies", wishes: { extended: false } },
  { name: "with simple replies", wishes: { extended: false, structured: false } },
  { name: "of an oldstyle server", server: { oldstyle: true } },
  { name: "over four connections", connections: 4 },
  { name: "cut at every seventh byte", server: { bytesPerRead: 7 }, operations: 60 },
];

for (const { name, wishes, connections = 1, server, operations } of variants) {
  conformance(`NbdDisk ${name}`, {
    operations,
    async open(sizeBytes) {
      const served = serveDisk(new MemoryDisk(sizeBytes), server);
      const all = { exportName: "", contexts: ["base:allocation"], ...wishes };
      const opened = await Promise.all(
        Array.from({ length: connections }, () => openConnection(served.dial, all)),
      );
      const disk = new NbdDisk(new ConnectionSet(opened));
      return {
        disk,
        async [Symbol.asyncDispose]() {
          await disk.close();
          await served[Symbol.asyncDispose]();
        },
      };
    },
  });
}
