import { assertEquals, assertThrows } from "@std/assert";
import { ConfigError } from "../../src/config/config_error.ts";
import { parseServerConf, readServingConf } from "../../src/config/serving_conf.ts";
import { DISK_THREADS_MAX } from "../../src/device/disk_threads.ts";

const pure = { permissions: "none" } as const;

function read(text: string) {
  const warnings: string[] = [];
  const warn = (problem: ConfigError) => void warnings.push(problem.message);
  const sections = parseServerConf(text, { file: "server.conf", warn });
  return { ...readServingConf(sections, { file: "server.conf", directory: "/etc/denbd" }), warnings };
}

Deno.test("a directory of dnbd3 alone says nothing about NBD: this machine, no TLS, no channel", pure, () => {
  const { nbd, tls, channel, warnings } = read("[dnbd3]\nbasePath=/images\nnonsense\n[limits]\n[logging]\n");
  assertEquals([nbd.listen, nbd.maxConnections, tls.mode, channel], [[], undefined, "off", null]);
  assertEquals(warnings, ["server.conf:3: neither a [section] nor key=value: nonsense"]);
});

Deno.test("our sections of server.conf say where and how to serve", pure, () => {
  const { nbd, tls, channel } = read(`[nbd]
listen = 192.0.2.1
listen = [::1]:10810
listen = 0:0
listen = unix:/run/nbd.sock
maxConnections = 10
handshakeTimeout = 5s
requestTimeout = 2m
drainTimeout = 500ms
diskThreads = 8
[tls]
mode = require
certificates = tls
[channel]
listen = 192.0.2.1
key = key
psk = /etc/psk
`);
  assertEquals(nbd, {
    listen: [
      { transport: "tcp", host: "192.0.2.1", port: 10809 },
      { transport: "tcp", host: "::1", port: 10810 },
      { transport: "tcp", host: "0.0.0.0", port: 0 },
      { transport: "unix", path: "/run/nbd.sock" },
    ],
    maxConnections: 10,
    handshakeTimeout: 5000,
    requestTimeout: 120_000,
    drainTimeout: 500,
    diskThreads: 8,
  });
  assertEquals([tls.mode, tls.certificates], ["require", "/etc/denbd/tls"]);
  assertEquals(channel, {
    listen: { transport: "tcp", host: "192.0.2.1", port: 10811 },
    key: "/etc/denbd/key",
    psk: "/etc/psk",
    encryption: "require",
  });
});

const refused: [string, number, string][] = [
  ["[tsl]\nmode = require\n", 1, "unknown section [tsl]: there are nbd, tls"],
  ["[dnbd3]\nbasePath = /x\n  [tls]\n  mode = require\n", 3, "[tls] is indented, and so no section"],
  ["[limits]\n[tls\nmode = require\n", 2, "section without its closing bracket"],
  ["[nbd]\nlisten 0\n", 2, "neither a [section] nor key=value"],
  ["[nbd]\nport = 1\n", 2, "unknown key port in [nbd]"],
  ["[nbd]\nlisten = host\n", 2, 'listen: "host" is not ADDRESS, ADDRESS:PORT or [IPv6]:PORT'],
  ["[nbd]\nlisten = 10.0.0.1:65536\n", 2, "is not ADDRESS"],
  ["[nbd]\nlisten = unix:nbd.sock\n", 2, "is to be absolute"],
  ["[nbd]\nmaxConnections = 0\n", 2, "not a whole number from 1 to 100000"],
  ["[nbd]\ndiskThreads = 0\n", 2, `not a whole number from 1 to ${DISK_THREADS_MAX}`],
  ["[nbd]\nmaxConnections = 1e3\n", 2, "not a whole number"],
  ["[nbd]\ndrainTimeout = soon\n", 2, 'drainTimeout: "soon" is not a duration'],
  ["[nbd]\n[nbd]\n", 2, "[nbd] is in line 1 already"],
  ["[tls]\ncertificates = x\n", 1, "[tls] has no mode"],
  ["[tls]\nmode = require\n", 2, "mode = require needs certificates"],
  ["[tls]\nmode = off\nverifyPeer = yes\n", 3, "verifyPeer belongs to mode = prefer or require"],
  ["[http]\nlisten = 192.0.2.1:80\n", 2, "can be reached from outside"],
  ["[tls]\nmode = always\n", 2, "not one of off, prefer, require"],
  ["[channel]\n", 1, "[channel] needs key"],
  ["[channel]\nencryption = off\nkey = k\n", 3, "encryption = off has no use for key"],
  ["[channel]\nkey = k\nlisten = unix:/x\n", 3, "is not ADDRESS"],
  ["[channel]\nkey = k\nkey = l\n", 3, "key has a value already, in line 2"],
];

for (const [text, line, message] of refused) {
  Deno.test(`server.conf is refused with its line: ${message} (${text.split("\n")[0]})`, pure, () => {
    const error = assertThrows(() => read(text), ConfigError, message);
    assertEquals([error.file, error.line], ["server.conf", line]);
  });
}
