import { assert, assertEquals, assertMatch } from "@std/assert";
import { judgeHealth } from "../../src/control/health.ts";
import { formatMetrics } from "../../src/control/metrics.ts";
import type { ImageStatus } from "../../src/control/status.ts";
import type { LinkStatus } from "../../src/remote/link_status.ts";
import { IDLE, IDLE_EXPORT } from "./idle_status.ts";

const pure = { permissions: "none" } as const;

const READS = { count: 10, sumUs: 900, p50Us: 85, p90Us: 90, p99Us: 1200, p999Us: 1300, maxUs: 2_500_000 };

Deno.test("metrics: every line is one of the text format, families are whole and once", pure, () => {
  const mirror = { bytesPerSecond: 5, durationSeconds: 1, secondsLeft: 1, bytesLeft: 7, speedLimit: null };
  const exports = [
    { ...IDLE_EXPORT, latency: { read: READS, flush: READS } },
    { ...IDLE_EXPORT, name: 'a"b\\c\nd' },
  ];
  const strangers = [{ door: "nbd", inVain: 12, turnedAway: 3 }, {
    door: "channel",
    inVain: 0,
    turnedAway: 0,
  }] as const;
  const text = formatMetrics({ ...IDLE, exports, mirror, strangers });
  assert(text.endsWith("\n"));
  const seen = new Map<string, string>();
  let family = "";
  for (const line of text.slice(0, -1).split("\n")) {
    const comment = /^# (HELP|TYPE) ([a-z_]+) (.+)$/.exec(line);
    if (comment?.[1] === "HELP") {
      family = comment[2];
      assert(!seen.has(family), `${family} stands twice`);
      assertMatch(family, /^denbd_[a-z_]+$/);
      continue;
    }
    if (comment !== null) {
      assertEquals(comment[2], family);
      seen.set(family, comment[3]);
      assertEquals(comment[3] === "counter", family.endsWith("_total"));
      continue;
    }
    const sample =
      /^([a-z_]+)(?:\{([a-z]+="(?:[^"\\\n]|\\["\\n])*"(?:,[a-z]+="(?:[^"\\\n]|\\["\\n])*")*)\})? (\S+)$/.exec(
        line,
      );
    if (sample === null) throw new Error(`no sample: ${line}`);
    assert(Number.isFinite(Number(sample[3])), line);
    const endings = seen.get(family) === "summary" ? ["", "_sum", "_count"] : [""];
    assert(endings.some((ending) => sample[1] === family + ending), line);
  }
  assert(text.includes('denbd_export_size_bytes{export="a\\"b\\\\c\\nd"} 65536\n'));
  assert(
    text.includes(
      'denbd_export_request_duration_seconds{export="",operation="read",quantile="0.99"} 0.0012\n',
    ),
  );
  assert(text.includes('denbd_export_request_duration_seconds_sum{export="",operation="read"} 0.0009\n'));
  assert(text.includes("denbd_migration_left_bytes 7\n"));
  assert(text.includes("denbd_disk_threads 24\n"));
  assert(text.includes('denbd_strangers_in_vain_total{door="nbd"} 12\n'));
  assert(text.includes('denbd_strangers_turned_away_total{door="nbd"} 3\n'));
  assert(text.includes('denbd_strangers_turned_away_total{door="channel"} 0\n'));
  assert(!text.includes("denbd_migration_limit"));
});

Deno.test("health: a server with nothing to complain of is fine", pure, () => {
  assertEquals(judgeHealth(IDLE), { state: "fine", why: "1 export, 0 clients" });
});

Deno.test("health: the worst that is found decides, and the rest is counted", pure, () => {
  const exports = [{ ...IDLE_EXPORT, name: "a", syncFailure: "fdatasync: EIO" }];
  assertEquals(judgeHealth({ ...IDLE, exports, clientsAllowed: false }), {
    state: "failed",
    why: 'export "a" cannot be written since a sync failed: fdatasync: EIO, and 1 more',
  });
  assertEquals(judgeHealth({ ...IDLE, clientsAllowed: false }).state, "degraded");
});

Deno.test("health: a proxy is as well as its connection to the server", pure, () => {
  const link = { peer: "192.0.2.7:10809", trouble: null, doubt: null };
  const health = (upstream: object) =>
    judgeHealth({ ...IDLE, exports: [{ ...IDLE_EXPORT, upstream: { ...link, ...upstream } as LinkStatus }] });
  assertEquals(health({ state: "connected" }).state, "fine");
  assertEquals(health({ state: "reconnecting", trouble: "connection refused" }), {
    state: "degraded",
    why: 'export "" has no connection to 192.0.2.7:10809: connection refused',
  });
  assertEquals(health({ state: "connected", doubt: "the server crashed" }), {
    state: "degraded",
    why: 'the next flush of export "" fails: the server crashed',
  });
  assertEquals(health({ state: "failed", trouble: "it is another disk" }), {
    state: "failed",
    why: 'export "" can be used no more: it is another disk',
  });
});

Deno.test(
  "health: an image that is copied is well while a server is there for who waits, and what comes is kept",
  pure,
  () => {
    const image = { name: "lab", revision: 1, quarantine: null, badHashBlocks: [] };
    const health = (copy: object | null) =>
      judgeHealth({ ...IDLE, images: [{ ...image, copy } as unknown as ImageStatus] });
    assertEquals(health(null).state, "fine");
    assertEquals(health({ uplink: null, waiting: 0, writeProblem: null }).state, "fine");
    assertEquals(health({ uplink: "a:1", waiting: 2, writeProblem: null }).state, "fine");
    assertEquals(health({ uplink: null, waiting: 2, writeProblem: null }), {
      state: "degraded",
      why: "clients of image lab:1 wait, and no server is found that has it",
    });
    assertEquals(health({ uplink: "a:1", waiting: 0, writeProblem: "ENOSPC" }), {
      state: "degraded",
      why: "nothing is kept of image lab:1: ENOSPC",
    });
  },
);
