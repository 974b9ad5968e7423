import { type Clock, delay, systemClock } from "../os/clock.ts";
import type { ProcessStatus } from "../control/status.ts";
import { type Command, command, type Output } from "./command.ts";
import { CommandFailure } from "./command_failure.ts";
import { printFollowed, request, SOCK_OPTION } from "./control_request.ts";
import { formatStatusView } from "./status_view.ts";
import { UsageError } from "./usage_error.ts";

/** A server that takes longer is not well. */
const TIMEOUT_MS = 10_000;
const REDRAW_MS = 1000;
const CLEAR_SCREEN = "\x1b[H\x1b[2J";

/** @param clock Paces `--watch`. */
export function statusCommand(clock: Clock = systemClock): Command {
  return command({
    name: "status",
    summary: "Shows the state of a running server",
    usage: ["status --sock SOCK [--json] [--watch]", "status --sock SOCK --changes"],
    description: `
      One line of key=value pairs: pid, size, is_mirroring, clients_allowed, num_clients, has_control; while
      migrating migration_speed, migration_duration, migration_seconds_left, migration_bytes_left and
      migration_speed_limit; acl=open if everybody may write, sync_failed=true if a failed sync has ended all
      writing, turned_away with how many connections were closed at once because too many from their address had
      come to nothing. --json shows much more: exports, clients, counts, latencies.

      --watch shows exports and clients with their rates, once a second until interrupted.

      --changes prints a line of JSON for each change of state until interrupted: clients that come and go, exports
      that are added and removed, migrations, failed syncs, and whether all is well.
    `,
    options: {
      sock: SOCK_OPTION,
      json: { type: "flag", short: "j", help: "Show everything, as JSON" },
      watch: { type: "flag", short: "w", help: "Show it again every second" },
      changes: { type: "flag", short: "c", help: "Print each change of state as a line of JSON" },
    },
    examples: [
      { text: "How many clients there are", command: "denbd status --sock /run/disk.sock" },
      { text: "Look on", command: "denbd status --sock /run/disk.sock --watch" },
    ],
    async run({ options, stdout }) {
      const { sock, json, watch, changes } = options;
      if (changes && watch) throw new UsageError("--changes and --watch exclude each other");
      if (changes) return await printFollowed(sock, "changes", stdout);
      if (watch) return await watchStatus(sock, json, stdout, clock);
      if (json) await stdout.write(JSON.stringify(await wholeStatus(sock), null, 2) + "\n");
      else await stdout.write(`${(await request(sock, "status", [], { timeoutMs: TIMEOUT_MS })).text}\n`);
    },
  });
}

async function wholeStatus(sock: string): Promise<ProcessStatus> {
  const { result } = await request(sock, "status", [], { form: "json", timeoutMs: TIMEOUT_MS });
  if (typeof result !== "object" || result === null) {
    throw new CommandFailure("the server has no status as JSON");
  }
  return result as ProcessStatus;
}

/** Until the server or the reader is gone; as JSON one line each time. */
async function watchStatus(sock: string, json: boolean, stdout: Output, clock: Clock): Promise<never> {
  let before: ProcessStatus | null = null;
  while (true) {
    const status = await wholeStatus(sock);
    if (json) {
      await stdout.write(JSON.stringify(status) + "\n");
    } else {
      const view = formatStatusView(status, before);
      await stdout.write(stdout.isTerminal ? `${CLEAR_SCREEN}${view}\n` : `${view}\n\n`);
    }
    before = status;
    await delay(clock, REDRAW_MS);
  }
}
