/** Who may do what with an export. */
import type { Peer } from "../../net/connection.ts";
import type { Export } from "../export_table.ts";

/** What somebody may do with an export, and why. */
export interface Verdict {
  readonly rights: "none" | "read" | "write";
  /** For the log and for refused clients: "no rule allows 10.0.0.1". */
  readonly reason: string;
  /** Who has no rights is answered as if there were no such export; the reason is for the log alone. */
  readonly conceals?: boolean;
}

/** Decides who may do what. Asked at every handshake, and again when `NbdServer.reconsider` is called. */
export type Judge = (peer: Peer, exported: Export) => Verdict;
