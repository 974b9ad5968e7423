import { assertEquals } from "@std/assert";
import { formatIpEndpoint, parseIpEndpoint, sameIpEndpoint } from "../../src/base/ip_endpoint.ts";

function pure(name: string, fn: () => void) {
  Deno.test({ name, permissions: "none", fn });
}

for (
  const [text, formatted] of [
    ["10.0.0.1", "10.0.0.1:5003"],
    ["10.0.0.1:80", "10.0.0.1:80"],
    ["2001:db8::17", "[2001:db8::17]:5003"],
    ["[2001:db8::17]", "[2001:db8::17]:5003"],
    ["[2001:db8::17]:6000", "[2001:db8::17]:6000"],
    ["::1", "[::1]:5003"],
    ["10.0.0.1:65535", "10.0.0.1:65535"],
  ]
) {
  pure(`parseIpEndpoint() takes ${text}`, () => {
    const endpoint = parseIpEndpoint(text, 5003);
    assertEquals(endpoint && formatIpEndpoint(endpoint), formatted);
  });
}

for (
  const text of [
    "",
    "host",
    "10.0.0.1:",
    "10.0.0.1:0",
    "10.0.0.1:65536",
    "10.0.0.1:x",
    "10.0.0",
    "[10.0.0.1",
    "::1:99999:",
    "[::1]5",
    " 10.0.0.1",
  ]
) {
  pure(`parseIpEndpoint() refuses ${JSON.stringify(text)}`, () => {
    assertEquals(parseIpEndpoint(text, 5003), null);
  });
}

pure("endpoints are the same with equal family, address and port", () => {
  const same = (one: string, other: string) =>
    sameIpEndpoint(parseIpEndpoint(one, 1)!, parseIpEndpoint(other, 1)!);
  assertEquals(same("10.0.0.1", "10.0.0.1:1"), true);
  assertEquals(same("10.0.0.1", "10.0.0.1:2"), false);
  assertEquals(same("10.0.0.1", "10.0.0.2"), false);
  assertEquals(same("0.0.0.0", "::"), false);
});
