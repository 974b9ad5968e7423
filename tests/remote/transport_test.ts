/** What a transport of blocks has to stand, row by row, against servers that do what the test says. */
import { assertEquals, assertRejects } from "@std/assert";
import { DeviceError } from "../../src/device/device_error.ts";
import type { Connection } from "../../src/net/connection.ts";
import { openNbd } from "../../src/remote/open_nbd.ts";
import { connectionPair } from "../testing/connection_pair.ts";
import { filled, MIB, settle, setUp } from "../testing/link.ts";
import { ManualClock } from "../testing/manual_clock.ts";
import { oldstyleGreeting, simpleReply } from "../testing/oldstyle.ts";
import { randomFrom } from "../testing/random.ts";

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, permissions: "none", fn });
}

/** The server's end of a connection that was greeted as flexnbd does: 1 MiB, simple replies. */
class Script {
  constructor(readonly end: Connection) {
    void end.write(oldstyleGreeting(MIB));
  }

  async take(byteCount: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(byteCount);
    for (let at = 0; at < byteCount;) {
      const count = await this.end.read(bytes.subarray(at));
      if (count === null) throw new Error("the client has left");
      at += count;
    }
    return bytes;
  }
}

/** A disk over such servers: each connection goes to the next script. */
async function scripted(deadlineMs?: number) {
  const ends: Script[] = [];
  const clock = new ManualClock();
  const dial = () => {
    const [here, there] = connectionPair();
    ends.push(new Script(there));
    return Promise.resolve(here);
  };
  const { disk, link } = await openNbd({
    dial,
    exportName: "",
    clock,
    survival: { deadlineMs, random: () => 0 },
  });
  return { ends, clock, disk, link: link! };
}

const offsetOf = (header: Uint8Array) =>
  Number(new DataView(header.buffer, header.byteOffset).getBigUint64(16));

test("V3: a request that is sent again is the same to the byte, but for its cookie", async () => {
  const { ends, clock, disk } = await scripted();
  const writing = disk.write(8192, filled(3)) as Promise<void>;
  const first = await ends[0].take(28 + 4096);
  ends[0].end.close();
  await settle();
  clock.advance(1);
  await settle();
  const again = await ends[1].take(28 + 4096);
  const meaning = (bytes: Uint8Array) => [...bytes.subarray(0, 8), ...bytes.subarray(16)];
  assertEquals(meaning(again), meaning(first));
  await ends[1].end.write(simpleReply(again));
  await writing;
  await disk.close();
});

test("V4: 64 requests that are answered in reverse order all get their own data", async () => {
  const { ends: [server], disk } = await scripted();
  const buffers = Array.from({ length: 64 }, () => new Uint8Array(512));
  const reads = buffers.map((into, index) => disk.read(index * 512, into));
  const headers: Uint8Array[] = [];
  while (headers.length < 64) headers.push(await server.take(28));
  for (const header of headers.reverse()) {
    await server.end.write(simpleReply(header, filled(offsetOf(header) / 512 + 1, 512)));
  }
  await Promise.all(reads);
  for (const [index, into] of buffers.entries()) assertEquals(into, filled(index + 1, 512));
  await disk.close();
});

test("V12: a pause of 3 s in a header and in a payload does no harm", async () => {
  const { ends: [server], clock, disk, link } = await scripted();
  const into = new Uint8Array(4096);
  const reading = disk.read(0, into) as Promise<void>;
  const reply = simpleReply(await server.take(28), randomFrom(5).bytes(4096));
  for (const [from, to] of [[0, 7], [7, 900], [900, reply.length]]) {
    await server.end.write(reply.subarray(from, to));
    await settle();
    clock.advance(3000);
    await settle();
  }
  await reading;
  assertEquals([into, link.reconnects], [reply.slice(16), 0]);
  await disk.close();
});

test("V13: an answer that belongs to nothing ends the connection, and the request is asked anew", async () => {
  for (const spoil of [0, 15]) {
    const { ends, clock, disk, link } = await scripted();
    const into = new Uint8Array(512);
    const reading = disk.read(0, into) as Promise<void>;
    const bad = simpleReply(await ends[0].take(28), filled(1, 512));
    bad[spoil] ^= 0x40;
    await ends[0].end.write(bad);
    await settle();
    clock.advance(1);
    await settle();
    await ends[1].end.write(simpleReply(await ends[1].take(28), filled(2, 512)));
    await reading;
    assertEquals([into, link.reconnects], [filled(2, 512), 1]);
    await disk.close();
  }
});

test("V19: whatever the size of a request, the content is the same on both sides", async () => {
  const { server, disk } = await setUp();
  const content = randomFrom(19).bytes(MIB);
  for (const chunkBytes of [512, 4096, 65536, 1000, MIB]) {
    for (let at = 0; at < MIB; at += chunkBytes) {
      await disk.write(at, content.subarray(at, at + chunkBytes));
    }
    await disk.flush();
    assertEquals(server.stored(0, MIB), content);
    const seen = new Uint8Array(MIB);
    for (let at = 0; at < MIB; at += chunkBytes) await disk.read(at, seen.subarray(at, at + chunkBytes));
    assertEquals(seen, content);
    content.reverse();
  }
  await disk.close();
});

test("V28: a server that takes everything and answers nothing completes nothing before the deadline", async () => {
  const { clock, disk } = await scripted(60_000);
  let ended = 0;
  const requests = [
    disk.read(0, new Uint8Array(512)),
    disk.write(4096, filled(1)),
    disk.flush(),
  ].map((each) => (each as Promise<void>).finally(() => ended++));
  for (const request of requests) request.catch(() => {});
  await settle();
  clock.advance(59_999);
  await settle();
  assertEquals(ended, 0);
  clock.advance(1);
  await settle();
  for (const request of requests) {
    assertEquals((await assertRejects(() => request, DeviceError)).errno, "ETIMEDOUT");
  }
  await disk.close();
});
