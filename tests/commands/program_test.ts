import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { DeviceError } from "../../src/device/device_error.ts";
import { type Command, command, type Invocation } from "../../src/commands/command.ts";
import { optionText } from "../../src/commands/help.ts";
import type { Option } from "../../src/commands/options.ts";
import { nearest } from "../../src/commands/nearest.ts";
import { runProgram } from "../../src/commands/program.ts";
import { shareStderr } from "../../src/commands/shared_stderr.ts";
import { UsageError } from "../../src/commands/usage_error.ts";
import { FakeSurroundings } from "./fake_surroundings.ts";

const pure = { permissions: "none" } as const;

/** Runs one command line over a table; `seen` is what the command got. */
async function runLine(
  words: string[],
  act: (invocation: Invocation) => Promise<number | void> | number | void = () => {},
  environment: Record<string, string> = {},
) {
  const around = new FakeSurroundings(environment);
  let seen: Invocation | undefined;
  const table: Command[] = [
    command({
      name: "try",
      summary: "Tries things",
      usage: ["try [OPTIONS] [WORD...]"],
      positional: { name: "WORD", help: "Any word" },
      options: {
        addr: { type: "address", short: "l", help: "Where" },
        port: { type: "port", short: "p", help: "Which port" },
        size: { type: "size", short: "S", default: 512, max: 2 ** 40, help: "How much" },
        count: { type: "integer", min: -5, max: 5, help: "How many" },
        wait: { type: "duration", help: "How long" },
        mode: { type: "enum", values: ["one", "two"], help: "Which way" },
        member: { type: "string", repeat: true, help: "A part" },
        cache: { type: "string", short: "c", implied: "64M", help: "Keep" },
        defaultDeny: { type: "flag", short: "d", help: "Deny" },
        killswitch: { type: "flag", short: "k", ignoresValue: true, help: "Kill" },
      },
      async run(invocation) {
        seen = invocation;
        return await act(invocation);
      },
    }),
    command({
      name: "need",
      summary: "Needs things",
      usage: ["need --addr ADDR --port PORT --sock SOCK A B"],
      positional: { name: "A B", min: 2, max: 2, help: "Both" },
      options: {
        addr: { type: "address", required: "both --addr and --port are required.", help: "Where" },
        port: { type: "port", required: "both --addr and --port are required.", help: "Which port" },
        sock: { type: "string", required: true, help: "Control socket" },
      },
      run() {},
    }),
  ];
  const code = await runProgram(words, table, "1.2.3", around);
  return { code, seen, ...around.written };
}

Deno.test("a command gets its options with their types, defaults and kinds", pure, async () => {
  // Checked by the compiler as much as by the assertion.
  let got: [number, number | undefined, boolean, readonly string[], "a" | "b"] | undefined;
  const table = [command({
    name: "typed",
    summary: "x",
    usage: ["typed"],
    options: {
      size: { type: "size", default: 7, help: "x" },
      count: { type: "integer", help: "x" },
      flag: { type: "flag", help: "x" },
      many: { type: "string", repeat: true, help: "x" },
      which: { type: "enum", values: ["a", "b"], default: "b", help: "x" },
    },
    run({ options }) {
      got = [options.size, options.count, options.flag, options.many, options.which];
    },
  })];
  assertEquals(await runProgram(["typed"], table, "", new FakeSurroundings()), 0);
  assertEquals(got, [7, undefined, false, [], "b"]);
});

