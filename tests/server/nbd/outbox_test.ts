import { assertEquals } from "@std/assert";
import { BufferPool } from "../../../src/net/buffer_pool.ts";
import type { Connection } from "../../../src/net/connection.ts";
import { Outbox } from "../../../src/server/nbd/outbox.ts";

/** An outbox, and what it has written: the first byte of each reply, a list per write. */
function makeOutbox(replyBytes: number): { outbox: Outbox; pool: BufferPool; writes: number[][] } {
  const writes: number[][] = [];
  const connection: Connection = {
    peer: { transport: "memory", address: "", text: "" },
    read: () => null,
    write(bytes) {
      writes.push(Array.from({ length: bytes.length / replyBytes }, (_, index) => bytes[index * replyBytes]));
    },
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
