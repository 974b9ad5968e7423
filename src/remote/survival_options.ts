/** How a disk survives that its connections are lost: what is awaited, believed and risked. */
import type { Log } from "../base/log.ts";
import type { Clock } from "../os/clock.ts";
import type { ClientWishes } from "../wire/nbd/handshake_client.ts";
import type { SessionName } from "../wire/nbd/denbd_context.ts";
import type { Dial } from "./open_connection.ts";
import type { JoinLimits } from "./connection/read_joiner.ts";

/** As `--stall`. */
export const STALL_MS = 30_000;

/** Where a disk is to be looked for that has moved. */
export interface NewPlace {
  readonly dial: Dial;
  readonly exportName: string;
}

export interface SurvivalOptions {
  readonly dial: Dial;
  /** Further addresses of the same disk, tried in turn; {@linkcode dial} is the first. */
  readonly others?: readonly Dial[];
  readonly wishes: ClientWishes;
  /**
   * Decides whether a disk that has moved is followed there; a text: it is not, and why. The new place has to prove that
   * the disk came to it. Default: no disk is followed.
   *
   * @param to A URI, as the server told it.
   * @param authenticated The server has proven who it is.
   */
  readonly follow?: (to: string, authenticated: boolean) => NewPlace | string;
  /** A request that takes longer fails with ETIMEDOUT. Default: none does. */
  readonly deadlineMs?: number;
  /** Nobody else writes to the export, so what may be lost is written again. Default `false`. */
  readonly soleWriter?: boolean;
  /** As which the connections were opened, if the disk is to be written; later ones have higher generations. */
  readonly session?: SessionName;
  /**
   * Rather fail than send a change again to a server that may still execute it on the old connection: to one that
   * knows no sessions. Default `false`.
   */
  readonly strict?: boolean;
  /** Hears of a return to a server that does not prove that the content is what it was. Before anything is read. */
  readonly contentMayHaveChanged?: () => void;
  /** A denbd server that sends nothing for so long, and answers no probe, is left. Default {@linkcode STALL_MS}. */
  readonly stallMs?: number;
  /** Any server that neither sends nor takes anything for so long, and owes an answer, is left. Default: none is. */
  readonly silenceMs?: number;
  /** Default 64 MiB. */
  readonly replayBytesMax?: number;
  /** Which READs are joined. Default: large ones. */
  readonly joining?: JoinLimits;
  readonly log?: Log;
  readonly clock?: Clock;
  /** From 0 up to 1; for jitter. Default `Math.random`. */
  readonly random?: () => number;
}
