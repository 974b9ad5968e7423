import { concat } from "@std/bytes";
import type { Output } from "../../src/commands/command.ts";
import { runProgram, type Surroundings } from "../../src/commands/program.ts";
import { commands } from "../../src/commands/table.ts";

/** Surroundings that keep what was written. */
export class FakeSurroundings implements Surroundings {
  readonly written = { stdout: "", stderr: "", log: "" };
  /** What was written to stdout as bytes rather than as text. */
  stdoutBytes = new Uint8Array();
  readonly journal = false;
  readonly pid = 42;

  constructor(
    readonly environment: Readonly<Record<string, string>> = {},
    readonly input = new Uint8Array(),
  ) {}

  readonly stdin = {
    isTerminal: false,
    read: (into: Uint8Array) => {
      const length = Math.min(into.length, this.input.length - this.#position);
      if (length === 0) return Promise.resolve(null);
      into.set(this.input.subarray(this.#position, this.#position + length));
      this.#position += length;
      return Promise.resolve(length);
    },
  };
  #position = 0;

  readonly stdout: Output = this.#output("stdout");
  readonly stderr: Output = this.#output("stderr");
  readonly writeLog = (line: string) => void (this.written.log += line);
  readonly nowMs = () => 1234.5;
  readonly env = (name: string) => this.environment[name];

  #output(name: "stdout" | "stderr"): Output {
    return {
      isTerminal: false,
      write: (data) => {
        if (typeof data === "string") this.written[name] += data;
        else if (name === "stdout") this.stdoutBytes = concat([this.stdoutBytes, data]);
        else this.written[name] += new TextDecoder().decode(data);
        return Promise.resolve();
      },
    };
  }
}

/** Runs a command to its end. */
export async function denbd(...words: string[]) {
  const around = new FakeSurroundings();
  const code = await runProgram(words, commands, "1", around);
  return { code, out: around.written.stdout, stderr: around.written.stderr };
}
