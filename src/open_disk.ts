/** From the name of a disk to the disk. */
import { type Endpoint, formatEndpoint } from "./base/endpoint.ts";
import { type Log, silentLog } from "./base/log.ts";
import { publicLocator, redirected } from "./base/redirect.ts";
import {
  type DiskLocator,
  formatDiskLocator,
  type ImageLocator,
  type NbdLocator,
  parseDiskLocator,
} from "./base/uri.ts";
import { bytewise } from "./device/bytewise.ts";
import type { BlockDevice } from "./device/device.ts";
import { openFileDisk } from "./device/open_file_disk.ts";
import { dial } from "./net/dial.ts";
import { type OpenChannel, prepareChannel, rememberedKey } from "./open_channel.ts";
import { startTlsTo } from "./open_tls.ts";
import { type Clock, systemClock } from "./os/clock.ts";
import { askForContexts, askForExports } from "./remote/ask_server.ts";
import { type NbdOptions, type OpenedNbd, openNbd } from "./remote/open_nbd.ts";
import { ImageClient } from "./remote/dnbd3/image_client.ts";
import { ImageDisk, type Verification } from "./remote/dnbd3/image_disk.ts";
import type { NewPlace } from "./remote/survival_options.ts";
import type { Dial } from "./remote/open_connection.ts";

/** From the first packet to the end of the handshake; as flexnbd has it. */
const OPEN_MS_MAX = 15_000;
/** For whoever waits at a terminal. */
const REQUEST_MS_MAX = 60_000;

export interface OpenDiskOptions {
  /** The disk will not be written. Default `false`. */
  readonly readOnly?: boolean;
  /** Connections to a server that promises that several are as good as one. Default 1. */
  readonly connections?: number;
  /** Nobody else writes to the disk: what an NBD server that crashed has lost is written again. Default `false`. */
  readonly soleWriter?: boolean;
  /** Local IP address to connect from. Default: the system's choice. */
  readonly bind?: string;
  /** Where a disk that moves is followed to, if a server says so that has not proven who it is. */
  readonly follow?: readonly NbdLocator[];
  /** Ends the attempt to open, with the signal's reason. */
  readonly signal?: AbortSignal;
  /**
   * A request that no server answers within this time fails, reconnecting included. Default: a minute.
   * Infinite for who can wait. The attempt to open takes no longer, and 15 s at most.
   */
  readonly deadlineMs?: number;
  /** For images of dnbd3 whose name does not say it: when their checksums are compared. Default: `complete`. */
  readonly verify?: Verification;
  /** For disks of NBD servers: see `SurvivalOptions`. */
  readonly strict?: boolean;
  readonly stallMs?: number;
  readonly silenceMs?: number;
  readonly contentMayHaveChanged?: () => void;
  /** See `NbdOptions`. */
  readonly session?: NbdOptions["session"];
  readonly log?: Log;
  readonly clock?: Clock;
  /** Where keys are looked for. Default: the environment of this process. */
  readonly env?: (name: string) => string | undefined;
}

/** A disk could not be opened: which, and why. */
export class OpenError extends Error {
  override readonly name = "OpenError";
}

/**
 * Opens a disk. Ranges need no alignment, whatever the blocks of the disk are.
 *
 * @throws {OpenError} If a server does not give it.
 * @throws {DeviceError} If a file cannot be opened.
 */
export async function openDisk(locator: DiskLocator, options: OpenDiskOptions = {}): Promise<BlockDevice> {
  if (locator.kind === "nbd") return bytewise((await openNbdLocator(locator, options)).disk);
  if (locator.kind === "image") return await openImageLocator(locator, options);
  const { readOnly, log } = options;
  return await openFileDisk(locator.path, { readOnly, log });
}

/**
 * Opens an image of dnbd3.
 *
 * @throws {OpenError} If no server offers it.
 */
export async function openImageLocator(
  locator: ImageLocator,
  options: OpenDiskOptions = {},
): Promise<ImageDisk> {
  const { bind, log = silentLog, clock = systemClock, deadlineMs = REQUEST_MS_MAX } = options;
  const { servers, name, revision } = locator;
  const client = await inTime(locator, options, (wait) =>
    ImageClient.open({
      name,
      revision,
      servers,
      dial: (server, signal) => dial(server, { bind, signal }),
      clock,
      log,
      random: Math.random,
      deadlineMs,
    }, wait.signal));
  return new ImageDisk(client, locator.verify ?? options.verify);
}

/**
 * Opens an export of an NBD server, as its blocks are.
 *
 * @throws {OpenError} If that fails.
 */
export async function openNbdLocator(locator: NbdLocator, options: OpenDiskOptions = {}): Promise<OpenedNbd> {
  const { connections, readOnly, log = silentLog, clock, deadlineMs = REQUEST_MS_MAX, soleWriter } = options;
  const { exportName } = locator;
  const { session, strict, stallMs, silenceMs, contentMayHaveChanged } = options;
  const follow = (to: string, authenticated: boolean) => newPlace(locator, to, authenticated, options);
  const survival = { follow, deadlineMs, soleWriter, strict, stallMs, silenceMs, contentMayHaveChanged };
  return await inTime(locator, options, (wait) => {
    const dialTo = (server: Endpoint) => dialOf({ ...locator, server, others: undefined }, options, wait);
    const others = locator.others?.map(dialTo) ?? [];
    const shareMs = wait.limitMs / (others.length + 1);
    return openNbd({
      dial: dialTo(locator.server),
      others,
      share: { ms: shareMs, late: () => wait.late(shareMs) },
      exportName,
      connections,
      readOnly,
      session,
      survival,
      signal: wait.signal,
      log,
      clock,
    });
  });
}

