import { assert, assertEquals } from "@std/assert";
import { crc32 } from "node:zlib";
import { MemoryDisk } from "../../../src/device/memory.ts";
import { Command } from "../../../src/wire/dnbd3/constants.ts";
import { encodeRequest } from "../../../src/wire/dnbd3/message.ts";
import { bytes } from "../../testing/hex.ts";
import type { RawImageClient } from "../../testing/raw_image_client.ts";
import * as vectors from "../../wire/dnbd3/vectors.ts";
import { Fixture, SETTINGS } from "./fixture.ts";
import { patternDisk } from "./memory_store.ts";

/** Sends recorded bytes and compares what comes back. */
async function exchange(client: RawImageClient, vector: { client: Uint8Array; server: Uint8Array }) {
  await client.send(vector.client);
  assertEquals(await client.receive(vector.server.length), vector.server);
}

for (const bytesPerRead of [Infinity, 1]) {
  const how = bytesPerRead === 1 ? ", the stream cut at every byte" : "";

  Deno.test(`V1-V3, S1: the recorded selections are answered byte for byte${how}`, async () => {
    await using fixture = new Fixture();
    for (
      const vector of [vectors.SELECT_TEST, vectors.SELECT_MULTI_NEWEST_VERSION_2, vectors.SELECT_ODD_NEWEST]
    ) {
      await exchange(fixture.connect(bytesPerRead), vector);
    }
  });

  Deno.test(`V5-V8, V10-V12, S2, S4-S6: the recorded requests are answered byte for byte${how}`, async () => {
    await using fixture = new Fixture();
    const client = fixture.connect(bytesPerRead);
    await exchange(client, vectors.SELECT_TEST);
    await client.send(vectors.BLOCK_ALIGNED.client);
    assertEquals(await client.receive(16), vectors.BLOCK_ALIGNED.serverHeader);
    assertEquals(crc32((await client.receive(4096))!), vectors.BLOCK_ALIGNED.payloadCrc32);
    await exchange(client, vectors.BLOCK_AT_END);
    await exchange(client, vectors.BLOCK_ACROSS_END);
    await exchange(client, vectors.BLOCK_EMPTY);
    await exchange(client, vectors.BLOCK_UNALIGNED);
    await exchange(client, vectors.SERVERS);
    await exchange(client, vectors.CHECKSUMS_OF_TEST);
    await exchange(client, vectors.KEEPALIVE);
  });
}

Deno.test("V4, S1: who cannot be served is disconnected without a word", async () => {
  await using fixture = new Fixture();
  fixture.store.put("empty.r1", new MemoryDisk(0));
  for (
    const [name, revision, version] of [
      ["unknown", 0, 3],
      ["test", 2, 3],
      ["test.r1", 0, 3],
      ["Test", 1, 3],
      ["test", 1, 1],
      ["empty", 1, 3],
      ["/test", 1, 3],
    ] as const
  ) {
    assertEquals(await fixture.connect().select(name, revision, 0, version), null, `${name}:${revision}`);
  }
  for (
    const first of [vectors.BLOCK_ALIGNED.client, vectors.KEEPALIVE.client, bytes("72 73" + "00".repeat(22))]
  ) {
    const client = fixture.connect();
    await client.send(first);
    assertEquals(await client.receive(1), null);
  }
});

Deno.test("S1: a client of a later version is answered with ours", async () => {
  await using fixture = new Fixture();
  assertEquals((await fixture.connect().select("test", 1, 0, 9))?.version, 3);
});

Deno.test("S2: the last block of an image whose file ends within it is filled up with zeroes", async () => {
  await using fixture = new Fixture();
  fixture.store.put("cut.r1", new Uint8Array(5000).fill(7));
  const client = await fixture.open("cut");
  const expected = new Uint8Array(8192);
  expected.fill(7, 0, 5000);
  assertEquals(await client.block(0, 8192), expected);
  assertEquals(await client.block(4990, 20), expected.slice(4990, 5010));
  assertEquals(await client.block(6000, 100), new Uint8Array(100));
});

