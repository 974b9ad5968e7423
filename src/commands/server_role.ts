/** What a command that serves adds to the server that all of them run. */
import type { KeyList } from "../access/key_list.ts";
import type { ControlHandlers } from "../control/handlers.ts";
import type { AccessStatus, ExportStatus, ImageStatus } from "../control/status.ts";
import type { Receiver } from "../migrate/receiver.ts";
import type { Export, ExportTable } from "../server/export_table.ts";
import type { Judge } from "../server/nbd/judge.ts";
import type { NbdServer, NbdServerOptions } from "../server/nbd/server.ts";
import type { StrangerCounts } from "../server/strangers.ts";
import type { ServerSettings } from "./serving_options.ts";

/** Who may do what, where that is not for the access list of the command line to say. */
export interface AccessRules {
  readonly judge: Judge;
  /** Whose keys are let in through the channel. */
  readonly keys: KeyList;
  status(): AccessStatus;
  /** Where the rules come from, for who tries to change them elsewhere. */
  readonly source: string;
}

/** What of a running server a reload may change. */
export interface ReloadableServer {
  readonly exports: ExportTable;
  readonly nbd: NbdServer;
  /**
   * Puts other settings in force: where it listens, TLS, limits. The channel and the rest stay as they are.
   *
   * @throws If they cannot be; then all is as it was.
   */
  apply(settings: ServerSettings): Promise<void>;
  /** Whether an export is on its way to another host. */
  isMigrating(exported: Export): boolean;
}

/** What a command adds to that. */
export interface ServerRole {
  /**
   * Adds what is served.
   *
   * @param stopped Fires when the program is to stop before that is done.
   */
  openExports(exports: ExportTable, stopped: AbortSignal): Promise<void>;
  /** Where reservations outlive the program; none do by default. */
  readonly reservations?: Pick<NbdServerOptions, "reservationStore" | "reservationAwayMs">;
  /** How long the last flush of a disk may take, in milliseconds; for those that may never come back. Default: any time. */
  lastFlushMs?(exported: Export): number | undefined;
  /** Where it listens besides, for other protocols. */
  listening?(): readonly string[];
  /** Takes a disk in, until it has come. */
  readonly receiver?: Receiver;
  /** What has come is served, rather than that the program ends. */
  readonly servesReceived?: boolean;
  /** In the place of the access list. */
  readonly rules?: AccessRules;
  /**
   * Reads its configuration again.
   *
   * @param force Clients may be cut off.
   * @returns What has changed, for people.
   * @throws If it cannot be used; the message says what stays as it was, and why.
   */
  reload?(server: ReloadableServer, force: boolean): Promise<string>;
  /** Opens its log file anew. Never throws. */
  reopenLog?(): void;
  /** What it can be asked besides over the control socket. */
  handlers?(): ControlHandlers;
  /** Its dnbd3 images, for the status. */
  images?(): readonly ImageStatus[];
  /** What those have come to who were no clients of its dnbd3 server, if there is one. */
  strangers?(): StrangerCounts | null;
  /** What is behind an export, for status. */
  about?(exported: Export): Pick<ExportStatus, "upstream" | "caches">;
  /** Ends what it serves besides. */
  close?(): Promise<void>;
}
