import { assert, assertEquals, assertMatch } from "@std/assert";
import type { Connection, Peer } from "../../src/net/connection.ts";
import type { Listener } from "../../src/net/listener.ts";
import { Strangers } from "../../src/server/strangers.ts";
import { connectionPair } from "../testing/connection_pair.ts";
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
  const strangers = new Strangers({ halfOpen: 4, halfOpenPerAddress: 3, inVainPerSecond: 100 }, log, clock);
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

Deno.test("strangers: so many addresses are complained about in a minute, and no more", () => {
  const { strangers, lines, clock } = setUp();
  const address = (count: number) => peer(`10.0.${count >> 8}.${count & 255}`);
  for (let count = 0; count < 2000; count++) strangers.complain(address(count), "garbage");
  assertEquals(lines.length, 1024);
  clock.advance(60_000);
  for (let count = 2000; count < 3100; count++) strangers.complain(address(count), "garbage");
  assertEquals(lines.length, 2048);
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

/** A door at which these stand, each by its address, one behind the other. */
class Queue implements Listener {
  readonly text = "127.0.0.1:1";
  readonly port = 1;
  readonly closed: string[] = [];
  readonly #callers: Peer[];

  constructor(callers: readonly Peer[]) {
    this.#callers = [...callers];
  }

  hasCaller(): boolean {
    return this.#callers.length > 0;
  }

  accept(): Promise<Connection | null> {
    const peer = this.#callers.shift();
    if (peer === undefined) return Promise.resolve(null);
    const [, connection] = connectionPair();
    const close = () => void this.closed.push(peer.address);
    return Promise.resolve(
      Object.defineProperties(connection, { peer: { value: peer }, close: { value: close } }),
    );
  }

  close(): void {}
}

Deno.test("strangers: whose address hammers is turned away at the door, nobody else is, and the log is told once", async () => {
  const { strangers, lines, clock } = setUp();
  const hammers = peer("10.0.0.1");
  for (let count = 0; count < 100; count++) strangers.spend(hammers);
  clock.advance(110);
  const others = [peer("10.0.0.2"), { transport: "unix", address: "unix:uid=0", text: "unix" }] as const;
  const queue = new Queue([hammers, ...others, hammers]);
  const heard: string[] = [];
  const attending = strangers.attend(queue, ({ peer }) => void heard.push(peer.address));
  for (let turn = 0; turn < 100; turn++) await null;
  assertEquals(heard, ["10.0.0.2", "unix:uid=0"]);
  assertEquals(queue.closed, ["10.0.0.1", "10.0.0.1"]);
  // Nobody is left: those who come now are looked at together.
  assertEquals(clock.timers, 1);
  clock.advance(10);
  await attending;
  assertEquals([strangers.inVain, strangers.turnedAway], [100, 2]);
  assertEquals(lines.length, 1);
  assertMatch(
    lines[0],
    /^more than 100 connections a second come to nothing; .* \(10\.0\.0\.1:1 is the first\)$/,
  );
  // Then there are some to spare again.
  clock.advance(1000);
  await strangers.attend(new Queue([hammers]), ({ peer }) => void heard.push(peer.address));
  assertEquals(heard.length, 3);
});

Deno.test("strangers: those of unknown addresses wait when too many come to nothing, as long as it takes", async () => {
  const { strangers, clock } = setUp();
  const callers = Array.from({ length: 50 }, (_, count) => peer(`10.0.1.${count}`));
  let heard = 0;
  const attending = strangers.attend(new Queue(callers), ({ peer }) => {
    heard++;
    strangers.spend(peer);
  });
  for (let ms = 0; ms <= 150; ms += 30) {
    for (let turn = 0; turn < 100; turn++) await null;
    assert(heard >= 20 + ms / 10 && heard <= 22 + ms / 10, `${heard} heard after ${ms} ms`);
    clock.advance(30);
  }
  clock.advance(1000);
  await attending;
  assertEquals(heard, 50);
});
