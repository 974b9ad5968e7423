import { assertEquals } from "@std/assert";
import { type StateChange, stateChanges } from "../../src/control/state_changes.ts";
import { StateWatch } from "../../src/control/state_watch.ts";
import type { ClientStatus, ProcessStatus } from "../../src/control/status.ts";
import { ManualClock } from "../testing/manual_clock.ts";
import { IDLE, IDLE_EXPORT } from "./idle_status.ts";

const pure = { permissions: "none" } as const;

const CLIENT: ClientStatus = {
  id: 7,
  address: "10.0.0.1:4321",
  identity: null,
  rights: "write",
  protection: "none",
  ageMs: 0,
  requests: 0,
  errors: 0,
  inFlight: 0,
  readBytes: 0,
  writtenBytes: 0,
};

function withClients(...clients: ClientStatus[]): ProcessStatus {
  return { ...IDLE, exports: [{ ...IDLE_EXPORT, clients }] };
}

Deno.test("changes: counts and ages are none", pure, () => {
  const later = withClients({ ...CLIENT, ageMs: 5, requests: 9, readBytes: 512 });
  assertEquals(stateChanges(withClients(CLIENT), { ...later, uptimeMs: 6000 }), []);
});

Deno.test("changes: clients come, lose a right, and go", pure, () => {
  const facts = { export: "", client: 7, address: "10.0.0.1:4321", identity: null, rights: "write" };
  assertEquals(stateChanges(IDLE, withClients(CLIENT)), [{ event: "client_opened", ...facts }]);
  const reader = { ...CLIENT, rights: "read" } as const;
  assertEquals(stateChanges(withClients(CLIENT), withClients(reader)), [
    { event: "client_rights", ...facts, rights: "read" },
  ]);
  assertEquals(stateChanges(withClients(CLIENT), IDLE), [{ event: "client_left", ...facts }]);
});

Deno.test("changes: an export that is removed loses its clients first", pure, () => {
  const events = stateChanges(withClients(CLIENT), { ...IDLE, exports: [] }).map(({ event }) => event);
  assertEquals(events, ["client_left", "export_removed"]);
  assertEquals(stateChanges({ ...IDLE, exports: [] }, IDLE), [
    { event: "export_added", export: "", source: "/srv/disk.img", sizeBytes: 65536, readOnly: false },
  ]);
});

Deno.test("changes: what breaks is told, and that it is well no more", pure, () => {
  const broken = { ...IDLE, exports: [{ ...IDLE_EXPORT, syncFailure: "fdatasync: EIO" }] };
  assertEquals(stateChanges(IDLE, broken), [
    { event: "sync_failed", export: "", why: "fdatasync: EIO" },
    {
      event: "health",
      state: "failed",
      why: 'export "" cannot be written since a sync failed: fdatasync: EIO',
    },
  ]);
});

Deno.test("changes: a migration begins, is throttled, and ends", pure, () => {
  const mirror = { bytesPerSecond: 1, durationSeconds: 0, secondsLeft: 9, bytesLeft: 9, speedLimit: null };
  const moving = { ...IDLE, mirror };
  const slower = { ...IDLE, mirror: { ...mirror, bytesLeft: 5, speedLimit: 1 } };
  const events = [stateChanges(IDLE, moving), stateChanges(moving, slower), stateChanges(slower, IDLE)];
  assertEquals(events.flat(), [
    { event: "migration_began", bytesLeft: 9 },
    { event: "migration_limit", bytesPerSecond: 1 },
    { event: "migration_ended" },
  ]);
});

Deno.test("a watch tells each change once, and every follower all of them", async () => {
  let status = IDLE;
  const clock = new ManualClock();
  const watch = new StateWatch(() => status, clock);
  const left = new AbortController();
  const followers = [watch.follow(left.signal), watch.follow(left.signal)];
  const first = followers.map((follower) => follower.next());
  // Somebody who came and went between two looks of its own is not missed.
  status = withClients(CLIENT);
  watch.look();
  status = IDLE;
  watch.look();
  for (const each of await Promise.all(first)) {
    assertEquals((each.value as StateChange).event, "client_opened");
  }
  for (const follower of followers) {
    assertEquals(((await follower.next()).value as StateChange).event, "client_left");
  }
  const looked = followers.map((follower) => follower.next());
  status = { ...IDLE, clientsAllowed: false };
  clock.advance(500);
  for (const each of await Promise.all(looked)) {
    assertEquals((each.value as StateChange).event, "clients_allowed");
  }
  left.abort();
  for (const follower of followers) assertEquals((await follower.next()).done, true);
});

Deno.test("a follower that falls behind is told how many changes it has missed", async () => {
  let status = IDLE;
  const watch = new StateWatch(() => status, new ManualClock());
  const left = new AbortController();
  const follower = watch.follow(left.signal);
  const first = follower.next();
  for (let id = 1; id <= 1001; id++) {
    status = withClients({ ...CLIENT, id });
    watch.look();
  }
  // Each but the first opened one and ended another: 2001 changes, of which one thousand fit.
  await first;
  for (let count = 1; count < 1000; count++) await follower.next();
  assertEquals((await follower.next()).value, { event: "missed", count: 1001 });
  left.abort();
  await follower.next();
});
