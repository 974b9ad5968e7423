import type { Command } from "./command.ts";
import { helpCommand } from "./help_command.ts";
import { read } from "./read.ts";
import { serve } from "./serve.ts";
import { write } from "./write.ts";

/** All commands, in the order of the help. */
export const commands: readonly Command[] = [
  serve,
  read,
  write,
  helpCommand(() => commands),
];