const SPELLINGS: [string, Record<string, unknown>, string[]][] = [
  ["--size=4k", { size: 4096 }, []],
  ["--cache=4k word", { cache: "4k" }, ["word"]],
  ["--cache word", { cache: "64M" }, ["word"]],
  ["-c word", { cache: "64M" }, ["word"]],
  ["-c8M word", { cache: "8M" }, ["word"]],
  ["--size 1G", { size: 2 ** 30 }, []],
  ["-S 64MiB", { size: 2 ** 26 }, []],
  ["-S64", { size: 64 }, []],
  ["--size 1 --size 2", { size: 2 }, []],
  ["--si 9", { size: 9 }, []],
  ["-dk", { defaultDeny: true, killswitch: true }, []],
  ["-dp 80", { defaultDeny: true, port: 80 }, []],
  ["-dp80", { defaultDeny: true, port: 80 }, []],
  ["--default-deny", { defaultDeny: true }, []],
  ["--kill", { killswitch: true }, []],
  ["--killswitch=1", { killswitch: true }, []],
  ["--killswitch --quiet", { killswitch: true }, []],
  ["one --port 1 two", { port: 1 }, ["one", "two"]],
  ["--port 1 -- --port -x", { port: 1 }, ["--port", "-x"]],
  ["- x", {}, ["-", "x"]],
  ["--count -3", { count: -3 }, []],
  ["--count=-3", { count: -3 }, []],
  ["--addr 0", { addr: "0.0.0.0" }, []],
  ["--addr [::1]", { addr: "::1" }, []],
  ["-l 127.0.0.1", { addr: "127.0.0.1" }, []],
  ["--wait 500ms", { wait: 500 }, []],
  ["--wait 30", { wait: 30_000 }, []],
  ["--mode two", { mode: "two" }, []],
  ["--member a --member=b", { member: ["a", "b"] }, []],
  ["--member=a=b", { member: ["a=b"] }, []],
];

for (const [line, options, args] of SPELLINGS) {
  Deno.test(`the words "${line}" are understood`, pure, async () => {
    const { code, seen, stderr } = await runLine(["try", ...line.split(" ")]);
    assertEquals({ code, stderr }, { code: 0, stderr: "" });
    const defaults = { size: 512, member: [], defaultDeny: false, killswitch: false };
    assertEquals(seen?.options, { ...defaults, ...options });
    assertEquals(seen?.args, args);
  });
}

const MISUSES: [string, string][] = [
  ["--size -1", '--size: "-1" is negative'],
  ["--size 4x", '--size: "4x" is not a size (a number of bytes, or one with k, M, G, T, P or E)'],
  ["--size=", '--size: "" is not a size (a number of bytes, or one with k, M, G, T, P or E)'],
  [
    "-S 99999999999999999999",
    '-S: "99999999999999999999" is too large (the limit is 9007199254740991 bytes)',
  ],
  ["--size 2T", '--size: "2T" is too large (at most 1099511627776)'],
  ["--port 65536", "--port: 65536 is out of range (0 to 65535)"],
  ["--port http", '--port: "http" is not a whole number'],
  ["--port 1e3", '--port: "1e3" is not a whole number'],
  ["--count 6", "--count: 6 is out of range (-5 to 5)"],
  ["--addr 1.2.3.4:80", '--addr: "1.2.3.4:80" is not an IP address'],
  ["--addr [::1]:80", '--addr: "[::1]:80" is not an IP address'],
  ["--addr example.org", '--addr: "example.org" is not an IP address'],
  ["--mode three", '--mode: "three" is not one of one, two'],
  [
    "--wait forever",
    '--wait: "forever" is not a duration (such as 500ms, 30s, 2m, 1h, or a number of seconds)',
  ],
  ["--wait 99999h", '--wait: "99999h" is too long (the limit is 24 days)'],
  ["--wat", "unrecognized option '--wat'; did you mean '--wait'?"],
  ["--nothing", "unrecognized option '--nothing'"],
  ["-x", "invalid option -- 'x'"],
  ["--port", "option '--port' requires an argument"],
  ["-p", "option '-p' requires an argument"],
  ["--default-deny=yes", "option '--default-deny' doesn't allow an argument"],
  ["--m x", "option '--m' is ambiguous; possibilities: '--mode' '--member'"],
  ["--log-format xml", '--log-format: "xml" is not one of text, json'],
];

