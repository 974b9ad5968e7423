import { command } from "./command.ts";
import { request, SOCK_OPTION } from "./control_request.ts";

/** Clients of exports that go have a few seconds each to be answered. */
const TIMEOUT_MS = 60_000;

export const reload = command({
  name: "reload",
  summary: "Has a running server read its configuration again",
  usage: ["reload --sock SOCK [--force]"],
  description: `
    The same as SIGHUP, with the outcome as the answer: what has changed, or which file and line is wrong, and then
    nothing has changed. Clients of exports that stay as they are notice nothing; those whose rights have changed
    have the new ones at once. An export that somebody uses is neither removed nor opened anew without --force.
  `,
  options: {
    sock: SOCK_OPTION,
    force: { type: "flag", help: "Cut off the clients of exports that go or are opened anew" },
  },
  examples: [
    {
      text: "After a change of exports.conf or peers.conf",
      command: "denbd reload --sock /run/denbd/control",
    },
  ],
  async run({ options, stdout }) {
    const args = options.force ? ["force"] : [];
    const { text } = await request(options.sock, "reload", args, { timeoutMs: TIMEOUT_MS });
    await stdout.write(`${text}\n`);
  },
});