Deno.test("V9, S2: the recorded last block has 1000 bytes of the file and 3096 zeroes", async () => {
  await using fixture = new Fixture();
  const client = await fixture.open("sub/odd", 3);
  const block = (await client.block(20971520, 4096))!;
  assertEquals(crc32(block), vectors.ODD_LAST_BLOCK_CRC32);
  assertEquals(block.subarray(1000), new Uint8Array(3096));
});

Deno.test("S2: blocks of any size come whole", async () => {
  await using fixture = new Fixture();
  const client = await fixture.open();
  for (
    const [offset, length] of [[0, 1], [1, 131072], [4096, 1048576], [17, 1048577], [5, 5000001], [
      0,
      33554432,
    ]]
  ) {
    const block = (await client.block(offset, length))!;
    assertEquals(block.length, length);
    // The pattern at both ends and in the middle says that nothing was left out.
    for (const at of [0, Math.floor(length / 2), Math.max(0, length - 64)]) {
      assertEquals(
        block.slice(at, at + 64),
        vectors.patternBytes(offset + at, block.slice(at, at + 64).length),
      );
    }
  }
});

Deno.test("S2: a client of version 2 has no hop byte, only a long offset", async () => {
  await using fixture = new Fixture();
  const client = fixture.connect();
  await client.select("test", 1, 0, 2);
  await client.ask(0, 8, 5n, 1);
  assertEquals(await client.reply(), {
    command: Command.Error,
    sizeBytes: 0,
    handle: 5n,
    payload: new Uint8Array(0),
  });
  assertEquals(await client.block(0, 8), vectors.patternBytes(0, 8));
});

Deno.test("S3: requests sent at once are all answered, each with its handle", async () => {
  await using fixture = new Fixture();
  const client = await fixture.open();
  const handles = Array.from(
    { length: 128 },
    (_, index) => BigInt(index) * 0x0123456789abcdefn & 0xffff_ffff_ffff_ffffn,
  );
  for (const [index, handle] of handles.entries()) await client.ask(index * 4096, 4096, handle);
  const seen = new Map<bigint, Uint8Array>();
  for (const _ of handles) {
    const reply = (await client.reply())!;
    seen.set(reply.handle, reply.payload);
  }
  for (const [index, handle] of handles.entries()) {
    assertEquals(seen.get(handle), vectors.patternBytes(index * 4096, 4096));
  }
});

Deno.test("S3: blocks that must wait for the disk are overtaken by those that need not", async () => {
  await using fixture = new Fixture();
  const disk = new MemoryDisk(1 << 20);
  const cold = Promise.withResolvers<void>();
  const read = disk.read.bind(disk);
  disk.read = (offset, into) =>
    offset < 4096 ? cold.promise.then(() => read(offset, into)) as never : read(offset, into);
  disk.write(0, Uint8Array.of(1, 2, 3, 4));
  fixture.store.put("slow.r1", disk);
  const client = await fixture.open("slow");
  await client.ask(0, 4, 1n);
  await client.ask(8192, 4, 2n);
  await client.send(vectors.KEEPALIVE.client);
  assertEquals((await client.reply())?.handle, 2n);
  assertEquals((await client.reply())?.command, Command.Keepalive);
  cold.resolve();
  const reply = (await client.reply())!;
  assertEquals([reply.handle, reply.payload], [1n, Uint8Array.of(1, 2, 3, 4)]);
});

