import { assertEquals, assertRejects } from "@std/assert";
import { reservationFile, type ReservationState } from "../../src/server/reservation_store.ts";
import { type Member, WriterRefused, WriterSessions } from "../../src/server/writer_sessions.ts";
import { DeviceError } from "../../src/device/device_error.ts";
import { ManualClock } from "../testing/manual_clock.ts";
import { temporaryDirectory } from "../testing/process.ts";

const A = "8a6e2940-694d-401a-b032-b59b4f516c8a";
const B = "e58719c6-5998-4eff-82ce-2fd304be9551";

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, permissions: "none", fn });
}

/** The sessions of an export for one writer, and what they leave behind. */
class World {
  readonly clock = new ManualClock();
  stored: ReservationState = { reservation: null, barred: [] };
  exclusive = true;
  fails = false;

  /** The server starts, again. */
  start(): WriterSessions {
    return new WriterSessions(
      { exclusive: () => this.exclusive, awayMsMax: 60_000 },
      {
        load: () => this.stored,
        save: (state) => {
          if (this.fails) return Promise.reject(new Error("ENOSPC"));
          this.stored = state;
          return Promise.resolve();
        },
      },
      this.clock,
    );
  }
}

/** A connection that says when it was cut, and ends when told. */
function aMember() {
  const { promise: ended, resolve: end } = Promise.withResolvers<void>();
  const member: Member & { cutBy: string | null; end: () => void } = {
    cutBy: null,
    cut: (reason) => member.cutBy = reason,
    ended,
    end,
  };
  return member;
}

const session = (id: string, generation = 1) => ({ id, generation });

test("rule 6: a second session is refused, and told for whom the export is reserved", async () => {
  const sessions = new World().start();
  const first = await sessions.admit(session(A), "10.0.0.1:1000");
  first.enter(aMember());
  await assertRejects(
    () => sessions.admit(session(B), "10.0.0.2:2000"),
    WriterRefused,
    `it is reserved for 10.0.0.1:1000, session ${A}`,
  );
  assertEquals(sessions.holder, { session: A, who: "10.0.0.1:1000", connections: 1, awayMs: 0 });
});

test("many may write where that is so, and nobody is told of a reservation", async () => {
  const world = new World();
  world.exclusive = false;
  const sessions = world.start();
  for (const id of [A, B]) {
    const admission = await sessions.admit(session(id), "somebody");
    assertEquals([admission.grant, admission.mayChange(), sessions.holder], [undefined, null, null]);
  }
});

test("a session keeps its grant through lost connections, and loses it by a goodbye", async () => {
  const world = new World();
  const sessions = world.start();
  const first = await sessions.admit(session(A, 1), "a");
  first.enter(aMember());
  first.leave(false);
  world.clock.advance(3_600_000);
  const second = await sessions.admit(session(A, 2), "a");
  assertEquals(second.grant, first.grant);
  second.enter(aMember());
  second.leave(true);
  assertEquals(sessions.holder, null);
  const third = await sessions.admit(session(B), "b");
  assertEquals(third.grant === first.grant, false);
  third.leave(true);
  await sessions.admitVisitor("v");
  assertEquals(world.stored.reservation, null);
});

test("a restart forgets no reservation; its session finds its grant, others are refused", async () => {
  const world = new World();
  const { grant } = await world.start().admit(session(A), "a");
  const sessions = world.start();
  await assertRejects(() => sessions.admit(session(B), "b"), WriterRefused, "which has been away for 0 s");
  assertEquals((await sessions.admit(session(A, 2), "a")).grant, grant);
});

test("who is away for too long gives way to who wants to write, and has another grant afterwards", async () => {
  const world = new World();
  const sessions = world.start();
  const first = await sessions.admit(session(A), "a");
  first.enter(aMember());
  first.leave(false);
  world.clock.advance(59_999);
  await assertRejects(() => sessions.admit(session(B), "b"), WriterRefused, "away for 59 s");
  world.clock.advance(1);
  const second = await sessions.admit(session(B), "b");
  second.enter(aMember());
  await assertRejects(() => sessions.admit(session(A, 2), "a"), WriterRefused);
  second.leave(true);
  const third = await sessions.admit(session(A, 3), "a");
  assertEquals(new Set([first.grant, second.grant, third.grant]).size, 3);
});

