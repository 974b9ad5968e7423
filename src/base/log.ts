/** Severities in rising order: debug, information, warning, error, fatal. */
export type LogLevel = "D" | "I" | "W" | "E" | "F";

/**
 * Where events are told. One line per event, never per request.
 *
 * A log belongs to a thread of work (a connection, a role), named in each line; {@linkcode child} makes the log
 * of another.
 */
export interface Log {
  debug(message: string): void;
  info(message: string): void;
  warn(message: string): void;
  error(message: string): void;
  fatal(message: string): void;
  /** The same destination and level under another thread name. */
  child(thread: string): Log;
}

/** A log whose level can be changed while it is used, for itself and all that share its destination. */
export interface AdjustableLog extends Log {
  /** The lowest level that is told. */
  level: LogLevel;
  /** Tells lines to somebody else as well, whatever the level is. */
  attach(sink: LogSink): void;
  detach(sink: LogSink): void;
}

/** Somebody who is told lines. */
export interface LogSink {
  readonly levels: ReadonlySet<LogLevel>;
  /** Takes one line of text, ending in LF. Never throws. */
  write(line: string): void;
}

/** Tells nobody. For tests and for tools that report through their exit code. */
export const silentLog: AdjustableLog = {
  level: "F",
  debug() {},
  info() {},
  warn() {},
  error() {},
  fatal() {},
  attach() {},
  detach() {},
  child() {
    return silentLog;
  },
};
