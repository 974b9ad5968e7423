import { assertEquals } from "@std/assert";
import { reluctanceMs } from "../../../src/server/dnbd3/reluctance.ts";

const NONE = { write: false, queue: false, uplink: false };

function pure(name: string, fn: () => void) {
  Deno.test({ name, permissions: "none", fn });
}

pure("S11: an image without trouble is given at once", () => {
  assertEquals(reluctanceMs(NONE, 0, 0.99), 0);
});

pure("S11: with a write problem one in four is let in, 100 ms late", () => {
  const draws = Array.from(
    { length: 100 },
    (_, index) => reluctanceMs({ ...NONE, write: true }, 50, index / 100),
  );
  assertEquals(draws.filter((waitMs) => waitMs === 100).length, 25);
  assertEquals(draws.filter((waitMs) => waitMs === null).length, 75);
});

pure("S11: with a full queue one in four is let in, at once", () => {
  const draws = Array.from(
    { length: 100 },
    (_, index) => reluctanceMs({ ...NONE, queue: true }, 50, index / 100),
  );
  assertEquals([
    draws.filter((waitMs) => waitMs === 0).length,
    draws.filter((waitMs) => waitMs === null).length,
  ], [
    25,
    75,
  ]);
});

pure("S11: without an uplink each percent that is missing costs 100 microseconds", () => {
  const uplink = { ...NONE, uplink: true };
  assertEquals(
    [reluctanceMs(uplink, 100, 0.99), reluctanceMs(uplink, 40, 0.99), reluctanceMs(uplink, 0, 0)],
    [
      0,
      6,
      10,
    ],
  );
  assertEquals(reluctanceMs({ ...uplink, write: true }, 40, 0), 106);
});
