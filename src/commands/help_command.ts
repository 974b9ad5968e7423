import { type Command, command } from "./command.ts";
import { commandHelp, programHelp, readmeTable } from "./help.ts";
import { commandManual, programManual } from "./manual.ts";
import { noCommand } from "./program.ts";
import { VERSION } from "./version.ts";

/** The command `help` over the table that it is itself in. */
export function helpCommand(commands: () => readonly Command[]): Command {
  return command({
    name: "help",
    summary: "Shows the commands, or all about one of them",
    usage: ["help [--man] [COMMAND]"],
    positional: { name: "COMMAND", help: "The command to explain", max: 1 },
    options: {
      man: { type: "flag", help: "Print it as a manual page, for man -l -" },
      readmeTable: { type: "flag", hidden: true, help: "Print the commands as a table in Markdown" },
    },
    examples: [{ text: "Read the manual page of serve", command: "denbd help --man serve | man -l -" }],
    async run({ options, args, stdout }) {
      if (options.readmeTable) return await stdout.write(readmeTable(commands()));
      const [name] = args;
      const subject = commands().find((each) => each.name === name);
      if (name !== undefined && subject === undefined) throw noCommand(name, commands());
      if (options.man) {
        const manual = subject === undefined
          ? programManual(commands(), VERSION)
          : commandManual(subject, VERSION);
        return await stdout.write(manual);
      }
      await stdout.write(subject === undefined ? programHelp(commands()) : commandHelp(subject));
    },
  });
}
