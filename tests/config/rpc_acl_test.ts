import { assertEquals } from "@std/assert";
import { parseIpAddress } from "../../src/base/ip_address.ts";
import { readRpcAcl } from "../../src/config/rpc_acl.ts";

function pure(name: string, fn: () => void) {
  Deno.test({ name, permissions: "none", fn });
}

function read(text: string) {
  const warnings: string[] = [];
  const acl = readRpcAcl(text, { file: "rpc.acl", warn: (problem) => warnings.push(problem.message) });
  return { warnings, may: (address: string) => [...acl.permissionsOf(parseIpAddress(address)!)] };
}

pure("S9: rpc.acl: an example loads as meant", () => {
  const { may, warnings } = read(`# Everything from localhost
127.0.0.0/8 ALL

132.230.8.113 STATS CLIENT_LIST IMAGE_LIST # one machine
`);
  assertEquals(may("127.1.2.3"), ["ALL"]);
  assertEquals(may("132.230.8.113"), ["STATS", "CLIENT_LIST", "IMAGE_LIST"]);
  assertEquals(may("132.230.8.114"), []);
  assertEquals(warnings, []);
});

pure("S9: rpc.acl: no line allows everything to everybody", () => {
  assertEquals(read("# nothing\n").may("10.0.0.1"), ["ALL"]);
});

pure("S9: rpc.acl: the first rule that matches decides", () => {
  const { may } = read("10.0.0.1 STATS\n10.0.0.0/8 ALL\n");
  assertEquals([may("10.0.0.1"), may("10.0.0.2")], [["STATS"], ["ALL"]]);
});

pure("S9: rpc.acl: prefixes count in bits, in both families", () => {
  const { may } = read("10.0.0.128/25 STATS\n2001:db8::/33 ALL\n");
  assertEquals([may("10.0.0.129"), may("10.0.0.127")], [["STATS"], []]);
  assertEquals([may("2001:db8:7fff::1"), may("2001:db8:8000::1")], [["ALL"], []]);
});

pure("S9: rpc.acl: an IPv4 rule does not match IPv6 bytes that look alike", () => {
  assertEquals(read("32.1.13.184/32 ALL\n").may("2001:db8::1"), []);
});

pure("S9: rpc.acl: /0 matches everybody of either family", () => {
  const { may } = read("0.0.0.0/0 STATS\n");
  assertEquals([may("10.0.0.1"), may("::1")], [["STATS"], ["STATS"]]);
});

pure("S9: rpc.acl: more bits than the address has count as all", () => {
  const { may } = read("10.0.0.1/99 STATS\n");
  assertEquals([may("10.0.0.1"), may("10.0.0.0")], [["STATS"], []]);
});

pure("S9: rpc.acl: lines that cannot be used are reported, and do not open the door", () => {
  const { may, warnings } = read("localhost ALL\n10.0.0.1\n10.0.0.2 LOG\n10.0.0.3/x ALL\n");
  assertEquals(may("10.0.0.1"), []);
  assertEquals(warnings, [
    "rpc.acl:1: localhost is no address; skipped",
    "rpc.acl:2: no permission for 10.0.0.1; skipped",
    "rpc.acl:3: unknown permission LOG; skipped",
    "rpc.acl:3: no permission for 10.0.0.2; skipped",
    "rpc.acl:4: 10.0.0.3/x is no address; skipped",
  ]);
});

pure("S9: rpc.acl: rules after the hundredth are reported and skipped", () => {
  const lines = Array.from({ length: 101 }, (_, index) => `10.0.0.${index + 1} ALL\n`).join("");
  const { may, warnings } = read(lines);
  assertEquals([may("10.0.0.100"), may("10.0.0.101"), warnings.length], [["ALL"], [], 1]);
});
