import { assertEquals } from "@std/assert";
import { formatIpEndpoint } from "../../../src/base/ip_endpoint.ts";
import { parseIpAddress } from "../../../src/base/ip_address.ts";
import { readAltServers } from "../../../src/config/alt_servers.ts";
import { coversImage } from "../../../src/server/dnbd3/alt_server.ts";
import { closeness, serversFor } from "../../../src/server/dnbd3/server_list.ts";
import { encodeServers } from "../../../src/wire/dnbd3/message.ts";
import * as vectors from "../../wire/dnbd3/vectors.ts";

function pure(name: string, fn: () => void) {
  Deno.test({ name, permissions: "none", fn });
}

const address = (text: string) => parseIpAddress(text)!;

function told(client: string, image: string, text: string): string[] {
  const servers = readAltServers(text, 5003, {
    file: "alt-servers",
    warn: (problem) => {
      throw problem;
    },
  });
  return serversFor(address(client), image, servers).map(formatIpEndpoint);
}

const RECORDED = `[192.0.2.10]
comment=x
[192.0.2.20:5010]
for=client
[192.0.2.50]
for=replication
[198.51.100.3]
namespace=foobar/
[[2001:db8::17]:6000]
comment=v6
`;

pure("V10, S4: the recorded configuration gives the recorded list", () => {
  assertEquals(told("127.0.0.1", "test", RECORDED), [
    "192.0.2.10:5003",
    "192.0.2.20:5010",
    "[2001:db8::17]:6000",
  ]);
  const servers = readAltServers(RECORDED, 5003, { file: "", warn: () => {} });
  const entries = serversFor(address("127.0.0.1"), "test", servers).map((entry) => ({
    ...entry,
    failures: 0,
  }));
  assertEquals(encodeServers(entries), vectors.SERVERS.server.subarray(16));
});

pure("S4: for=client and no for are told to clients, for=replication is not", () => {
  assertEquals(told("10.0.0.9", "x", "[10.0.0.1]\nfor=client\n"), ["10.0.0.1:5003"]);
  assertEquals(told("10.0.0.9", "x", "[10.0.0.1]\n"), ["10.0.0.1:5003"]);
  assertEquals(told("10.0.0.9", "x", "[10.0.0.1]\nfor=replication\n"), []);
});

pure("S4: a namespace shows a server for its images only", () => {
  assertEquals(told("127.0.0.1", "foobar/x", RECORDED).includes("198.51.100.3:5003"), true);
});

pure("coversImage() compares the beginnings of names, and no namespace covers all", () => {
  const text = "[10.0.0.1]\n[10.0.0.2]\nnamespace=lab/\nnamespace=win1\n";
  const [all, some] = readAltServers(text, 5003, { file: "", warn: () => {} });
  assertEquals(["x", "lab/y"].map((name) => coversImage(all, name)), [true, true]);
  assertEquals(
    ["lab/y", "lab", "win10", "win2", "Lab/y"].map((name) => coversImage(some, name)),
    [true, false, true, false, false],
  );
});

pure("S4: the nearest servers come first, another family last", () => {
  const text = "[10.0.0.1]\n[2001:db8::1]\n[192.168.1.1]\n[192.168.2.1]\n[192.160.0.1]\n";
  assertEquals(told("192.168.2.9", "x", text), [
    "192.168.2.1:5003",
    "192.168.1.1:5003",
    "192.160.0.1:5003",
    "10.0.0.1:5003",
    "[2001:db8::1]:5003",
  ]);
});

pure("S4: at most eight servers are told", () => {
  const text = Array.from({ length: 12 }, (_, index) => `[10.0.0.${index + 1}]\n`).join("");
  assertEquals(told("127.0.0.1", "x", text).length, 8);
});

pure("closeness() counts equal groups of four bits", () => {
  assertEquals(closeness(address("192.168.1.1"), address("192.168.1.1")), 8);
  assertEquals(closeness(address("192.168.1.1"), address("192.168.1.2")), 7);
  assertEquals(closeness(address("192.168.1.1"), address("192.168.1.17")), 6);
  assertEquals(closeness(address("16.0.0.1"), address("32.0.0.1")), 0);
  assertEquals(closeness(address("::1"), address("::1")), 32);
  assertEquals(closeness(address("0.0.0.0"), address("::")), -1);
});
