import { assert, assertEquals } from "@std/assert";
import {
  formatIpAddress,
  isLoopback,
  networkOf,
  parseAddressOption,
  parseIpAddress,
  unmapIpAddress,
} from "../../src/base/ip_address.ts";

const pure = { permissions: "none" } as const;

const ADDRESSES: [string, string][] = [
  ["0.0.0.0", "0.0.0.0"],
  ["255.1.20.3", "255.1.20.3"],
  ["::", "::"],
  ["::1", "::1"],
  ["1::", "1::"],
  ["2001:DB8::00a", "2001:db8::a"],
  ["1:0:0:2:0:0:0:3", "1:0:0:2::3"],
  ["1:0:2:3:4:5:6:7", "1:0:2:3:4:5:6:7"],
  ["1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"],
  ["::ffff:192.0.2.1", "::ffff:c000:201"],
  ["64:ff9b::192.0.2.33", "64:ff9b::c000:221"],
  ["1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:102:304"],
];

for (const [text, canonical] of ADDRESSES) {
  Deno.test(`${text} is the address ${canonical}`, pure, () => {
    const address = parseIpAddress(text);
    assertEquals(address === null ? null : formatIpAddress(address), canonical);
    assertEquals(address, parseIpAddress(canonical));
  });
}

Deno.test("what is no address is refused", pure, () => {
  const texts = ["", "1", "1.2.3", "1.2.3.4.5", "256.0.0.1", "01.2.3.4", "1.2.3.-4", "1.2.3.4 ", "a.b.c.d"];
  texts.push(
    ":",
    ":::",
    "1::2::3",
    "1:2:3:4:5:6:7",
    "1:2:3:4:5:6:7:8:9",
    "12345::",
    "::g",
    "::1%eth0",
    "[::1]",
  );
  texts.push(
    "1:2:3:4:5:6:7:1.2.3.4",
    "1.2.3.4::",
    "::1.2.3",
    "1:2:3:4:5:6:7:8::",
    "::1:2:3:4:5:6:7:8",
    ":1::2",
  );
  texts.push("1::2:", "x".repeat(100) + ":");
  for (const text of texts) assertEquals(parseIpAddress(text), null, text);
});

Deno.test("random addresses survive being formatted", pure, () => {
  for (let round = 0; round < 500; round++) {
    const address = crypto.getRandomValues(new Uint8Array(16)).map((byte) => byte < 160 ? 0 : byte);
    assertEquals(parseIpAddress(formatIpAddress(address)), address);
  }
});

Deno.test("unmapIpAddress() finds the IPv4 address inside a mapped one", pure, () => {
  const unmapped = (text: string) => formatIpAddress(unmapIpAddress(parseIpAddress(text)!));
  assertEquals(unmapped("::ffff:192.0.2.1"), "192.0.2.1");
  assertEquals(unmapped("192.0.2.1"), "192.0.2.1");
  assertEquals(unmapped("::fffe:192.0.2.1"), "::fffe:c000:201");
  assertEquals(unmapped("1::ffff:192.0.2.1"), "1::ffff:c000:201");
});

Deno.test("an option's address may be 0 or stand in brackets, and has nothing behind it", pure, () => {
  assertEquals(parseAddressOption("0"), "0.0.0.0");
  assertEquals(parseAddressOption("[::1]"), "::1");
  assertEquals(parseAddressOption("127.0.0.1"), "127.0.0.1");
  for (const text of ["[::1", "::1]", "[::1]:80", "[127.0.0.1]", "1.2.3.4 junk", "localhost", "00"]) {
    assertEquals(parseAddressOption(text), null, text);
  }
});

Deno.test("isLoopback() knows the addresses of the machine itself", pure, () => {
  for (const text of ["127.0.0.1", "127.9.8.7", "::1", "0:0::1", "::ffff:127.0.0.1"]) {
    assert(isLoopback(text), text);
  }
  for (const text of ["0.0.0.0", "::", "128.0.0.1", "12.7.0.1", "::2", "::127.0.0.1", "localhost"]) {
    assert(!isLoopback(text), text);
  }
});

Deno.test("networkOf() is an IPv4 address itself, and of IPv6 the first 64 bits", pure, () => {
  assertEquals(networkOf("192.0.2.1"), "192.0.2.1");
  assertEquals(networkOf("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
  assertEquals(networkOf("2001:db8:1:2::"), networkOf("2001:db8:1:2:ffff::1"));
  assertEquals(networkOf("unix:uid=0"), "unix:uid=0");
});