test("a newer connection of a session waits until the disk has done with the older ones", async () => {
  const sessions = new World().start();
  const members = [aMember(), aMember()];
  for (const member of members) (await sessions.admit(session(A, 1), "a")).enter(member);
  let admitted = 0;
  const coming = [2, 2].map((generation) =>
    sessions.admit(session(A, generation), "a").then(() => admitted++)
  );
  assertEquals(
    members.map(({ cutBy }) => cutBy),
    Array(2).fill("replaced by a newer connection of its session"),
  );
  members[0].end();
  for (let turn = 0; turn < 20; turn++) await undefined;
  assertEquals(admitted, 0);
  members[1].end();
  await Promise.all(coming);
  await assertRejects(() => sessions.admit(session(A, 1), "a"), WriterRefused, "a newer connection");
});

test("a connection that a newer one overtook on its way in is not served", async () => {
  const sessions = new World().start();
  const slow = await sessions.admit(session(A, 1), "a");
  const quick = await sessions.admit(session(A, 2), "a");
  assertEquals([quick.enter(aMember()), slow.enter(aMember())], [true, false]);
  slow.leave(false);
  assertEquals(sessions.holder?.connections, 1);
});

test("rule 7: sessions of others are never replaced, wherever they come from", async () => {
  const world = new World();
  world.exclusive = false;
  const sessions = world.start();
  const neighbour = aMember();
  (await sessions.admit(session(A, 1), "10.0.0.1:1")).enter(neighbour);
  await sessions.admit(session(B, 7), "10.0.0.1:2");
  assertEquals(neighbour.cutBy, null);
});

test("a client without a session reserves by its first change, until it is gone", async () => {
  const sessions = new World().start();
  const [reader, writer] = [await sessions.admitVisitor("r"), await sessions.admitVisitor("w")];
  reader.enter(aMember());
  writer.enter(aMember());
  assertEquals(sessions.whyTaken, null);
  assertEquals(writer.mayChange(), null);
  assertEquals(reader.mayChange(), "it is being written by w");
  assertEquals(sessions.whyTaken, "it is being written by w");
  await assertRejects(() => sessions.admit(session(A), "a"), WriterRefused, "it is being written by w");
  writer.leave(false);
  assertEquals(reader.mayChange(), null);
});

test("the operator breaks a reservation: its holder is cut off, and not let in again, restarts included", async () => {
  const world = new World();
  const sessions = world.start();
  const member = aMember();
  (await sessions.admit(session(A), "a")).enter(member);
  assertEquals(await sessions.unreserve(), "a");
  assertEquals(await sessions.unreserve(), null);
  assertEquals(member.cutBy, "the operator has broken its reservation");
  for (const server of [sessions, world.start()]) {
    await assertRejects(() => server.admit(session(A, 2), "a"), WriterRefused, "the operator has broken");
  }
  const other = await sessions.admit(session(B), "b");
  assertEquals(other.mayChange(), null);
});

test("a reservation that cannot be kept is not given, and nothing is promised on it", async () => {
  const world = new World();
  world.fails = true;
  const sessions = world.start();
  await assertRejects(() => sessions.admit(session(A), "a"), WriterRefused, "cannot be kept: ENOSPC");
  assertEquals(sessions.holder, null);
  world.fails = false;
  assertEquals((await sessions.admit(session(B), "b")).mayChange(), null);
});

test("what was reserved for one is forgotten for good where many may write", async () => {
  const world = new World();
  const { grant } = await world.start().admit(session(A), "a");
  world.exclusive = false;
  const visitor = await world.start().admitVisitor("v");
  assertEquals([visitor.mayChange(), world.stored.reservation], [null, null]);
  world.exclusive = true;
  assertEquals((await world.start().admit(session(A, 2), "a")).grant === grant, false);
});

Deno.test("reservationFile() gives back what it was given, and refuses what it does not know", async () => {
  using directory = temporaryDirectory();
  const store = reservationFile(directory.file("state"), B);
  assertEquals(store.load(), { reservation: null, barred: [] });
  const state = { reservation: { session: A, who: "a", grant: B }, barred: [B] };
  await store.save(state);
  assertEquals(reservationFile(directory.file("state"), B).load(), state);
  const file = directory.file(`state/reservation-${B}.json`);
  const text = Deno.readTextFileSync(file);
  for (
    const [from, to, why] of [
      [`"version": 1`, `"version": 2`, "it has version 2, this program knows version 1"],
      ["denbd reservation", "grocery list", "it does not hold a reservation"],
      [A, "x", "it is damaged"],
    ]
  ) {
    Deno.writeTextFileSync(file, text.replace(from, to));
    try {
      store.load();
      throw new Error("it was loaded");
    } catch (error) {
      assertEquals(
        (error as DeviceError).message.includes(`cannot use ${file}: ${why}`),
        true,
        String(error),
      );
    }
  }
});
