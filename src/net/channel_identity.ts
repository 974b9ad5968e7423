/** Who this program is in a channel: the keys in its files. */
import { parseSecretKey } from "../base/channel_key.ts";
import { readSecretFile } from "../os/key_file.ts";
import type { NoiseIdentity } from "../wire/channel/establish.ts";
import { importKeyPair, type KeyPair } from "../wire/channel/key_pair.ts";

/** An environment variable, `undefined` where it is not set. */
export type Environment = (name: string) => string | undefined;

/** The directory of this user's keys and known servers; `undefined` for a user without a home. */
export function userDirectory(env: Environment): string | undefined {
  const configuration = env("XDG_CONFIG_HOME");
  if (configuration !== undefined && configuration.startsWith("/")) return `${configuration}/denbd`;
  const home = env("HOME");
  return home === undefined || home === "" ? undefined : `${home}/.config/denbd`;
}

/** Where this user's private key is, if nothing else is said. */
export function defaultKeyPath(env: Environment): string | undefined {
  const directory = userDirectory(env);
  return directory === undefined ? undefined : `${directory}/key`;
}

/**
 * Reads a private key.
 *
 * @throws {Error} If the file cannot be used; the message says why.
 */
export async function readKeyPair(path: string): Promise<KeyPair> {
  return await importKeyPair(await readKey("private", path));
}

/**
 * Reads the keys of one end.
 *
 * @param presharedKeyPath Absent: there is no pre-shared key.
 * @throws {Error} If a file cannot be used; the message says why.
 */
export async function readIdentity(keyPath: string, presharedKeyPath?: string): Promise<NoiseIdentity> {
  return {
    staticKey: await readKeyPair(keyPath),
    presharedKey: presharedKeyPath === undefined ? undefined : await readKey("preshared", presharedKeyPath),
  };
}

async function readKey(kind: "private" | "preshared", path: string): Promise<Uint8Array<ArrayBuffer>> {
  const text = await readSecretFile(path, kind === "private" ? "denbd keygen" : "denbd keygen --psk");
  try {
    return parseSecretKey(kind, text);
  } catch (error) {
    throw new Error(`cannot use ${path}: ${(error as Error).message}`);
  }
}
