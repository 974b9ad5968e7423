import { assertEquals, assertThrows } from "@std/assert";
import { LineLog } from "../../src/base/line_log.ts";
import { type AppendedFile, LogFile } from "../../src/base/log_file.ts";

const pure = { permissions: "none" } as const;

/** Files in memory, one for each time that one is opened. */
function files(): { open: () => AppendedFile; texts: string[]; closed: number[]; fail: boolean } {
  const all = {
    texts: [] as string[],
    closed: [] as number[],
    fail: false,
    open(): AppendedFile {
      if (all.fail) throw new Error("there is no such directory");
      const index = all.texts.push("") - 1;
      return {
        write(bytes) {
          if (all.fail) throw new Error("no space left");
          all.texts[index] += new TextDecoder().decode(bytes);
        },
        close: () => void all.closed.push(index),
      };
    },
  };
  return all;
}

Deno.test("a log file has the lines of its levels, whatever the log itself tells", pure, () => {
  const stream: string[] = [];
  const kept = files();
  const log = new LineLog({ write: (line) => stream.push(line), nowMs: () => 5, pid: 7, level: "E" });
  const file = new LogFile(kept.open, new Set(["I", "E"]));
  log.child("client 1").info("before");
  log.attach(file);
  log.debug("too much");
  log.child("client 1").info("two\nlines");
  log.error("bad");
  log.detach(file);
  log.error("after");
  const lines = kept.texts[0].split("\n");
  assertEquals(lines.map((line) => line.replace(/ \S+:\d+:/, " FILE:")), [
    "5:I:7 client_1 FILE: two\\nlines",
    "5:E:7 main FILE: bad",
    "",
  ]);
  assertEquals(file.tail, kept.texts[0]);
  assertEquals(stream.length, 2);
});

Deno.test("a log file goes on in a new one, or in the old one if there is none", pure, () => {
  const kept = files();
  const file = new LogFile(kept.open, new Set(["I"]));
  file.write("one\n");
  file.reopen();
  file.write("two\n");
  assertEquals([kept.texts, kept.closed], [["one\n", "two\n"], [0]]);
  kept.fail = true;
  assertThrows(() => file.reopen(), Error, "no such directory");
  file.write("lost\n");
  kept.fail = false;
  file.write("three\n");
  assertEquals(kept.texts[1], "two\nthree\n");
});
