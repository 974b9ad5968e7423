import { judgeHealth } from "../control/health.ts";
import type { ProcessStatus } from "../control/status.ts";
import { command } from "./command.ts";
import { request, SOCK_OPTION } from "./control_request.ts";

/** As monitoring plugins have it. */
const EXIT_CODES = { fine: 0, degraded: 1, failed: 2 } as const;
const UNKNOWN = 3;
const TIMEOUT_MS = 10_000;

export const check = command({
  name: "check",
  summary: "Says for monitoring whether a running server is well",
  usage: ["check --sock SOCK"],
  description: `
    Prints one line, STATE: WHY, and exits as monitoring plugins do.
  `,
  options: { sock: SOCK_OPTION },
  exitCodes: [
    ["0", "All is fine."],
    ["1", "It is degraded: it serves, but somebody should look."],
    ["2", "Something has failed."],
    ["3", "The state is not known, or the command was misused."],
  ],
  misuseCode: UNKNOWN,
  examples: [{ text: "Ask a server", command: "denbd check --sock /run/disk.sock" }],
  async run({ options, stdout }) {
    let status: ProcessStatus;
    try {
      const { result } = await request(options.sock, "status", [], { form: "json", timeoutMs: TIMEOUT_MS });
      if (
        typeof result !== "object" || result === null || !Array.isArray((result as ProcessStatus).exports)
      ) {
        throw new Error("the server has no status as JSON");
      }
      status = result as ProcessStatus;
    } catch (error) {
      await stdout.write(`unknown: ${(error as Error).message}\n`);
      return UNKNOWN;
    }
    const { state, why } = judgeHealth(status);
    await stdout.write(`${state}: ${why}\n`);
    return EXIT_CODES[state];
  },
});
