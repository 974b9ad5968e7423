import type { Command } from "./command.ts";
import { helpCommand } from "./help_command.ts";
import { serve } from "./serve.ts";

/** All commands, in the order of the help. */
export const commands: readonly Command[] = [
  serve,
  helpCommand(() => commands),
];
