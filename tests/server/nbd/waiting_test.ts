/** What it costs that many clients wait for a disk that does not answer. */
import { assert, assertEquals } from "@std/assert";
import { FaultDisk } from "../../../src/device/fault.ts";
import { MemoryDisk } from "../../../src/device/memory.ts";
import { dial } from "../../../src/net/dial.ts";
import { Command } from "../../../src/wire/nbd/constants.ts";
import { until } from "../../interop/peers.ts";
import { RawClient } from "../../testing/raw_client.ts";
import { listenDisk, serveDisk } from "../../testing/served_disk.ts";

const MIB = 1 << 20;
const BLOCK = 4096;
const CLIENTS = 100;
const REQUESTS = 100;

Deno.test("V20: 10,000 requests of 100 clients that all wait take less than 64 MiB of buffers, one write at a time or not", async () => {
  for (const oneByOne of [true, false]) {
    const memory = new MemoryDisk(MIB);
    const disk = new FaultDisk(memory);
    const fault = disk.add({ hold: true });
    await using served = listenDisk(disk);
    const clients = await Promise.all(
      Array.from(
        { length: CLIENTS },
        async () =>
          await RawClient.open(await dial({ transport: "tcp", host: "127.0.0.1", port: served.port })),
      ),
    );
    const cookies: bigint[][] = clients.map(() => []);
    const requests = () => served.exported.traffic.requests;
    const quiet = served.server.bufferedBytes;
    for (let request = 0; request < REQUESTS; request++) {
      const offset = request * BLOCK;
      const data = new Uint8Array(BLOCK).fill(request);
      await Promise.all(clients.map(async (client, index) => {
        cookies[index].push(
          request % 2 === 0
            ? await client.send({ type: Command.WRITE, offset, length: BLOCK }, data)
            : await client.send({ type: Command.READ, offset, length: BLOCK }),
        );
      }));
      if (oneByOne) await until(() => requests() === (request + 1) * CLIENTS);
    }
    await until(() => requests() === REQUESTS * CLIENTS);
    const held = served.server.bufferedBytes;
    assert(held < 64 * MIB, `${held}`);
    fault.remove();
    for (const [index, client] of clients.entries()) {
      for (const cookie of cookies[index]) assertEquals((await client.answer(cookie)).error, 0);
    }
    const content = new Uint8Array(REQUESTS * BLOCK);
    memory.read(0, content);
    assert(content.every((byte, at) => byte === ((at / BLOCK) % 2 < 1 ? Math.floor(at / BLOCK) : 0)));
    // A client without requests holds no more than before.
    await until(() => served.server.bufferedBytes <= quiet);
    for (const client of clients) client.connection.close();
  }
});

Deno.test("V20: a thousand clients that each wait for a read take less than 80 MiB of buffers", async () => {
  const disk = new FaultDisk(new MemoryDisk(MIB));
  const fault = disk.add({ hold: true });
  await using served = serveDisk(disk);
  const clients: RawClient[] = [];
  // One after the other: those who are still greeting are strangers, and bounded.
  for (let count = 0; count < 1000; count++) clients.push(await served.client());
  const cookies = await Promise.all(
    clients.map((client) => client.send({ type: Command.READ, offset: 0, length: BLOCK })),
  );
  await until(() => fault.held === clients.length);
  const held = served.server.bufferedBytes;
  assert(held < 80 * MIB, `${held}`);
  fault.remove();
  for (const [index, client] of clients.entries()) {
    assertEquals((await client.answer(cookies[index])).error, 0);
    client.connection.close();
  }
});
