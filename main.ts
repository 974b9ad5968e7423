/**
 * denbd: network block storage in one binary.
 *
 * Joins the commands to the process: its words, streams, environment and exit code.
 */
import type { Input, Output } from "./src/commands/command.ts";
import { runProgram, type Surroundings } from "./src/commands/program.ts";
import { commands } from "./src/commands/table.ts";
import { descriptorStatus, deviceNumber } from "./src/os/file_calls.ts";
import { libc } from "./src/os/libc.ts";
import { reasonOf } from "./src/os/reason.ts";
import { VERSION } from "./src/commands/version.ts";

const encoder = new TextEncoder();

function outputTo(stream: typeof Deno.stdout, name: string): Output {
  return {
    get isTerminal() {
      return stream.isTerminal();
    },
    async write(data) {
      let rest = typeof data === "string" ? encoder.encode(data) : data;
      try {
        while (rest.length > 0) rest = rest.subarray(await stream.write(rest));
      } catch (error) {
        if (error instanceof Deno.errors.BrokenPipe) throw error;
        throw new Error(`cannot write to ${name}: ${reasonOf(error)}`);
      }
    },
  };
}

const stdin: Input = {
  get isTerminal() {
    return Deno.stdin.isTerminal();
  },
  async read(into) {
    try {
      return await Deno.stdin.read(into);
    } catch (error) {
      throw new Error(`cannot read standard input: ${reasonOf(error)}`);
    }
  },
};

/** Log lines leave before the program goes on; a reader that has gone is no reason to stop serving. */
function writeLog(line: string): void {
  try {
    let rest = encoder.encode(line);
    while (rest.length > 0) rest = rest.subarray(Deno.stderr.writeSync(rest));
  } catch {
    // There is nowhere left to tell it.
  }
}

/** systemd names device and inode of the journal's stream; ours is that one if stderr has the same. */
function stderrIsJournal(): boolean {
  const named = Deno.env.get("JOURNAL_STREAM");
  const lib = named === undefined ? null : libc();
  if (lib === null) return false;
  try {
    const status = descriptorStatus(lib, 2);
    return named === `${deviceNumber(status)}:${status.inode}`;
  } catch {
    return false;
  }
}

if (import.meta.main) {
  // Since the boot of the machine, so that the logs of programs compare (to the second: all that can be had).
  const offsetMs = Deno.osUptime() * 1000 - performance.now();
  const surroundings: Surroundings = {
    stdin,
    stdout: outputTo(Deno.stdout, "standard output"),
    stderr: outputTo(Deno.stderr, "standard error"),
    writeLog,
    nowMs: () => offsetMs + performance.now(),
    pid: Deno.pid,
    journal: stderrIsJournal(),
    env: (name) => Deno.env.get(name),
  };
  Deno.exit(await runProgram(Deno.args, commands, VERSION, surroundings));
}
