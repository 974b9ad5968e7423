import { DISK_THREADS_MAX } from "../device/disk_threads.ts";
import { command } from "./command.ts";
import { request, SOCK_OPTION } from "./control_request.ts";
import { UsageError } from "./usage_error.ts";

export const diskThreadsCommand = command({
  name: "disk-threads",
  summary: "Changes how many calls of disks may wait at the same time",
  usage: ["disk-threads --sock SOCK COUNT"],
  description: `
    Reads that are not in memory, large writes and allocation wait for the disk on threads of their own; what comes
    when all of them are busy waits for the first that is done. Calls that are under way are let finish. A server with
    --config forgets the change at the next reload: there diskThreads in [nbd] of server.conf says how many.
  `,
  positional: { name: "COUNT", min: 1, max: 1, help: `How many there may be, from 1 to ${DISK_THREADS_MAX}` },
  options: { sock: SOCK_OPTION },
  async run({ options, args, stdout }) {
    const [text] = args;
    const count = /^\d{1,3}$/.test(text) ? Number(text) : NaN;
    if (!(count >= 1 && count <= DISK_THREADS_MAX)) {
      throw new UsageError(`COUNT: "${text}" is not a whole number from 1 to ${DISK_THREADS_MAX}`);
    }
    const answer = await request(options.sock, "disk_threads", [String(count)]);
    await stdout.write(`${answer.text}\n`);
  },
});
