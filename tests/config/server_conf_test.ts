import { assertEquals, assertObjectMatch, assertThrows } from "@std/assert";
import { ConfigError } from "../../src/config/config_error.ts";
import { parse } from "../../src/config/ini.ts";
import {
  formatServerConf,
  parseBoolean,
  parseNumber,
  readServerConf,
  type ServerConf,
  wantsDnbd3,
} from "../../src/config/server_conf.ts";

function pure(name: string, fn: () => void) {
  Deno.test({ name, permissions: "none", fn });
}

function read(text: string, previous?: ServerConf): { conf: ServerConf; warnings: string[] } {
  const warnings: string[] = [];
  const warn = (problem: ConfigError) => warnings.push(problem.message);
  const sections = parse(text, { file: "server.conf", onMalformed: warn });
  return { conf: readServerConf(sections, { file: "server.conf", warn, previous }), warnings };
}

/** The settings of a file that sets one key, and the warnings about it. */
function readKey(line: string, section = "dnbd3") {
  return read(`[dnbd3]\nbasePath=/images\n[${section}]\n${line}\n`);
}

const DEFAULTS = {
  listenPort: 5003,
  basePath: "/images",
  serverPenalty: 0,
  clientPenalty: 0,
  isProxy: false,
  backgroundReplication: "full",
  bgrMinClients: 0,
  bgrWindowSize: 1,
  lookupMissingForProxy: true,
  sparseFiles: false,
  ignoreAllocErrors: false,
  removeMissingImages: true,
  uplinkTimeout: 5000,
  clientTimeout: 15000,
  closeUnusedFd: false,
  vmdkLegacyMode: false,
  proxyPrivateOnly: false,
  pretendClient: false,
  autoFreeDiskSpaceDelay: 36000,
  iScsiServer: true,
  verifyBeforeRelay: false,
  maxClients: 4000,
  maxImages: 5000,
  maxPayload: 9000000,
  maxReplicationSize: 100000000000,
  maxPrefetch: 262144,
  minRequestSize: 0,
  logging: {
    fileMask: ["ERROR", "WARNING", "MINOR", "INFO", "DEBUG1"],
    consoleMask: ["ERROR", "WARNING", "MINOR", "INFO"],
    consoleTimestamps: false,
  },
};

pure("S9: server.conf: every key has dnbd3's default", () => {
  assertEquals(read("[dnbd3]\nbasePath=/images\n"), {
    conf: DEFAULTS as unknown as ServerConf,
    warnings: [],
  });
});

const accepted: [string, string, unknown, string?][] = [
  ["listenPort", "5004", 5004],
  ["vmdkLegacyMode", "true", true],
  ["isProxy", "true", true],
  ["isProxy", "TRUE", true],
  ["isProxy", "1", true],
  ["isProxy", "true # enable proxy mode", true],
  ["isProxy", "false", false],
  ["proxyPrivateOnly", "true", true],
  ["backgroundReplication", "false", "off"],
  ["backgroundReplication", "0", "off"],
  ["backgroundReplication", "hashblock", "hashblock"],
  ["backgroundReplication", "true", "full"],
  ["bgrMinClients", "7", 7],
  ["bgrWindowSize", "3", 3],
  ["lookupMissingForProxy", "false", false],
  ["sparseFiles", "true", true],
  ["ignoreAllocErrors", "true", true],
  ["removeMissingImages", "false", false],
  ["uplinkTimeout", "1250 # r/w timeout", 1250],
  ["clientTimeout", "1000", 1000],
  ["closeUnusedFd", "true", true],
  ["serverPenalty", "1234 # in microseconds", 1234],
  ["clientPenalty", "2345", 2345],
  ["pretendClient", "true", true],
  ["autoFreeDiskSpaceDelay", "90m", 5400],
  ["autoFreeDiskSpaceDelay", "10h", 36000],
  ["autoFreeDiskSpaceDelay", "-1", -1],
  ["iScsiServer", "false", false],
  ["verifyBeforeRelay", "true", true],
  ["maxClients", "2000", 2000, "limits"],
  ["maxClients", "9000", 4000, "limits"],
  ["maxImages", "1000", 1000, "limits"],
  ["maxImages", "9000", 5000, "limits"],
  ["maxPayload", "9M", 9437184, "limits"],
  ["maxReplicationSize", "150G", 161061273600, "limits"],
  ["maxPrefetch", "256k", 262144, "limits"],
  ["minRequestSize", "64KB", 64000, "limits"],
];

for (const [key, text, value, section] of accepted) {
  pure(`S9: server.conf: ${key}=${text} is ${value}`, () => {
    const { conf, warnings } = readKey(`${key}=${text}`, section);
    assertEquals([conf[key as keyof ServerConf], warnings], [value, []]);
  });
}

