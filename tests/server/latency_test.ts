import { assert, assertEquals } from "@std/assert";
import { LatencyHistogram } from "../../src/server/latency.ts";

Deno.test({
  name: "LatencyHistogram tells percentiles within an eighth, and the maximum exactly",
  permissions: "none",
  fn() {
    const histogram = new LatencyHistogram();
    for (let us = 1; us <= 10_000; us++) histogram.add(us);
    const { count, p50Us, p90Us, p99Us, p999Us, maxUs } = histogram.summary();
    assertEquals(count, 10_000);
    assertEquals(maxUs, 10_000);
    for (const [told, right] of [[p50Us, 5000], [p90Us, 9000], [p99Us, 9900], [p999Us, 9990]]) {
      assert(told >= right && told <= right * 1.125, `${told} for ${right}`);
    }
  },
});

Deno.test({
  name: "LatencyHistogram knows single microseconds, nothing at all, and hours",
  permissions: "none",
  fn() {
    assertEquals(new LatencyHistogram().summary().p99Us, 0);
    const histogram = new LatencyHistogram();
    histogram.add(0.4, 3);
    histogram.add(5, 97);
    assertEquals(histogram.summary().p50Us, 5);
    histogram.add(1e10);
    assertEquals(histogram.summary().maxUs, 1e10);
    assertEquals(histogram.summary().count, 101);
  },
});