Deno.test("S3: a large block is not interrupted by replies that become ready meanwhile", async () => {
  await using fixture = new Fixture();
  const disk = patternDisk(8 << 20);
  const cold = Promise.withResolvers<void>();
  const read = disk.read.bind(disk);
  disk.read = (offset, into) =>
    offset === 0 ? cold.promise.then(() => read(offset, into)) : read(offset, into);
  fixture.store.put("slow.r1", disk);
  const client = await fixture.open("slow");
  await client.ask(0, 4096, 1n);
  await client.ask(4096, 3 << 20, 2n);
  await client.ask(8, 8, 3n);
  cold.resolve();
  for (const [handle, offset, length] of [[1n, 0, 4096], [2n, 4096, 3 << 20], [3n, 8, 8]] as const) {
    const reply = (await client.reply())!;
    assertEquals([reply.handle, reply.sizeBytes], [handle, length]);
    assertEquals(reply.payload.slice(-8), vectors.patternBytes(offset + length - 8, 8));
  }
});

Deno.test("S5: without a checksum list the answer is empty", async () => {
  await using fixture = new Fixture();
  const client = await fixture.open("multi", 7);
  await client.send(vectors.CHECKSUMS_OF_TEST.client);
  assertEquals((await client.reply())?.sizeBytes, 0);
});

Deno.test("S6: a client that stays silent is dropped after four timeouts, and one that says a word is not", async () => {
  await using fixture = new Fixture();
  const [silent, alive] = [await fixture.open(), await fixture.open()];
  await fixture.settle();
  for (let elapsed = 0; elapsed < 3900; elapsed += 100) {
    fixture.clock.advance(100);
    if (elapsed % 1000 === 0) {
      await exchange(alive, {
        client: vectors.KEEPALIVE.client,
        server: bytes("73 72 05 00" + "00".repeat(12)),
      });
    }
  }
  assertEquals(fixture.server.sessions().length, 2);
  fixture.clock.advance(300);
  assertEquals(await silent.receive(1), null);
  await fixture.settle();
  assertEquals(fixture.server.sessions().length, 1);
  assertEquals(await alive.block(0, 8), vectors.patternBytes(0, 8));
});

Deno.test("S6: a client that stops in the middle of a request is dropped after one timeout", async () => {
  await using fixture = new Fixture();
  const client = await fixture.open();
  await client.send(vectors.BLOCK_ALIGNED.client.subarray(0, 23));
  await fixture.settle();
  fixture.clock.advance(900);
  await fixture.settle();
  assertEquals(fixture.server.sessions().length, 1);
  fixture.clock.advance(400);
  assertEquals(await client.receive(1), null);
});

Deno.test("S6: a stranger has one timeout to say what it wants", async () => {
  await using fixture = new Fixture();
  const client = fixture.connect();
  await client.send(vectors.SELECT_TEST.client.subarray(0, 30));
  await fixture.settle();
  fixture.clock.advance(1000);
  assertEquals(await client.receive(1), null);
});

Deno.test("strangers of one address make room for each other, and keep nobody else out", async () => {
  await using fixture = new Fixture();
  const here = await fixture.open();
  const patient = fixture.connect(undefined, "10.0.0.2");
  const silent = Array.from({ length: 1000 }, () => fixture.connect(undefined, "10.0.0.1"));
  await fixture.settle();
  // The oldest have gone; 200 are left.
  assertEquals(await silent[799].receive(1), null);
  const { name } = (await silent[800].select("test", 1))!;
  assertEquals(name, "test");
  assertEquals((await patient.select("test", 1))!.name, "test");
  await here.ask(0, 512, 1n);
  assertEquals((await here.reply())!.payload.length, 512);
  // One line for the address, however many there were.
  assertEquals(fixture.told.filter((line) => line.includes("refused")), [
    "10.0.0.1:1 refused: 200 handshakes of its address are under way",
  ]);
});

Deno.test("strangers of many addresses keep nobody out who says what he wants", async () => {
  await using fixture = new Fixture();
  for (let count = 0; count < 2000; count++) fixture.connect(undefined, `10.0.${count >> 8}.${count & 255}`);
  assertEquals((await fixture.connect(undefined, "10.1.0.1").select("test", 1))!.name, "test");
});

