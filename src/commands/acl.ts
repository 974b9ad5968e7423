import { parseAclEntry } from "../access/acl.ts";
import { command } from "./command.ts";
import { request, SOCK_OPTION } from "./control_request.ts";
import { UsageError } from "./usage_error.ts";

/** How access list entries are explained wherever a command takes them. */
export const ACL_ENTRY_HELP =
  "ADDRESS[/BITS][=none|read|write], or unix[:UID]; the first that matches decides, without =… it gives write";

/**
 * Refuses words that are no access list entries.
 *
 * @throws {UsageError} About the first that is none.
 */
function checkAclEntries(entries: readonly string[]): void {
  for (const entry of entries) {
    try {
      parseAclEntry(entry);
    } catch (error) {
      throw new UsageError((error as Error).message);
    }
  }
}

export const acl = command({
  name: "acl",
  summary: "Replaces the access list of a running server",
  usage: ["acl --sock SOCK [ACL_ENTRY...]"],
  description: `
    The whole list is replaced, for new clients and for those who are connected: who is no longer allowed is
    disconnected after its current request, the others notice nothing. Without entries the list is empty, which
    lets everybody in, or nobody if the server was started with --default-deny.
  `,
  positional: { name: "ACL_ENTRY", help: ACL_ENTRY_HELP },
  options: { sock: SOCK_OPTION },
  examples: [
    {
      text: "Let one host write and its network read",
      command: "denbd acl --sock /run/disk.sock 192.0.2.7 192.0.2.0/24=read",
    },
  ],
  async run({ options, args, stdout }) {
    checkAclEntries(args);
    const { text } = await request(options.sock, "acl", args);
    await stdout.write(`${text}\n`);
  },
});
