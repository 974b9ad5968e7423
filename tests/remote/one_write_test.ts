/** Why a small request is never held back until something else happens. */
import { assertEquals } from "@std/assert";
import { MemoryDisk } from "../../src/device/memory.ts";
import type { Connection } from "../../src/net/connection.ts";
import { claimDescriptor } from "../../src/net/connection_descriptor.ts";
import { NativeConnection } from "../../src/net/native_connection.ts";
import { libc } from "../../src/os/libc.ts";
import { openNbd } from "../../src/remote/open_nbd.ts";
import { connectionPair } from "../testing/connection_pair.ts";
import { serveDisk } from "../testing/served_disk.ts";

Deno.test("V21: a read and a write of 4 KiB are one write of the client and one of the server", async () => {
  await using served = serveDisk(new MemoryDisk(1 << 20));
  const writes: string[] = [];
  const watched = (who: string, connection: Connection): Connection => ({
    peer: connection.peer,
    read: (into) => connection.read(into),
    write(bytes) {
      writes.push(`${who} ${bytes.length >= 4096 ? "data" : "header"}`);
      return connection.write(bytes);
    },
    close: () => connection.close(),
  });
  const dial = () => {
    const [here, there] = connectionPair();
    served.server.handle(watched("server", there));
    return Promise.resolve(watched("client", here));
  };
  const { disk } = await openNbd({ dial, exportName: "" });
  const data = new Uint8Array(4096).fill(1);
  for (let request = 0; request < 20; request++) {
    writes.length = 0;
    await disk.write(request * 4096, data);
    assertEquals(writes, ["client data", "server header"]);
    writes.length = 0;
    await disk.read(request * 4096, new Uint8Array(4096));
    assertEquals(writes, ["client header", "server data"]);
  }
  await disk.close();
});

Deno.test("V21: on TCP what is written leaves without waiting for an answer to what left before", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const accepting = listener.accept();
  const ends = [await Deno.connect({ hostname: "127.0.0.1", port: listener.addr.port }), await accepting];
  for (const end of ends) {
    const fd = claimDescriptor(end)!;
    const connection = new NativeConnection(end, () => fd);
    const value = new Int32Array(1);
    // IPPROTO_TCP TCP_NODELAY
    assertEquals([libc()!.getsockopt(fd, 6, 1, value, new Uint32Array([4])), value[0]], [0, 1]);
    connection.close();
  }
});
