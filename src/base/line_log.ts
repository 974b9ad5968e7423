/**
 * The log that writes lines.
 *
 * `<ms>:<LEVEL>:<PID> <THREAD> <FILE:LINE>: <MSG>`: monotonic milliseconds, the level's letter, the process, the
 * thread of work, where in the source, and one line of text. Or, as JSON, one object per line with the same
 * fields.
 */
import { callerPosition } from "./caller.ts";
import type { AdjustableLog, LogLevel, LogSink } from "./log.ts";
import { escapeControls } from "./printable.ts";

/** In rising order. */
export const LOG_LEVELS: readonly LogLevel[] = ["D", "I", "W", "E", "F"];

/** syslog priorities of the levels, as journald reads them at the start of a line. */
const PRIORITY: Readonly<Record<LogLevel, number>> = { D: 7, I: 6, W: 4, E: 3, F: 2 };

export interface LineLogOptions {
  /** Takes one line, ending in LF. */
  readonly write: (line: string) => void;
  /** Monotonic milliseconds; fractions are dropped. */
  readonly nowMs: () => number;
  readonly pid: number;
  /** Lines below it are not written. Default `W`. */
  readonly level?: LogLevel;
  /** The role at the start. Default `main`. */
  readonly thread?: string;
  /** Default `text`. */
  readonly format?: "text" | "json";
  /** Each line of text starts with its priority, `<N>`, for journald. Default `false`. */
  readonly priorities?: boolean;
}

/** What a log and its children share, so that one change reaches them all. */
interface Shared {
  readonly options: LineLogOptions;
  level: LogLevel;
  readonly sinks: Set<LogSink>;
}

export class LineLog implements AdjustableLog {
  readonly #shared: Shared;
  readonly #thread: string;

  constructor(options: LineLogOptions, parent?: { shared: Shared; thread: string }) {
    this.#shared = parent?.shared ?? { options, level: options.level ?? "W", sinks: new Set() };
    this.#thread = parent?.thread ?? options.thread ?? "main";
  }

  /** The lowest level that is written, here, in the parent and in all children. */
  get level(): LogLevel {
    return this.#shared.level;
  }

  set level(level: LogLevel) {
    this.#shared.level = level;
  }

  attach(sink: LogSink): void {
    this.#shared.sinks.add(sink);
  }

  detach(sink: LogSink): void {
    this.#shared.sinks.delete(sink);
  }

  debug(message: string): void {
    this.#tell("D", message);
  }

  info(message: string): void {
    this.#tell("I", message);
  }

  warn(message: string): void {
    this.#tell("W", message);
  }

  error(message: string): void {
    this.#tell("E", message);
  }

  fatal(message: string): void {
    this.#tell("F", message);
  }

  child(thread: string): LineLog {
    return new LineLog(this.#shared.options, { shared: this.#shared, thread });
  }

  #tell(level: LogLevel, message: string): void {
    const { options, sinks } = this.#shared;
    const isTold = LOG_LEVELS.indexOf(level) >= LOG_LEVELS.indexOf(this.#shared.level);
    if (!isTold && sinks.size === 0) return;
    const position = callerPosition(2);
    const ms = Math.floor(options.nowMs());
    const thread = escapeControls(this.#thread).replaceAll(" ", "_");
    const line = `${ms}:${level}:${options.pid} ${thread} ${position}: ${escapeControls(message)}\n`;
    for (const sink of sinks) if (sink.levels.has(level)) sink.write(line);
    if (!isTold) return;
    if (options.format === "json") {
      const { pid } = options;
      options.write(JSON.stringify({ ms, level, pid, thread: this.#thread, position, message }) + "\n");
      return;
    }
    options.write(options.priorities ? `<${PRIORITY[level]}>${line}` : line);
  }
}
