import { assertEquals } from "@std/assert";
import { beforeUnixClient, claimDescriptor } from "../../src/net/connection_descriptor.ts";
import { localAddress, peerAddress, receiveNow, sendNow } from "../../src/os/socket_calls.ts";

const linux = Deno.build.os === "linux";

async function read(conn: Deno.Conn): Promise<string> {
  const bytes = new Uint8Array(64);
  return new TextDecoder().decode(bytes.subarray(0, await conn.read(bytes) ?? 0));
}

const bytesOf = (text: string) => new TextEncoder().encode(text);

Deno.test({ name: "claimDescriptor() finds both ends of TCP connections", ignore: !linux }, async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  for (let i = 0; i < 5; i++) {
    using client = await Deno.connect({ hostname: "127.0.0.1", port });
    using server = await listener.accept();
    const serverFd = claimDescriptor(server)!;
    const clientFd = claimDescriptor(client)!;
    assertEquals(localAddress(serverFd), peerAddress(clientFd));
    sendNow(serverFd, bytesOf("to the client"));
    assertEquals(await read(client), "to the client");
    sendNow(clientFd, bytesOf("to the server"));
    assertEquals(await read(server), "to the server");
  }
});

Deno.test(
  { name: "claimDescriptor() never mixes up connections of one Unix socket", ignore: !linux },
  async () => {
    const directory = Deno.makeTempDirSync();
    const path = `${directory}/socket`;
    try {
      using listener = Deno.listen({ transport: "unix", path });
      const open: { client: Deno.Conn; server: Deno.Conn; fd: number; id: number }[] = [];
      const connect = async (id: number) => {
        const client = await Deno.connect({ transport: "unix", path });
        const server = await listener.accept();
        assertEquals(claimDescriptor(client), null);
        const fd = claimDescriptor(server)!;
        open.push({ client, server, fd, id });
      };
      for (let id = 0; id < 60; id++) {
        await connect(id);
        if (id % 3 === 2) {
          const { client, server } = open.splice(id % open.length, 1)[0];
          // A read that is under way keeps the descriptor open beyond the close.
          const reading = server.read(new Uint8Array(1)).catch(() => null);
          server.close();
          await connect(1000 + id);
          client.close();
          await reading;
        }
      }
      assertEquals(new Set(open.map(({ fd }) => fd)).size, open.length);
      for (const { client, fd, id } of open) {
        sendNow(fd, bytesOf(`for ${id}`));
        assertEquals(await read(client), `for ${id}`);
        await client.write(bytesOf(`from ${id}`));
        const bytes = new Uint8Array(64);
        const count = receiveNow(fd, bytes);
        assertEquals(new TextDecoder().decode(bytes.subarray(0, count)), `from ${id}`);
      }
      for (const { client, server } of open) {
        client.close();
        server.close();
      }
    } finally {
      Deno.removeSync(directory, { recursive: true });
    }
  },
);

Deno.test(
  {
    name: "beforeUnixClient() finds the connection that is made next, if it is the only one",
    ignore: !linux,
  },
  async () => {
    const directory = Deno.makeTempDirSync();
    const path = `${directory}/socket`;
    try {
      using listener = Deno.listen({ transport: "unix", path });
      using stranger = await Deno.connect({ transport: "unix", path });
      using _strangerServer = await listener.accept();
      const claim = beforeUnixClient();
      using client = await Deno.connect({ transport: "unix", path });
      using server = await listener.accept();
      const fd = claim(client)!;
      sendNow(fd, bytesOf("to the server"));
      assertEquals(await read(server), "to the server");
      const claimOne = beforeUnixClient();
      const claimOther = beforeUnixClient();
      using one = await Deno.connect({ transport: "unix", path });
      using other = await Deno.connect({ transport: "unix", path });
      assertEquals(claimOne(one), null);
      assertEquals(claimOther(other), null);
      assertEquals(beforeUnixClient()(stranger), null);
    } finally {
      Deno.removeSync(directory, { recursive: true });
    }
  },
);
