/** A disk that gives nothing before it has been compared with its checksum. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { copyDisk } from "../../../src/device/copy_disk.ts";
import { DeviceError } from "../../../src/device/device_error.ts";
import { MemoryDisk } from "../../../src/device/memory.ts";
import { ImageClient } from "../../../src/remote/dnbd3/image_client.ts";
import { ImageDisk } from "../../../src/remote/dnbd3/image_disk.ts";
import { HASH_BLOCK_BYTES } from "../../../src/wire/dnbd3/constants.ts";
import { virtualSize } from "../../../src/wire/dnbd3/message.ts";
import { ProxyWorld } from "../../server/dnbd3/proxy_world.ts";
import type { SimulatedServer } from "../../testing/image_world.ts";
import { randomFrom } from "../../testing/random.ts";
import { patternBytes } from "../../wire/dnbd3/vectors.ts";

const MIB = 1 << 20;
/** No multiple of 16 MiB, nor of 4096. */
const FILE_BYTES = 2 * HASH_BLOCK_BYTES + 5 * MIB + 77;
const SIZE = virtualSize(FILE_BYTES);

class ClientWorld extends ProxyWorld {
  async open(...hosts: string[]): Promise<ImageDisk> {
    const { dial, clock, log } = this;
    const servers = this.endpoints(...hosts);
    const client = await this.until(
      ImageClient.open({ name: "x", revision: 1, servers, dial, clock, log, random: () => 0.5 }),
    );
    return new ImageDisk(client, "always");
  }

  /** Reads, and compares with what is to be there. */
  async readDisk(disk: ImageDisk, offset: number, length: number): Promise<void> {
    const into = new Uint8Array(length);
    await this.until(disk.read(offset, into));
    const wanted = patternBytes(offset, length, FILE_BYTES);
    assertEquals(into.findIndex((byte, index) => byte !== wanted[index]), -1, `${length} bytes at ${offset}`);
  }
}

function flip(server: SimulatedServer, ...places: number[]): void {
  server.lie = (offset, bytes) => {
    for (const place of places) {
      if (offset <= place && place < offset + bytes.length) bytes[place - offset] ^= 1;
    }
  };
}

Deno.test("what a server flips is not delivered to who reads here and there", async () => {
  const random = randomFrom();
  await using world = new ClientWorld();
  const [liar, honest] = ["10.0.0.1", "10.0.0.2"].map((host) => world.origin(host, FILE_BYTES));
  flip(liar, 3 * MIB, HASH_BLOCK_BYTES, SIZE - 1);
  const disk = await world.open(liar.host, honest.host);
  const offsets = [3 * MIB - 1, SIZE - 10, ...Array.from({ length: 60 }, () => random.below(SIZE - 70_000))];
  for (const offset of offsets) {
    await world.readDisk(disk, offset, Math.min(SIZE - offset, 1 + random.below(70_000)));
  }
  const lies = disk.client.status().servers.map(({ server, lies }) => [server, lies]);
  assertEquals(lies, [["10.0.0.1:5003", 1], ["10.0.0.2:5003", 0]]);
  assert(world.told.some((text) => text.includes("10.0.0.1:5003 sends what is not in the image")));
  await disk.close();
});

Deno.test("a copy of what a server flips is right, and never fails", async () => {
  await using world = new ClientWorld();
  const [liar, honest] = ["10.0.0.1", "10.0.0.2"].map((host) => world.origin(host, FILE_BYTES));
  flip(liar, HASH_BLOCK_BYTES + 9);
  const disk = await world.open(liar.host, honest.host);
  const copy = new MemoryDisk(SIZE);
  await world.until(copyDisk(disk, copy, { clock: world.clock }));
  const into = new Uint8Array(SIZE);
  copy.read(0, into);
  const wanted = patternBytes(0, SIZE, FILE_BYTES);
  assertEquals(into.findIndex((byte, index) => byte !== wanted[index]), -1);
  await disk.close();
});

Deno.test("with nobody but the liar its hash block is EIO, and the others are read", async () => {
  await using world = new ClientWorld();
  const liar = world.origin("10.0.0.1", FILE_BYTES);
  flip(liar, 3 * MIB);
  const disk = await world.open(liar.host);
  await world.readDisk(disk, HASH_BLOCK_BYTES, 4096);
  const into = new Uint8Array(4096);
  await assertRejects(() => world.until(disk.read(0, into)), DeviceError, "EIO");
  assertEquals(into, new Uint8Array(4096));
  await world.readDisk(disk, HASH_BLOCK_BYTES + MIB, 4096);
  // It is left alone for a minute; then it may have come to its senses.
  liar.lie = null;
  await world.pass(61_000, 500);
  await world.readDisk(disk, 0, 4096);
  await disk.close();
});

Deno.test("no more than four hash blocks are in memory, and none is fetched twice for those who read in it", async () => {
  await using world = new ClientWorld();
  const sizeBytes = 8 * HASH_BLOCK_BYTES;
  const origin = world.origin("10.0.0.1", sizeBytes);
  const disk = await world.open(origin.host);
  origin.asked.length = 0;
  origin.state = "hanging";
  const reads = Array.from({ length: 32 }, (_, index) => {
    const into = new Uint8Array(100);
    const offset = (index % 8) * HASH_BLOCK_BYTES + index * 1000;
    return disk.read(offset, into).then(() => assertEquals(into, patternBytes(offset, 100)));
  });
  await world.settle();
  const asked = () => origin.asked.filter(({ hops }) => hops === 0);
  assertEquals(asked().length, 64);
  origin.revive();
  await world.until(Promise.all(reads));
  assertEquals(asked().length, 128);
  await disk.close();
});

Deno.test("a server that dies in the middle of a hash block costs a pause, and nobody is blamed", async () => {
  await using world = new ClientWorld();
  const [first, second] = ["10.0.0.1", "10.0.0.2"].map((host) => world.origin(host, FILE_BYTES));
  const disk = await world.open(first.host, second.host);
  first.bytesPerMs = 100_000;
  const into = new Uint8Array(100);
  const reading = disk.read(0, into);
  await world.pass(50);
  first.kill();
  await world.until(reading);
  assertEquals(into, patternBytes(0, 100));
  assertEquals(disk.client.status().servers.map(({ lies }) => lies), [0, 0]);
  await disk.close();
});

Deno.test("without checksums there is nothing to wait for", async () => {
  await using world = new ClientWorld();
  const origin = world.origin("10.0.0.1", FILE_BYTES, { checksums: false });
  const disk = await world.open(origin.host);
  origin.asked.length = 0;
  await world.readDisk(disk, 17, 100);
  assertEquals(origin.asked.map(({ offset, length }) => [offset, length]), [[17, 100]]);
  await disk.close();
});