Deno.test("S6: a payload above 1000 bytes ends the connection, a smaller one is read past", async () => {
  await using fixture = new Fixture();
  const plain = { command: Command.Keepalive, offset: 0, hops: 0, handle: 0n };
  const client = await fixture.open();
  await client.send(encodeRequest({ ...plain, sizeBytes: 1000 }));
  await client.send(new Uint8Array(1000));
  assertEquals((await client.reply())?.command, Command.Keepalive);
  await client.send(encodeRequest({ ...plain, sizeBytes: 1001 }));
  assertEquals(await client.receive(1), null);
});

Deno.test("commands nobody answers leave the connection as it is", async () => {
  await using fixture = new Fixture();
  const client = await fixture.open();
  for (const command of [Command.Error, Command.LatestRevision, Command.SetClientMode, 9, 0xffff]) {
    await client.send(encodeRequest({ command, sizeBytes: 0, offset: 0, hops: 0, handle: 9n }));
  }
  await client.send(vectors.SELECT_TEST.client);
  assertEquals(await client.block(0, 8), vectors.patternBytes(0, 8));
});

Deno.test("SET_CLIENT_MODE makes a client of a server", async () => {
  await using fixture = new Fixture();
  const client = await fixture.open("test", 1, 1);
  await fixture.settle();
  assertEquals(fixture.server.sessions()[0].isServer, true);
  await client.send(
    encodeRequest({ command: Command.SetClientMode, sizeBytes: 0, offset: 0, hops: 0, handle: 0n }),
  );
  await client.block(0, 8);
  assertEquals(fixture.server.sessions()[0].isServer, false);
});

Deno.test("a wrong magic ends the connection", async () => {
  await using fixture = new Fixture();
  const client = await fixture.open();
  const wrong = vectors.BLOCK_ALIGNED.client.slice();
  wrong[0] ^= 1;
  await client.send(wrong);
  assertEquals(await client.receive(1), null);
});

Deno.test("S11: above maxClients a client is disconnected, and the others are served", async () => {
  await using fixture = new Fixture({ settings: { ...SETTINGS, maxClients: 2 } });
  const clients = [await fixture.open(), await fixture.open()];
  assertEquals(await fixture.connect().select("test"), null);
  for (const client of clients) assertEquals(await client.block(0, 8), vectors.patternBytes(0, 8));
  clients[0].connection.close();
  await fixture.settle();
  assert(await fixture.connect().select("test") !== null);
});

Deno.test("S11: maxClients holds for those as well who come at once and have to wait", async () => {
  await using fixture = new Fixture({ settings: { ...SETTINGS, maxClients: 2 } });
  fixture.store.put("part.r1", patternDisk(64 * 4096));
  fixture.store.put("part.r1.map", Uint8Array.of(0xff));
  const selecting = Promise.all(Array.from({ length: 5 }, () => fixture.connect().select("part")));
  await fixture.settle();
  fixture.clock.advance(10);
  assertEquals((await selecting).filter((image) => image !== null).length, 2);
});

Deno.test("S11: serverPenalty and clientPenalty are microseconds between the selection and the first block", async () => {
  const settings = { ...SETTINGS, serverPenalty: 500_000, clientPenalty: 20_000 };
  await using fixture = new Fixture({ settings });
  for (const [flags, penaltyMs] of [[0, 20], [1, 500]]) {
    const client = await fixture.open("test", 1, flags);
    await client.ask(0, 8, 1n);
    let answered = false;
    const reply = client.reply().then((reply) => {
      answered = true;
      return reply;
    });
    await fixture.settle();
    fixture.clock.advance(penaltyMs - 1);
    await fixture.settle();
    assertEquals(answered, false);
    fixture.clock.advance(1);
    assertEquals((await reply)?.payload, vectors.patternBytes(0, 8));
  }
});

Deno.test("S11: an image that is not all here, and has no uplink, is selected the later the less of it is here", async () => {
  for (
    const [map, waitMs] of [[[0xff, 0xff, 0, 0, 0, 0, 0, 0], 7.5], [
      [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0],
      5,
    ]] as const
  ) {
    await using fixture = new Fixture();
    fixture.store.put("part.r1", patternDisk(64 * 4096));
    fixture.store.put("part.r1.map", Uint8Array.from(map));
    let selected = false;
    const opening = fixture.open("part").then(() => selected = true);
    await fixture.settle();
    fixture.clock.advance(waitMs - 0.1);
    await fixture.settle();
    assertEquals(selected, false);
    fixture.clock.advance(0.1);
    await opening;
  }
});

