import { assert, assertEquals, assertStrictEquals } from "@std/assert";
import { Transaction } from "../../../src/remote/connection/nbd_transaction.ts";
import { SentRequests } from "../../../src/remote/connection/sent_requests.ts";
import { Command } from "../../../src/wire/nbd/constants.ts";
import { ManualClock } from "../../testing/manual_clock.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name: `sent requests: ${name}`, permissions: "none", fn });
}

const read = (length: number) => new Transaction(Command.READ, 0, 0, length, null);
const trim = (length: number) => new Transaction(Command.TRIM, 0, 0, length, null);

test("no more is sent than the server takes in, by number and by bytes of data", () => {
  const sent = new SentRequests(new ManualClock(), { requests: 3, bytes: 1000 }, 0);
  const first = read(600);
  const cookie = sent.add(first);
  assert(sent.hasRoomFor(read(400)));
  assert(!sent.hasRoomFor(read(401)));
  // No data goes anywhere.
  assert(sent.hasRoomFor(trim(1_000_000)));
  sent.add(trim(1_000_000));
  sent.add(read(400));
  assert(!sent.hasRoomFor(trim(1)));
  sent.settle(cookie, first);
  assertEquals(sent.count, 2);
  assert(sent.hasRoomFor(read(600)));
  assert(!sent.hasRoomFor(read(601)));
});

test("one request always has room, and so has everything where there is no limit", () => {
  assert(new SentRequests(new ManualClock(), { requests: 1, bytes: 1 }, 0).hasRoomFor(read(1000)));
  const sent = new SentRequests(new ManualClock(), null, 0);
  for (let i = 0; i < 100; i++) sent.add(read(1_000_000));
  assert(sent.hasRoomFor(read(1_000_000)));
});

test("when what was answered had been sent is known from a witness, or from one after it", () => {
  const clock = new ManualClock();
  const sent = new SentRequests(clock, null, -5);
  const requests = [read(1), read(2), read(3)];
  const cookies: bigint[] = [];
  for (const request of requests) {
    cookies.push(sent.add(request));
    clock.advance(100);
  }
  assertEquals(sent.answeredSentMs, -5);
  // Sent after the first, so the first's time is a safe measure of it.
  sent.settle(cookies[1], requests[1]);
  assertEquals(sent.answeredSentMs, 0);
  const later = read(4);
  const cookie = sent.add(later);
  sent.settle(cookies[0], requests[0]);
  assertEquals(sent.answeredSentMs, 0);
  sent.settle(cookie, later);
  assertEquals(sent.answeredSentMs, 300);
  assertStrictEquals(sent.oldest, requests[2]);
  assertEquals(sent.takeAll(), [requests[2]]);
  assertEquals([sent.count, sent.oldest], [0, null]);
});
