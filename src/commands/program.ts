/**
 * The program around the commands: finds one, runs it, and turns what it threw into one clear line and an exit
 * code. 0 done, 1 failed, 2 misuse.
 */
import { LineLog } from "../base/line_log.ts";
import type { LogLevel } from "../base/log.ts";
import { escapeControls, quote } from "../base/printable.ts";
import { reasonOf } from "../os/reason.ts";
import { CommandFailure } from "./command_failure.ts";
import type { Command, Input, Output } from "./command.ts";
import { GLOBAL_OPTIONS } from "./global_options.ts";
import { commandHelp, programHelp } from "./help.ts";
import { nearest } from "./nearest.ts";
import { readOptions, splitWords, type Words } from "./parse_arguments.ts";
import { shareStderr } from "./shared_stderr.ts";
import { UsageError } from "./usage_error.ts";

/** What the program uses of the outside. */
export interface Surroundings {
  readonly stdin: Input;
  readonly stdout: Output;
  readonly stderr: Output;
  /** Writes a line of the log, at once and without failing. */
  readonly writeLog: (line: string) => void;
  readonly nowMs: () => number;
  readonly pid: number;
  /** Log lines go to journald and want their priority. */
  readonly journal: boolean;
  env(name: string): string | undefined;
}

/**
 * Runs the program.
 *
 * @param words The command line after the program's name.
 * @param commands All commands.
 * @param version For `--version`.
 * @returns The exit code.
 */
export async function runProgram(
  words: readonly string[],
  commands: readonly Command[],
  version: string,
  around: Surroundings,
): Promise<number> {
  const surroundings = { ...around, ...shareStderr(around) };
  const { stdout, stderr } = surroundings;
  // What ends the program is an error to journald too.
  const priority = surroundings.journal ? "<3>" : "";
  let speaker = `${priority}denbd`;
  let usage: string | undefined;
  let misuseCode: number | undefined;
  try {
    const [name, ...rest] = words;
    if (name === undefined) {
      await stderr.write(programHelp(commands));
      return 2;
    }
    if (name === "--version" || name === "-V") {
      await stdout.write(`denbd ${version}\n`);
      return 0;
    }
    if (name === "--help" || name === "-h") {
      await stdout.write(programHelp(commands));
      return 0;
    }
    const command = findCommand(name, commands);
    speaker = `${priority}denbd ${command.name}`;
    usage = usageFor(command, rest);
    misuseCode = command.misuseCode;
    const split = splitWords(rest, { ...GLOBAL_OPTIONS, ...command.options });
    if (split.found.some((each) => each.option === GLOBAL_OPTIONS.help)) {
      await stdout.write(commandHelp(command));
      return 0;
    }
    const log = makeLog(split, command, surroundings);
    const { stdin, env } = surroundings;
    const options = readOptions(command, split);
    const { args } = split;
    return await command.run({ options, args, log, stdin, stdout, stderr, env }) ?? 0;
  } catch (error) {
    return await report(error, { speaker, usage, misuseCode }, surroundings);
  }
}

function findCommand(name: string, commands: readonly Command[]): Command {
  const command = commands.find((each) => each.name === name);
  if (command !== undefined) return command;
  if (name.startsWith("-")) throw new UsageError(`options come after the command (${quote(name)})`);
  throw noCommand(name, commands);
}

/** The misuse of a name that no command has; with the one that was meant, perhaps. */
export function noCommand(name: string, commands: readonly Command[]): UsageError {
  const near = nearest(name, commands.filter((each) => !each.hidden).map((each) => each.name));
  const hint = near === null ? "see denbd help" : `did you mean '${near}'?`;
  return new UsageError(`there is no command ${quote(name)}; ${hint}`);
}

/** The one way of use that has the most of the options that were given. */
function usageFor({ usage }: Command, words: readonly string[]): string {
  const score = (line: string) => {
    const spellings: readonly string[] = line.match(/--[a-z-]+/g) ?? [];
    return words.filter((word) => spellings.includes(word.split("=")[0])).length;
  };
  return usage.reduce((best, line) => score(line) > score(best) ? line : best);
}

function makeLog(words: Words, command: Command, surroundings: Surroundings): LineLog {
  let level = "W" as LogLevel;
  let format: "text" | "json" = "text";
  for (const { option, text } of words.found) {
    if (option === GLOBAL_OPTIONS.quiet) level = "F";
    if (option === GLOBAL_OPTIONS.verbose) level = level === "I" || level === "D" ? "D" : "I";
    if (option === GLOBAL_OPTIONS.logFormat) {
      if (text !== "text" && text !== "json") {
        throw new UsageError(`--log-format: ${quote(text ?? "")} is not one of text, json`);
      }
      format = text;
    }
  }
  const { writeLog, nowMs, pid, journal } = surroundings;
  return new LineLog({
    write: writeLog,
    nowMs,
    pid,
    level,
    format,
    thread: command.name,
    priorities: journal,
  });
}

/** Says what went wrong in one line, and returns the exit code. */
async function report(
  error: unknown,
  { speaker, usage, misuseCode = 2 }: { speaker: string; usage?: string; misuseCode?: number },
  { stderr, env }: Surroundings,
): Promise<number> {
  try {
    if (error instanceof UsageError) {
      const lines = error.message.split("\n").map((line) => `${speaker}: ${line}\n`);
      if (usage !== undefined) lines.push(`usage: denbd ${usage}\n`);
      await stderr.write(lines.join(""));
      return misuseCode;
    }
    if (error instanceof CommandFailure) {
      await stderr.write(`${speaker}: ${describeError(error)}\n`);
      return error.exitCode;
    }
    // The reader of our output has seen enough.
    if (error instanceof Deno.errors.BrokenPipe) return 1;
    if (env("DENBD_DEBUG") === "1" && error instanceof Error) await stderr.write(`${error.stack}\n`);
    await stderr.write(`${speaker}: ${describeError(error)}\n`);
    return 1;
  } catch {
    // Nobody can be told; the code still says it.
    return 1;
  }
}

/** Names of our own error families: their messages are written for the user. */
const SPEAKING_ERRORS = new Set(["DeviceError", "WireError", "ConfigError", "OsError"]);

/** Faults of the program itself rather than of what it was asked. */
const PROGRAM_ERRORS = [TypeError, RangeError, ReferenceError, SyntaxError];

/** One line: the message, and the causes it does not already contain. */
export function describeError(error: unknown): string {
  const parts: string[] = [];
  let each: unknown = error;
  for (let depth = 0; depth < 4 && each !== undefined && each !== null; depth++) {
    const message = each instanceof Error ? each.message || each.name : String(each);
    // A cause may have been told in its own words, or in plain ones.
    const wordings = [message, reasonOf(each)];
    if (!parts.some((part) => wordings.some((words) => part.includes(words)))) parts.push(message);
    each = each instanceof Error ? each.cause : undefined;
  }
  const text = escapeControls(parts.join(": ").replaceAll("\n", " "));
  const ours = error instanceof Error && SPEAKING_ERRORS.has(error.name);
  if (!ours && PROGRAM_ERRORS.some((kind) => error instanceof kind)) {
    return `internal error: ${text} (DENBD_DEBUG=1 shows where)`;
  }
  return text;
}