Deno.test("a missing block of an incomplete image ends the connection, present ones are served", async () => {
  await using fixture = new Fixture();
  fixture.store.put("part.r1", patternDisk(64 * 4096));
  fixture.store.put("part.r1.map", Uint8Array.of(0xff));
  const opening = fixture.open("part");
  await fixture.settle();
  fixture.clock.advance(10);
  const client = await opening;
  assertEquals(await client.block(0, 8 * 4096), vectors.patternBytes(0, 8 * 4096));
  assertEquals(await client.block(8 * 4096 - 1, 2), null);
});

Deno.test("a block that fails its checksum is not sent, others are", async () => {
  await using fixture = new Fixture();
  const client = await fixture.open();
  fixture.table.known("test", 1)!.markBad(1);
  assertEquals(await client.block(16777216 - 8, 8), vectors.patternBytes(16777216 - 8, 8));
  assertEquals(await client.block(16777216 - 4, 8), null);
});

Deno.test("a disk that fails ends the connection", async () => {
  await using fixture = new Fixture();
  const disk = patternDisk(8192);
  disk.read = () => {
    throw new Error("the disk is broken");
  };
  fixture.store.put("broken.r1", disk);
  const client = await fixture.open("broken");
  assertEquals(await client.block(0, 8), null);
  assert(fixture.told.some((text) => text.includes("the disk is broken")));
});

Deno.test("rule 19: an image overwritten in place is never answered with mixed content", async () => {
  await using fixture = new Fixture();
  fixture.store.put("x.r1", new Uint8Array(1 << 20).fill(1));
  const client = await fixture.open("x");
  assertEquals(await client.block(0, 4), Uint8Array.of(1, 1, 1, 1));
  await client.ask(0, 4096, 1n);
  await fixture.store.overwrite("x.r1", 4096, new Uint8Array(4096).fill(2));
  await client.ask(4096, 4096, 2n);
  const replies = [await client.reply(), await client.reply().catch(() => null)];
  for (const reply of replies) assert(reply === null || reply.payload.every((byte) => byte === 1));
  assertEquals(replies[1], null);
  assertEquals(await fixture.connect().select("x", 1), null);
  assertEquals(fixture.table.known("x", 1)?.quarantine, "its file was written to");
});

Deno.test("rule 19: a disk that changes while a block is read from it is noticed before the block leaves", async () => {
  await using fixture = new Fixture();
  const disk = new MemoryDisk(8192);
  fixture.store.put("x.r1", disk);
  const client = await fixture.open("x");
  const read = disk.read.bind(disk);
  disk.read = (offset, into) => {
    read(offset, into);
    fixture.store.overwrite("x.r1", 0, Uint8Array.of(9));
  };
  assertEquals(await client.block(0, 8), null);
});

Deno.test("a client that takes nothing is stopped by back-pressure, and dropped after a timeout", async () => {
  await using fixture = new Fixture();
  const client = fixture.connect();
  const { connection } = client;
  assertEquals((await client.select("test"))?.name, "test");
  await fixture.settle();
  // From here on the transport takes nothing.
  const session = fixture.server.sessions()[0];
  const stuck = Promise.withResolvers<void>();
  let handed = 0;
  session.connection.write = (bytes) => {
    handed += bytes.length;
    return stuck.promise;
  };
  for (let index = 0; index < 10_000; index++) await client.ask(0, 4096, BigInt(index));
  await fixture.settle();
  assert(handed < 6 * 1024 * 1024, `${handed} bytes`);
  assertEquals(session.requests < 2000, true, `${session.requests} requests`);
  for (let elapsed = 0; elapsed < 1500; elapsed += 100) fixture.clock.advance(100);
  stuck.reject(new Error("closed"));
  await fixture.settle();
  assertEquals(fixture.server.sessions().length, 0);
  connection.close();
});

