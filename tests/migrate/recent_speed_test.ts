import { assertEquals } from "@std/assert";
import { RecentSpeed } from "../../src/migrate/recent_speed.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name: `recent speed: ${name}`, permissions: "none", fn });
}

test("nothing can be told before there is a measurement, and for a moment after", () => {
  const speed = new RecentSpeed();
  assertEquals(speed.at(1000, 0), null);
  speed.note(1000, 0);
  assertEquals(speed.at(1099, 5000), null);
  assertEquals(speed.at(1100, 5000), 50_000);
});

test("only the last seconds count", () => {
  const speed = new RecentSpeed();
  let bytes = 0;
  // 1 MB/s for ten seconds, then ten times as much.
  for (let atMs = 0; atMs <= 20_000; atMs += 50) {
    speed.note(atMs, bytes);
    bytes += atMs < 10_000 ? 50_000 : 500_000;
  }
  assertEquals(speed.at(20_000, bytes - 500_000), 10_000_000);
});
