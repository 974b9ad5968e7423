import { assertEquals } from "@std/assert";
import { formatStatusLine } from "../../src/control/status.ts";
import { IDLE, IDLE_EXPORT } from "./idle_status.ts";

const pure = { permissions: "none" } as const;

const START = "pid=1 size=65536 is_mirroring=false clients_allowed=true num_clients=0 has_control=true ";

Deno.test("the status line is flexnbd's, trailing space included", pure, () => {
  assertEquals(formatStatusLine(IDLE), START);
});

Deno.test("an open access list and a failed sync stand behind flexnbd's keys", pure, () => {
  const access = { acl: "open", entries: [], defaultDeny: false } as const;
  assertEquals(formatStatusLine({ ...IDLE, access }), `${START}acl=open `);
  const strangers = [{ door: "nbd", inVain: 9, turnedAway: 0 }, {
    door: "channel",
    inVain: 9,
    turnedAway: 2,
  }] as const;
  assertEquals(formatStatusLine({ ...IDLE, strangers }), `${START}turned_away=2 `);
  const exports = [{ ...IDLE_EXPORT, syncFailure: "fdatasync: EIO" }];
  assertEquals(formatStatusLine({ ...IDLE, exports }), `${START}sync_failed=true `);
});

Deno.test("a migration adds its keys in whole numbers, the limit only if there is one", pure, () => {
  const mirror = {
    bytesPerSecond: 1000.7,
    durationSeconds: 12.9,
    secondsLeft: 3.2,
    bytesLeft: 4096,
    speedLimit: null,
  };
  const line = "pid=1 size=65536 is_mirroring=true clients_allowed=true num_clients=0 has_control=true " +
    "migration_speed=1000 migration_duration=12 migration_seconds_left=3 migration_bytes_left=4096 ";
  assertEquals(formatStatusLine({ ...IDLE, mirror }), line);
  assertEquals(
    formatStatusLine({ ...IDLE, mirror: { ...mirror, speedLimit: 5 } }),
    `${line}migration_speed_limit=5 `,
  );
});