for (const [line, message] of MISUSES) {
  Deno.test(`the words "${line}" are refused with one line and the usage, exit 2`, pure, async () => {
    const { code, stdout, stderr, seen } = await runLine(["try", ...line.split(" ")]);
    assertEquals(stderr, `denbd try: ${message}\nusage: denbd try [OPTIONS] [WORD...]\n`);
    assertEquals({ code, stdout, seen }, { code: 2, stdout: "", seen: undefined });
  });
}

Deno.test("all missing options are told together, in their own words, each once", pure, async () => {
  const { code, stderr } = await runLine(["need", "a", "b"]);
  assertEquals(code, 2);
  assertEquals(
    stderr,
    "denbd need: both --addr and --port are required.\ndenbd need: --sock is required.\n" +
      "usage: denbd need --addr ADDR --port PORT --sock SOCK A B\n",
  );
});

Deno.test("too few and too many positional words are refused by name", pure, async () => {
  const options = ["need", "--addr", "0", "--port", "0", "--sock", "s"];
  assertStringIncludes((await runLine([...options, "a"])).stderr, "denbd need: B is missing\n");
  assertStringIncludes(
    (await runLine([...options, "a", "b", "c"])).stderr,
    "denbd need: unexpected argument 'c'\n",
  );
});

Deno.test("of several ways of use the one with the given options is shown", pure, async () => {
  const table = [command({
    name: "two",
    summary: "Has two ways",
    usage: ["two [--from N] DISK", "two --addr ADDR --port PORT"],
    options: {
      from: { type: "size", help: "x" },
      addr: { type: "address", help: "x" },
      port: { type: "port", help: "x" },
    },
    run() {},
  })];
  const hint = async (line: string) => {
    const around = new FakeSurroundings();
    await runProgram(["two", ...line.split(" "), "--wat"], table, "", around);
    return around.written.stderr.split("\n")[1];
  };
  assertEquals(await hint("x"), "usage: denbd two [--from N] DISK");
  assertEquals(await hint("--from 1"), "usage: denbd two [--from N] DISK");
  assertEquals(await hint("--from 1 --addr=0 --port 5"), "usage: denbd two --addr ADDR --port PORT");
});

Deno.test("denbd alone shows the commands on stderr and exits 2", pure, async () => {
  const { code, stdout, stderr } = await runLine([]);
  assertEquals({ code, stdout }, { code: 2, stdout: "" });
  assertStringIncludes(stderr, "Tries things");
});

Deno.test("denbd --help, denbd --version and COMMAND --help answer on stdout and exit 0", pure, async () => {
  assertEquals((await runLine(["--version"])).stdout, "denbd 1.2.3\n");
  assertStringIncludes((await runLine(["--help"])).stdout, "Tries things");
  const { code, stdout, stderr } = await runLine(["need", "--help"]);
  assertEquals({ code, stderr }, { code: 0, stderr: "" });
  assertStringIncludes(stdout, "--sock SOCK");
});

Deno.test("the help shows defaults as one would type them, and none that is nothing", pure, () => {
  const shown = (option: Option) => optionText(option);
  assertEquals(shown({ type: "duration", default: 90_000, help: "x" }), "x (default 90s)");
  assertEquals(shown({ type: "duration", default: 3_600_000, help: "x" }), "x (default 1h)");
  assertEquals(shown({ type: "duration", default: 1500, help: "x" }), "x (default 1500ms)");
  assertEquals(shown({ type: "duration", default: 0, help: "x" }), "x (default 0)");
  assertEquals(shown({ type: "size", default: 256 << 10, help: "x" }), "x (default 256K)");
  assertEquals(shown({ type: "size", default: 1000, help: "x" }), "x (default 1000)");
  assertEquals(shown({ type: "integer", default: 4096, help: "x" }), "x (default 4096)");
  assertEquals(shown({ type: "string", default: "", help: "x" }), "x");
});

