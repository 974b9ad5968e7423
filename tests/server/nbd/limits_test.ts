/** What one client may cost the server, and how little the others notice of it. */
import { assert, assertEquals } from "@std/assert";
import type { BlockDevice } from "../../../src/device/device.ts";
import { MemoryDisk } from "../../../src/device/memory.ts";
import { dial } from "../../../src/net/dial.ts";
import { Command } from "../../../src/wire/nbd/constants.ts";
import type { ClientWishes } from "../../../src/wire/nbd/handshake_client.ts";
import { RawClient } from "../../testing/raw_client.ts";
import { listenDisk, type ListeningDisk } from "../../testing/served_disk.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
const LENGTH_MAX = 0xffff_ffff;

/** A disk that says it is larger than any request. */
function largeDisk(): BlockDevice {
  return new Proxy<BlockDevice>(new MemoryDisk(MIB), {
    get(target, key) {
      if (key === "sizeBytes") return 8 * KIB * MIB;
      const value = target[key as keyof BlockDevice];
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

const connect = async ({ port }: ListeningDisk, wishes: Partial<ClientWishes> = {}) =>
  await RawClient.open(await dial({ transport: "tcp", host: "127.0.0.1", port }), wishes);

const FORMS: readonly [string, Partial<ClientWishes>][] = [
  ["simple replies", { structured: false, extended: false }],
  ["structured replies", { extended: false }],
  ["extended headers", {}],
];

for (const [name, wishes] of FORMS) {
  Deno.test(`V20: a length of 4 GiB - 1 takes no memory, and nobody else notices, ${name}`, async () => {
    await using served = listenDisk(largeDisk());
    const other = await connect(served, wishes);
    const client = await connect(served, wishes);
    const before = served.server.bufferedBytes;
    const read = await client.read(0, LENGTH_MAX);
    assert(read.error !== 0);
    assertEquals(read.data.length, 0);
    // The connection goes on after a READ; what announces such a payload has lost the thread.
    assertEquals((await client.read(0, 512)).error, 0);
    await client.send({ type: Command.WRITE, offset: 0, length: LENGTH_MAX }, new Uint8Array(4 * KIB));
    const rest = new Uint8Array(KIB);
    while (await client.connection.read(rest) !== null);
    assertEquals((await other.write(512, new Uint8Array(512).fill(3))).error, 0);
    assertEquals((await other.read(512, 512)).data[0], 3);
    assert(served.server.bufferedBytes - before <= 512 * KIB, `${served.server.bufferedBytes - before}`);
    client.connection.close();
    other.connection.close();
  });
}

Deno.test("V20: 10,000 reads of a client that takes no answers cost 2 MiB at most, and others are served", async () => {
  await using served = listenDisk(new MemoryDisk(MIB));
  const other = await connect(served);
  const client = await connect(served);
  let peakBytes = 0;
  const sending = Array.from(
    { length: 10_000 },
    (_, request) => client.send({ type: Command.READ, offset: (request % 200) * 4 * KIB, length: 4 * KIB }),
  );
  for (let request = 0; request < 50; request++) {
    assertEquals((await other.read(request * 4 * KIB, 4 * KIB)).error, 0);
    peakBytes = Math.max(peakBytes, served.server.bufferedBytes);
  }
  // All the answers are 40 MB.
  assert(peakBytes <= 2 * MIB, `${peakBytes}`);
  for (const cookie of sending) assertEquals((await client.answer(await cookie)).error, 0);
  client.connection.close();
  other.connection.close();
});
