/**
 * What is told, and what is believed, of where a disk has moved.
 *
 * A URI that we were given may say which keys of ours to use and whom to trust. That is nobody else's business: it is
 * neither told, nor taken from somebody else. And wherever a disk is said to be, we go there with no less protection
 * than we had.
 */
import type { TcpEndpoint } from "./endpoint.ts";
import { type DiskLocator, type NbdLocator, parseDiskLocator, type TlsLocator } from "./uri.ts";

/** An export as others may be told of it; `null` if they could not reach it. */
export function publicLocator({ server, exportName, channel, tls }: NbdLocator): NbdLocator | null {
  if (server.transport !== "tcp") return null;
  return {
    kind: "nbd",
    server,
    exportName,
    ...channel && {
      channel: channel.protection === "noise"
        ? { protection: channel.protection, serverKey: channel.serverKey }
        : channel,
    },
    ...tls && { tls: tls.hostname === undefined ? {} : { hostname: tls.hostname } },
  };
}

export interface RedirectRules {
  /** Where the disk was, as we were told to reach it. */
  readonly from: NbdLocator;
  /** The server that was there has proven who it is. */
  readonly authenticated: boolean;
  /** Where the user said that it may go. */
  readonly named: readonly NbdLocator[];
}

/**
 * How to reach a disk which a server says has moved.
 *
 * @param to A URI, as the server told it.
 * @returns Or why it is not followed there.
 */
export function redirected(to: string, { from, authenticated, named }: RedirectRules): NbdLocator | string {
  const told = understood(to);
  if (told === null) return "it is no address of an NBD server";
  const { host, port } = told.server as TcpEndpoint;
  const isThere = (server: NbdLocator["server"]) =>
    server.transport === "tcp" && server.host === host && server.port === port;
  const wish = named.find(({ server }) => isThere(server));
  const isNamed = wish !== undefined || from.others?.some(isThere) === true;
  const isBelieved = authenticated && from.tls?.trustAnybody !== true;
  if (!isNamed && !isBelieved) {
    return "the server that says so has not proven who it is, and the place is none of --follow";
  }
  if (wish !== undefined && strength(wish) > 0 && strength(wish) >= strength(from)) {
    return { ...wish, exportName: told.exportName, others: undefined };
  }
  if (strength(told) < strength(from)) {
    return `it is to be reached over ${nameOf(told)}, which protects less than ${nameOf(from)}`;
  }
  if (!isNamed && strength(from) > 1 && nameOf(told) !== nameOf(from)) {
    return `it is to be reached over ${nameOf(told)} instead of ${nameOf(from)}, and is none of --follow`;
  }
  const { channel, tls } = told;
  if (tls !== undefined) return { ...told, tls: ourTls(from.tls, tls, isNamed, isBelieved) };
  if (channel?.protection !== "noise") return told;
  const ours = from.channel?.protection === "noise" ? from.channel : undefined;
  return {
    ...told,
    channel: {
      protection: "noise",
      serverKey: isBelieved ? channel.serverKey : undefined,
      identityPath: ours?.identityPath,
      presharedKeyPath: ours?.presharedKeyPath,
    },
  };
}

/** Our certificates are for all servers, and who is believed may say what the other is called. */
function ourTls(
  ours: TlsLocator | undefined,
  told: TlsLocator,
  isNamed: boolean,
  isBelieved: boolean,
): TlsLocator {
  const { certificatesPath, trustAnybody } = ours ?? {};
  return {
    ...certificatesPath !== undefined && { certificatesPath },
    ...isBelieved && told.hostname !== undefined && { hostname: told.hostname },
    ...isNamed && trustAnybody && { trustAnybody },
  };
}

function understood(text: string): NbdLocator | null {
  let locator: DiskLocator;
  try {
    locator = parseDiskLocator(text);
  } catch {
    return null;
  }
  return locator.kind === "nbd" ? publicLocator(locator) : null;
}

/** 2: encrypted, and the server proves who it is; 1: damage is noticed; 0: nothing. */
function strength({ channel, tls }: NbdLocator): 0 | 1 | 2 {
  if (tls !== undefined || channel?.protection === "noise") return 2;
  return channel === undefined ? 0 : 1;
}

function nameOf({ channel, tls }: NbdLocator): string {
  if (tls !== undefined) return "TLS";
  if (channel === undefined) return "plain NBD";
  return channel.protection === "noise" ? "an encrypted channel" : "a channel that is not encrypted";
}
