/** What the commands that speak to a running server have in common. */
import { escapeControls } from "../base/printable.ts";
import { askControl, followControl } from "../control/client.ts";
import { type ControlAnswer, decodeAnswer } from "../wire/control/message.ts";
import type { Output } from "./command.ts";
import { CommandFailure } from "./command_failure.ts";
import type { Option } from "./options.ts";
import { UsageError } from "./usage_error.ts";

/** The option that names the server. */
export const SOCK_OPTION = {
  type: "string",
  short: "s",
  valueName: "SOCK",
  required: true,
  help: "Control socket of the running server",
} as const satisfies Option;

/**
 * Sends a request to a server.
 *
 * @param options `form`: default `lines`, which flexnbd's servers understand too. `timeoutMs`: default 30 s.
 * @returns The answer, which has code 0.
 * @throws {CommandFailure} If it has another; that is the exit code.
 * @throws {UsageError} If a word is empty or has a line break, which the form of lines has no place for.
 */
export async function request(
  sock: string,
  command: string,
  args: readonly string[] = [],
  options: { form?: "lines" | "json"; timeoutMs?: number } = {},
): Promise<ControlAnswer> {
  const { form = "lines", timeoutMs } = options;
  if (args.some((word) => word === "" || /[\r\n]/.test(word))) {
    throw new UsageError("an argument is empty or has a line break");
  }
  const answer = await askControl(sock, { form, command, args }, { timeoutMs });
  const text = escapeControls(answer.text);
  if (answer.code !== 0) throw new CommandFailure(text, answer.code);
  return { ...answer, text };
}

/** Prints the lines that follow the answer, until the server or the reader is gone. */
export async function printFollowed(sock: string, command: string, stdout: Output): Promise<void> {
  const lines = followControl(sock, { command, args: [] });
  const { value: answer } = await lines.next();
  if (typeof answer !== "string") throw new CommandFailure("the server closed without an answer");
  const { code, text } = decodeAnswer(answer);
  if (code !== 0) throw new CommandFailure(escapeControls(text), code);
  for await (const line of lines) await stdout.write(`${line}\n`);
}
