/** Where commands keep what must outlive them, and find it again. */
import { DEFAULT_STATE_DIRECTORY, proveStateDirectory } from "../device/state_directory.ts";
import { reasonOf } from "../os/reason.ts";
import { CommandFailure } from "./command_failure.ts";
import type { Option } from "./options.ts";

/** Where what must outlive a server is kept; see {@linkcode writableStateDirectory}. */
export const stateDirOption = {
  type: "string",
  valueName: "DIR",
  help:
    `Where the identities and reservations of disks are kept ($STATE_DIRECTORY, else ${DEFAULT_STATE_DIRECTORY})`,
} as const satisfies Option;

/** What {@linkcode stateDirOption} was given. */
interface Named {
  readonly stateDir?: string;
}

type Env = (name: string) => string | undefined;

/**
 * The directory for a server that writes there: the one that was named, else the usual one. Who named a directory
 * relies on what is kept in it; without the usual one, which only root can make, a disk has an identity for one run.
 *
 * @throws {CommandFailure} If a directory was named that cannot be used.
 */
export function writableStateDirectory(options: Named, env: Env): Promise<string> {
  return provenDirectory(options, env, proveStateDirectory, { EEXIST: "it is no directory" });
}

/**
 * The same, for who wants to know what is kept there.
 *
 * @throws {CommandFailure} If a directory was named that is none: in it nothing is known of any disk.
 */
export function readableStateDirectory(options: Named, env: Env): Promise<string> {
  const prove = async (directory: string) => {
    const { isDirectory } = await Deno.stat(directory);
    if (!isDirectory) throw new Error("it is no directory");
  };
  return provenDirectory(options, env, prove, { ENOENT: "it does not exist" });
}

/** @param prove Throws if a directory cannot be used. @param reasons What errors mean here. */
async function provenDirectory(
  { stateDir }: Named,
  env: Env,
  prove: (directory: string) => void | Promise<void>,
  reasons: Parameters<typeof reasonOf>[1],
): Promise<string> {
  // systemd names several, with colons between them.
  const named = stateDir ?? (env("STATE_DIRECTORY")?.split(":")[0] || undefined);
  if (named === undefined) return DEFAULT_STATE_DIRECTORY;
  try {
    await prove(named);
  } catch (error) {
    throw new CommandFailure(`cannot use the state directory ${named}: ${reasonOf(error, reasons)}`);
  }
  return named;
}
