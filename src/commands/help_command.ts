import { type Command, command } from "./command.ts";
import { commandHelp, programHelp } from "./help.ts";
import { UsageError } from "./usage_error.ts";

/** The command `help` over the table that it is itself in. */
export function helpCommand(commands: () => readonly Command[]): Command {
  return command({
    name: "help",
    summary: "Shows the commands, or all about one of them",
    usage: ["help [COMMAND]"],
    positional: { name: "COMMAND", help: "The command to explain", max: 1 },
    options: {},
    async run({ args, stdout }) {
      if (args.length === 0) return await stdout.write(programHelp(commands()));
      const subject = commands().find((each) => each.name === args[0]);
      if (subject === undefined) throw new UsageError(`there is no command '${args[0]}'`);
      await stdout.write(commandHelp(subject));
    },
  });
}
