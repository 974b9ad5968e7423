import { command } from "./command.ts";
import { request, SOCK_OPTION } from "./control_request.ts";

export const verify = command({
  name: "verify",
  summary: "Has a running server check its dnbd3 images",
  usage: ["verify --sock SOCK"],
  description: `
    All hash blocks that have a checksum are read and compared in the background. Blocks that do not fit are refused
    to clients, shown by "status --json", and logged; a proxy fetches them anew.
  `,
  options: { sock: SOCK_OPTION },
  async run({ options, stdout }) {
    const { text } = await request(options.sock, "verify");
    await stdout.write(`${text}\n`);
  },
});
