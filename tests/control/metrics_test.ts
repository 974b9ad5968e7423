import { assert, assertEquals, assertMatch } from "@std/assert";
import { judgeHealth } from "../../src/control/health.ts";
import { formatMetrics } from "../../src/control/metrics.ts";
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
