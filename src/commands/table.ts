import type { Command } from "./command.ts";
import { helpCommand } from "./help_command.ts";

/** All commands, in the order of the help. */
export const commands: readonly Command[] = [
  helpCommand(() => commands),
];
