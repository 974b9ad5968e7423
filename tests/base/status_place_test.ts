import { assertEquals, assertThrows } from "@std/assert";
import { parseStatusPlace } from "../../src/base/status_place.ts";

const pure = { permissions: "none" } as const;

Deno.test("a place for the status is a port, a loopback address with one, or a path", pure, () => {
  assertEquals(parseStatusPlace("9809"), { transport: "tcp", host: "127.0.0.1", port: 9809 });
  assertEquals(parseStatusPlace("127.0.0.9:0"), { transport: "tcp", host: "127.0.0.9", port: 0 });
  assertEquals(parseStatusPlace("[::1]:9809"), { transport: "tcp", host: "::1", port: 9809 });
  assertEquals(parseStatusPlace("unix:status.sock"), { transport: "unix", path: "status.sock" });
  assertEquals(parseStatusPlace("/run/status.sock"), { transport: "unix", path: "/run/status.sock" });
});

Deno.test("a place for the status is refused where others could reach it, or nobody", pure, () => {
  for (const text of ["10.0.0.1:9809", "0.0.0.0:9809", "[::]:9809"]) {
    assertThrows(() => parseStatusPlace(text), SyntaxError, "from outside");
  }
  for (const text of ["", "localhost:9809", "65536", "127.0.0.1", "127.0.0.1:", "unix:", "-1", "::1:9809"]) {
    assertThrows(() => parseStatusPlace(text), SyntaxError);
  }
});
