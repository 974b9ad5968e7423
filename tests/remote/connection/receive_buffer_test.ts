import { assertEquals, fail } from "@std/assert";
import { ReceiveBuffer } from "../../../src/remote/connection/receive_buffer.ts";
import { randomFrom } from "../../testing/random.ts";

const KIB = 1024;

function test(name: string, fn: () => void): void {
  Deno.test({ name: `receive buffer: ${name}`, permissions: "none", fn });
}

test("what came with the handshake is there", () => {
  const buffer = new ReceiveBuffer(Uint8Array.of(1, 2, 3));
  assertEquals(buffer.available, 3);
  assertEquals(buffer.view.getUint8(buffer.start), 1);
  buffer.skip(1);
  assertEquals(buffer.take(2), Uint8Array.of(2, 3));
  assertEquals(buffer.available, 0);
});

test("it grows when it has been full, and keeps what is in it", () => {
  const buffer = new ReceiveBuffer(Uint8Array.of(42));
  for (const size of [16, 64, 256]) {
    const room = buffer.room(0, Infinity);
    assertEquals(room.length, size * KIB - buffer.available);
    buffer.received(room.length);
    assertEquals(buffer.view.getUint8(buffer.start), 42);
  }
  buffer.skip(256 * KIB - 10);
  assertEquals(buffer.room(0, Infinity).length, 256 * KIB - 10);
});

test("no more is received than is wanted behind what is there", () => {
  const buffer = new ReceiveBuffer(new Uint8Array(10));
  buffer.skip(4);
  assertEquals(buffer.room(0, 20).length, 14);
  assertEquals([buffer.start, buffer.available], [0, 6]);
});

test("a message whose length is known is not moved as long as it fits where it is", () => {
  const buffer = new ReceiveBuffer(new Uint8Array(100));
  buffer.skip(90);
  assertEquals(buffer.room(1000, 1100).length, 1090);
  assertEquals(buffer.start, 90);
  assertEquals(buffer.room(16 * KIB, Infinity).length, 16 * KIB - 10);
  assertEquals(buffer.start, 0);
});

test("bytes come out as they went in, whatever the pieces", () => {
  const random = randomFrom();
  const buffer = new ReceiveBuffer(new Uint8Array(0));
  let [sent, taken] = [0, 0];
  while (taken < 1024 * KIB) {
    const messageBytes = random.chance(0.5) ? 0 : buffer.available + 1 + random.below(100 * KIB);
    const room = buffer.room(messageBytes, Infinity);
    const count = 1 + random.below(room.length);
    for (let at = 0; at < count; at++) room[at] = (sent + at) % 251;
    sent += count;
    buffer.received(count);
    // As much is left as a message that is not complete.
    const least = Math.max(0, buffer.available - 100 * KIB);
    const place = new Uint8Array(least + random.below(buffer.available + 100));
    const at = random.below(place.length - least + 1);
    const moved = buffer.moveInto(place, at);
    assertEquals(moved, Math.min(sent - taken, place.length - at));
    for (let i = 0; i < moved; i++) if (place[at + i] !== (taken + i) % 251) fail(`at ${taken + i}`);
    taken += moved;
    assertEquals(buffer.available, sent - taken);
  }
});
