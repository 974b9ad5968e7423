import { assertEquals } from "@std/assert";
import { formatIpEndpoint } from "../../src/base/ip_endpoint.ts";
import { type AltServer, readAltServers } from "../../src/config/alt_servers.ts";

function pure(name: string, fn: () => void) {
  Deno.test({ name, permissions: "none", fn });
}

function read(text: string): { servers: AltServer[]; warnings: string[] } {
  const warnings: string[] = [];
  const servers = readAltServers(text, 5003, {
    file: "alt-servers",
    warn: (problem) => warnings.push(problem.message),
  });
  return { servers, warnings };
}

/** Address, `p`rivate, `c`lient only, comment and namespaces in one line. */
function brief(server: AltServer): string {
  const marks = (server.isPrivate ? "p" : "") + (server.isClientOnly ? "c" : "");
  return [formatIpEndpoint(server), marks, server.comment, ...server.namespaces].join("|");
}

pure("S9: alt-servers: for=client, and all that begins so, is a server for clients only", () => {
  const { servers, warnings } = read(`[192.168.100.100:5010]
comment=For clients
for=client
[10.0.0.1]
for=clients-as-written-by-some
`);
  assertEquals(servers.map(brief), ["192.168.100.100:5010|c|For clients", "10.0.0.1:5003|c|"]);
  assertEquals(warnings, []);
});

pure("S9: alt-servers: for=replication, exactly so, is a server for copying only", () => {
  assertEquals(read("[192.168.100.50]\nfor=replication\n").servers.map(brief), ["192.168.100.50:5003|p|"]);
  const { servers, warnings } = read("[192.168.100.50]\nfor=replications\n");
  assertEquals([servers.map(brief), warnings.length], [["192.168.100.50:5003||"], 1]);
});

pure("S9: alt-servers: without for a server is for both", () => {
  assertEquals(read("[192.168.100.10]\ncomment=Some server\n"), {
    servers: read("192.168.100.10 Some server\n").servers,
    warnings: [],
  });
  assertEquals(read("[192.168.100.10]\ncomment=Some server\n").servers.map(brief), [
    "192.168.100.10:5003||Some server",
  ]);
});

pure("S9: alt-servers: comments are lines of their own, or stand behind a value and a blank", () => {
  const { servers, warnings } = read(`# first
; second
[10.0.0.1] # the old one
  # indented
for=client # where clients means "all but proxies"
comment=In room #7, behind the # 8 ; upstairs
namespace=lab/ # twice\t# over
namespace=x#y
`);
  assertEquals(servers.map(brief), ["10.0.0.1:5003|c|In room #7, behind the # 8|lab/|x#y"]);
  assertEquals(warnings, []);
});

// The example in the documentation of dnbd3-server: a placeholder for the address, and a comment behind a value.
for (const [purpose, mark] of [["client", "c"], ["replication", "p"]]) {
  pure(`S9: alt-servers: an example with for=${purpose} and a comment behind it loads as meant`, () => {
    const text = (address: string) =>
      `[${address}]\ncomment=Whatever\nfor=${purpose} # "client" or "replication"\nnamespace=some/path/\n`;
    const { servers, warnings } = read(text("10.0.0.1"));
    assertEquals([servers.map(brief), warnings], [[`10.0.0.1:5003|${mark}|Whatever|some/path/`], []]);
    assertEquals(read(text("Address")), {
      servers: [],
      warnings: ["alt-servers:1: Address names no server; skipped"],
    });
  });
}

pure("S9: alt-servers: for with another value is reported and both stays", () => {
  const { servers, warnings } = read("[10.0.0.1]\nfor=purpose\n");
  assertEquals(servers.map(brief), ["10.0.0.1:5003||"]);
  assertEquals(warnings, ["alt-servers:2: for=purpose is neither client nor replication; skipped"]);
});

pure("S9: alt-servers: namespace may be repeated, also by indented lines", () => {
  const { servers } = read("[10.0.0.1]\nnamespace=foobar/baz/\nnamespace=x\n  y/\n");
  assertEquals(servers.map(brief), ["10.0.0.1:5003|||foobar/baz/|x|y/"]);
});

pure("S9: alt-servers: comment is cut to 119 bytes and keeps whole characters", () => {
  const { servers } = read(`[10.0.0.1]\ncomment=${"ä".repeat(70)}\n`);
  assertEquals(servers[0].comment, "ä".repeat(59));
});

pure("S9: alt-servers: IPv6 addresses with and without port", () => {
  assertEquals(read("[2001:db8::17]\n[[2001:db8::17]:6000]\n[[::1]]\n").servers.map(brief), [
    "[2001:db8::17]:5003||",
    "[2001:db8::17]:6000||",
    "[::1]:5003||",
  ]);
});

pure("S9: alt-servers: a section without keys counts", () => {
  assertEquals(read("[10.0.0.1]\n[10.0.0.2]\ncomment=x\n").servers.map(brief), [
    "10.0.0.1:5003||",
    "10.0.0.2:5003||x",
  ]);
});

pure("S9: alt-servers: a server named twice is one", () => {
  assertEquals(read("[10.0.0.1]\ncomment=x\n[10.0.0.1:5003]\nfor=client\n").servers.map(brief), [
    "10.0.0.1:5003|c|x",
  ]);
});

pure("S9: alt-servers: names, unknown keys and lines that are none are reported and skipped", () => {
  const { servers, warnings } = read("x=1\n[example.org]\ncomment=x\n[10.0.0.1]\ncolour=red\nnonsense\n");
  assertEquals(servers.map(brief), ["10.0.0.1:5003||"]);
  assertEquals(warnings, [
    "alt-servers:6: neither a [section] nor key=value: nonsense",
    "alt-servers: the part before the first section names no server; skipped",
    "alt-servers:2: example.org names no server; skipped",
    "alt-servers:5: unknown key colour; skipped",
  ]);
});

pure("S9: alt-servers: the fifty-first server is reported and skipped", () => {
  const text = Array.from({ length: 51 }, (_, index) => `[10.0.0.${index + 1}]\n`).join("");
  const { servers, warnings } = read(text);
  assertEquals([servers.length, warnings], [50, [
    "alt-servers:51: 10.0.0.51:5003 is one more than 50 servers; skipped",
  ]]);
});

pure("S9: alt-servers: the older form, one server a line", () => {
  const { servers, warnings } = read(`# servers
10.0.0.1 near the door
+10.0.0.2:5010
- 10.0.0.3 copies only
[2001:db8::17]:6000 sixth
not-an-address here
`);
  assertEquals(servers.map(brief), [
    "10.0.0.1:5003||near the door",
    "10.0.0.2:5010|c|",
    "10.0.0.3:5003|p|copies only",
    "[2001:db8::17]:6000||sixth",
  ]);
  assertEquals(warnings, ["alt-servers:6: not-an-address is no address; skipped"]);
});

pure("S9: alt-servers: a comment may hold line breaks that are none to this file", () => {
  assertEquals(read("10.0.0.1 a\u2028b\rc\n").servers.map(brief), ["10.0.0.1:5003||a\u2028b\rc"]);
});

pure("S9: alt-servers: an empty file names no server and is no problem", () => {
  assertEquals(read("# none yet\n"), { servers: [], warnings: [] });
});
