import { assert, assertEquals, assertMatch } from "@std/assert";
import type { Peer } from "../../src/net/connection.ts";
import { Strangers } from "../../src/server/strangers.ts";
import { ManualClock } from "../testing/manual_clock.ts";
import { silentLog } from "../../src/base/log.ts";

function peer(address: string): Peer {
  return { transport: "tcp", address, text: `${address}:1` };
}

/** Strangers with what was logged, and with who was ended, in order. */
function setUp() {
  const lines: string[] = [];
  const ended: string[] = [];
  const clock = new ManualClock();
  const log = { ...silentLog, warn: (line: string) => void lines.push(line) };
  const strangers = new Strangers({ halfOpen: 4, halfOpenPerAddress: 3, refusedPerSecond: 100 }, log, clock);
  const enter = (address: string, name: string) => strangers.enter(peer(address), () => ended.push(name), 0);
  return { strangers, enter, lines, ended, clock };
}

Deno.test("strangers: of too many from one address the oldest is ended", () => {
  const { strangers, enter, ended } = setUp();
  for (const name of ["a", "b", "c", "d", "e"]) enter("10.0.0.1", name);
  assertEquals(ended, ["a", "b"]);
  assertEquals(strangers.count, 3);
});

Deno.test("strangers: of too many in all the oldest of the busiest address is ended", () => {
  const { enter, ended } = setUp();
  enter("10.0.0.9", "patient");
  for (const name of ["a", "b", "c"]) enter("10.0.0.1", name);
  enter("10.0.0.2", "other");
  assertEquals(ended, ["a"]);
});

Deno.test("strangers: room is made by the oldest of an address, or of the busiest, as long as there is one", () => {
  const { strangers, enter, ended } = setUp();
  enter("10.0.0.2", "other");
  for (const name of ["a", "b"]) enter("10.0.0.1", name);
  assertEquals(strangers.makeRoom("full", "10.0.0.2"), true);
  assertEquals(strangers.makeRoom("full", "10.0.0.2"), false);
  assertEquals([strangers.makeRoom("full"), strangers.makeRoom("full"), strangers.makeRoom("full")], [
    true,
    true,
    false,
  ]);
  assertEquals(ended, ["other", "a", "b"]);
});

Deno.test("strangers: whoever has left is neither counted nor ended", () => {
  const { strangers, enter, ended } = setUp();
  const first = enter("10.0.0.1", "first");
  first[Symbol.dispose]();
  first[Symbol.dispose]();
  assertEquals(strangers.count, 0);
  for (const name of ["a", "b", "c"]) enter("10.0.0.1", name);
  assertEquals(ended, []);
});

Deno.test("strangers: each address is complained about once a minute, and then with the number of the others", () => {
  const { strangers, lines, clock } = setUp();
  for (let count = 0; count < 5; count++) strangers.complain(peer("10.0.0.1"), "garbage");
  strangers.complain(peer("10.0.0.2"), "garbage");
  assertEquals(lines, ["10.0.0.1:1 refused: garbage", "10.0.0.2:1 refused: garbage"]);
  clock.advance(60_000);
  strangers.complain(peer("10.0.0.1"), "silence");
  assertMatch(lines[2], /^10\.0\.0\.1:1 refused: silence \(and 4 times before\)$/);
});

Deno.test("strangers: complaints about very many addresses are forgotten, the oldest first", () => {
  const { strangers, lines } = setUp();
  const address = (count: number) => peer(`10.0.${count >> 8}.${count & 255}`);
  for (let count = 0; count < 1025; count++) strangers.complain(address(count), "garbage");
  strangers.complain(address(1024), "garbage");
  assertEquals(lines.length, 1025);
  strangers.complain(address(0), "garbage");
  assertEquals(lines.length, 1026);
});

Deno.test("strangers: who takes too long is ended when it does, and who has left is not", () => {
  const { strangers, clock } = setUp();
  const ended: string[] = [];
  const enter = (name: string, withinMs: number) =>
    strangers.enter(peer(`10.0.0.${name}`), ({ message }) => ended.push(`${name}: ${message}`), withinMs);
  enter("1", 10_000);
  clock.advance(4000);
  const quick = enter("2", 10_000);
  enter("3", 0);
  clock.advance(1000);
  enter("4", 10_000);
  quick[Symbol.dispose]();
  clock.advance(4999);
  assertEquals(ended, []);
  clock.advance(1);
  assertEquals(ended, ["1: the handshake took longer than 10 s"]);
  clock.advance(4999);
  assertEquals(strangers.count, 2);
  clock.advance(1);
  assertEquals(ended.slice(1), ["4: the handshake took longer than 10 s"]);
  // One is left that may take for ever.
  clock.advance(1_000_000);
  assertEquals([strangers.count, ended.length], [1, 2]);
});

Deno.test("strangers: of those that come to nothing a burst is taken, and then so many a second", () => {
  const { strangers, clock } = setUp();
  const takeAll = () => {
    let taken = 0;
    for (; strangers.turn() === null; taken++) strangers.spend();
    return taken;
  };
  assertEquals(takeAll(), 10);
  let taken = 0;
  for (let ms = 0; ms < 2000; ms += 5) {
    clock.advance(5);
    taken += takeAll();
  }
  assertEquals(taken, 200);
  // What was not used is not saved.
  clock.advance(60_000);
  assertEquals(takeAll(), 10);
});

Deno.test("strangers: who has to wait for a turn does so until there is one", async () => {
  const { strangers, clock } = setUp();
  strangers.spend(10);
  const turn = strangers.turn();
  clock.advance(20);
  await turn;
  assertEquals(strangers.turn(), null);
});

Deno.test("strangers: what is owed is paid within a tenth of a second, however many came to nothing at once", () => {
  const { strangers, clock } = setUp();
  for (let count = 0; count < 10_000; count++) strangers.spend();
  clock.advance(109);
  assert(strangers.turn() !== null);
  clock.advance(1);
  assertEquals(strangers.turn(), null);
});
