import { assertEquals, assertRejects } from "@std/assert";
import { type Log, silentLog } from "../../src/base/log.ts";
import { reservationFile, type ReservationState } from "../../src/server/reservation_store.ts";
import { type Comer, type Member, WriterRefused, WriterSessions } from "../../src/server/writer_sessions.ts";
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
  start(log: Log = silentLog): WriterSessions {
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
      log,
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
/** Somebody at an address, and what he has proven to be. */
const by = (text: string, proven: Pick<Comer, "key" | "certificateName"> = {}): Comer => ({
  text,
  ...proven,
});

test("rule 6: a second session is refused, and told for whom the export is reserved, but not the id of its session", async () => {
  const sessions = new World().start();
  const first = await sessions.admit(session(A), by("10.0.0.1:1000"));
  first.enter(aMember());
  const { message } = await assertRejects(
    () => sessions.admit(session(B), by("10.0.0.2:2000")),
    WriterRefused,
  );
  assertEquals(message, "it is reserved for 10.0.0.1:1000");
  assertEquals(sessions.whyTaken, message);
  assertEquals(sessions.holder, { session: "8a6e2940", who: "10.0.0.1:1000", connections: 1, awayMs: 0 });
});

test("many may write where that is so, and nobody is told of a reservation", async () => {
  const world = new World();
  world.exclusive = false;
  const sessions = world.start();
  for (const id of [A, B]) {
    const admission = await sessions.admit(session(id), by("somebody"));
    assertEquals([admission.grant, admission.mayChange(), sessions.holder], [undefined, null, null]);
  }
});

test("a session keeps its grant through lost connections, and loses it by a goodbye", async () => {
  const world = new World();
  const sessions = world.start();
  const first = await sessions.admit(session(A, 1), by("a"));
  first.enter(aMember());
  first.leave(false);
  world.clock.advance(3_600_000);
  const second = await sessions.admit(session(A, 2), by("a"));
  assertEquals(second.grant, first.grant);
  second.enter(aMember());
  second.leave(true);
  assertEquals(sessions.holder, null);
  const third = await sessions.admit(session(B), by("b"));
  assertEquals(third.grant === first.grant, false);
  third.leave(true);
  await sessions.admitVisitor("v");
  assertEquals(world.stored.reservation, null);
});

test("a restart forgets no reservation; its session finds its grant, others are refused", async () => {
  const world = new World();
  const { grant } = await world.start().admit(session(A), by("a"));
  const sessions = world.start();
  await assertRejects(
    () => sessions.admit(session(B), by("b")),
    WriterRefused,
    "which has been away for 0 s",
  );
  assertEquals((await sessions.admit(session(A, 2), by("a"))).grant, grant);
});

test("who is away for too long gives way to who wants to write, and has another grant afterwards", async () => {
  const world = new World();
  const sessions = world.start();
  const first = await sessions.admit(session(A), by("a"));
  first.enter(aMember());
  first.leave(false);
  world.clock.advance(59_999);
  await assertRejects(() => sessions.admit(session(B), by("b")), WriterRefused, "away for 59 s");
  world.clock.advance(1);
  const second = await sessions.admit(session(B), by("b"));
  second.enter(aMember());
  await assertRejects(() => sessions.admit(session(A, 2), by("a")), WriterRefused);
  second.leave(true);
  const third = await sessions.admit(session(A, 3), by("a"));
  assertEquals(new Set([first.grant, second.grant, third.grant]).size, 3);
});

test("a newer connection of a session waits until the disk has done with the older ones", async () => {
  const sessions = new World().start();
  const members = [aMember(), aMember()];
  for (const member of members) (await sessions.admit(session(A, 1), by("a"))).enter(member);
  let admitted = 0;
  const coming = [2, 2].map((generation) =>
    sessions.admit(session(A, generation), by("a")).then(() => admitted++)
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
  await assertRejects(() => sessions.admit(session(A, 1), by("a")), WriterRefused, "a newer connection");
});

test("a connection that a newer one overtook on its way in is not served", async () => {
  const sessions = new World().start();
  const slow = await sessions.admit(session(A, 1), by("a"));
  const quick = await sessions.admit(session(A, 2), by("a"));
  assertEquals([quick.enter(aMember()), slow.enter(aMember())], [true, false]);
  slow.leave(false);
  assertEquals(sessions.holder?.connections, 1);
});

test("rule 7: sessions of others are never replaced, wherever they come from", async () => {
  const world = new World();
  world.exclusive = false;
  const sessions = world.start();
  const neighbour = aMember();
  (await sessions.admit(session(A, 1), by("10.0.0.1:1"))).enter(neighbour);
  await sessions.admit(session(B, 7), by("10.0.0.1:2"));
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
  await assertRejects(() => sessions.admit(session(A), by("a")), WriterRefused, "it is being written by w");
  writer.leave(false);
  assertEquals(reader.mayChange(), null);
});

test("the operator breaks a reservation: its holder is cut off, and not let in again, restarts included", async () => {
  const world = new World();
  const sessions = world.start();
  const member = aMember();
  (await sessions.admit(session(A), by("a"))).enter(member);
  assertEquals(await sessions.unreserve(), "a");
  assertEquals(await sessions.unreserve(), null);
  assertEquals(member.cutBy, "the operator has broken its reservation");
  for (const server of [sessions, world.start()]) {
    await assertRejects(() => server.admit(session(A, 2), by("a")), WriterRefused, "the operator has broken");
  }
  const other = await sessions.admit(session(B), by("b"));
  assertEquals(other.mayChange(), null);
});

test("a reservation that cannot be kept is not given, and nothing is promised on it", async () => {
  const world = new World();
  world.fails = true;
  const sessions = world.start();
  await assertRejects(() => sessions.admit(session(A), by("a")), WriterRefused, "cannot be kept: ENOSPC");
  assertEquals(sessions.holder, null);
  world.fails = false;
  assertEquals((await sessions.admit(session(B), by("b"))).mayChange(), null);
});

test("what was reserved for one is forgotten for good where many may write", async () => {
  const world = new World();
  const { grant } = await world.start().admit(session(A), by("a"));
  world.exclusive = false;
  const visitor = await world.start().admitVisitor("v");
  assertEquals([visitor.mayChange(), world.stored.reservation], [null, null]);
  world.exclusive = true;
  assertEquals((await world.start().admit(session(A, 2), by("a"))).grant === grant, false);
});

test("rule 7: only who has opened a session with a key comes back to it, restarts included", async () => {
  const world = new World();
  const key = { key: "AAAA" };
  const { grant } = await world.start().admit(session(A), by("a", key));
  for (const sessions of [world.start(), world.start()]) {
    for (const stranger of [by("b"), by("b", { key: "BBBB" }), by("b", { certificateName: "AAAA" })]) {
      await assertRejects(() => sessions.admit(session(A, 9), stranger), WriterRefused, "by somebody else");
    }
    assertEquals((await sessions.admit(session(A, 2), by("a", key))).grant, grant);
  }
});

test("rule 7: where many may write a session belongs to its key as well", async () => {
  const world = new World();
  world.exclusive = false;
  const sessions = world.start();
  const member = aMember();
  (await sessions.admit(session(A), by("a", { certificateName: "desk" }))).enter(member);
  await assertRejects(() => sessions.admit(session(A, 2), by("b")), WriterRefused, "by somebody else");
  assertEquals(member.cutBy, null);
});

test("a session that was opened without proof belongs to the first who comes to it with one", async () => {
  const world = new World();
  await world.start().admit(session(A), by("a"));
  const { grant } = await world.start().admit(session(A, 2), by("a", { key: "AAAA" }));
  const sessions = world.start();
  await assertRejects(() => sessions.admit(session(A, 3), by("a")), WriterRefused, "by somebody else");
  assertEquals((await sessions.admit(session(A, 3), by("a", { key: "AAAA" }))).grant, grant);
});

test("neither log nor status has the id of a session", async () => {
  const lines: string[] = [];
  const world = new World();
  const log = { ...silentLog, info: (line: string) => void lines.push(line) };
  const sessions = world.start(log);
  (await sessions.admit(session(A), by("a"))).enter(aMember());
  assertEquals(sessions.holder?.session, "8a6e2940");
  await sessions.unreserve();
  assertEquals(lines, ["reserved for a, session 8a6e2940", "no longer reserved for a, session 8a6e2940"]);
});

test("where an export is opened to many writers, its holder is cut off before they are let in", async () => {
  const world = new World();
  const sessions = world.start();
  const member = aMember();
  (await sessions.admit(session(A), by("a"))).enter(member);
  const coming = await sessions.admit(session(A), by("a"));
  world.exclusive = false;
  assertEquals((await sessions.admitVisitor("v")).mayChange(), null);
  assertEquals(member.cutBy, "the export is open to many writers now");
  // It was told of a reservation, and has not begun.
  assertEquals(coming.enter(aMember()), false);
});

Deno.test("V56: reservationFile() gives back what it was given, and refuses what it does not know", async () => {
  using directory = temporaryDirectory();
  const store = reservationFile(directory.file("state"), B);
  assertEquals(store.load(), { reservation: null, barred: [] });
  const state = { reservation: { session: A, identity: "key AAAA", who: "a", grant: B }, barred: [B] };
  await store.save(state);
  assertEquals(reservationFile(directory.file("state"), B).load(), state);
  const file = directory.file(`state/reservation-${B}.json`);
  const text = Deno.readTextFileSync(file);
  assertEquals(Deno.statSync(file).mode! & 0o777, 0o600);
  for (
    const [from, to, why] of [
      [`"version": 2`, `"version": 3`, "it has version 3, this program knows versions 1 and 2"],
      [`"key AAAA"`, "7", "it is damaged"],
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
    assertEquals(Deno.readTextFileSync(file), text.replace(from, to));
  }
});

Deno.test("reservationFile() understands the first version, which knew of no identities", () => {
  using directory = temporaryDirectory();
  const reservation = { session: A, who: "a", grant: B };
  const first = { format: "denbd reservation", version: 1, reservation, barred: [B] };
  const store = reservationFile(directory.path, B);
  for (const each of [first, { ...first, reservation: null }]) {
    Deno.writeTextFileSync(directory.file(`reservation-${B}.json`), JSON.stringify(each));
    const expected = each.reservation === null ? null : { ...reservation, identity: null };
    assertEquals(store.load(), { reservation: expected, barred: [B] });
  }
});
