import type { SessionName } from "../wire/nbd/denbd_context.ts";

/** How a link to a server is, and what has passed over it. */
export interface LinkStatus {
  readonly state: "connected" | "reconnecting" | "failed" | "closed";
  /** The server: where it is, or was last. */
  readonly peer: string;
  /** What protects the connections: `none`, or see `Peer`. */
  readonly protection: string;
  /** Why it failed, or is not connected; `null` while all is well. */
  readonly trouble: string | null;
  readonly connections: number;
  readonly reconnects: number;
  /** How often a connection was tried for since there was one last. */
  readonly attempts: number;
  /** Answered, with an error or without. */
  readonly requests: number;
  readonly errors: number;
  readonly readBytes: number;
  readonly writtenBytes: number;
  /** Requests sent again. */
  readonly resent: number;
  readonly unanswered: number;
  /** Of the server, if it is denbd. */
  readonly instance: string | null;
  /** Of the disk, if the server keeps one. */
  readonly identity: { readonly uuid: string; readonly generation: number } | null;
  /** Its id is a label: whoever knows all of it can take its place. */
  readonly session: SessionName | null;
  /** Whether what old connections carried is over before new ones are served. */
  readonly fenced: boolean;
  /** Whether the server has reserved the disk for the session. */
  readonly reserved: boolean;
  readonly soleWriter: boolean;
  /** Bytes kept to be written again after a crash, roughly. */
  readonly replayBytes: number;
  /** Ranges written again after crashes. */
  readonly replayed: number;
  /** Why the next flush will fail; `null` if there is no reason. */
  readonly doubt: string | null;
  /** Why the last flush failed that had to tell of a doubt; `null` if none had. */
  readonly lastDoubt: string | null;
}
