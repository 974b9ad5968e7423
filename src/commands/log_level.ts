import { LOG_LEVELS } from "../base/line_log.ts";
import { command } from "./command.ts";
import { request, SOCK_OPTION } from "./control_request.ts";
import { UsageError } from "./usage_error.ts";

export const logLevel = command({
  name: "log-level",
  summary: "Changes how much a running server logs",
  usage: ["log-level --sock SOCK LEVEL"],
  positional: {
    name: "LEVEL",
    min: 1,
    max: 1,
    help:
      "The lowest level that is logged: D (debug), I, W (as at the start), E or F (what ends the program)",
  },
  options: { sock: SOCK_OPTION },
  async run({ options, args, stdout }) {
    const [level] = args;
    if (!(LOG_LEVELS as readonly string[]).includes(level)) {
      throw new UsageError(`LEVEL: "${level}" is not one of ${LOG_LEVELS.join(", ")}`);
    }
    const { text } = await request(options.sock, "log_level", [level]);
    await stdout.write(`${text}\n`);
  },
});
