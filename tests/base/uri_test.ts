import { assertEquals, assertThrows } from "@std/assert";
import { formatEndpoint } from "../../src/base/endpoint.ts";
import {
  type DiskLocator,
  formatDiskLocator,
  type ImageLocator,
  parseDiskLocator,
  type TlsLocator,
} from "../../src/base/uri.ts";

const pure = { permissions: "none" } as const;

const tcp = (host: string, port: number, exportName: string): DiskLocator => ({
  kind: "nbd",
  server: { transport: "tcp", host, port },
  exportName,
});
const unix = (path: string, exportName: string): DiskLocator => ({
  kind: "nbd",
  server: { transport: "unix", path },
  exportName,
});
const KEY = "//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eA=";
const noise = (
  host: string,
  port: number,
  parameters: { serverKey?: string; identityPath?: string; presharedKeyPath?: string } = {},
): DiskLocator => ({
  kind: "nbd",
  server: { transport: "tcp", host, port },
  exportName: "x",
  channel: {
    protection: "noise",
    serverKey: undefined,
    identityPath: undefined,
    presharedKeyPath: undefined,
    ...parameters,
  },
});
const tls = (locator: DiskLocator, settings: TlsLocator = {}): DiskLocator => {
  if (locator.kind !== "nbd") throw new Error("not NBD");
  return { ...locator, tls: settings };
};
const file = (path: string): DiskLocator => ({ kind: "file", path });

function image(hosts: string[], name: string, revision = 0): ImageLocator {
  const servers = hosts.map((host) => ({ transport: "tcp", host, port: 5003 } as const));
  return { kind: "image", servers, name, revision };
}

const accepted: [string, DiskLocator][] = [
  ["disk.img", file("disk.img")],
  ["/srv/a b?c#d%20.img", file("/srv/a b?c#d%20.img")],
  ["./nbd://x", file("./nbd://x")],
  ["host:10809", file("host:10809")],
  ["file:///srv/a%20b", file("/srv/a b")],
  ["file://localhost/srv/x", file("/srv/x")],
  ["file:/srv/x", file("/srv/x")],
  ["nbd://example.com", tcp("example.com", 10809, "")],
  ["nbd://example.com/", tcp("example.com", 10809, "")],
  ["NBD://example.com:1/x", tcp("example.com", 1, "x")],
  ["nbd://example.com:/x", tcp("example.com", 10809, "x")],
  ["nbd://127.0.0.1:65535/disk", tcp("127.0.0.1", 65535, "disk")],
  ["nbd://example.com//disk", tcp("example.com", 10809, "/disk")],
  ["nbd://example.com/a/../b", tcp("example.com", 10809, "a/../b")],
  ["nbd://example.com/%C3%A4%2F%3F%23+", tcp("example.com", 10809, "ä/?#+")],
  ["nbd://[::1]/x", tcp("::1", 10809, "x")],
  ["nbd://[2001:db8::1]:20/x", tcp("2001:db8::1", 20, "x")],
  ["nbd://[fe80::1%25eth0]/", tcp("fe80::1%eth0", 10809, "")],
  ["nbd:///x", tcp("localhost", 10809, "x")],
  ["nbd+unix:///?socket=/run/nbd.sock", unix("/run/nbd.sock", "")],
  ["nbd+unix:///disk?socket=nbd%20sock", unix("nbd sock", "disk")],
  ["nbd+unix:////disk?socket=s", unix("s", "/disk")],
  ["nbd+unix://?socket=s", unix("s", "")],
  ["nbds://host", tls(tcp("host", 10809, ""))],
  ["nbds://host/x?tls-type=x509&tls-verify-peer=1", tls(tcp("host", 10809, "x"))],
  [
    "nbds://127.0.0.1:1/x?tls-certificates=/etc/a%20b&tls-hostname=server&tls-verify-peer=0",
    tls(tcp("127.0.0.1", 1, "x"), { certificatesPath: "/etc/a b", hostname: "server", trustAnybody: true }),
  ],
  ["nbds+unix:///x?socket=s", tls(unix("s", "x"))],
  ["nbds+unix:///x?tls-certificates=d&socket=s", tls(unix("s", "x"), { certificatesPath: "d" })],
  ["nbd+noise://host/x", noise("host", 10811)],
  ["nbd+noise://host:10811/x", noise("host", 10811)],
  ["nbd+noise://[::1]:10809/x", noise("::1", 10809)],
  [`nbd+noise://host/x?key=${KEY}`, noise("host", 10811, { serverKey: KEY })],
  [
    `nbd+noise://host/x?key=${KEY.replaceAll("/", "_").replaceAll("+", "-").slice(0, -1)}`,
    noise("host", 10811, { serverKey: KEY }),
  ],
  [
    "nbd+noise://host/x?identity=/etc/a%20key&psk=b",
    noise("host", 10811, { identityPath: "/etc/a key", presharedKeyPath: "b" }),
  ],
  ["nbd+crc://host/x", {
    kind: "nbd",
    server: { transport: "tcp", host: "host", port: 10811 },
    exportName: "x",
    channel: { protection: "checksum" },
  }],
  ["dnbd3://host/test", image(["host"], "test")],
  ["dnbd3://host:5003/test?rid=0", image(["host"], "test")],
  ["dnbd3://host/test?verify=always", { ...image(["host"], "test"), verify: "always" }],
  ["dnbd3://host/test?verify=complete&rid=7", { ...image(["host"], "test", 7), verify: "complete" }],
  ["dnbd3://a,b,[::1]/sub/odd%20x?rid=65535", image(["a", "b", "::1"], "sub/odd x", 65535)],
];

