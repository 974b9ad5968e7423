import { assertEquals } from "@std/assert";
import { formatDuration, formatStatusView } from "../../src/commands/status_view.ts";
import type { ProcessStatus } from "../../src/control/status.ts";
import { IDLE, IDLE_EXPORT } from "../control/idle_status.ts";

const pure = { permissions: "none" } as const;

Deno.test("the view shows server, exports, latencies and clients", pure, () => {
  const client = {
    id: 7,
    address: "192.0.2.7:40000",
    identity: null,
    rights: "write",
    protection: "none",
    ageMs: 61_000,
    requests: 10,
    errors: 1,
    inFlight: 2,
    readBytes: 4096,
    writtenBytes: 0,
  } as const;
  const status: ProcessStatus = {
    ...IDLE,
    diskThreads: { count: 8, busy: 8, waiting: 3 },
    strangers: [{ door: "nbd", inVain: 9, turnedAway: 4 }, { door: "channel", inVain: 1, turnedAway: 0 }, {
      door: "dnbd3",
      inVain: 0,
      turnedAway: 0,
    }],
    exports: [{
      ...IDLE_EXPORT,
      name: "evil\x1b[2J",
      dirtyBytes: 8192,
      syncFailure: "EIO",
      latency: {
        read: { count: 10, sumUs: 900, p50Us: 85, p90Us: 90, p99Us: 1200, p999Us: 1300, maxUs: 2_500_000 },
      },
      clients: [client, {
        ...client,
        id: 8,
        address: "unix:uid=0,pid=12",
        identity: "key alice",
        rights: "read",
        protection: "noise",
      }],
    }],
  };
  assertEquals(
    formatStatusView(status),
    `denbd 0.1.0  pid 1  up 5 s  127.0.0.1:10809  acl=1 entry
disk threads: 8 of 8 busy, 3 calls waiting
strangers: 9 came to nothing at the port of nbd, 4 were turned away; 1 came to nothing at the port of channels

export "evil\\x1b[2J"  64 KiB  /srv/disk.img
  0 requests, 0 bytes read, 0 bytes written
  8 KiB not synced
  WRITING HAS ENDED: a sync failed (EIO)
  read    10 times: p50 85 µs, p99 1.2 ms, max 2.5 s
  client                         rights  protection  age    waiting  traffic
  192.0.2.7:40000                write   none        1 min  2        10 requests, 4 KiB read, 0 bytes written, 1 error
  unix:uid=0,pid=12 (key alice)  read    noise       1 min  2        10 requests, 4 KiB read, 0 bytes written, 1 error`,
  );
});

Deno.test("a server that was started anew has no rates", pure, () => {
  const before = { ...IDLE, pid: 2, exports: [{ ...IDLE_EXPORT, requests: 0 }] };
  const now = { ...IDLE, exports: [{ ...IDLE_EXPORT, requests: 100 }] };
  assertEquals(formatStatusView(now, before), formatStatusView(now));
});

Deno.test("formatDuration() uses the unit that fits", pure, () => {
  const shown = [0, 850, 59_999, 60_000, 3_599_999, 7_500_000, 90_000_000].map(formatDuration);
  assertEquals(shown, ["0 ms", "850 ms", "59 s", "1 min", "59 min", "2 h 5 min", "1 d 1 h"]);
});

Deno.test("the view shows images, and where they are copied from", pure, () => {
  const image = {
    name: "lab/win10",
    revision: 3,
    sizeBytes: 64 * 1024 * 1024,
    completePercent: 42,
    clients: 20,
    sentBytes: 1024 * 1024,
    unverified: false,
    quarantine: null,
    badHashBlocks: [1, 3],
    copy: {
      uplink: "192.0.2.1:5003",
      servers: [
        { server: "192.0.2.1:5003", roundTripMs: 0.31, failures: 0, lies: 0 },
        { server: "192.0.2.2:5003", roundTripMs: null, failures: 4, lies: 2 },
      ],
      receivedBytes: 27 * 1024 * 1024,
      waiting: 2,
      mismatches: 1,
      writeProblem: null,
    },
  };
  const whole = {
    ...image,
    name: "x",
    completePercent: 100,
    unverified: true,
    badHashBlocks: [],
    copy: null,
  };
  const view = formatStatusView({ ...IDLE, exports: [], images: [image, whole] });
  assertEquals(
    view,
    `denbd 0.1.0  pid 1  up 5 s  127.0.0.1:10809  acl=1 entry
disk threads: 0 of 24 busy

image lab/win10:3  64 MiB, 20 clients, 1 MiB sent, 42 % here
  REFUSED: hash blocks 1, 3 are damaged
  copied from 192.0.2.1:5003: 27 MiB received, 2 blocks waited for, 1 hash blocks did not fit
  servers: 192.0.2.1:5003 (310 µs), 192.0.2.2:5003 (not measured, failed 4 times, SENT BAD DATA 2 times)
image x:3  64 MiB, 20 clients, 1 MiB sent, unverified`,
  );
});
