import { command } from "./command.ts";
import { printFollowed, SOCK_OPTION } from "./control_request.ts";

export const trace = command({
  name: "trace",
  summary: "Prints what goes over the wire of a running server",
  usage: ["trace --sock SOCK"],
  description: `
    Prints a line of JSON for each request of an NBD client and for each reply, or each chunk of one, until
    interrupted. The server takes the trouble only while somebody looks on; of what comes faster than it can be
    printed some is left out, and a line says how much.
  `,
  options: { sock: SOCK_OPTION },
  examples: [{ text: "Look on", command: "denbd trace --sock /run/disk.sock" }],
  async run({ options, stdout }) {
    await printFollowed(options.sock, "trace", stdout);
  },
});
