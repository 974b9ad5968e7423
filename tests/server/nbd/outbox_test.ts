import { assertEquals } from "@std/assert";
import { BufferPool } from "../../../src/net/buffer_pool.ts";
import type { Connection } from "../../../src/net/connection.ts";
import { Outbox } from "../../../src/server/nbd/outbox.ts";

/** An outbox, and what it has written: the first byte of each reply, a list per write. */
function makeOutbox(replyBytes: number, writeNow?: Connection["writeNow"]) {
  const writes: number[][] = [];
  const connection: Connection = {
    peer: { transport: "memory", address: "", text: "" },
    read: () => null,
    write(bytes) {
      writes.push(Array.from({ length: bytes.length / replyBytes }, (_, index) => bytes[index * replyBytes]));
    },
    writeNow,
    close() {},
  };
  const pool = new BufferPool();
  return { outbox: new Outbox(connection, pool), pool, writes };
}

function setAside(outbox: Outbox, mark: number, byteCount: number) {
  outbox.reserve(byteCount);
  const region = outbox.setAside(byteCount);
  region.bytes.fill(mark, region.at, region.at + byteCount);
  return region;
}

Deno.test("late replies that lie behind each other leave together", { permissions: "none" }, async () => {
  const { outbox, pool, writes } = makeOutbox(100);
  const [one, two, three, four] = [1, 2, 3, 4].map((mark) => setAside(outbox, mark, 100));
  one.send(100);
  two.send(100);
  four.send(100);
  assertEquals(writes, [[1, 2]]);
  await undefined;
  assertEquals(writes, [[1, 2], [4]]);
  three.send(100);
  outbox.flush();
  assertEquals(writes, [[1, 2], [4], [3]]);
  outbox.rest();
  assertEquals(pool.usedBytes, 0);
});

Deno.test("64 KiB of late replies leave at once", { permissions: "none" }, () => {
  const { outbox, pool, writes } = makeOutbox(32 * 1024);
  const regions = [1, 2, 3].map((mark) => setAside(outbox, mark, 32 * 1024));
  for (const region of regions) region.send(32 * 1024);
  assertEquals(writes, [[1, 2]]);
  outbox.flush();
  assertEquals(writes, [[1, 2], [3]]);
  outbox.close();
  assertEquals(pool.usedBytes, 0);
});

Deno.test(
  "data that are shown leave uncopied as far as the connection takes them",
  { permissions: "none" },
  () => {
    for (const taken of [0, 5, 16, 20_000, 16 + 64 * 1024]) {
      const sent: number[] = [];
      let room = taken;
      const { outbox, pool, writes } = makeOutbox(1, (bytes) => {
        const count = Math.min(room, bytes.length);
        room -= count;
        sent.push(...bytes.subarray(0, count));
        return count;
      });
      const late = setAside(outbox, 9, 4);
      const data = Uint8Array.from({ length: 64 * 1024 }, (_, index) => index % 251);
      late.send(4);
      outbox.reserve(16 + data.length);
      outbox.bytes.fill(7, outbox.at, outbox.at + 16);
      outbox.commitShown(16, data);
      const expected = [...new Array(16).fill(7), ...data];
      data.fill(0);
      outbox.flush();
      // What was sent late before comes before or after it, but not between.
      const rest = writes.filter((write) => write[0] !== 9).flat();
      assertEquals([...sent, ...rest], expected);
      const lateAt = writes.findIndex((write) => write[0] === 9);
      assertEquals(lateAt, taken === 0 || rest.length === 0 ? 0 : 1);
      outbox.rest();
      assertEquals(pool.usedBytes, 0);
    }
  },
);