pure(
  "S9: server.conf: serverPenalty and clientPenalty are whole microseconds, without a unit of time",
  () => {
    const { conf, warnings } = readKey("serverPenalty=1500000\nclientPenalty=250 # µs\n");
    assertEquals([conf.serverPenalty, conf.clientPenalty, warnings], [1_500_000, 250, []]);
    assertEquals(readKey("serverPenalty=20ms\nclientPenalty=20µs").warnings, [
      "server.conf:4: serverPenalty=20ms is not a number and is not used",
      "server.conf:5: clientPenalty=20µs is not a number and is not used",
    ]);
  },
);

pure("S9: server.conf: basePath loses its comment and its slashes at the end", () => {
  assertEquals(
    read("[dnbd3]\nbasePath=/srv/x//  # virtual root of image files\n").conf.basePath,
    "/srv/x",
  );
  assertEquals(read("[dnbd3]\nbasePath=/\n").conf.basePath, "/");
});

pure("S9: server.conf: the first basePath counts, of other keys the last", () => {
  const { conf } = read("[dnbd3]\nbasePath=/a\nbasePath=/b\nlistenPort=1\nlistenPort=2\n");
  assertEquals([conf.basePath, conf.listenPort], ["/a", 2]);
});

pure("S9: server.conf: logging file, masks and timestamps", () => {
  const { conf } = readKey(
    "file=./dnbd3.log\nfileMask=ERROR|DEBUG2\nconsoleMask=MINOR\nconsoleTimestamps=1",
    "logging",
  );
  assertEquals(conf.logging, {
    file: "./dnbd3.log",
    fileMask: ["ERROR", "DEBUG2"],
    consoleMask: ["MINOR"],
    consoleTimestamps: true,
  });
});

for (
  const [text, section, warning] of [
    ["uplinkTimeout=", "dnbd3", "uplinkTimeout= is not a number and is not used"],
    ["uplinkTimeout=5x", "dnbd3", "uplinkTimeout=5x is not a number and is not used"],
    ["uplinkTimeout=5000ms", "dnbd3", "uplinkTimeout=5000ms is not a number and is not used"],
    ["uplinkTimeout=-1", "dnbd3", "uplinkTimeout=-1 is not from 0 to 2147483647 and is not used"],
    ["serverPenalty=2G", "dnbd3", "serverPenalty=2G is not from -2147483648 to 2147483647 and is not used"],
    ["isProxy=yes", "dnbd3", "isProxy=yes is neither true nor a number: taken as false"],
    ["isproxy=true", "dnbd3", "unknown key isproxy in [dnbd3]"],
    ["toString=true", "dnbd3", "unknown key toString in [dnbd3]"],
    ["isProxy=true", "limits", "unknown key isProxy in [limits]"],
    ["maxReplicationSize=9E", "limits", "is not from 0 to 9007199254740991 and is not used"],
  ] as const
) {
  pure(`S9: server.conf: ${text} in [${section}] changes nothing and is reported with its line`, () => {
    const { conf, warnings } = readKey(text, section);
    assertEquals(conf, DEFAULTS as unknown as ServerConf);
    assertEquals(warnings.length, 1);
    assertEquals(warnings[0].startsWith("server.conf:4: "), true);
    assertEquals(warnings[0].endsWith(warning), true, warnings[0]);
  });
}

pure("S9: server.conf: an indented line is another value of the key before it, and reported", () => {
  const { conf, warnings } = readKey("backgroundReplication=hashblock\n  sparseFiles=true");
  assertEquals([conf.backgroundReplication, conf.sparseFiles], ["off", false]);
  assertEquals(warnings, [
    "server.conf:5: indented, and so read as another value of backgroundReplication",
    "server.conf:5: backgroundReplication=sparseFiles=true is neither true nor a number: taken as false",
  ]);
});

pure("S9: server.conf: sections of others are left to them", () => {
  assertEquals(readKey("anything=goes", "nbd").warnings, []);
});

for (
  const [text, message] of [
    ["[dnbd3]\n", "server.conf: no basePath in [dnbd3]"],
    ["[dnbd3]\nbasePath=\n", "server.conf:2: no basePath in [dnbd3]"],
    ["[dnbd3]\nbasePath=images\n", "server.conf:2: basePath must be absolute, not images"],
    ["[dnbd3]\nbasePath=/i\nlistenPort=0\n", "server.conf:3: listenPort must be from 1 to 65535, not 0"],
    [
      "[dnbd3]\nbasePath=/i\nlistenPort=70000\n",
      "server.conf:3: listenPort must be from 1 to 65535, not 70000",
    ],
  ]
) {
  pure(`S9: server.conf: ${JSON.stringify(text)} is refused`, () => {
    assertThrows(() => read(text), ConfigError, message);
  });
}

