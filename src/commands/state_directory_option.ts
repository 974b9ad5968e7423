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

/** The directory that {@linkcode stateDirOption} names, or the service manager has made for us, if any. */
function namedStateDirectory(
  stateDir: string | undefined,
  env: (name: string) => string | undefined,
): string | undefined {
  // systemd names several, with colons between them.
  return stateDir ?? (env("STATE_DIRECTORY")?.split(":")[0] || undefined);
}

/**
 * The directory for a server that writes there: the one that was named, else the usual one. Who named a directory
 * relies on what is kept in it; without the usual one, which only root can make, a disk has an identity for one run.
 *
 * @throws {CommandFailure} If a directory was named that cannot be used.
 */
export async function writableStateDirectory(
  { stateDir }: { readonly stateDir?: string },
  env: (name: string) => string | undefined,
): Promise<string> {
  const named = namedStateDirectory(stateDir, env);
  if (named === undefined) return DEFAULT_STATE_DIRECTORY;
  try {
    await proveStateDirectory(named);
  } catch (error) {
    throw unusable(named, reasonOf(error, { EEXIST: "it is no directory" }));
  }
  return named;
}

/**
 * The same, for who wants to know what is kept there.
 *
 * @throws {CommandFailure} If a directory was named that is none: in it nothing is known of any disk.
 */
export async function readableStateDirectory(
  { stateDir }: { readonly stateDir?: string },
  env: (name: string) => string | undefined,
): Promise<string> {
  const named = namedStateDirectory(stateDir, env);
  if (named === undefined) return DEFAULT_STATE_DIRECTORY;
  try {
    const { isDirectory } = await Deno.stat(named);
    if (!isDirectory) throw new Error("it is no directory");
  } catch (error) {
    throw unusable(named, reasonOf(error, { ENOENT: "it does not exist" }));
  }
  return named;
}

function unusable(directory: string, why: string): CommandFailure {
  return new CommandFailure(`cannot use the state directory ${directory}: ${why}`);
}