/**
 * Lists the exports of an NBD server; the name in the locator does not matter.
 *
 * @throws {OpenError} If the server does not tell, or cannot be reached.
 */
export function listNbdExports(locator: NbdLocator, options: OpenDiskOptions = {}) {
  return inTime(locator, options, (wait) => askForExports(dialOf(locator, options, wait), wait.signal));
}

/**
 * Lists the metadata contexts of an export; `null` if the server does not tell.
 *
 * @throws {OpenError} If the server cannot be reached.
 */
export function listNbdContexts(locator: NbdLocator, options: OpenDiskOptions = {}) {
  const { exportName } = locator;
  return inTime(
    locator,
    options,
    (wait) => askForContexts(dialOf(locator, options, wait), exportName, wait.signal),
  );
}

/**
 * How the server of an export is reached, channel and TLS included.
 *
 * @param wait Told what comes next.
 */
export function dialOf(
  locator: NbdLocator,
  options: OpenDiskOptions,
  wait: { awaited: string } = { awaited: "" },
): Dial {
  const { server, channel, tls } = locator;
  const { bind, log = silentLog, env = (name) => Deno.env.get(name) } = options;
  const place = formatEndpoint(server);
  const connect = async (signal: AbortSignal | undefined, next: string) => {
    wait.awaited = `connection to ${place}`;
    const connection = await dial(server, { bind, signal });
    wait.awaited = `${next} with ${place}`;
    return connection;
  };
  if (tls !== undefined) {
    return async (signal) => {
      const connection = await startTlsTo(locator, tls, await connect(signal, "TLS"), signal);
      wait.awaited = `NBD handshake with ${place}`;
      return connection;
    };
  }
  if (channel === undefined) return (signal) => connect(signal, "NBD handshake");
  let prepared: Promise<OpenChannel> | undefined;
  return async (signal) => {
    // The keys are read once, however many connections there are.
    const openChannel = await (prepared ??= prepareChannel(locator, channel, { env, log }));
    const connection = await openChannel(await connect(signal, "channel"), signal);
    wait.awaited = `NBD handshake with ${place}`;
    return connection;
  };
}

/** Where a disk is that a server says has moved, or why it is not followed there. */
function newPlace(
  from: NbdLocator,
  to: string,
  authenticated: boolean,
  options: OpenDiskOptions,
): NewPlace | string {
  const locator = redirected(to, { from, authenticated, named: options.follow ?? [] });
  if (typeof locator === "string") return locator;
  return { dial: dialOf(locator, options), exportName: locator.exportName };
}

/**
 * A place that a disk has moved to, as clients may be told of it: without what is ours alone, and with the key that we
 * have found there. `null` if they could not reach it.
 */
export async function publicPlace(
  peer: string,
  env: (name: string) => string | undefined,
): Promise<string | null> {
  const told = parseDiskLocator(peer);
  const locator = told.kind === "nbd" ? publicLocator(told) : null;
  if (locator === null) return null;
  const { channel } = locator;
  if (channel?.protection !== "noise" || channel.serverKey !== undefined) return formatDiskLocator(locator);
  const serverKey = await rememberedKey(locator, env).catch(() => undefined);
  return formatDiskLocator({ ...locator, channel: { ...channel, serverKey } });
}

/** An attempt to reach a server, which may not take forever. */
class Wait {
  /** What it waits for just now. */
  awaited = "answer from a server";

  constructor(
    readonly limitMs: number,
    /** Ends the attempt with its reason. */
    readonly signal: AbortSignal,
  ) {}

  /** What there is to say after so long. */
  late(ms: number): Error {
    return new Error(`no ${this.awaited} within ${ms / 1000} s`);
  }
}

/** Runs an attempt to reach a server, and says which disk it was about if it fails. */
async function inTime<Result>(
  locator: DiskLocator,
  { clock = systemClock, signal, deadlineMs = Infinity }: OpenDiskOptions,
  attempt: (wait: Wait) => Promise<Result>,
): Promise<Result> {
  const controller = new AbortController();
  const signals = signal === undefined ? [controller.signal] : [controller.signal, signal];
  const wait = new Wait(Math.min(OPEN_MS_MAX, deadlineMs), AbortSignal.any(signals));
  using _timer = clock.timer(wait.limitMs, () => controller.abort(wait.late(wait.limitMs)));
  try {
    return await attempt(wait);
  } catch (error) {
    signal?.throwIfAborted();
    const reason = error instanceof Error ? error.message : String(error);
    throw new OpenError(`cannot open ${formatDiskLocator(locator)}: ${reason}`, { cause: error });
  }
}