pure("S9: server.conf of a proxy: values are brought into the limits others set", () => {
  const { conf, warnings } = read(`[dnbd3]
basePath=/i
isProxy=true
sparseFiles=true
bgrWindowSize=1000
[limits]
maxPayload=100k
maxPrefetch=1M
minRequestSize=2M
`);
  assertObjectMatch(conf as unknown as Record<string, unknown>, {
    sparseFiles: false,
    bgrWindowSize: 490,
    maxPayload: 262144,
    maxPrefetch: 262144,
    minRequestSize: 262144,
  });
  assertEquals(warnings.map((text) => text.split(": ")[0]), [4, 5, 7, 8, 9].map((n) => `server.conf:${n}`));
});

pure("S9: server.conf of a proxy: sparseFiles stays with hashblock or from 5 clients on", () => {
  for (const line of ["backgroundReplication=hashblock", "bgrMinClients=5"]) {
    const { conf, warnings } = readKey(`isProxy=true\nsparseFiles=true\n${line}`);
    assertEquals([conf.sparseFiles, warnings], [true, []]);
  }
});

pure("S9: server.conf read again: a key that vanished keeps its value, and some cannot change", () => {
  const first = read("[dnbd3]\nbasePath=/i/\nlistenPort=5004\nserverPenalty=10\nclientPenalty=20\n").conf;
  const { conf, warnings } = read("[dnbd3]\nbasePath=/i\nlistenPort=5005\nserverPenalty=11\n", first);
  assertEquals(
    [conf.basePath, conf.listenPort, conf.serverPenalty, conf.clientPenalty],
    ["/i", 5004, 11, 20],
  );
  assertEquals(warnings, ["server.conf:3: listenPort cannot change while running"]);
});

pure("formatServerConf() writes what reads as the same settings", () => {
  const { conf } = read(`[dnbd3]
basePath=/i
isProxy=true
backgroundReplication=hashblock
autoFreeDiskSpaceDelay=-1
[limits]
minRequestSize=64k
`);
  const text = formatServerConf(conf);
  assertEquals(read(text), { conf, warnings: [] });
  assertEquals(text.split("\n").slice(0, 4), [
    "[dnbd3]",
    "listenPort=5003",
    "basePath=/i",
    "serverPenalty=0",
  ]);
});

pure("wantsDnbd3() sees the section", () => {
  const sections = (text: string) => parse(text, { file: "t" });
  assertEquals(wantsDnbd3(sections("[dnbd3]\n")), true);
  assertEquals(wantsDnbd3(sections("[nbd]\n[limits]\n")), false);
});

pure("parseNumber() knows time before size", () => {
  const cases: [string, number | null][] = [
    ["0", 0],
    ["-5", -5],
    ["1m", 60],
    ["2h", 7200],
    ["1d", 86400],
    ["1k", 1024],
    ["1K", 1024],
    ["1kb", 1000],
    ["1M", 1048576],
    ["1MB", 1000000],
    ["3 G", 3221225472],
    ["1T", 2 ** 40],
    ["", null],
    ["k", null],
    ["1mB", null],
    ["1x", null],
    ["1.5G", null],
  ];
  for (const [text, value] of cases) assertEquals(parseNumber(text), value, text);
});

pure("parseBoolean() takes three spellings and numbers", () => {
  for (const text of ["true", "True", "TRUE", "1", "-1", "007", "2x"]) {
    assertEquals(parseBoolean(text), true, text);
  }
  for (const text of ["false", "", "0", "00", "yes", "on", "tRUE"]) {
    assertEquals(parseBoolean(text), false, text);
  }
});

// The example in the documentation of dnbd3-server, values and comments as users copy them.
pure("S9: server.conf: an example with a comment behind every value loads as meant", () => {
  const { conf, warnings } = read(`[dnbd3]
basePath=/srv/openslx/dnbd3 # virtual root
serverPenalty=1234 # delay for servers (µs)
clientPenalty=2345 # delay for clients (µs)
isProxy=true # proxy mode - copies from alt-servers what "unknown" images clients ask for
uplinkTimeout=1250 # r/w timeout; in ms
`);
  assertEquals(warnings, []);
  assertObjectMatch(conf as unknown as Record<string, unknown>, {
    basePath: "/srv/openslx/dnbd3",
    serverPenalty: 1234,
    clientPenalty: 2345,
    isProxy: true,
    uplinkTimeout: 1250,
  });
});
