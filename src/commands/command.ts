/**
 * What a command is: a value.
 *
 * From one declaration come its parser (`parse_arguments.ts`), its help, manual page and row in the README
 * (`help.ts`) and its shell completion (`completions.ts`).
 */
import type { AdjustableLog } from "../base/log.ts";
import type { OptionTable, OptionValues } from "./options.ts";

/** Where output goes. */
export interface Output {
  /** Whether a person watches: progress and redrawing make sense. */
  readonly isTerminal: boolean;
  /**
   * Writes all of it, and is done when the system has taken it.
   *
   * @throws {Deno.errors.BrokenPipe} If the reader has gone; a command lets it pass, and ends quietly.
   */
  write(data: string | Uint8Array): Promise<void>;
}

/** Where input comes from. */
export interface Input {
  readonly isTerminal: boolean;
  /** Reads at least one byte into the front of `into`; `null` at the end. */
  read(into: Uint8Array): Promise<number | null>;
}

/** One run of a command: everything it may use of the outside, so that a test can give something else. */
export interface Invocation<O = Readonly<Record<string, unknown>>> {
  /** Named as in the declaration. */
  readonly options: O;
  /** The positional words; their number has been checked. */
  readonly args: readonly string[];
  readonly log: AdjustableLog;
  readonly stdin: Input;
  /** Results, and nothing else. */
  readonly stdout: Output;
  /** Progress. Events go to the log. */
  readonly stderr: Output;
  /** An environment variable, `undefined` where it is not set. */
  env(name: string): string | undefined;
}

/** The words that are not options. */
export interface Positional {
  /** As in the usage: `DISK`, `SOURCE DESTINATION`, `ACL_ENTRY`. */
  readonly name: string;
  readonly help: string;
  /** How many at least. Default 0. */
  readonly min?: number;
  /** How many at most. Default: any number. */
  readonly max?: number;
}

export interface Example {
  readonly text: string;
  /** The command line, starting with `denbd`. */
  readonly command: string;
}

interface Description {
  /** One lower-case word, with hyphens. */
  readonly name: string;
  /** One phrase, without a full stop. */
  readonly summary: string;
  /** What follows `denbd` in the usage: one line per way to use it, the commonest first. */
  readonly usage: readonly string[];
  /** Paragraphs, separated by empty lines. */
  readonly description?: string;
  readonly positional?: Positional;
  readonly examples?: readonly Example[];
  /** Where they differ from 0 done, 1 failed, 2 misused: codes with what they mean. */
  readonly exitCodes?: readonly (readonly [code: string, meaning: string])[];
  /** Default 2. */
  readonly misuseCode?: number;
  /** Run, and shown nowhere. */
  readonly hidden?: boolean;
}

/** A command as the program sees it. */
export interface Command extends Description {
  readonly options: OptionTable;
  /**
   * Does the work.
   *
   * @returns The exit code; nothing means 0.
   * @throws {UsageError} On misuse that the declaration cannot express. Any other error becomes one line on
   *   stderr and exit code 1.
   */
  run(invocation: Invocation): Promise<number | void> | number | void;
}

/**
 * Declares a command; `run` gets its options with the types of their declaration.
 *
 * A flag is a boolean; an option with `repeat` an array; one that is `required` or has a `default` is always
 * there; any other may be `undefined`.
 */
export function command<const T extends OptionTable>(
  declaration: Description & {
    readonly options: T;
    run(invocation: Invocation<OptionValues<T>>): Promise<number | void> | number | void;
  },
): Command {
  return declaration as unknown as Command;
}