Deno.test("a line of the log begins below the progress that stands on the screen", pure, async () => {
  let screen = "";
  const write = (text: string | Uint8Array) => {
    screen += text;
    return Promise.resolve();
  };
  const { stderr, writeLog } = shareStderr({ stderr: { isTerminal: true, write }, writeLog: write });
  await stderr.write("\r14 %");
  writeLog("one\n");
  writeLog("two\n");
  await stderr.write("\r15 %");
  await stderr.write("\r    ");
  await stderr.write("\r");
  writeLog("three\n");
  assertEquals(screen, "\r14 %\none\ntwo\n\r15 %\r    \rthree\n");
});

Deno.test("an unknown command is refused with the nearest one", pure, async () => {
  const { code, stderr } = await runLine(["tyr"]);
  assertEquals({ code, stderr }, {
    code: 2,
    stderr: "denbd: there is no command \"tyr\"; did you mean 'try'?\n",
  });
  assertStringIncludes((await runLine(["frobnicate"])).stderr, "see denbd help");
});

Deno.test("nearest() takes an unambiguous beginning or few typing errors", pure, () => {
  const names = ["serve", "status", "read", "mirror", "mirror-speed"];
  assertEquals(nearest("stat", names), "status");
  assertEquals(nearest("sevre", names), "serve");
  assertEquals(nearest("red", names), "read");
  assertEquals(nearest("mirrror", names), "mirror");
  assertEquals(nearest("zzz", names), null);
});

Deno.test("a failure is one line with its causes, exit 1, and no stack trace", pure, async () => {
  const cause = new Error("the platter\nfell off");
  const { code, stdout, stderr } = await runLine(["try"], () => {
    throw new DeviceError("EIO", "read", 0, 512, { cause });
  });
  assertEquals({ code, stdout }, { code: 1, stdout: "" });
  assertEquals(stderr, "denbd try: cannot read 512 bytes at 0: EIO: the platter fell off\n");
});

Deno.test("a fault of the program says so, and DENBD_DEBUG=1 shows where", pure, async () => {
  const act = () => {
    throw new TypeError("x is not a function");
  };
  const quiet = await runLine(["try"], act);
  assertEquals(quiet.code, 1);
  assertEquals(quiet.stderr, "denbd try: internal error: x is not a function (DENBD_DEBUG=1 shows where)\n");
  assertMatch((await runLine(["try"], act, { DENBD_DEBUG: "1" })).stderr, /program_test\.ts:\d+/);
});

Deno.test("a command's own misuse shows its usage, and its code is the program's", pure, async () => {
  const misuse = await runLine(["try"], () => {
    throw new UsageError("no such luck");
  });
  assertEquals(misuse.code, 2);
  assertStringIncludes(misuse.stderr, "denbd try: no such luck\nusage: denbd try");
  assertEquals((await runLine(["try"], () => 9)).code, 9);
});

Deno.test("a reader that has gone ends the program without a word", pure, async () => {
  const { code, stderr } = await runLine(["try"], () => {
    throw new Deno.errors.BrokenPipe("Broken pipe");
  });
  assertEquals({ code, stderr }, { code: 1, stderr: "" });
});

const LEVELS: [string, string][] = [
  ["", "WEF"],
  ["-q", "F"],
  ["-v", "IWEF"],
  ["-vv", "DIWEF"],
  ["-v -q", "F"],
  ["-vvq --verbose", "IWEF"],
];

for (const [line, levels] of LEVELS) {
  Deno.test(`with "${line}" the log has the levels ${levels}`, pure, async () => {
    const { log } = await runLine(["try", ...line.split(" ").filter(Boolean)], ({ log }) => {
      log.debug("x");
      log.info("x");
      log.warn("x");
      log.error("x");
      log.fatal("x");
    });
    assertEquals(
      log.replace(/^1234:([DIWEF]):42 try program_test\.ts:\d+: x\n/gm, "$1"),
      levels,
    );
  });
}
