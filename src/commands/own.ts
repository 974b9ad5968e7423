import { claim, type DiskRecord, riskOfClaim, whyNotOwned } from "../device/ownership.ts";
import { openFileDisk } from "../device/open_file_disk.ts";
import { type DiskState, findDiskState } from "../device/state_directory.ts";
import { fileStatus } from "../os/file_calls.ts";
import { type Libc, libc } from "../os/libc.ts";
import { reasonOf } from "../os/reason.ts";
import { command } from "./command.ts";
import { CommandFailure } from "./command_failure.ts";
import { readableStateDirectory, stateDirOption } from "./state_directory_option.ts";
import { UsageError } from "./usage_error.ts";

export const own = command({
  name: "own",
  summary: "Shows whether an image is the disk or has moved, and decides it",
  usage: ["own [--json] FILE", "own --claim FILE"],
  description: `
    A disk that moves to another host is owned by one of the two at any time. Each of them writes down beside the
    image what it knows: owner, receiving (an unfinished copy), prepared (a whole copy that waits for the word of
    its source), in-doubt (handed over, and the confirmation is missing) or moved. Only an owner is served. Unless
    one of the two hosts is gone for good they settle it between themselves as soon as they reach each other.

    --claim makes the image the disk, whatever the other host says, and tells what may be lost by that. Make sure
    first that the disk is not served there.
  `,
  positional: { name: "FILE", help: "The image", min: 1, max: 1 },
  options: {
    claim: { type: "flag", help: "Make FILE the disk, whatever the other host says" },
    json: { type: "flag", short: "j", help: "Show what is kept, as JSON" },
    stateDir: stateDirOption,
  },
  examples: [
    { text: "Who owns the disk", command: "denbd own disk.img" },
    { text: "The other host burned down", command: "denbd own --claim disk.img" },
  ],
  async run({ options, args: [path], env, log, stdout }) {
    const lib = libc();
    if (lib === null) throw new CommandFailure("libc cannot be opened, so nothing is kept of disks here");
    if (options.claim && options.json) throw new UsageError("--claim and --json exclude each other");
    const state = stateOf(lib, await readableStateDirectory(options, env), path);
    if (options.claim) {
      // Locked meanwhile: a server that runs has its own idea of who owns it.
      const disk = await openFileDisk(path, { log });
      try {
        await stdout.write(await claimDisk(path, state));
      } finally {
        await disk.close();
      }
    } else {
      const record = await state.read();
      await stdout.write(options.json ? JSON.stringify(record, null, 2) + "\n" : describe(path, record));
    }
  },
});

function stateOf(lib: Libc, directory: string, path: string): DiskState {
  let kind;
  try {
    ({ kind } = fileStatus(lib, path));
  } catch (error) {
    throw new CommandFailure(
      `cannot look at ${path}: ${reasonOf(error, { ENOENT: "there is no such file" })}`,
    );
  }
  if (kind === "directory" || kind === "other") {
    throw new CommandFailure(`${path} is neither a file nor a block device`);
  }
  return findDiskState(lib, directory, path);
}

async function claimDisk(path: string, state: DiskState): Promise<string> {
  const record = await state.read();
  if (record === null || record.ownership.state === "owner") return describe(path, record);
  await state.write(claim(record, () => crypto.randomUUID()));
  return `${path} is owned here from now on. ${capitalised(riskOfClaim(record.ownership))}.\n`;
}

function describe(path: string, record: DiskRecord | null): string {
  if (record === null) return `state=owner \n${path} has never been served for writing, nor moved.\n`;
  const { uuid, generation, ownership: { state, epoch, migration } } = record;
  const pairs: [string, string | number][] = [
    ["state", state],
    ["epoch", epoch],
    ["uuid", uuid],
    ["generation", generation],
  ];
  if (migration !== undefined) {
    pairs.push(["migration", migration.id], ["peer", migration.peer], ["at", migration.at]);
  }
  const line = pairs.map(([key, value]) => `${key}=${value} `).join("");
  const why = whyNotOwned(path, record.ownership);
  return why === null ? `${line}\n` : `${line}\n${why}\n`;
}

function capitalised(text: string): string {
  return text[0].toUpperCase() + text.slice(1);
}
