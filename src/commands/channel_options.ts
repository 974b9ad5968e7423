/** How `serve` is told about channels. */
import { KeyList } from "../access/key_list.ts";
import type { Log } from "../base/log.ts";
import { CHANNEL_PORT } from "../base/uri.ts";
import { parseAuthorizedPeers } from "../config/authorized_peers.ts";
import { defaultKeyPath, type Environment, readIdentity } from "../net/channel_identity.ts";
import { recordCipherFor } from "../net/record_cipher.ts";
import type { Clock } from "../os/clock.ts";
import { reasonOf } from "../os/reason.ts";
import { ChannelEntrance } from "../server/channel_entrance.ts";
import type { OptionTable, OptionValues } from "./options.ts";
import { UsageError } from "./usage_error.ts";

export const channelOptions = {
  channelPort: {
    type: "port",
    help:
      `TCP port for encrypted channels (${CHANNEL_PORT} is usual); the plain port is then opened by --port only`,
  },
  key: { type: "string", valueName: "FILE", help: "The server's private key (~/.config/denbd/key)" },
  authorizedPeers: {
    type: "string",
    valueName: "FILE",
    help: "Public keys that are let in through the channel",
  },
  psk: { type: "string", valueName: "FILE", help: "A key that clients of the channel must have in addition" },
  encryption: {
    type: "enum",
    values: ["require", "prefer", "off"],
    help: "Channels with keys only, with keys or with checksums alone, or with checksums alone (require)",
  },
} as const satisfies OptionTable;

type ChannelOptions = OptionValues<typeof channelOptions>;

/** What {@linkcode openEntrance} needs besides. */
export interface EntranceContext {
  readonly env: Environment;
  readonly log: Log;
  readonly clock: Clock;
  readonly handshakeMs: number;
  /** Whose keys are let in, where that is not for a file of authorised peers to say. */
  readonly keys?: KeyList;
}

/** The entrance for channels, and who is let in. */
export interface OpenedEntrance {
  readonly port: number;
  readonly entrance: ChannelEntrance;
  readonly keys: KeyList;
  /** Whether clients without a key are let in. */
  readonly takesUnencrypted: boolean;
  /**
   * Reads the authorised peers again; absent if there is no file of them.
   *
   * @throws {ConfigError} If that file is wrong; the old list stays.
   */
  readonly reload?: () => Promise<void>;
}

/**
 * Makes the entrance for channels that the options ask for.
 *
 * @returns `null` if they ask for none.
 * @throws {UsageError} If they do not fit together.
 * @throws {Error} If a file cannot be used, or the cipher that is wanted; the message says why.
 */
export async function openEntrance(
  options: ChannelOptions,
  { env, log, clock, handshakeMs, keys: given }: EntranceContext,
): Promise<OpenedEntrance | null> {
  const { channelPort: port, key, psk, authorizedPeers, encryption = "require" } = options;
  if (port === undefined) {
    if (key ?? psk ?? authorizedPeers ?? options.encryption) {
      throw new UsageError("--key, --psk, --authorized-peers and --encryption belong to --channel-port");
    }
    return null;
  }
  const keys = given ?? new KeyList([]);
  if (encryption === "off") {
    if (key ?? psk ?? authorizedPeers) {
      throw new UsageError("--encryption=off has no use for --key, --psk and --authorized-peers");
    }
    const entrance = new ChannelEntrance({ encryption, keys, log, clock, handshakeMs });
    return { port, entrance, keys, takesUnencrypted: true };
  }
  if (given === undefined && authorizedPeers === undefined) {
    throw new UsageError("--channel-port needs --authorized-peers: it lets in nobody else");
  }
  const keyPath = key ?? defaultKeyPath(env);
  if (keyPath === undefined) throw new UsageError("--channel-port needs --key");
  const identity = await readIdentity(keyPath, psk);
  const makeRecordCipher = recordCipherFor(env);
  const reload = authorizedPeers === undefined
    ? undefined
    : async () => keys.replace(parseAuthorizedPeers(await readText(authorizedPeers), authorizedPeers));
  await reload?.();
  const entrance = new ChannelEntrance({
    encryption,
    identity,
    makeRecordCipher,
    keys,
    log,
    clock,
    handshakeMs,
  });
  return { port, entrance, keys, takesUnencrypted: encryption === "prefer", reload };
}

async function readText(path: string): Promise<string> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    throw new Error(`cannot read ${path}: ${reasonOf(error, { ENOENT: "it does not exist" })}`);
  }
}
