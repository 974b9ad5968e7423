import { assertEquals, assertThrows } from "@std/assert";
import {
  formatPeerAddress,
  matchesAddress,
  parseAddressPattern,
  parsePeerAddress,
} from "../../src/base/address_pattern.ts";

const pure = { permissions: "none" } as const;

Deno.test("an address pattern has one usual form", pure, () => {
  const forms: [string, string][] = [
    ["192.0.2.7", "192.0.2.7"],
    ["192.0.2.7/32", "192.0.2.7"],
    ["10.0.0.0/8", "10.0.0.0/8"],
    ["[2001:DB8::1]", "2001:db8::1"],
    ["2001:db8::/32", "2001:db8::/32"],
    ["0/0", "0.0.0.0/0"],
    ["unix", "unix"],
    ["unix:1000", "unix:1000"],
  ];
  for (const [text, usual] of forms) {
    assertEquals(parseAddressPattern(text).text, usual);
    assertEquals(parseAddressPattern(usual), parseAddressPattern(text));
  }
});

Deno.test("what is no address pattern is refused with the reason", pure, () => {
  const cases: [string, string][] = [
    ["", "ADDRESS[/BITS]"],
    ["host", "no IP address"],
    ["10.0.0.0/33", "at most 32 bits"],
    ["::/129", "at most 128 bits"],
    ["unix/8", "no prefix"],
    ["10.0.0.1=read", "ADDRESS[/BITS]"],
  ];
  for (const [text, reason] of cases) assertThrows(() => parseAddressPattern(text), SyntaxError, reason);
});

Deno.test("an IPv4 pattern and its mapped form mean the same peers, and Unix peers are apart", pure, () => {
  const matches = (pattern: string, address: string) =>
    matchesAddress(parseAddressPattern(pattern).pattern, parsePeerAddress(address)!);
  for (const peer of ["10.1.2.3", "::ffff:10.1.2.3"]) {
    for (const pattern of ["10.0.0.0/8", "::ffff:10.0.0.0/104", "::/0"]) {
      assertEquals(matches(pattern, peer), true);
    }
    for (const pattern of ["11.0.0.0/8", "unix", "fe80::/10"]) assertEquals(matches(pattern, peer), false);
  }
  assertEquals(matches("unix", "unix:uid=5"), true);
  assertEquals(matches("unix:5", "unix:uid=5"), true);
  assertEquals(matches("unix:5", "unix"), false);
  assertEquals(matches("::/0", "unix:uid=5"), false);
  assertEquals(parsePeerAddress("nonsense"), null);
  assertEquals(formatPeerAddress(parsePeerAddress("::ffff:10.1.2.3")!), "10.1.2.3");
  assertEquals(formatPeerAddress(parsePeerAddress("unix:uid=5")!), "unix:uid=5");
});
