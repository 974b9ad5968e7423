import type { Output } from "./command.ts";

/** Standard error, for whoever writes to it in pieces, and for the log. */
export interface SharedStderr {
  readonly stderr: Output;
  readonly writeLog: (line: string) => void;
}

/** Keeps progress and log apart: a line of the log begins below what stands on the screen. */
export function shareStderr({ stderr, writeLog }: SharedStderr): SharedStderr {
  let isLineOpen = false;
  return {
    stderr: {
      get isTerminal() {
        return stderr.isTerminal;
      },
      write(data) {
        if (typeof data === "string" && data !== "") isLineOpen = !/[\r\n]$/.test(data);
        return stderr.write(data);
      },
    },
    writeLog(line) {
      writeLog(isLineOpen ? `\n${line}` : line);
      isLineOpen = false;
    },
  };
}
