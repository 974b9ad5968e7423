/** From a server's address to a disk. */
import { type Log, silentLog } from "../base/log.ts";
import { type Clock, systemClock } from "../os/clock.ts";
import type { ClientAgreement, ClientWishes } from "../wire/nbd/handshake_client.ts";
import { BASE_ALLOCATION } from "../wire/nbd/constants.ts";
import { DENBD_NAMESPACE, type SessionName } from "../wire/nbd/denbd_context.ts";
import { WireError } from "../wire/wire_error.ts";
import { ConnectionSet } from "./connection_set.ts";
import { NbdDisk } from "./nbd.ts";
import { denbdFacts, exportFacts } from "./nbd_export.ts";
import type { SurvivalOptions } from "./survival_options.ts";
import { SurvivingLink } from "./surviving_link.ts";
import { withSession } from "./whereabouts.ts";
import { type Dial, openConnection, type OpenedConnection } from "./open_connection.ts";

export interface NbdOptions {
  readonly dial: Dial;
  /** Further addresses of the same disk, which are tried in turn. */
  readonly others?: readonly Dial[];
  /** "" is the server's default export. */
  readonly exportName: string;
  /** Connections to use if the server promises that they are as good as one. Default 1. */
  readonly connections?: number;
  /** With several addresses: how long each but the last may take to open, and what is said then. Default: for ever. */
  readonly share?: { readonly ms: number; readonly late: () => Error };
  /** Ends the attempt to open, not the disk. */
  readonly signal?: AbortSignal;
  /** What happens when connections are lost. Default: what they carried fails. */
  readonly survival?: Omit<SurvivalOptions, "dial" | "others" | "wishes" | "session" | "log" | "clock">;
  /** Nothing will be written: the server need not keep others from writing. Default `false`. */
  readonly readOnly?: boolean;
  /** As which the disk is opened to be written. Default: a session that nobody else has. */
  readonly session?: SessionName;
  readonly log?: Log;
  readonly clock?: Clock;
}

/** A disk, and how it was agreed. */
export interface OpenedNbd {
  readonly disk: NbdDisk;
  readonly agreement: ClientAgreement;
  /** What becomes of its connections; `null` where they are used as long as they last. */
  readonly link: SurvivingLink | null;
}

/**
 * Opens a disk at the far end of NBD.
 *
 * @throws {RefusedError} If the server does not give the export.
 * @throws {WireError} If it breaks the protocol, closes the connection, or tells different things about the same
 *   export on different connections.
 * @throws The signal's reason, or what dialling throws.
 */
export async function openNbd(options: NbdOptions): Promise<OpenedNbd> {
  const {
    dial,
    others = [],
    exportName,
    connections = 1,
    readOnly = false,
    signal,
    log = silentLog,
    survival,
    clock,
  } = options;
  const plainWishes = { exportName, contexts: [BASE_ALLOCATION, DENBD_NAMESPACE] };
  const session = readOnly ? undefined : options.session ?? { id: crypto.randomUUID(), generation: 1 };
  const wishes = session === undefined ? plainWishes : withSession(plainWishes, session);
  const [address, first] = await openFirst([dial, ...others], wishes, options);
  if (others.length > 0 && !readOnly && exportFacts(first.agreement).can.write) {
    if (denbdFacts(first.agreement).identity === undefined) {
      first.close();
      throw new WireError(
        `${first.peerText} does not say which disk it has, so it may be written under one address only`,
      );
    }
  }
  const more = exportFacts(first.agreement).can.multiConn ? connections - 1 : 0;
  const opened: OpenedConnection[] = [first];
  const attempts = Array.from({ length: more }, () => openConnection(address, wishes, signal, clock));
  for (const attempt of await Promise.allSettled(attempts)) {
    // A server may allow fewer connections than it could; the first one is enough.
    if (attempt.status === "fulfilled") opened.push(attempt.value);
    else log.warn(`no further connection to ${first.peerText}: ${attempt.reason.message}`);
  }
  if (signal?.aborted || opened.some((each) => !sameExport(each.agreement, first.agreement))) {
    for (const each of opened) each.close();
    signal?.throwIfAborted();
    throw new WireError(`${first.peerText} offers a different disk on each connection`);
  }
  const { agreement } = first;
  if (survival === undefined) return { disk: new NbdDisk(new ConnectionSet(opened)), agreement, link: null };
  const dials = [dial, ...others];
  const at = dials.indexOf(address);
  const [current, ...rest] = [...dials.slice(at), ...dials.slice(0, at)];
  const link = new SurvivingLink(opened, {
    ...survival,
    dial: current,
    others: rest,
    wishes: plainWishes,
    session,
    log,
    clock,
  });
  return { disk: new NbdDisk(link), agreement, link };
}

/** A connection to the first address that gives one. @throws What the last of them threw. */
async function openFirst(
  dials: readonly Dial[],
  wishes: ClientWishes,
  { signal, clock = systemClock, log = silentLog, share }: NbdOptions,
): Promise<[Dial, OpenedConnection]> {
  for (const [index, dial] of dials.entries()) {
    const isLast = index === dials.length - 1;
    const late = new AbortController();
    // A server that is mute must not use up the time of all.
    using _timer = share === undefined || isLast
      ? undefined
      : clock.timer(share.ms, () => late.abort(share.late()));
    const signals = signal === undefined ? [late.signal] : [late.signal, signal];
    try {
      return [dial, await openConnection(dial, wishes, AbortSignal.any(signals), clock)];
    } catch (error) {
      if (isLast || signal?.aborted) throw error;
      log.warn(`trying the next address: ${(error as Error).message}`);
    }
  }
  throw new RangeError("there is no address");
}

function sameExport(one: ClientAgreement, other: ClientAgreement): boolean {
  const essence = (agreement: ClientAgreement) =>
    JSON.stringify([agreement.extended, exportFacts(agreement), denbdFacts(agreement)]);
  return essence(one) === essence(other);
}
