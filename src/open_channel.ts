/**
 * From what a URI says of a channel to the channel: with which key we go, and which key of the server we trust.
 *
 * A server's key is either named in the URI or remembered from the first time, in a file like SSH's. A server
 * that comes with another key than it had is not talked to, and is not told who we are.
 */
import { formatKey } from "./base/channel_key.ts";
import { formatEndpoint } from "./base/endpoint.ts";
import type { Log } from "./base/log.ts";
import type { ChannelLocator, NbdLocator } from "./base/uri.ts";
import { acquaintance, parseKnownServers } from "./config/known_servers.ts";
import { defaultKeyPath, type Environment, readIdentity, userDirectory } from "./net/channel_identity.ts";
import type { Connection } from "./net/connection.ts";
import { recordCipherFor } from "./net/record_cipher.ts";
import { openSecureConnection } from "./net/secure_connection.ts";
import { reasonOf } from "./os/reason.ts";

/** The environment variable with the path of the private key, and that with the path of the known servers. */
const KEY_VARIABLE = "DENBD_KEY";
const KNOWN_SERVERS_VARIABLE = "DENBD_KNOWN_SERVERS";

export interface ChannelContext {
  readonly env: Environment;
  readonly log: Log;
}

/** Makes a channel of a fresh connection. */
export type OpenChannel = (transport: Connection, signal?: AbortSignal) => Promise<Connection>;

/**
 * Prepares the channels to one server: reads our keys.
 *
 * @returns What makes a channel of each connection, and throws if the server is not the one that it should be.
 * @throws {Error} If a key is missing or cannot be used, or the cipher that is wanted; the message says what to do.
 */
export async function prepareChannel(
  { server }: NbdLocator,
  channel: ChannelLocator,
  context: ChannelContext,
): Promise<OpenChannel> {
  if (channel.protection === "checksum") {
    return (transport, signal) => openSecureConnection(transport, { signal });
  }
  const makeRecordCipher = recordCipherFor(context.env);
  const name = formatEndpoint(server);
  const keyPath = channel.identityPath ?? context.env(KEY_VARIABLE) ?? defaultKeyPath(context.env);
  if (keyPath === undefined) {
    throw new Error(`no private key is known: give identity= in the URI, or set ${KEY_VARIABLE}`);
  }
  if (channel.identityPath === undefined && !await exists(keyPath)) {
    throw new Error(`there is no private key at ${keyPath}; denbd keygen makes one`);
  }
  const identity = await readIdentity(keyPath, channel.presharedKeyPath);
  const trust = async (serverKey: Uint8Array) => {
    const key = serverKey.toBase64();
    if (channel.serverKey === undefined) await trustRemembered(name, serverKey, context);
    else if (key !== channel.serverKey) {
      throw new Error(
        `the key of ${name} is ${key}, and not the one that the URI names: it is another server`,
      );
    }
  };
  return (transport, signal) => {
    return openSecureConnection(transport, { identity, trust, signal, makeRecordCipher });
  };
}

/** The key that is remembered of a server; `undefined` if there is none, or there are several. */
export async function rememberedKey({ server }: NbdLocator, env: Environment): Promise<string | undefined> {
  const file = knownServersFile(env);
  if (file === undefined) return undefined;
  const name = formatEndpoint(server);
  const met = parseKnownServers(await readIfThere(file), file).filter((each) => each.server === name);
  return met.length === 1 ? met[0].key : undefined;
}

function knownServersFile(env: Environment): string | undefined {
  const directory = userDirectory(env);
  return env(KNOWN_SERVERS_VARIABLE) ?? (directory === undefined ? undefined : `${directory}/known_servers`);
}

/** Compares a server's key with the remembered one, and remembers it at the first contact. */
async function trustRemembered(
  server: string,
  serverKey: Uint8Array,
  { env, log }: ChannelContext,
): Promise<void> {
  const key = serverKey.toBase64();
  const file = knownServersFile(env);
  if (file === undefined) {
    throw new Error(
      `the key of ${server} is ${key}, and there is nowhere to remember it: give key= in the URI, ` +
        `or set ${KNOWN_SERVERS_VARIABLE}`,
    );
  }
  const text = await readIfThere(file);
  const met = acquaintance(parseKnownServers(text, file), server, key);
  switch (met.kind) {
    case "known":
      return;
    case "changed":
      throw new Error(
        `the key of ${server} has changed: it is now ${key}, and not the one in ${file}:${met.line}. ` +
          `Somebody may be in between; if the server really has a new key, remove that line`,
      );
    case "new":
      // A last line without its end, a comment perhaps, would swallow the server.
      await append(
        file,
        `${/[^\n]$/.test(text) ? "\n" : ""}${server} ${formatKey("public", serverKey)}\n`,
      );
      log.warn(`first contact with ${server}: its key ${key} is remembered in ${file}`);
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await Deno.lstat(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

async function readIfThere(path: string): Promise<string> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return "";
    throw new Error(`cannot read ${path}: ${reasonOf(error)}`);
  }
}

/** Appends a line in one write, so that programs doing so together do not mix theirs. */
async function append(path: string, line: string): Promise<void> {
  try {
    const slash = path.lastIndexOf("/");
    if (slash > 0) await Deno.mkdir(path.slice(0, slash), { recursive: true, mode: 0o700 });
    await Deno.writeTextFile(path, line, { append: true, mode: 0o600 });
  } catch (error) {
    throw new Error(`cannot remember the server's key in ${path}: ${reasonOf(error)}`);
  }
}
