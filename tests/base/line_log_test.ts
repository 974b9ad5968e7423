import { assert, assertEquals, assertMatch } from "@std/assert";
import { formatPosition } from "../../src/base/caller.ts";
import { LineLog, type LineLogOptions } from "../../src/base/line_log.ts";

const pure = { permissions: "none" } as const;

function logOf(options: Partial<LineLogOptions> = {}): { log: LineLog; lines: string[] } {
  const lines: string[] = [];
  const log = new LineLog({ write: (line) => lines.push(line), nowMs: () => 98765.9, pid: 42, ...options });
  return { log, lines };
}

Deno.test("a line has milliseconds, level, process, thread, source position and message", pure, () => {
  const { log, lines } = logOf();
  log.warn("the disk is full");
  assertMatch(lines[0], /^98765:W:42 main line_log_test\.ts:15: the disk is full\n$/);
});

Deno.test("a child has its own thread, and shares level and destination", pure, () => {
  const { log, lines } = logOf();
  const child = log.child("client 7\n");
  child.info("unseen");
  log.level = "I";
  child.info("seen");
  child.level = "F";
  log.error("unseen");
  assertEquals(lines.length, 1);
  assertMatch(lines[0], /^98765:I:42 client_7\\n line_log_test\.ts:\d+: seen\n$/);
});

Deno.test("what would break a line or fool a terminal is escaped", pure, () => {
  const { log, lines } = logOf();
  log.error("a\nb\r\x1b[2J\u2028\u202e\ud800");
  assertMatch(lines[0], /: a\\nb\\x0d\\x1b\[2J\\u\{2028\}\\u\{202e\}\\u\{d800\}\n$/);
  assertEquals(lines[0].indexOf("\n"), lines[0].length - 1);
});

Deno.test("journald gets its priorities", pure, () => {
  const { log, lines } = logOf({ priorities: true, level: "D" });
  log.debug("x");
  log.info("x");
  log.warn("x");
  log.error("x");
  log.fatal("x");
  assertEquals(lines.map((line) => line.slice(0, 3)), ["<7>", "<6>", "<4>", "<3>", "<2>"]);
});

Deno.test("as JSON a line holds the same", pure, () => {
  const { log, lines } = logOf({ format: "json", priorities: true });
  log.error('say "hi"\n');
  const { position, ...rest } = JSON.parse(lines[0]);
  assertEquals(rest, { ms: 98765, level: "E", pid: 42, thread: "main", message: 'say "hi"\n' });
  assertMatch(position, /^line_log_test\.ts:\d+$/);
  assert(lines[0].endsWith("}\n"));
});

Deno.test("formatPosition() begins at src, or at the file", pure, () => {
  assertEquals(formatPosition("file:///x/src/server/nbd.ts", 7), "src/server/nbd.ts:7");
  assertEquals(formatPosition("/x/src/a/src/b.ts", 7), "src/b.ts:7");
  assertEquals(formatPosition("/x/main.ts", 12), "main.ts:12");
  assertEquals(formatPosition("?", 0), "?:0");
});

Deno.test("stack traces are as they were", pure, () => {
  const limit = Error.stackTraceLimit;
  logOf().log.error("x");
  assertEquals(Error.stackTraceLimit, limit);
  assertMatch(new Error("x").stack ?? "", /^Error: x\n +at .*line_log_test\.ts/);
});
