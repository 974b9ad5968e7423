/** A file beside the stream on which the log goes, opened anew after it was moved away. */
import type { LogLevel, LogSink } from "./log.ts";

/** What a log file needs of the system. */
export interface AppendedFile {
  /** Writes all of it at once. */
  write(bytes: Uint8Array): void;
  close(): void;
}

/** How much of what was written last is remembered. */
const TAIL_LENGTH = 4000;

export class LogFile implements LogSink {
  readonly #open: () => AppendedFile;
  readonly #encoder = new TextEncoder();
  readonly levels: ReadonlySet<LogLevel>;
  #file: AppendedFile;
  #tail = "";

  /**
   * @param open Opens the file to append to it.
   * @param levels What it is told.
   * @throws What `open` throws.
   */
  constructor(open: () => AppendedFile, levels: ReadonlySet<LogLevel>) {
    this.#open = open;
    this.levels = levels;
    this.#file = open();
  }

  /** The last lines, up to about 4000 characters. */
  get tail(): string {
    return this.#tail;
  }

  write(line: string): void {
    this.#tail = (this.#tail + line).slice(-TAIL_LENGTH);
    try {
      this.#file.write(this.#encoder.encode(line));
    } catch {
      // A full disk is no reason to stop serving; the stream still has the line.
    }
  }

  /**
   * Goes on in the file that has the name now.
   *
   * @throws If that cannot be opened; it goes on in the old one.
   */
  reopen(): void {
    const old = this.#file;
    this.#file = this.#open();
    old.close();
  }

  close(): void {
    this.#file.close();
  }
}