Deno.test("every session ends with a line that says who, what, how much and why", async () => {
  await using fixture = new Fixture();
  const client = await fixture.open();
  await client.block(0, 4096);
  client.connection.close();
  await fixture.settle();
  assertEquals(fixture.told, [
    "127.0.0.1:1 reads test:1",
    "127.0.0.1:1 left test:1 after 0.0 s: closed by the client; 1 blocks, 4096 bytes",
  ]);
});

Deno.test("names from strangers are made fit for the log", async () => {
  await using fixture = new Fixture();
  await fixture.connect().select("evil\nname\x1b[31m");
  await fixture.settle();
  assertEquals(fixture.told.length, 1);
  assert(!/\p{Cc}/u.test(fixture.told[0]), fixture.told[0]);
});

Deno.test("K1: like the kernel: 128 blocks of 1 MiB outstanding, arbitrary handles, keepalives between", async () => {
  await using fixture = new Fixture();
  const client = await fixture.open();
  const total = 128;
  const offsets = Array.from(
    { length: total },
    (_, index) => (index * 7 % 60) * 1048576 + (index % 16) * 4096,
  );
  for (const [index, offset] of offsets.entries()) {
    await client.ask(offset, 1048576, 0xffff_ffff_0000_0000n + BigInt(index));
    if (index % 32 === 0) await client.send(vectors.KEEPALIVE.client);
  }
  let [blocks, keepalives] = [0, 0];
  while (blocks < total || keepalives < 4) {
    const reply = (await client.reply())!;
    if (reply.command === Command.Keepalive) {
      assertEquals(reply.sizeBytes, 0);
      keepalives++;
      continue;
    }
    assertEquals([reply.command, reply.sizeBytes], [Command.GetBlock, 1048576]);
    const offset = offsets[Number(reply.handle - 0xffff_ffff_0000_0000n)];
    assertEquals(reply.payload.slice(0, 16), vectors.patternBytes(offset, 16));
    assertEquals(reply.payload.slice(-16), vectors.patternBytes(offset + 1048576 - 16, 16));
    blocks++;
  }
});

Deno.test("K2, K3: probes on other connections see the same image, and handle 0", async () => {
  await using fixture = new Fixture();
  const first = (await fixture.connect().select("sub/odd", 0))!;
  for (let round = 0; round < 3; round++) {
    const probe = fixture.connect();
    assertEquals(await probe.select(first.name, first.revision), first);
    await probe.ask(0, 4096, 0n);
    const reply = (await probe.reply())!;
    assertEquals([reply.command, reply.handle, reply.sizeBytes], [Command.GetBlock, 0n, 4096]);
    probe.connection.close();
  }
});

Deno.test("K4: valid requests are never answered with ERROR, another command or another size", async () => {
  await using fixture = new Fixture();
  const client = await fixture.open("sub/odd", 3);
  const blocks = vectors.ODD_BYTES / 4096;
  let handle = 0n;
  for (let count = 1; count <= 32; count *= 2) {
    for (const first of [0, 1, 7, 4095 - count, blocks - count]) {
      await client.ask(first * 4096, count * 4096, ++handle);
      const { command, sizeBytes, handle: echoed, payload } = (await client.reply())!;
      assertEquals([command, sizeBytes, echoed], [Command.GetBlock, count * 4096, handle]);
      const expected = vectors.patternBytes(first * 4096, count * 4096, vectors.ODD_FILE_BYTES);
      assertEquals(payload, expected);
    }
  }
  for (const command of [Command.GetServers, Command.GetChecksums, Command.Keepalive]) {
    await client.send(encodeRequest({ command, sizeBytes: 0, offset: 0, hops: 0, handle: 0n }));
    assertEquals((await client.reply())!.command, command);
  }
});
