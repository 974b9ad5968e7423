/** How the commands that serve are told where and how to serve, and what that means for the server. */
import type { Endpoint } from "../base/endpoint.ts";
import { parseStatusPlace } from "../base/status_place.ts";
import { DISK_THREADS_MAX } from "../device/disk_threads.ts";
import type { NbdLimits } from "../server/nbd/server.ts";
import { DEFAULT_PORT } from "../wire/nbd/constants.ts";
import { channelOptions } from "./channel_options.ts";
import type { Option, OptionTable, OptionValues } from "./options.ts";
import { tlsOptions } from "./tls_options.ts";
import { UsageError } from "./usage_error.ts";

/** As flexnbd's: a request that takes longer costs its client the connection. */
const KILLSWITCH_MS = 120_000;

/** Where a server listens that has no Unix socket by flexnbd's habits. */
export const addressOption = {
  type: "address",
  short: "l",
  help: "Address to listen on; 0 for all (127.0.0.1)",
} as const satisfies Option;

/** The options of every command that serves. */
export const servingOptions = {
  port: { type: "port", short: "p", help: `TCP port to listen on; 0 for any (${DEFAULT_PORT})` },
  unix: { type: "string", short: "U", valueName: "SOCK", help: "Unix socket to listen on" },
  ...tlsOptions,
  ...channelOptions,
  sock: { type: "string", short: "s", valueName: "SOCK", help: "Control socket to open" },
  http: {
    type: "string",
    valueName: "PLACE",
    help: "Tell /metrics and /healthz over HTTP at PLACE: a port of loopback, or unix:SOCK",
  },
  defaultDeny: { type: "flag", short: "d", help: "Let nobody in while the access list is empty" },
  killswitch: {
    type: "flag",
    short: "k",
    ignoresValue: true,
    help: "Disconnect a client whose request takes longer than two minutes",
  },
  oldstyle: {
    type: "flag",
    help: "Greet as flexnbd does: one export, whole sectors, no negotiation",
  },
  maxConnections: {
    type: "integer",
    min: 1,
    max: 100_000,
    default: 4096,
    help: "Connections at the same time",
  },
  maxPerAddress: {
    type: "integer",
    min: 1,
    max: 100_000,
    default: 1024,
    help: "The same from one IP address",
  },
  handshakeTimeout: {
    type: "duration",
    default: 10_000,
    help: "How long a client may take to say what it wants; 0 for ever",
  },
  drainTimeout: {
    type: "duration",
    default: 10_000,
    help: "How long clients may take to finish when the server stops",
  },
  diskThreads: {
    type: "integer",
    min: 1,
    max: DISK_THREADS_MAX,
    help: "Calls of disks that wait at the same time; the command disk-threads changes it",
  },
} as const satisfies OptionTable;

export interface ServerSettings extends OptionValues<typeof servingOptions> {
  /** Address to listen on; TCP. */
  readonly addr?: string;
  /** Where to listen, in the place of what `addr`, `port` and `unix` say. */
  readonly listen?: readonly Endpoint[];
  /** Where to listen for channels, in the place of `addr`. */
  readonly channelAddr?: string;
  /** In the place of `killswitch`, in milliseconds; 0: no limit. */
  readonly requestTimeout?: number;
}

/** Where the status is told over HTTP. @throws {UsageError} If the text is no such place. */
export function statusPlace(text: string): Endpoint {
  try {
    return parseStatusPlace(text);
  } catch (error) {
    throw new UsageError(`--http: ${(error as Error).message}`);
  }
}

/** What clients may cost. */
export function limitsOf(settings: ServerSettings): Partial<NbdLimits> {
  return {
    handshakeMs: settings.handshakeTimeout,
    connections: settings.maxConnections,
    connectionsPerAddress: settings.maxPerAddress,
    requestMs: settings.requestTimeout ?? (settings.killswitch ? KILLSWITCH_MS : 0),
  };
}
