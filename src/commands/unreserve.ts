import { command } from "./command.ts";
import { request, SOCK_OPTION } from "./control_request.ts";

export const unreserve = command({
  name: "unreserve",
  summary: "Ends the reservation of an export for one writer",
  usage: ["unreserve --sock SOCK [NAME]"],
  description: `
    For an export that serves one writing session at a time (serve --writers one-session), when its writer will not
    come back. Whoever holds the reservation is cut off and stays refused; what it had not flushed may be lost, and
    it will be told so by an error. If it cannot hear of that because its link is mute, it may still answer reads from
    its cache, for a minute at most. Without NAME the default export is meant.
  `,
  positional: { name: "NAME", help: "Name of the export", max: 1 },
  options: { sock: SOCK_OPTION },
  examples: [
    { text: "Its proxy is gone for good", command: "denbd unreserve --sock /run/disk.sock" },
  ],
  async run({ options, args, stdout }) {
    const { text } = await request(options.sock, "unreserve", args);
    await stdout.write(`${text}\n`);
  },
});