for (const [text, locator] of accepted) {
  Deno.test(`parseDiskLocator() understands ${text}`, pure, () => {
    assertEquals(parseDiskLocator(text), locator);
    assertEquals(parseDiskLocator(formatDiskLocator(locator)), locator);
  });
}

const refused: [string, string][] = [
  ["", "empty"],
  ["file://", "empty"],
  ["a\0b", "NUL"],
  ["nbdz://host/x", "the scheme is none of file, nbd, nbds, nbd+unix"],
  ["http://host/x", "scheme"],
  ["nbd:host:10809", "two slashes"],
  ["file:x", "two slashes"],
  ["file://elsewhere/x", "on this host"],
  ["file:///x?y=1", 'no parameter "y"'],
  ["nbd://host/x?soket=1", 'no parameter "soket"'],
  ["nbd://host/x?socket=/s", 'no parameter "socket"'],
  ["nbd://host/x#y", "%23"],
  ["nbd://user@host/x", "user name"],
  ["nbd://host:0/x", "port 0"],
  ["nbd://host:65536/x", "port 65536"],
  ["nbd://host:80x/x", "not HOST"],
  ["nbd://::1/x", "not HOST"],
  ["nbd://[::1/x", "not HOST"],
  ["nbd://a%20b/x", "not a host name"],
  ["nbd://host/%zz", "percent-encoded"],
  ["nbd://host/%ff", "percent-encoded"],
  ["nbd://host/a%00b", "NUL"],
  ["nbd://host/" + "ä".repeat(2049), "4098 bytes"],
  ["nbd+unix:///x", '"socket" is missing'],
  ["nbd+unix:///x?socket=", '"socket" is missing'],
  ["nbd+unix:///x?socket=a&socket=b", "twice"],
  ["nbd+unix://host/x?socket=a", "three slashes"],
  ["nbds://alice@host/x", "user name"],
  ["nbds://host/x?tls-type=psk", 'tls-type "psk" is not x509'],
  ["nbds://host/x?tls-psk-file=f", 'no parameter "tls-psk-file"'],
  ["nbds://host/x?tls-verify-peer=no", 'tls-verify-peer "no" is not 0 or 1'],
  ["nbds://host/x?tls-certificates=", '"tls-certificates" is empty'],
  ["nbds://host/x?tls-hostname=", '"" is not a host name'],
  ["nbds+unix:///x?tls-hostname=h", '"socket" is missing'],
  ["nbd://host/x?tls-certificates=d", 'no parameter "tls-certificates"'],
  ["nbd+noise://host/x?key=AAAA", "the key has 3 bytes and not 32"],
  ["nbd+noise://host/x?key=", '"key" is empty'],
  ["nbd+noise://host/x?identity=", '"identity" is empty'],
  ["nbd+noise://host/x?mode=off", 'no parameter "mode"'],
  ["nbd+crc://host/x?key=AAAA", 'no parameter "key"'],
  ["dnbd3://host", "names no image"],
  ["dnbd3://host/", "names no image"],
  ["dnbd3://host/x?rid=65536", 'the revision "65536"'],
  ["dnbd3://host/x?rid=", 'the revision ""'],
  ["dnbd3://host/x?rid=-1", 'the revision "-1"'],
  ["dnbd3://host/x?revision=1", 'no parameter "revision"'],
  ["dnbd3://host/x?verify=never", 'verify "never" is neither always nor complete'],
  ["dnbd3://a,b:x/x", "not HOST"],
  [`dnbd3://${"a,".repeat(16)}b/x`, "17 servers"],
  ["dnbd3://host/" + "x".repeat(988), "more than 987 bytes"],
];

for (const [text, reason] of refused) {
  Deno.test(`parseDiskLocator() refuses ${JSON.stringify(text.slice(0, 40))}: ${reason}`, pure, () => {
    assertThrows(() => parseDiskLocator(text), SyntaxError, reason);
  });
}

Deno.test("formatDiskLocator() writes the short form", pure, () => {
  assertEquals(formatDiskLocator(tcp("::1", 10809, "a/b c")), "nbd://[::1]/a/b%20c");
  assertEquals(formatDiskLocator(tcp("h", 7, "")), "nbd://h:7/");
  assertEquals(formatDiskLocator(unix("/run/s", "x")), "nbd+unix:///x?socket=/run/s");
  assertEquals(formatDiskLocator(file("nbd:x")), "./nbd:x");
  assertEquals(formatDiskLocator(file("/x y")), "/x y");
});

Deno.test("formatEndpoint() puts IPv6 in brackets", pure, () => {
  assertEquals(formatEndpoint({ transport: "tcp", host: "::1", port: 5 }), "[::1]:5");
  assertEquals(formatEndpoint({ transport: "tcp", host: "h", port: 5 }), "h:5");
  assertEquals(formatEndpoint({ transport: "unix", path: "/s" }), "unix:/s");
});
