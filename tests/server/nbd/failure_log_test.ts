import { assertEquals } from "@std/assert";
import { type Log, silentLog } from "../../../src/base/log.ts";
import { FailureLog } from "../../../src/server/nbd/failure_log.ts";

Deno.test("a disk that goes on failing is told of once in ten seconds for each kind, with a number", {
  permissions: "none",
}, () => {
  const told: string[] = [];
  const log: Log = { ...silentLog, error: (message) => told.push(message) };
  let nowMs = 0;
  const failures = new FailureLog(log, () => nowMs);
  for (; nowMs < 5000; nowMs += 40) failures.failed("READ failed: EIO", `READ failed at ${nowMs}`);
  failures.failed("WRITE failed: EIO", "WRITE failed at 5000");
  assertEquals(told, ["READ failed at 0", "WRITE failed at 5000"]);
  nowMs = 10_000;
  failures.failed("READ failed: EIO", "READ failed at 10000");
  assertEquals(told.splice(0), [
    "READ failed at 0",
    "WRITE failed at 5000",
    "READ failed at 10000; and 124 more in 10 s",
  ]);
  nowMs = 12_500;
  failures.failed("READ failed: EIO", "READ failed at 12500");
  failures.close();
  assertEquals(told.splice(0), ["READ failed: EIO: and 1 more in 3 s"]);
  nowMs = 30_000;
  failures.close();
  assertEquals(told, []);
});
