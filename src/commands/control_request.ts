/** What the commands that speak to a running server have in common. */
import { escapeControls } from "../base/printable.ts";
import { askControl } from "../control/client.ts";
import type { ControlAnswer } from "../wire/control/message.ts";
import { CommandFailure } from "./command_failure.ts";
import type { Option } from "./options.ts";

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
 */
export async function request(
  sock: string,
  command: string,
  args: readonly string[] = [],
  options: { form?: "lines" | "json"; timeoutMs?: number } = {},
): Promise<ControlAnswer> {
  const { form = "lines", timeoutMs } = options;
  const answer = await askControl(sock, { form, command, args }, { timeoutMs });
  const text = escapeControls(answer.text);
  if (answer.code !== 0) throw new CommandFailure(text, answer.code);
  return { ...answer, text };
}
