/** The joints between the commands and the process: streams, environment, exit codes. */
import { assertEquals, assertMatch } from "@std/assert";
import { type Finished, run, temporaryDirectory } from "../testing/process.ts";

const MAIN = new URL("../../main.ts", import.meta.url).pathname;
const DENBD = [Deno.execPath(), "run", "-NRWES", "--allow-ffi", "--allow-run", MAIN].join(" ");

/** Runs a line of shell in which `denbd` is the program. */
function shell(line: string, cwd?: string): Promise<Finished> {
  return run("bash", ["-c", `denbd() { ${DENBD} "$@"; }; ${line}`], { cwd, code: "any" });
}

Deno.test("the exit code is the program's, results are on stdout, complaints on stderr", async () => {
  const version = await shell("denbd --version");
  assertMatch(version.stdout, /^denbd \d+\.\d+\.\d+\n$/);
  assertEquals([version.code, version.stderr], [0, ""]);
  const misuse = await shell("denbd status --sock");
  assertEquals([misuse.code, misuse.stdout], [2, ""]);
  assertMatch(
    misuse.stderr,
    /^denbd status: option '--sock' requires an argument\nusage: denbd status .*\n$/,
  );
});

Deno.test("a reader that has gone ends it without a word", async () => {
  const { code, stderr } = await shell("exec 3> >(:); wait $!; denbd completions bash >&3");
  assertEquals({ code, stderr }, { code: 1, stderr: "" });
});

Deno.test("a stdout that takes nothing is a failure of one line", async () => {
  const { code, stderr } = await shell("denbd help > /dev/full");
  assertEquals(code, 1);
  assertMatch(stderr, /^denbd help: cannot write to standard output: there is no space left\n$/);
});

Deno.test("under the journal log lines carry their priority, elsewhere not", async () => {
  using directory = temporaryDirectory();
  await Deno.writeFile(directory.file("image"), new Uint8Array(4096));
  // Warns that everybody may write, then fails.
  const command = "denbd serve --file image --addr 0 --port 0 --sock missing/socket";
  await shell(`touch log; JOURNAL_STREAM=$(stat -c %d:%i log) ${command} 2>>log`, directory.path);
  const log = await Deno.readTextFile(directory.file("log"));
  assertMatch(
    log,
    /^<4>\d+:W:\d+ serve src\/commands\/running_server\.ts:\d+: .*\n<3>denbd serve: .*missing\/socket.*\n$/,
  );
  const { code, stderr } = await shell(`JOURNAL_STREAM=1:2 ${command}`, directory.path);
  assertMatch(stderr, /^\d+:W:\d+ serve src\/commands\/running_server\.ts:\d+: /);
  assertEquals(code, 1);
});
