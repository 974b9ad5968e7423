import { assert, assertEquals, assertStrictEquals } from "@std/assert";
import { Transaction } from "../../../src/remote/connection/nbd_transaction.ts";
import { RequestBatch } from "../../../src/remote/connection/request_batch.ts";
import { Command, CommandFlag } from "../../../src/wire/nbd/constants.ts";
import {
  decodeRequest,
  EXTENDED_REQUEST_BYTES,
  type Request,
  REQUEST_BYTES,
} from "../../../src/wire/nbd/transmission.ts";

const KIB = 1024;

function test(name: string, fn: () => void): void {
  Deno.test({ name: `request batch: ${name}`, permissions: "none", fn });
}

const read = (offset: number, length: number) => new Transaction(Command.READ, 0, offset, length, null);
const write = (offset: number, data: Uint8Array) =>
  new Transaction(Command.WRITE, CommandFlag.FUA, offset, data.length, data);

function requestAt(bytes: Uint8Array, at: number, extended: boolean): Request {
  const request: Request = { flags: 0, type: 0, cookie: 0n, offset: 0, length: 0 };
  decodeRequest(new DataView(bytes.buffer, bytes.byteOffset), at, extended, request);
  return request;
}

for (const extended of [false, true]) {
  test(`headers stand behind each other with short payloads among them, extended: ${extended}`, () => {
    const batch = new RequestBatch(extended);
    const headerBytes = extended ? EXTENDED_REQUEST_BYTES : REQUEST_BYTES;
    // More than there is room for at first.
    const data = Uint8Array.from({ length: 5000 }, (_, at) => at % 251);
    batch.add(7n, write(4096, data));
    batch.add(8n, read(512, 100_000));
    const { bytes } = batch;
    assertEquals(bytes.length, 2 * headerBytes + data.length);
    const flags = CommandFlag.FUA | (extended ? CommandFlag.PAYLOAD_LEN : 0);
    const { WRITE, READ } = Command;
    assertEquals(requestAt(bytes, 0, extended), {
      flags,
      type: WRITE,
      cookie: 7n,
      offset: 4096,
      length: 5000,
    });
    assertEquals(bytes.slice(headerBytes, headerBytes + data.length), data);
    const second = requestAt(bytes, headerBytes + data.length, extended);
    assertEquals(second, { flags: 0, type: READ, cookie: 8n, offset: 512, length: 100_000 });
    assertEquals(batch.followed, null);
  });
}

test("a long payload is left to follow, and nothing goes behind it", () => {
  const batch = new RequestBatch(false);
  batch.add(1n, write(0, new Uint8Array(64 * KIB)));
  assertEquals(batch.followed, null);
  const long = write(0, new Uint8Array(64 * KIB + 1));
  assert(batch.hasRoomFor(long));
  batch.add(2n, long);
  assertStrictEquals(batch.followed, long);
  assertEquals(batch.bytes.length, 2 * REQUEST_BYTES + 64 * KIB);
  assert(!batch.hasRoomFor(read(0, 512)));
  batch.clear();
  assertEquals([batch.followed, batch.bytes.length], [null, 0]);
  assert(batch.hasRoomFor(long));
});

test("no request is added that would make it longer than 256 KiB", () => {
  const batch = new RequestBatch(false);
  let count = 0n;
  const each = write(0, new Uint8Array(48 * KIB));
  while (batch.hasRoomFor(each)) batch.add(++count, each);
  assertEquals(count, 5n);
  assert(batch.bytes.length <= 256 * KIB && batch.bytes.length + each.length > 256 * KIB - REQUEST_BYTES);
  assert(batch.hasRoomFor(read(0, 1024 * KIB)));
});
