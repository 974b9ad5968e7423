import { assert, assertEquals } from "@std/assert";
import { VainWork } from "../../src/server/vain_work.ts";
import { ManualClock } from "../testing/manual_clock.ts";
import { randomFrom } from "../testing/random.ts";

/** How many the system keeps who have not been accepted. */
const QUEUE_MAX = 512;

/** Who stands before the door. */
interface Caller {
  readonly address: string;
  /** What its handshake in vain costs; `null` if it comes to something. */
  readonly times: number | null;
  /** How much had been done in vain when it came. */
  readonly before: number;
}

interface Hammering {
  /** The addresses of those that come to nothing, one after the other. */
  readonly from: (count: number) => string;
  /** How many come. */
  readonly perSecond: number;
  /** What each costs, 1 by default. */
  readonly times?: number;
  /** Comes about ten times a second, and to something. */
  readonly newcomer?: string;
}

/** A door in virtual time, with the queue before it. */
class Door {
  readonly clock = new ManualClock();
  readonly work = new VainWork(1000, this.clock);
  readonly #random = randomFrom(1);
  readonly #queue: Caller[] = [];
  #pausedUntilMs = 0;
  #came = 0;
  inVain = 0;
  turnedAway = 0;
  /** Of those that come to something, how much was done in vain while each waited; null: it was turned away. */
  waits: (number | null)[] = [];

  come(address: string, times: number | null = 1): void {
    if (this.#queue.length < QUEUE_MAX) this.#queue.push({ address, times, before: this.inVain });
  }

  /** Lets a millisecond pass. */
  tick(): void {
    while (this.#queue.length > 0 && this.clock.now() >= this.#pausedUntilMs) {
      this.#accept(this.#queue.shift()!);
      this.#pausedUntilMs = this.clock.now() + this.work.pauseMs;
    }
    this.clock.advance(1);
  }

  #accept({ address, times, before }: Caller): void {
    const isHeard = this.work.hears(address);
    if (times === null) this.waits.push(isHeard ? this.inVain - before : null);
    else if (isHeard) {
      this.inVain += times;
      this.work.spend(address, times);
    } else this.turnedAway++;
  }

  hammer(seconds: number, { from, perSecond, times = 1, newcomer }: Hammering): void {
    for (let ms = 0; ms < seconds * 1000; ms++) {
      for (let each = 0; each < 10; each++) {
        if (this.#random.chance(perSecond / 10_000)) this.come(from(this.#came++), times);
        if (newcomer !== undefined && this.#random.chance(0.001)) this.come(newcomer, null);
      }
      this.tick();
    }
  }

  rest(seconds: number): void {
    for (let ms = 0; ms < seconds * 1000; ms++) this.tick();
  }
}

const among = (addresses: number) => (count: number) =>
  `10.0.${count % addresses >> 8}.${count % addresses & 255}`;
const ofOneNetwork = (count: number) => `2001:db8:0:1::${(count & 0xffff).toString(16)}`;

Deno.test("of those that come to nothing a burst is heard, and then so many a second", () => {
  const door = new Door();
  for (let count = 0; count < QUEUE_MAX; count++) door.come(among(1000)(count));
  door.tick();
  // A tenth of a second's worth, and as much on credit: nothing is known of them.
  assertEquals(door.inVain, 201);
  door.rest(0.3);
  assert(door.inVain > 480 && door.inVain <= 501, `${door.inVain} in vain`);
  assertEquals(door.turnedAway, 0);
});

for (
  const [who, from] of [
    ["one address hammers", among(1)],
    ["250 addresses hammer", among(250)],
    ["all addresses of a network hammer", ofOneNetwork],
  ] as const
) {
  for (const [how, times, perSecond] of [["", 1, 2500], [" with keys", 10, 1500]] as const) {
    Deno.test(`who comes from elsewhere waits for nobody while ${who}${how}`, () => {
      const door = new Door();
      // In the beginning nothing is known of anybody.
      door.hammer(5, { from, perSecond, times });
      const { inVain, turnedAway } = door;
      door.hammer(5, { from, perSecond, times, newcomer: "10.9.9.9" });
      assert(door.waits.length > 30);
      // Of those who came before it in the same millisecond the last had used up what there was.
      for (const wait of door.waits) {
        assert(wait !== null && wait <= 2 * times, `${wait} in vain before it was heard`);
      }
      assert(Math.abs(door.inVain - inVain - 5000) < 100, `${door.inVain - inVain} in vain`);
      assert(Math.abs(door.turnedAway - turnedAway - 5 * perSecond + 5000 / times) < 300);
    });
  }
}

Deno.test("who comes from elsewhere waits for nobody while 4,000 addresses hammer that are known", () => {
  const door = new Door();
  for (let count = 0; count < 4000; count++) door.work.spend(among(4000)(count), 1);
  door.clock.advance(200);
  door.hammer(5, { from: among(4000), perSecond: 2500, newcomer: "10.9.9.9" });
  assert(door.waits.length > 30);
  for (const wait of door.waits) assert(wait !== null && wait <= 2, `${wait} in vain before it was heard`);
});

Deno.test("who comes from the address that hammers is heard as often as the others of it", () => {
  const door = new Door();
  door.hammer(20, { from: among(1), perSecond: 2500, newcomer: among(1)(0) });
  const heard = door.waits.filter((wait) => wait !== null).length / door.waits.length;
  assert(heard > 0.3 && heard < 0.6, `${heard} of them heard`);
});

Deno.test("who comes to nothing now and then is heard while others hammer", () => {
  const door = new Door();
  const hammering = { from: among(20), perSecond: 2500 };
  door.hammer(2, hammering);
  for (let second = 0; second < 10; second++) {
    door.come("10.9.9.9");
    door.come("10.9.9.9", null);
    door.hammer(1, hammering);
  }
  assertEquals(door.waits.filter((wait) => wait !== null).length, 10);
});

for (const perSecond of [2000, 10_000]) {
  for (const [who, from] of [["one address", among(1)], ["ever new addresses", among(60_000)]] as const) {
    Deno.test(`so much is done for ${perSecond} a second from ${who}, and no more`, () => {
      const door = new Door();
      door.hammer(5, { from, perSecond });
      assert(door.inVain > 4500 && door.inVain < 5300, `${door.inVain} in vain`);
      assert(door.turnedAway < 10_100, `${door.turnedAway} turned away`);
    });
  }
}

Deno.test("so many addresses are known, and each for a minute", () => {
  const { work, clock } = new Door();
  for (let count = 0; count < 10_000; count++) work.spend(`2001:db8:${count.toString(16)}::1`, 1);
  assertEquals(work.known, 4096);
  clock.advance(60_000);
  work.spend("10.0.0.1", 1);
  assertEquals(work.known, 1);
});

Deno.test("when nobody hammers any more everybody is heard, and what was not used is not kept", () => {
  const door = new Door();
  door.hammer(5, { from: among(1), perSecond: 10_000 });
  door.rest(60);
  const { inVain, turnedAway } = door;
  for (let count = 0; count < 100; count++) door.come(among(1)(0));
  door.tick();
  assertEquals([door.inVain - inVain, door.turnedAway - turnedAway], [100, 0]);
});
